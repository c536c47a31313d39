package chardev_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// makeNode makes a device file. As root it is a file of its own, of a device that every
// kernel has.
func makeNode(t *testing.T, name string, major, minor uint32) {
	t.Helper()
	if err := unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Skipf("mknod needs root: %v", err)
	}
	if f, err := os.OpenFile(name, os.O_RDWR, 0); err != nil {
		t.Skipf("device files do not work in %s: %v", filepath.Dir(name), err)
	} else {
		f.Close()
	}
}

// Calls are those of the system, and what a file cannot do is told in words.
func TestCalls(t *testing.T) {
	n, err := chardev.OpenFile(t.Context(), "/dev/zero", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p := []byte{1, 2, 3}
	if got, err := n.Read(t.Context(), p, patience); got != 3 || err != nil || p[0]|p[1]|p[2] != 0 {
		t.Errorf("read: %d, %v, % X", got, err, p)
	}
	if got, err := n.Write(t.Context(), p, 0); got != 3 || err != nil {
		t.Errorf("write: %d, %v", got, err)
	}
	if err := n.Ioctl(t.Context(), 0x80086300, make([]byte, 8), patience); !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("ioctl: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Read(ctx, p, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled read: %v", err)
	}
	if _, err := n.Write(ctx, p, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled write: %v", err)
	}
	if err := n.Ioctl(ctx, 1, nil, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled ioctl: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	<-n.Gone()
	for what, err := range map[string]error{
		"read":  func() error { _, err := n.Read(t.Context(), p, 0); return err }(),
		"write": func() error { _, err := n.Write(t.Context(), p, 0); return err }(),
		"ioctl": n.Ioctl(t.Context(), 1, nil, 0), "close": n.Close(),
	} {
		if what == "close" && err != nil || what != "close" && !errors.Is(err, reader.ErrGone) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// A read that waits ends with its time, with its context, with Close and with the removal
// of the file. /dev/ptmx is a device whose read waits.
func TestWaitingRead(t *testing.T) {
	ends := map[string]func(n chardev.Node, name string, cancel func()){
		"time":    func(chardev.Node, string, func()) {},
		"context": func(_ chardev.Node, _ string, cancel func()) { cancel() },
		"close":   func(n chardev.Node, _ string, _ func()) { n.Close() },
	}
	want := map[string]error{"time": reader.ErrTimeout, "context": context.Canceled, "close": reader.ErrGone}
	for what, end := range ends {
		t.Run(what, func(t *testing.T) {
			n, err := chardev.OpenFile(t.Context(), "/dev/ptmx", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			slave := openSlave(t, n)
			defer slave.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wait := time.Duration(0)
			if what == "time" {
				wait = 10 * time.Millisecond
			}
			time.AfterFunc(10*time.Millisecond, func() { end(n, "", cancel) })
			if _, err := n.Read(ctx, make([]byte, 1), wait); !errors.Is(err, want[what]) {
				t.Errorf("%v, want %v", err, want[what])
			}
		})
	}
}

// openSlave opens the other side of a pseudo-terminal, by ioctls that have data.
func openSlave(t *testing.T, n chardev.Node) *os.File {
	t.Helper()
	if err := n.Ioctl(t.Context(), unix.TIOCSPTLCK, make([]byte, 4), patience); err != nil {
		t.Fatal(err)
	}
	number := []byte{0xFF, 0xFF, 0xFF, 0xFF}
	if err := n.Ioctl(t.Context(), unix.TIOCGPTN, number, patience); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", binary.NativeEndian.Uint32(number)), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return slave
}

// "Gone is closed when the device has left, even while nothing is under way": its file is
// removed, or is another's.
func TestRemoval(t *testing.T) {
	for what, remove := range map[string]func(name string) error{
		"removed": os.Remove,
		"renamed": func(name string) error { return os.Rename(name, name+"-") },
	} {
		name := filepath.Join(t.TempDir(), "cmm0")
		makeNode(t, name, 1, 5)
		dev, err := chardev.Attach(reader.Device{Address: name}, nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := chardev.Open(t.Context(), dev)
		if err != nil {
			t.Fatal(err)
		}
		if what == "removed" { // behind a change in the directory that is not its
			os.WriteFile(name+"-other", nil, 0o600)
			os.Remove(name + "-other")
		}
		if _, err := n.Read(t.Context(), make([]byte, 1), patience); err != nil {
			t.Errorf("%s: read before: %v", what, err)
		}
		if err := remove(name); err != nil {
			t.Fatal(err)
		}
		select {
		case <-n.Gone():
		case <-time.After(patience):
			t.Fatalf("%s: not gone", what)
		}
		select {
		case <-dev.Link.Gone():
		default:
			t.Errorf("%s: the node has gone, its link has not", what)
		}
		n.Close()
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		file: reader.ErrUnsupported, "/dev/nothing": reader.ErrGone, "zero": reader.ErrInvalid,
	} {
		if _, err := chardev.OpenFile(t.Context(), name, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := chardev.Open(t.Context(), reader.Device{}); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("no link: %v", err)
	}
}

// slow is a device whose read waits for ever, and whose ioctl 7 fails.
type slow struct{ opened, closed int }

func (d *slow) Opened() { d.opened++ }
func (d *slow) Closed() { d.closed++ }
func (d *slow) Read(ctx context.Context, p []byte) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}
func (d *slow) Write(_ context.Context, p []byte) (int, error) { return len(p), nil }
func (d *slow) Ioctl(_ context.Context, request uint, data []byte) error {
	if request == 7 {
		return syscall.EIO
	}
	copy(data, "ATR")
	return nil
}

// The emulated device is called as a file is.
func TestEmulated(t *testing.T) {
	var d slow
	p := chardevtest.Plug(&d)
	open := func() chardev.Node {
		t.Helper()
		n, err := chardev.Open(t.Context(), reader.Device{Link: p})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	if _, err := chardev.Open(t.Context(), reader.Device{Link: p}); !errors.Is(err, reader.ErrClaimed) {
		t.Errorf("opened twice: %v", err)
	}
	if got, err := n.Write(t.Context(), []byte{1, 2}, 0); got != 2 || err != nil {
		t.Errorf("write: %d, %v", got, err)
	}
	data := make([]byte, 3)
	if err := n.Ioctl(t.Context(), 1, data, 0); err != nil || string(data) != "ATR" {
		t.Errorf("ioctl: %v, %q", err, data)
	}
	if err := n.Ioctl(t.Context(), 7, nil, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("ioctl that fails: %v", err)
	}
	if _, err := n.Read(t.Context(), data, time.Millisecond); !errors.Is(err, reader.ErrTimeout) {
		t.Errorf("late: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := n.Read(ctx, data, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	n.Close()
	n.Close()
	n = open()
	time.AfterFunc(time.Millisecond, p.Unplug)
	if _, err := n.Read(t.Context(), data, 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("unplugged: %v", err)
	}
	<-n.Gone()
	n.Close()
	if d.opened != 2 || d.closed != 2 {
		t.Errorf("opened %d times, closed %d times", d.opened, d.closed)
	}
	if _, err := p.OpenNode(t.Context()); !errors.Is(err, reader.ErrGone) {
		t.Errorf("open what has left: %v", err)
	}
}
