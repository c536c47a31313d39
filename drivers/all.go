// Package drivers lists the drivers that cardfs has.
package drivers

import (
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ikey3k"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/drivers/vpcd"
	"github.com/cardfs/cardfs/reader"
)

// All is the list: a new driver is one line here.
func All() []reader.Driver {
	return []reader.Driver{
		ccid.Driver{},
		ikey3k.Driver{},
		sim.New(),
		vpcd.Driver{},
	}
}
