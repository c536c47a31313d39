package usb_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// A read that begins with a write ends like any other read.
func TestUSBOutPost(t *testing.T) {
	machine.NeedGuest(t)
	open, err := transports.Find("usbfs")
	if err != nil {
		t.Fatal(err)
	}
	l, conn := plugged(t, open)
	c := conn.(usb.Poster)
	ctx := t.Context()
	post := func() usb.Posted {
		t.Helper()
		l.Set(func() { l.Queue[rig.BulkIn] = nil })
		n, r, err := c.OutPost(ctx, rig.BulkOut, pattern(3), rig.BulkIn, 64, rig.Timeout)
		if n != 3 || err != nil || r == nil {
			t.Fatalf("%d, %v, %v", n, r, err)
		}
		return r
	}
	buf := make([]byte, 1024)
	// The loop device sends back what it receives.
	for _, size := range []int{1, 63, 65, 271, 1023} {
		n, r, err := c.OutPost(ctx, rig.BulkOut, pattern(size), rig.BulkIn, 1024, rig.Timeout)
		if n != size || err != nil {
			t.Fatalf("%d bytes out: %d, %v", size, n, err)
		}
		if n, err := r.Wait(ctx, buf, rig.Timeout); err != nil || !bytes.Equal(buf[:n], pattern(size)) {
			t.Fatalf("%d bytes back: %d, %v", size, n, err)
		}
	}
	// A cancelled read takes nothing that arrives later.
	l.Set(func() { l.Hold[rig.BulkIn] = true })
	post().Cancel()
	l.AwaitWaiting(t, 0)
	if n, err := post().Wait(ctx, buf, 20*time.Millisecond); n != 0 || !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("%d, %v, want a time-out", n, err)
	}
	given, cancel := context.WithCancel(ctx)
	cancel()
	if n, err := post().Wait(given, buf, 0); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v, want cancelled", n, err)
	}
	if n, r, err := c.OutPost(given, rig.BulkOut, pattern(3), rig.BulkIn, 64, 0); n != 0 || r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v, %v, want cancelled before it began", n, r, err)
	}
	l.AwaitWaiting(t, 0)
	l.Set(func() {
		clear(l.Hold)
		l.Queue[rig.BulkIn] = [][]byte{[]byte("late")}
	})
	if n, err := c.In(ctx, rig.BulkIn, buf, rig.Timeout); err != nil || string(buf[:n]) != "late" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	// A failed write leaves no read behind.
	for name, set := range map[string]func(){
		"stall":    func() { l.Halted[rig.BulkOut] = true },
		"time-out": func() { l.Hold[rig.BulkOut] = true },
	} {
		l.Set(set)
		if _, r, err := c.OutPost(ctx, rig.BulkOut, pattern(3), rig.BulkIn, 64, 50*time.Millisecond); r != nil || err == nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		l.AwaitWaiting(t, 0)
		l.Set(func() { clear(l.Hold) })
		if err := c.ClearHalt(ctx, rig.BulkOut); err != nil {
			t.Error(err)
		}
	}
	for _, ep := range []struct{ out, in uint8 }{{rig.BulkIn, rig.BulkIn}, {rig.BulkOut, rig.BulkOut}, {rig.BulkOut, 0x8F}} {
		if _, r, err := c.OutPost(ctx, ep.out, pattern(3), ep.in, 64, rig.Timeout); r != nil || !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%02X, %02X: %v, %v", ep.out, ep.in, r, err)
		}
	}
	// A stall of the endpoint that is read ends the read.
	l.Set(func() { l.Halted[rig.BulkIn] = true })
	if n, err := post().Wait(ctx, buf, rig.Timeout); n != 0 || !errors.Is(err, usb.ErrStall) {
		t.Errorf("%d, %v, want a stall", n, err)
	}
	if err := c.ClearHalt(ctx, rig.BulkIn); err != nil {
		t.Error(err)
	}
	// The device leaves while it is asked.
	l.Set(func() { l.Hold[rig.BulkIn] = true })
	r := post()
	close(l.Left)
	if n, err := r.Wait(ctx, buf, 0); n != 0 || !errors.Is(err, reader.ErrGone) {
		t.Errorf("%d, %v, want gone", n, err)
	}
}
