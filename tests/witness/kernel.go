package witness

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest/ftdi"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
)

// ttys are the terminals that the kernel has for USB devices at the moment, and udev's links to
// them. The kernel makes a terminal's file first, and lets it be opened later; the link comes then.
func ttys() (files, links []string) {
	files, _ = filepath.Glob("/dev/ttyUSB*")
	links, _ = filepath.Glob("/dev/serial/by-id/*")
	return files, links
}

func awaitTTYs(t *testing.T, n int) []string {
	t.Helper()
	for end := time.Now().Add(patient); ; time.Sleep(10 * time.Millisecond) {
		files, links := ttys()
		if len(files) == n && len(links) == n {
			return files
		}
		if time.Now().After(end) {
			t.Fatalf("the kernel has the terminals %q, with the links %q: not %d", files, links, n)
		}
	}
}

// TTY waits for the one terminal that the kernel makes for what was plugged in.
func TTY(t *testing.T) string {
	t.Helper()
	return awaitTTYs(t, 1)[0]
}

// NoTTY waits until the kernel has no terminal for what was unplugged.
func NoTTY(t *testing.T) {
	t.Helper()
	awaitTTYs(t, 0)
}

// Plug plugs a device into the kernel, one at a time. It returns what unplugs it, as the end of
// the test does.
func Plug(t *testing.T, d *usbtest.Port) (unplug func()) {
	t.Helper()
	NoTTY(t) // that of the one before
	port, err := usbip.Plug(d, usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	unplug = func() {
		d.Unplug()
		if err := port.Unplug(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		unplug()
		NoTTY(t)
	})
	return unplug
}

// Adapter is a device behind an adapter to a serial line, plugged into the kernel. The machine
// needs the module ftdi_sio.
type Adapter struct {
	TTY    string
	Unplug func()

	device serialtest.Device
	line   atomic.Pointer[serialtest.Line]
}

// PlugAdapter plugs in an adapter with that serial number.
func PlugAdapter(t *testing.T, d serialtest.Device, number string) *Adapter {
	t.Helper()
	a := &Adapter{device: d}
	a.Unplug = Plug(t, ftdi.Plug(a, number))
	a.TTY = TTY(t)
	return a
}

// Serve is the device's.
func (a *Adapter) Serve(l *serialtest.Line) {
	a.line.Store(l)
	a.device.Serve(l)
}

// Line is the line between adapter and device.
func (a *Adapter) Line() *serialtest.Line { return a.line.Load() }

// Terminal is the kernel's terminal, as a program has it. What fails ends the test.
type Terminal struct {
	*os.File
	t *testing.T
}

// OpenTerminal opens the one terminal that the kernel makes for what was plugged in.
func OpenTerminal(t *testing.T) Terminal {
	t.Helper()
	f, err := os.OpenFile(TTY(t), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.SetDeadline(time.Now().Add(2 * patient))
	return Terminal{f, t}
}

// Control calls f, for an ioctl.
func (y Terminal) Control(f func(fd int) error) {
	y.t.Helper()
	raw, err := y.SyscallConn()
	if err != nil {
		y.t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); err != nil || e != nil {
		y.t.Fatal(err, e)
	}
}

// Send writes.
func (y Terminal) Send(p []byte) {
	y.t.Helper()
	if _, err := y.Write(p); err != nil {
		y.t.Fatal(err)
	}
}

// Want reads, and compares what came.
func (y Terminal) Want(what string, want []byte) {
	y.t.Helper()
	p := make([]byte, len(want))
	if n, err := io.ReadFull(y, p); err != nil || !bytes.Equal(p, want) {
		y.t.Fatalf("%s: the kernel gave % X, %v; want % X", what, p[:n], err, want)
	}
}
