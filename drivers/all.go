package drivers

import (
	"log/slog"

	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ikey"
	"github.com/cardfs/cardfs/drivers/replay"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/drivers/vpcd"
	"github.com/cardfs/cardfs/reader"
)

// Env is what the program passes to drivers. The zero value is usable.
type Env struct {
	// Log receives messages of drivers beside their errors; nil: they are dropped.
	Log *slog.Logger
	// Quirks are a user's corrections for CCID readers; nil: none.
	Quirks *ccid.UserQuirks
}

// All is the list: a new driver is one line here.
func All(env Env) []reader.Driver {
	return []reader.Driver{
		ccid.Driver{Log: env.Log, Quirks: env.Quirks},
		ikey.IKey3000,
		ikey.IKey2032,
		replay.Driver{},
		&sim.Driver{Log: env.Log},
		vpcd.Driver{Log: env.Log},
	}
}
