package usb_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
)

// Endpoints and vendor requests of the loop device.
const (
	bulkOut = 0x01
	bulkIn  = 0x82
	intIn   = 0x83
	intOut  = 0x04

	reqStore = 1 // OUT: keeps the data stage
	reqFetch = 2 // IN: gives it back
	reqStall = 3
	reqHang  = 4 // answers when released
)

// loop is a USB device that gives back what it was sent, and fails as told.
type loop struct {
	mu     sync.Mutex
	stored []byte
	queue  map[uint8][][]byte // by IN endpoint
	halted map[uint8]bool
	hold   map[uint8]bool // NAK: the endpoint keeps its transfers waiting
	outs   []out
	change chan struct{} // closed and replaced at each change
	gone   chan struct{}
	serial string
	desc   []byte
}

type out struct {
	ep  uint8
	n   int
	zlp bool
}

func newLoop() *loop {
	return &loop{
		queue: map[uint8][][]byte{}, halted: map[uint8]bool{}, hold: map[uint8]bool{},
		change: make(chan struct{}), gone: make(chan struct{}),
		serial: "L00P", desc: loopDescriptors(0),
	}
}

// loopDescriptors describe one vendor-specific interface with the given number.
func loopDescriptors(iface uint8) []byte {
	ep := func(addr, kind uint8) []byte { return []byte{7, 5, addr, kind, 64, 0, 10} }
	cfg := slices.Concat(
		[]byte{9, 2, 0, 0, 1, 1, 0, 0x80, 50},
		[]byte{9, 4, iface, 0, 4, 0xFF, 0x10, 0x20, 0},
		[]byte{5, 0x41, 'x', 'y', 'z'},
		ep(bulkOut, 2), ep(bulkIn, 2), ep(intIn, 3), ep(intOut, 3),
	)
	cfg[2] = uint8(len(cfg))
	// 1209:0001 is set aside for tests (pid.codes).
	dev := []byte{18, 1, 0x10, 0x01, 0, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 3, 1}
	return append(dev, cfg...)
}

func (l *loop) Descriptors() []byte   { return l.desc }
func (l *loop) Gone() <-chan struct{} { return l.gone }
func (l *loop) String(i uint8) string {
	return map[uint8]string{1: "cardfs tests", 2: "loop – ü", 3: l.serial}[i]
}

func (l *loop) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.change)
	l.change = make(chan struct{})
}

// wait runs ready, under the lock, after each change until it tells that it is.
func (l *loop) wait(ctx context.Context, ready func() bool) error {
	for {
		l.mu.Lock()
		ok, change := ready(), l.change
		l.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *loop) Control(ctx context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	switch s.Request {
	case reqStore:
		l.set(func() { l.stored = slices.Clone(data) })
		return len(data), nil
	case reqFetch:
		l.mu.Lock()
		defer l.mu.Unlock()
		return copy(data, l.stored), nil
	case reqHang:
		if err := l.wait(ctx, func() bool { return !l.hold[0] }); err != nil {
			return 0, err
		}
		return 0, nil
	}
	return 0, usb.ErrStall
}

func (l *loop) Out(ctx context.Context, ep uint8, p []byte, zlp bool, _ time.Duration) (n int, err error) {
	werr := l.wait(ctx, func() bool {
		if l.halted[ep] {
			err = usb.ErrStall
			return true
		}
		return !l.hold[ep]
	})
	if werr != nil || err != nil {
		return 0, cmpErr(werr, err)
	}
	l.set(func() {
		l.outs = append(l.outs, out{ep, len(p), zlp})
		in := map[uint8]uint8{bulkOut: bulkIn, intOut: intIn}[ep]
		l.queue[in] = append(l.queue[in], slices.Clone(p))
	})
	return len(p), nil
}

func (l *loop) In(ctx context.Context, ep uint8, p []byte, _ time.Duration) (n int, err error) {
	werr := l.wait(ctx, func() bool {
		if l.halted[ep] {
			err = usb.ErrStall
			return true
		}
		if l.hold[ep] || len(l.queue[ep]) == 0 {
			return false
		}
		q := l.queue[ep][0]
		n = copy(p, q)
		if n < len(q) {
			if n%64 != 0 || n == 0 {
				err = usb.ErrOverflow
				return true
			}
			l.queue[ep][0] = q[n:]
			return true
		}
		l.queue[ep] = l.queue[ep][1:]
		return true
	})
	return n, cmpErr(werr, err)
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (l *loop) ClearHalt(_ context.Context, ep uint8) error {
	l.set(func() { delete(l.halted, ep) })
	return nil
}

var _ usbip.Device = (*loop)(nil)

// plug puts a loop device into the guest's kernel and takes it out at the end.
func plug(t *testing.T, l *loop) *usbip.Port {
	t.Helper()
	port, err := usbip.Plug(l, usbip.Full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := port.Unplug(); err != nil {
			t.Errorf("unplug: %v", err)
		}
		// The next test's watcher would announce what the kernel still shows.
		for end := time.Now().Add(patience); listed(l.serial); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s does not leave sysfs", l.serial)
				return
			}
		}
	})
	return port
}

// listed tells whether sysfs has a device with that serial number.
func listed(serial string) bool {
	files, _ := filepath.Glob("/sys/bus/usb/devices/*/serial")
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		return err == nil && strings.TrimSpace(string(b)) == serial
	})
}

// resetDevice resets a device as another program would: without a claim.
func resetDevice(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const usbdevfsReset = 'U'<<8 | 20
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), usbdevfsReset, 0); errno != 0 {
		return errno
	}
	return nil
}
