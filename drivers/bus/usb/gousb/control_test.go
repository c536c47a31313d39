//go:build cgo

package gousb

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	lib "github.com/google/gousb"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// "libusb counts milliseconds, and 0 is for ever": a time is rounded up, and none is 5 s.
func TestControlTimeouts(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, -1: 5 * time.Second, 1: time.Millisecond, time.Millisecond: time.Millisecond,
		time.Millisecond + 1: 2 * time.Millisecond, time.Hour: time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := made(claimed)
			c.request = func(_ usb.Setup, _ []byte, timeout time.Duration) (int, error) {
				if timeout != want {
					t.Errorf("%v became %v, want %v", given, timeout, want)
				}
				return 0, nil
			}
			if _, err := c.Control(t.Context(), usb.Setup{}, nil, given); err != nil {
				t.Errorf("%v: %v", given, err)
			}
		})
	}
}

// A stall, a time-out and babble are reported as such, whatever happened to the interface.
// Any other error is examined further.
func TestControlErrors(t *testing.T) {
	for _, tt := range []struct {
		err, want error
		asks      bool
	}{
		{lib.ErrorPipe, usb.ErrStall, false}, {lib.ErrorTimeout, usb.ErrTimeout, false}, {lib.ErrorOverflow, usb.ErrOverflow, false},
		{lib.ErrorIO, reader.ErrGone, true}, {lib.ErrorNoDevice, reader.ErrGone, true}, {lib.ErrorOther, reader.ErrGone, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := made(left)
			asked := false
			c.ask = func() fate { asked = true; return left }
			c.request = func(usb.Setup, []byte, time.Duration) (int, error) { return -1, tt.err }
			if n, err := c.Control(t.Context(), usb.Setup{}, nil, time.Second); n != 0 || !errors.Is(err, tt.want) || asked != tt.asks {
				t.Errorf("%v: %d, %v, asked %v", tt.err, n, err, asked)
			}
		})
	}
}

// After any of these calls, Reset and Close can have the connection to themselves.
func TestNothingIsHeld(t *testing.T) {
	c := withEndpoints()
	c.request = func(usb.Setup, []byte, time.Duration) (int, error) { return 0, nil }
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for what, do := range map[string]func(ctx context.Context) error{
		"IN":      func(ctx context.Context) error { _, err := c.In(ctx, 0x81, nil, 0); return err },
		"OUT":     func(ctx context.Context) error { _, err := c.Out(ctx, 2, nil, false, 0); return err },
		"none":    func(ctx context.Context) error { c.In(ctx, 5, nil, 0); c.Out(ctx, 5, nil, false, 0); return ctx.Err() },
		"control": func(ctx context.Context) error { _, err := c.Control(ctx, usb.Setup{}, nil, 0); return err },
	} {
		if err := do(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := do(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", what, err)
		}
		if !c.using.TryLock() {
			t.Fatalf("%s: the connection is still in use", what)
		}
		c.using.Unlock()
	}
}
