package usb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/internal/rig"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// Unplugging ends any transfer with ErrGone, and closes Gone even without one.
func TestUSBUnplug(t *testing.T) { onEach(t, testUSBUnplug) }

func testUSBUnplug(t *testing.T, open usb.Transport) {
	for name, move := range map[string]func(c usb.Conn) error{
		"control": func(c usb.Conn) error {
			_, err := c.Control(context.Background(), usb.Setup{RequestType: 0x40, Request: rig.ReqHang}, nil, 0)
			return err
		},
		"bulk out": func(c usb.Conn) error {
			_, err := c.Out(context.Background(), rig.BulkOut, pattern(200), false, 0)
			return err
		},
		"bulk in": func(c usb.Conn) error {
			_, err := c.In(context.Background(), rig.BulkIn, make([]byte, 64), 0)
			return err
		},
		"interrupt in": func(c usb.Conn) error {
			_, err := c.In(context.Background(), rig.IntIn, make([]byte, 64), 0)
			return err
		},
		"nothing": func(c usb.Conn) error { <-c.Gone(); return reader.ErrGone },
	} {
		t.Run(name, func(t *testing.T) {
			machine.NeedGuest(t)
			l := rig.NewLoop()
			l.Serial = fmt.Sprintf("%s-%d", name, time.Now().UnixNano())
			l.Hold = map[uint8]bool{0: true, rig.BulkOut: true}
			rig.Plug(t, l)
			c, err := open(rig.Find(t, l.Serial), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			end := make(chan error, 1)
			go func() { end <- move(c) }()
			if name != "nothing" {
				l.AwaitWaiting(t, 1)
			}
			begin := time.Now()
			close(l.Left)
			select {
			case err := <-end:
				t.Logf("after %v: %v", time.Since(begin), err)
				if !errors.Is(err, reader.ErrGone) {
					t.Errorf("%v, want ErrGone", err)
				}
			case <-time.After(rig.Timeout):
				t.Fatal("the transfer goes on without a device")
			}
			<-c.Gone()
			if err := move(c); !errors.Is(err, reader.ErrGone) {
				t.Errorf("the next: %v", err)
			}
			if err := c.ClearHalt(context.Background(), rig.BulkIn); !errors.Is(err, reader.ErrGone) {
				t.Errorf("ClearHalt: %v", err)
			}
			if err := c.Reset(context.Background()); !errors.Is(err, reader.ErrGone) {
				t.Errorf("Reset: %v", err)
			}
		})
	}
}

// Close ends pending transfers, and is not mistaken for a departure.
func TestUSBClose(t *testing.T) { onEach(t, testUSBClose) }

func testUSBClose(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	var wg sync.WaitGroup
	for _, ep := range []uint8{rig.BulkIn, rig.IntIn} {
		wg.Go(func() {
			if _, err := c.In(context.Background(), ep, make([]byte, 64), 0); !errors.Is(err, reader.ErrGone) {
				t.Errorf("%02X: %v", ep, err)
			}
		})
	}
	l.AwaitWaiting(t, 2)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Errorf("twice: %v", err)
	}
	if _, err := c.In(context.Background(), rig.BulkIn, make([]byte, 64), 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
	select {
	case <-c.Gone():
		t.Error("Gone is closed, but the device is there")
	default:
	}
}

// A reset, ours or another program's, ends the transfers under way with
// ErrReset and leaves the connection usable.
func TestUSBReset(t *testing.T) { onEach(t, testUSBReset) }

func testUSBReset(t *testing.T, open usb.Transport) {
	l, c := plugged(t, open)
	for _, who := range []string{"ours", "another's"} {
		end := make(chan error, 1)
		go func() {
			_, err := c.In(context.Background(), rig.IntIn, make([]byte, 64), 0)
			end <- err
		}()
		l.AwaitWaiting(t, 1)
		if who == "ours" {
			if err := c.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else if err := rig.ResetDevice(rig.Find(t, l.Serial).Path); err != nil {
			t.Fatal(err)
		}
		if err := <-end; !errors.Is(err, usb.ErrReset) {
			t.Errorf("%s: transfer under way: %v, want ErrReset", who, err)
		}
		select {
		case <-c.Gone():
			t.Fatalf("%s: Gone is closed", who)
		default:
		}
		if _, err := c.Out(t.Context(), rig.BulkOut, pattern(5), false, rig.Timeout); err != nil {
			t.Errorf("%s: afterwards: %v", who, err)
		}
		if n, err := c.In(t.Context(), rig.BulkIn, make([]byte, 64), rig.Timeout); n != 5 || err != nil {
			t.Errorf("%s: afterwards: %d, %v", who, n, err)
		}
		if _, err := open(rig.Find(t, l.Serial), 0); !errors.Is(err, reader.ErrClaimed) {
			t.Errorf("%s: the interface is free to others afterwards: %v", who, err)
		}
	}
}

// A transfer that is submitted again and again meanwhile does not prevent the reset.
func TestUSBResetWhileBusy(t *testing.T) { onEach(t, testUSBResetWhileBusy) }

func testUSBResetWhileBusy(t *testing.T, open usb.Transport) {
	_, c := plugged(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := c.In(ctx, rig.IntIn, make([]byte, 64), 0); err != nil && !errors.Is(err, usb.ErrReset) && ctx.Err() == nil {
				t.Logf("pending transfer: %v", err)
			}
		}
	}()
	for range 10 {
		if err := c.Reset(t.Context()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	<-done
	if _, err := c.Out(t.Context(), rig.BulkOut, pattern(5), false, rig.Timeout); err != nil {
		t.Error(err)
	}
}
