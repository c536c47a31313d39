//go:build cgo

package gousb

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// The answers of usbfs about an interface's driver (Linux drivers/usb/core/devio.c,
// proc_getdriver). ENODATA means that there is no driver; KernelDriver reports none.
func TestFate(t *testing.T) {
	for _, x := range []struct {
		owner string
		err   error
		want  fate
	}{
		{"", fmt.Errorf("ask: %w", unix.ENODEV), left}, {"usbfs", unix.ENODEV, left}, {"", unix.ENOTTY, unknown}, {"usbfs", unix.EIO, unknown},
		{"usbfs", nil, claimed}, {"", nil, free}, {"pn533_usb", nil, kernels},
	} {
		if got := fateOf(x.owner, x.err); got != x.want {
			t.Errorf("%q, %v: %v, want %v", x.owner, x.err, got, x.want)
		}
	}
}

// The device file is opened for reading and writing, because usbfs reports a departure only
// to such a descriptor. No child process inherits it.
func TestBeside(t *testing.T) {
	name := filepath.Join(t.TempDir(), "device")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := openBeside(usb.Place{Name: "usb:1-2", Path: name})
	if err != nil {
		t.Fatal(err)
	}
	var flags, fdFlags int
	if err := b.raw.Control(func(fd uintptr) {
		flags, _ = unix.FcntlInt(fd, unix.F_GETFL, 0)
		fdFlags, _ = unix.FcntlInt(fd, unix.F_GETFD, 0)
	}); err != nil {
		t.Fatal(err)
	}
	if flags&unix.O_ACCMODE != unix.O_RDWR || flags&unix.O_NONBLOCK == 0 || fdFlags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %#x", flags, fdFlags)
	}
	if got := b.ask(0); got != unknown { // it is no device
		t.Errorf("fate %v", got)
	}
	left := make(chan bool)
	go func() { left <- b.await() }()
	b.close()
	if <-left {
		t.Error("closed is taken for left")
	}
	if got := b.ask(0); got != unknown {
		t.Errorf("closed: fate %v", got)
	}
	if _, err := openBeside(usb.Place{Name: "usb:1-2", Path: name + "/none"}); err == nil {
		t.Error("a file that is not there was opened")
	}
}

// A panic of gousb becomes an error that says what helps. No other panic is caught.
func TestGuarded(t *testing.T) {
	at := usb.Place{Name: "usb:1-2"}
	c, err := guarded(at, func() (*conn, error) { panic("odd descriptors") })
	if c != nil || err == nil || !errors.Is(err, reader.ErrFailed) || !strings.Contains(err.Error(), "--usb=usbfs copes") {
		t.Errorf("a panic: %v, %v", c, err)
	}
	c, err = guarded(at, func() (*conn, error) { return nil, usb.ErrBus })
	if c != nil || err != usb.ErrBus {
		t.Errorf("an error: %v, %v", c, err)
	}
	want := made(claimed)
	c, err = guarded(at, func() (*conn, error) { return want, nil })
	if c != want || err != nil {
		t.Errorf("a connection: %v, %v", c, err)
	}
}

// A transfer that does not begin has moved nothing.
func TestTransferThatDoesNotBegin(t *testing.T) {
	c := withEndpoints()
	c.alone(errClosed, true)
	c.using.Unlock()
	if n, err := c.Out(t.Context(), 2, []byte{1}, false, 0); n != 0 || !errors.Is(err, reader.ErrGone) {
		t.Errorf("OUT: %d, %v", n, err)
	}
	if n, err := c.In(t.Context(), 0x81, []byte{1}, 0); n != 0 || !errors.Is(err, reader.ErrGone) {
		t.Errorf("IN: %d, %v", n, err)
	}
	if err := c.ClearHalt(t.Context(), 0x81); !errors.Is(err, reader.ErrGone) {
		t.Errorf("clear: %v", err)
	}
	if err := c.Reset(t.Context()); !errors.Is(err, reader.ErrGone) {
		t.Errorf("reset: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
