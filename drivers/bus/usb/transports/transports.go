// Package transports lists the transports of USB by the names that `--usb` takes.
package transports

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/gousb"
	"github.com/cardfs/cardfs/reader"
)

type transport struct {
	open    usb.Transport
	missing error // why it cannot be used; nil if it can
}

var all = map[string]transport{"gousb": {gousb.Open, gousb.Missing()}}

// Names lists the transports of this system in alphabetical order.
func Names() []string { return slices.Sorted(maps.Keys(all)) }

// Find returns the transport of that name.
func Find(name string) (usb.Transport, error) {
	t, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("no transport %q, there are %s: %w", name, strings.Join(Names(), " and "), reader.ErrInvalid)
	}
	return t.open, t.missing
}
