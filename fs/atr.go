package fs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fs"
)

// openATR waits for a card and its power-up.
func openATR(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f)
	t.opening = newOpening(ctx, f, t, flags)
	s, err := f.slot.Open(ctx, t.by)
	if err != nil {
		return nil, err
	}
	t.content, t.fixed = appendHex(nil, s.ATR()), true
	s.Close()
	return t, nil
}

func atrText(f *file) []byte {
	if i := f.slot.Info(); len(i.ATR) > 0 {
		return appendHex(nil, i.ATR)
	}
	return nil
}
