package usb

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel stands in for usbfs. It keeps urbs until the test ends them. Its device file
// is a FIFO that is full while no urb has ended: the runtime's poller wakes the reaper
// as for the real one.
type kernel struct {
	*testing.T
	path string

	mu      sync.Mutex
	fd      int
	calls   []string
	errs    map[uintptr][]error // what ioctls return next, by request; the last one for ever
	flying  []*usbdevfsURB
	ended   []*usbdevfsURB
	change  chan struct{} // closed and replaced at each call
	gone    bool
	driver  string // the driver that has the interface; ENODATA if none
	onReset func()

	departures atomic.Int32 // how often the connection reported the departure
}

const (
	kBulkOut = 0x01
	kBulkIn  = 0x82
	kIntrIn  = 0x83
)

var kernelDevice = slices.Concat(
	[]byte{18, deviceDesc, 0, 2, 0, 0, 0, 64, 9, 0x12, 1, 0, 0, 1, 1, 2, 3, 1},
	[]byte{9, configDesc, 48, 0, 1, 1, 0, 0x80, 50},
	[]byte{9, interfaceDesc, 3, 0, 3, 0xFF, 0, 0, 0},
	[]byte{7, endpointDesc, kBulkOut, 2, 64, 0, 0},
	[]byte{7, endpointDesc, kBulkIn, 2, 64, 0, 0},
	[]byte{7, endpointDesc, kIntrIn, 3, 8, 0, 10},
	[]byte{9, interfaceDesc, 3, 1, 0, 0xFF, 0, 0, 0},
)

func newKernel(t *testing.T) *kernel {
	k := &kernel{T: t, path: filepath.Join(t.TempDir(), "005"), change: make(chan struct{}), errs: map[uintptr][]error{}}
	if err := unix.Mkfifo(k.path, 0o600); err != nil {
		t.Fatal(err)
	}
	oldIoctl, oldRead := ioctl, readDescriptors
	ioctl = k.ioctl
	readDescriptors = func(*os.File) ([]byte, error) { return kernelDevice, nil }
	t.Cleanup(func() { ioctl, readDescriptors = oldIoctl, oldRead })
	return k
}

func (k *kernel) open() *conn {
	k.Helper()
	c, err := openDevice(Place{Name: "usb:test", Path: k.path, Departed: func() { k.departures.Add(1) }}, 3)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { c.Close() })
	return c
}

var requests = map[uintptr]string{
	ioGetDriver: "driver?", ioSubmit: "submit", ioDiscard: "discard", ioClaim: "claim", ioRelease: "release",
	ioDriver: "connect", ioReset: "reset", ioClearHalt: "clear", ioDisconnectClaim: "take",
}

func (k *kernel) ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() { close(k.change); k.change = make(chan struct{}) }()
	k.fd = fd
	if req == ioReapNDelay {
		switch {
		case len(k.ended) > 0:
			*(*uintptr)(arg) = uintptr(unsafe.Pointer(k.ended[0]))
			k.ended = k.ended[1:]
			return nil
		case k.gone:
			return unix.ENODEV
		}
		for page := make([]byte, 4096); ; {
			if _, err := unix.Write(fd, page); err != nil {
				return unix.EAGAIN
			}
		}
	}
	call := requests[req]
	if req == ioSubmit {
		u := (*usbdevfsURB)(arg)
		call = fmt.Sprintf("submit %d %02X %d %02X", u.kind, u.endpoint, u.bufferLength, u.flags)
	}
	if req == ioClearHalt {
		call = fmt.Sprintf("clear %02X", *(*uint32)(arg))
	}
	if req == ioRelease || req == ioClaim || req == ioDisconnectClaim || req == ioGetDriver {
		call += fmt.Sprintf(" %d", *(*uint32)(arg))
	}
	k.calls = append(k.calls, call)
	if errs := k.errs[req]; len(errs) > 0 {
		if len(errs) > 1 {
			k.errs[req] = errs[1:]
		}
		if errs[0] != nil {
			return errs[0]
		}
	}
	if k.gone {
		return unix.ENODEV
	}
	switch req {
	case ioSubmit:
		k.flying = append(k.flying, (*usbdevfsURB)(arg))
	case ioDiscard:
		if !k.end((*usbdevfsURB)(arg), -int32(unix.ENOENT), 0) {
			return unix.EINVAL
		}
	case ioGetDriver:
		if k.driver == "" {
			return unix.ENODATA
		}
		copy((*driverName)(arg).name[:], k.driver)
	case ioRelease:
		for len(k.flying) > 0 {
			k.end(k.flying[0], -int32(unix.ENOENT), 0)
		}
	case ioDisconnectClaim:
		if d := (*disconnectClaim)(arg); d.flags != 2 || unix.ByteSliceToString(d.name[:]) != "usbfs" {
			k.Errorf("DISCONNECT_CLAIM with flags %d, name %q", d.flags, d.name[:8])
		}
	case ioReset:
		if k.onReset != nil {
			k.onReset()
		}
	}
	return nil
}

// end ends a urb; mu is held.
func (k *kernel) end(u *usbdevfsURB, status int32, n int) bool {
	i := slices.Index(k.flying, u)
	if i < 0 {
		return false
	}
	k.flying = slices.Delete(k.flying, i, i+1)
	u.status, u.actualLength = status, int32(n)
	k.ended = append(k.ended, u)
	k.wake()
	return true
}

// buffer is the memory that the kernel may access; a urb begins with the kernel's part.
func buffer(u *usbdevfsURB) []byte { return (*urb)(unsafe.Pointer(u)).buf[:u.bufferLength] }

func (k *kernel) wake() {
	for page := make([]byte, 4096); ; {
		if n, err := unix.Read(k.fd, page); err != nil || n == 0 {
			return
		}
	}
}

// finish ends the oldest urb, with data for one that reads.
func (k *kernel) finish(status unix.Errno, data string) {
	k.Helper()
	k.until(func() bool { return len(k.flying) > 0 })
	k.mu.Lock()
	defer k.mu.Unlock()
	u := k.flying[0]
	b := buffer(u)
	n := len(data)
	switch {
	case u.kind == urbControl && b[0]&0x80 != 0:
		copy(b[8:], data)
	case u.endpoint&0x80 != 0:
		copy(b, data)
	}
	k.end(u, -int32(status), n)
}

// unplug makes the device leave.
func (k *kernel) unplug(status unix.Errno) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	for len(k.flying) > 0 {
		k.end(k.flying[0], -int32(status), 0)
	}
	k.wake()
}

func (k *kernel) until(ready func() bool) {
	k.Helper()
	for {
		k.mu.Lock()
		ok, change := ready(), k.change
		k.mu.Unlock()
		if ok {
			return
		}
		await(k.T, change, "ioctl")
	}
}

// called returns the calls since it was last called.
func (k *kernel) called() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := strings.Join(k.calls, "; ")
	k.calls = nil
	return s
}

func (k *kernel) fail(req uintptr, errs ...error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.errs[req] = errs
}

func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatalf("no %s", what)
	}
	return v
}

// taken returns how many urbs a connection holds, in flight and idle.
func taken(c *conn) (inFlight, idle int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.inFlight), len(c.idle)
}
