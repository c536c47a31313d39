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
	t.do = func(ctx context.Context, word string) error { return setProtocol(ctx, f, word, t.by) }
	return t, nil
}

// protocolWords are what may be written to `protocol`.
var protocolWords = map[string]int{"T=0": 0, "T=1": 1}

func knownProtocol(word string) error {
	if _, ok := protocolWords[word]; !ok {
		return fmt.Errorf("protocol: the words are T=0 and T=1: %w", reader.ErrInvalid)
	}
	return nil
}

func setProtocol(ctx context.Context, f *file, word string, by core.Caller) error {
	if err := knownProtocol(word); err != nil {
		return err
	}
	return f.slot.SelectProtocol(ctx, protocolWords[word], by)
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
