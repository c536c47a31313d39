package fs

import (
	"context"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// openProtocol waits for the reader to be ready.
func openProtocol(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f)
	t.opening = newOpening(ctx, f, t, flags)
	if err := ready(ctx, f.slot, t.by); err != nil {
		return nil, err
	}
	t.capture(true)
	t.do = func(ctx context.Context, word string) error {
		switch word {
		case "T=0":
			return f.slot.SelectProtocol(ctx, 0, t.by)
		case "T=1":
			return f.slot.SelectProtocol(ctx, 1, t.by)
		}
		return fmt.Errorf("protocol: the words are T=0 and T=1: %w", reader.ErrInvalid)
	}
	return t, nil
}

// protocolText is as "T=1 T=0": the protocol in force, then what else the card offers;
// "memory" of a card that has none; empty without power.
func protocolText(f *file) []byte {
	i := f.slot.Info()
	if i.State != core.StatePowered {
		return nil
	}
	text := []byte(i.Protocol())
	for _, offered := range i.Offered {
		if offered != i.Params.T {
			text = fmt.Appendf(text, " T=%d", offered)
		}
	}
	return append(text, '\n')
}
