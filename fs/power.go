package fs

import (
	"context"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// powerWords are what may be written to `power`.
var powerWords = map[string]core.Action{
	"on": core.PowerUp, "off": core.PowerDown,
	"reset": core.ResetWarm, "cold": core.ResetCold, "eject": core.Eject,
	"release": core.Release,
}

// openPower waits for the reader to be ready.
func openPower(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f)
	t.opening = newOpening(ctx, f, t, flags)
	if err := ready(ctx, f.slot, t.by); err != nil {
		return nil, err
	}
	t.capture(true)
	t.do = func(ctx context.Context, word string) error { return setPower(ctx, f, word, t.by) }
	return t, nil
}

func knownPower(word string) error {
	if _, ok := powerWords[word]; !ok {
		return fmt.Errorf("power: the words are on, off, reset, cold, eject and release: %w", reader.ErrInvalid)
	}
	return nil
}

func setPower(ctx context.Context, f *file, word string, by core.Caller) error {
	if err := knownPower(word); err != nil {
		return err
	}
	return f.slot.Power(ctx, powerWords[word], by)
}

func powerText(f *file) []byte {
	if f.slot.Info().State == core.StatePowered {
		return []byte("on\n")
	}
	return []byte("off\n")
}
