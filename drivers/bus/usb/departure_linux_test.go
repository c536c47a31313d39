package usb

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// When the device leaves, transfers end with ErrGone, whatever status the kernel gives them.
// Gone is closed even without a transfer.
func TestDeviceLeaves(t *testing.T) {
	for _, status := range []unix.Errno{unix.ESHUTDOWN, unix.ENOENT, unix.ECONNRESET, unix.EPROTO, unix.EILSEQ, unix.ETIME, unix.ENODEV} {
		t.Run(status.Error(), func(t *testing.T) {
			k := newKernel(t)
			c := k.open()
			end := make(chan error, 1)
			go func() {
				_, err := c.In(context.Background(), kIntrIn, make([]byte, 8), 0)
				end <- err
			}()
			k.until(func() bool { return len(k.flying) > 0 })
			k.unplug(status)
			if err := await(t, end, "end of the transfer"); !errors.Is(err, reader.ErrGone) {
				t.Errorf("%v: %v", status, err)
			}
			await(t, c.Gone(), "departure")
			for what, err := range map[string]error{
				"in": second(c.In(t.Context(), kIntrIn, make([]byte, 8), 0)), "clear": c.ClearHalt(t.Context(), kIntrIn), "reset": c.Reset(t.Context()),
			} {
				if !errors.Is(err, reader.ErrGone) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	k := newKernel(t)
	c := k.open()
	k.until(func() bool { return k.fd != 0 })
	k.unplug(0)
	await(t, c.Gone(), "departure without a transfer")
}

// closed reports whether c is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Departed is called before Gone is closed, whichever goroutine sees ENODEV first. An
// observer that saw Gone first would think that the reader died and its device is still
// there. A panic of the reaper is no departure.
func TestDepartureIsToldFirst(t *testing.T) {
	in := func(c *conn) { c.In(context.Background(), kIntrIn, make([]byte, 8), 0) }
	for _, tt := range []struct {
		how string
		do  func(k *kernel, c *conn)
	}{
		{"reap", func(k *kernel, c *conn) { k.unplug(0) }},
		{"ioctl", func(k *kernel, c *conn) { k.fail(ioClearHalt, unix.ENODEV); c.ClearHalt(t.Context(), kIntrIn) }},
		{"submit", func(k *kernel, c *conn) { k.fail(ioSubmit, unix.ENODEV); in(c) }},
		{"status", func(k *kernel, c *conn) { go k.finish(unix.ENODEV, ""); in(c) }},
		{"reset", func(k *kernel, c *conn) { k.fail(ioReset, unix.ENODEV); c.Reset(t.Context()) }},
		{"claim after reset", func(k *kernel, c *conn) {
			k.fail(ioDisconnectClaim, unix.ENODEV)
			c.Reset(t.Context())
		}},
		{"why a transfer ended", func(k *kernel, c *conn) {
			k.fail(ioGetDriver, unix.ENODEV)
			go k.finish(unix.ESHUTDOWN, "")
			in(c)
		}},
	} {
		t.Run(tt.how, func(t *testing.T) {
			k := newKernel(t)
			told := make(chan struct{})
			var c *conn
			c, err := openDevice(Place{Name: "usb:test", Path: k.path, Departed: func() {
				if closed(c.gone) {
					t.Error("Gone was closed before")
				}
				close(told)
			}}, 3)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			k.until(func() bool { return k.fd != 0 })
			tt.do(k, c)
			await(t, told, "word of the departure")
			await(t, c.Gone(), "Gone")
		})
	}
	k := newKernel(t)
	c := k.open()
	c.die()
	await(t, c.Gone(), "Gone")
	k.unplug(0)
	c.Close()
	if n := k.departures.Load(); n != 0 {
		t.Errorf("a connection that failed tells of a departure")
	}
}

// The system sleeps and wakes: the device is reset, we have lost the interface, and a kernel
// driver may have it.
func TestSleep(t *testing.T) {
	impatient(t)
	k := newKernel(t)
	c := k.open()
	end := make(chan error, 1)
	in := func() {
		_, err := c.In(context.Background(), kIntrIn, make([]byte, 8), 0)
		end <- err
	}
	go in()
	k.finish(unix.ESHUTDOWN, "")
	if err := await(t, end, "end"); !errors.Is(err, ErrReset) {
		t.Errorf("under way: %v, want ErrReset", err)
	}
	k.fail(ioSubmit, unix.EHOSTUNREACH, unix.ESHUTDOWN, unix.EBUSY, nil)
	for range 2 {
		go in()
		if err := await(t, end, "end"); !errors.Is(err, ErrReset) {
			t.Errorf("asleep: %v, want ErrReset", err)
		}
	}
	k.called()
	go in()
	k.finish(0, "awake")
	if err := await(t, end, "end"); err != nil {
		t.Errorf("awake: %v", err)
	}
	if got, want := k.called(), "submit 1 83 8 00; take 3; submit 1 83 8 00"; got != want {
		t.Errorf("called %q, want %q", got, want)
	}
	// Another program has it.
	k.fail(ioSubmit, unix.EBUSY)
	k.fail(ioDisconnectClaim, unix.EBUSY)
	k.fail(ioClaim, unix.EBUSY)
	go in()
	if err := await(t, end, "end"); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("taken: %v, want ErrClaimed", err)
	}
	select {
	case <-c.Gone():
		t.Error("Gone is closed")
	default:
	}
}

// Reset releases the interface for the reset, and claims it again.
func TestReset(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	k.called()
	if err := c.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	k.fail(ioRelease, unix.EINVAL) // lost already
	if err := c.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.ClearHalt(t.Context(), kBulkIn); err != nil {
		t.Error(err)
	}
	if got, want := k.called(), "release 3; reset; take 3; release 3; reset; take 3; clear 82"; got != want {
		t.Errorf("called %q, want %q", got, want)
	}
	k.fail(ioReset, unix.ENODEV)
	if err := c.Reset(t.Context()); !errors.Is(err, reader.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
	if got, want := k.called(), "release 3; reset"; got != want {
		t.Errorf("called %q, want %q", got, want)
	}
}

// Close ends pending transfers with ErrGone, and is no departure.
func TestClose(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	k.called()
	end := make(chan error, 2)
	for _, ep := range []uint8{kBulkIn, kIntrIn} {
		go func() {
			_, err := c.In(context.Background(), ep, make([]byte, 8), 0)
			end <- err
		}()
	}
	k.until(func() bool { return len(k.flying) == 2 })
	k.called()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := await(t, end, "end"); !errors.Is(err, reader.ErrGone) {
			t.Errorf("%v", err)
		}
	}
	if got, want := k.called(), "discard; discard; release 3; connect"; got != want {
		t.Errorf("called %q, want %q", got, want)
	}
	if _, err := c.In(context.Background(), kIntrIn, make([]byte, 8), 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
	if err := c.ClearHalt(context.Background(), kIntrIn); !errors.Is(err, reader.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
	if got := k.called(); got != "" {
		t.Errorf("called %q after Close", got)
	}
	select {
	case <-c.Gone():
		t.Error("Gone is closed")
	default:
	}
}

// A closed connection no longer allocates memory from the kernel: nothing would unmap it.
func TestTransferAfterClose(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	c.Close()
	if _, err := c.In(context.Background(), kIntrIn, make([]byte, 8), 0); !errors.Is(err, reader.ErrGone) {
		t.Error(err)
	}
	if inFlight, idle := taken(c); inFlight != 0 || idle != 0 {
		t.Errorf("%d transfers in flight, %d idle", inFlight, idle)
	}
}
