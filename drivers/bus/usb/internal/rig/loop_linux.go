// Package rig is what the tests of the transports and of the watcher share: a USB device
// that the kernel's vhci plugs in, and a host that collects what is announced.
package rig

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
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
)

// Endpoints and vendor requests of the loop device.
const (
	BulkOut = 0x01
	BulkIn  = 0x82
	IntIn   = 0x83
	IntOut  = 0x04

	ReqStore = 1 // OUT: keeps the data stage
	ReqFetch = 2 // IN: gives it back
	ReqStall = 3
	ReqHang  = 4 // answers when released
)

// Loop is a USB device that returns what it was sent, and fails on request.
type Loop struct {
	Mu     sync.Mutex
	stored []byte
	Queue  map[uint8][][]byte // by IN endpoint
	Halted map[uint8]bool
	Hold   map[uint8]bool // NAK: the endpoint keeps its transfers waiting
	Outs   []Sent
	waits  int           // transfers that the device keeps waiting
	change chan struct{} // closed and replaced at each change
	Left   chan struct{}
	Serial string
	Desc   []byte
	Report []byte // HID report descriptor, if it is to be one

	standard func() *usbtest.Port // answers the standard requests
}

// Sent is an OUT transfer as the device got it.
type Sent struct {
	Endpoint uint8
	Bytes    int
	ZLP      bool
}

func NewLoop() *Loop {
	l := &Loop{
		Queue: map[uint8][][]byte{}, Halted: map[uint8]bool{}, Hold: map[uint8]bool{},
		change: make(chan struct{}), Left: make(chan struct{}),
		Serial: "L00P", Desc: LoopDescriptors(0),
	}
	l.standard = sync.OnceValue(func() *usbtest.Port {
		return usbtest.New(usbtest.Model{Descriptors: l.Desc, Strings: []string{"cardfs tests", "loop – ü", l.Serial}}).Plug()
	})
	return l
}

// LoopDescriptors describe one vendor-specific interface with the given number.
func LoopDescriptors(iface uint8) []byte {
	ep := func(addr, kind uint8) []byte { return []byte{7, 5, addr, kind, 64, 0, 10} }
	cfg := slices.Concat(
		[]byte{9, 2, 0, 0, 1, 1, 0, 0x80, 50},
		[]byte{9, 4, iface, 0, 4, 0xFF, 0x10, 0x20, 0},
		[]byte{5, 0x41, 'x', 'y', 'z'},
		ep(BulkOut, 2), ep(BulkIn, 2), ep(IntIn, 3), ep(IntOut, 3),
	)
	cfg[2] = uint8(len(cfg))
	// 1209:0001 is set aside for tests (pid.codes).
	dev := []byte{18, 1, 0x10, 0x01, 0, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 3, 1}
	return append(dev, cfg...)
}

func (l *Loop) Gone() <-chan struct{} { return l.Left }

func (l *Loop) Set(f func()) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	f()
	close(l.change)
	l.change = make(chan struct{})
}

// AwaitWaiting waits until the device keeps n transfers waiting.
func (l *Loop) AwaitWaiting(t *testing.T, n int) {
	t.Helper()
	late := time.After(Timeout)
	for {
		l.Mu.Lock()
		waits, change := l.waits, l.change
		l.Mu.Unlock()
		if waits == n {
			return
		}
		select {
		case <-change:
		case <-late:
			t.Fatalf("%d transfers wait, want %d", waits, n)
		}
	}
}

// wait calls ready, under the lock, after each change until it returns true.
func (l *Loop) wait(ctx context.Context, ready func() bool) error {
	l.Set(func() { l.waits++ })
	defer l.Set(func() { l.waits-- })
	for {
		l.Mu.Lock()
		ok, change := ready(), l.change
		l.Mu.Unlock()
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

func (l *Loop) Control(ctx context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	if l.Report != nil && s == (usb.Setup{RequestType: 0x81, Request: 6, Value: 0x2200, Index: s.Index}) { // HID 1.11 §7.1.1
		return copy(data, l.Report), nil
	}
	if s.RequestType&0x60 == 0 { // USB 2.0 table 9-2
		if s.RequestType == 0x02 && s.Request == 0x01 { // CLEAR_FEATURE, of an endpoint
			l.Set(func() { delete(l.Halted, uint8(s.Index)) })
		}
		return l.standard().Control(ctx, s, data, 0)
	}
	if l.Report != nil { // whatever else it is told to, it does
		return 0, nil
	}
	switch s.Request {
	case ReqStore:
		l.Set(func() { l.stored = slices.Clone(data) })
		return len(data), nil
	case ReqFetch:
		l.Mu.Lock()
		defer l.Mu.Unlock()
		return copy(data, l.stored), nil
	case ReqHang:
		if err := l.wait(ctx, func() bool { return !l.Hold[0] }); err != nil {
			return 0, err
		}
		return 0, nil
	}
	return 0, usb.ErrStall
}

func (l *Loop) Out(ctx context.Context, ep uint8, p []byte, zlp bool, _ time.Duration) (n int, err error) {
	werr := l.wait(ctx, func() bool {
		if l.Halted[ep] {
			err = usb.ErrStall
			return true
		}
		return !l.Hold[ep]
	})
	if werr != nil || err != nil {
		return 0, cmpErr(werr, err)
	}
	l.Set(func() {
		l.Outs = append(l.Outs, Sent{ep, len(p), zlp})
		in := map[uint8]uint8{BulkOut: BulkIn, IntOut: IntIn}[ep]
		l.Queue[in] = append(l.Queue[in], slices.Clone(p))
	})
	return len(p), nil
}

func (l *Loop) In(ctx context.Context, ep uint8, p []byte, _ time.Duration) (n int, err error) {
	werr := l.wait(ctx, func() bool {
		if l.Halted[ep] {
			err = usb.ErrStall
			return true
		}
		if l.Hold[ep] || len(l.Queue[ep]) == 0 {
			return false
		}
		q := l.Queue[ep][0]
		n = copy(p, q)
		if n < len(q) {
			if n%64 != 0 || n == 0 {
				err = usb.ErrOverflow
				return true
			}
			l.Queue[ep][0] = q[n:]
			return true
		}
		l.Queue[ep] = l.Queue[ep][1:]
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

var _ usbip.Device = (*Loop)(nil)

// Plug puts a loop device into the guest's kernel and takes it out at the end.
func Plug(t *testing.T, l *Loop) *usbip.Port {
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
		for end := time.Now().Add(Timeout); listed(l.Serial); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s does not leave sysfs", l.Serial)
				return
			}
		}
	})
	return port
}

// listed reports whether sysfs has a device with that serial number.
func listed(serial string) bool {
	files, _ := filepath.Glob("/sys/bus/usb/devices/*/serial")
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		return err == nil && strings.TrimSpace(string(b)) == serial
	})
}

// ResetDevice resets a device as another program would: without a claim.
func ResetDevice(path string) error {
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
