package usb

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/cardfs/cardfs/reader"
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
	errs    map[uintptr][]error // what ioctls answer next, by request; the last for ever
	flying  []*usbdevfsURB
	ended   []*usbdevfsURB
	change  chan struct{} // closed and replaced at each call
	gone    bool
	driver  string // that has the interface, ENODATA if none
	onReset func()

	departures atomic.Int32 // how often the connection told that the device has left
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

// buffer is what the kernel may read or write; a urb begins with the kernel's part.
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

// unplug lets the device leave.
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

// called gives the calls since the last time.
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

// Linux Documentation/driver-api/usb/error-codes.rst, for the answers of ioctls and for
// the status of urbs. Nothing but ENODEV says that the device has left.
func TestErrno(t *testing.T) {
	impatient(t)
	for _, tt := range []struct {
		errno  unix.Errno
		ioctl  error // of ClearHalt
		submit error // of a urb that was not taken
		status error // of a urb that ended
	}{
		{unix.ENODEV, reader.ErrGone, reader.ErrGone, reader.ErrGone},
		{unix.ENOENT, ErrNoEndpoint, ErrNoEndpoint, ErrReset}, // unlinked, and not by us
		{unix.ESRCH, ErrNoEndpoint, ErrNoEndpoint, ErrNoEndpoint},
		{unix.ECONNRESET, unix.ECONNRESET, unix.ECONNRESET, ErrReset},
		{unix.ESHUTDOWN, ErrReset, ErrReset, ErrReset},
		{unix.EHOSTUNREACH, ErrReset, ErrReset, ErrReset},
		{unix.EPIPE, ErrStall, ErrStall, ErrStall},
		{unix.EOVERFLOW, ErrOverflow, ErrOverflow, ErrOverflow},
		{unix.ETIMEDOUT, ErrTimeout, ErrTimeout, ErrTimeout},
		{unix.EPROTO, ErrBus, ErrBus, ErrBus},
		{unix.EILSEQ, ErrBus, ErrBus, ErrBus},
		{unix.ETIME, ErrBus, ErrBus, ErrBus},
		{unix.ECOMM, ErrBus, ErrBus, ErrBus},
		{unix.ENOSR, ErrBus, ErrBus, ErrBus},
		{unix.EBUSY, reader.ErrClaimed, reader.ErrClaimed, reader.ErrClaimed},
		{unix.EACCES, reader.ErrNoPermission, reader.ErrNoPermission, reader.ErrNoPermission},
		{unix.EPERM, reader.ErrNoPermission, reader.ErrNoPermission, reader.ErrNoPermission},
		{unix.EINVAL, unix.EINVAL, unix.EINVAL, unix.EINVAL},
		{unix.ENOMEM, unix.ENOMEM, unix.ENOMEM, unix.ENOMEM},
		{unix.ENXIO, unix.ENXIO, unix.ENXIO, unix.ENXIO},
		{unix.EAGAIN, unix.EAGAIN, unix.EAGAIN, unix.EAGAIN},
		{unix.EREMOTEIO, unix.EREMOTEIO, unix.EREMOTEIO, unix.EREMOTEIO},
		{unix.EIO, unix.EIO, unix.EIO, unix.EIO},
	} {
		t.Run(tt.errno.Error(), func(t *testing.T) {
			k := newKernel(t)
			c := k.open()
			var got [3]error
			k.fail(ioClearHalt, tt.errno)
			got[0] = c.ClearHalt(t.Context(), kIntrIn)
			go k.finish(tt.errno, "")
			_, got[2] = c.In(t.Context(), kIntrIn, make([]byte, 8), 0)
			k.fail(ioSubmit, tt.errno)
			_, got[1] = c.In(t.Context(), kIntrIn, make([]byte, 8), 0)
			for i, want := range []error{tt.ioctl, tt.submit, tt.status} {
				if !errors.Is(got[i], want) || !strings.HasPrefix(got[i].Error(), "usb:test: ") {
					t.Errorf("%s: %v, want %v", []string{"ioctl", "submit", "status"}[i], got[i], want)
				}
				if isGone := errors.Is(got[i], reader.ErrGone); isGone != (tt.errno == unix.ENODEV) {
					t.Errorf("%d: the device has left: %v, by %v", i, isGone, got[i])
				}
			}
			if left := closed(c.Gone()); left != (tt.errno == unix.ENODEV) || left != (k.departures.Load() == 1) {
				t.Errorf("Gone is closed: %v; departure told %d times", left, k.departures.Load())
			}
			if in, _ := taken(c); in != 0 {
				t.Errorf("%d urbs in flight", in)
			}
		})
	}
}

// impatient has a test not wait for a departure that does not come.
func impatient(t *testing.T) {
	old := unplugTime
	unplugTime = time.Millisecond
	t.Cleanup(func() { unplugTime = old })
}

// What open(2) answers on a device file.
func TestOpenErrno(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.EACCES: reader.ErrNoPermission, unix.EPERM: reader.ErrNoPermission,
		unix.ENOENT: reader.ErrGone, unix.ENODEV: reader.ErrGone, unix.ENXIO: reader.ErrGone,
		unix.EMFILE: unix.EMFILE, unix.EIO: unix.EIO, unix.EBUSY: unix.EBUSY,
	} {
		if got := (Place{Name: "usb:1-1", Path: "/dev/bus/usb/001/002"}).Refused(errno); !errors.Is(got, want) {
			t.Errorf("%v: %v, want %v", errno, got, want)
		} else if want == unix.EMFILE && errors.Is(got, reader.ErrGone) {
			t.Errorf("%v: gone", errno)
		}
	}
	if _, err := Usbfs(Place{Name: "usb:1-1", Path: filepath.Join(t.TempDir(), "none")}, 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("%v", err)
	}
}

// Setting up claims the interface; Close offers it to the drivers of the kernel.
func TestSetUp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		driver string
		iface  uint8
		errs   map[uintptr][]error
		want   error
		calls  string
		closes string // what Close calls
	}{
		{"free", "", 3, nil, nil, "take 3", "release 3; connect"},
		{"another program's", "usbfs", 3, map[uintptr][]error{ioDisconnectClaim: {unix.EBUSY}, ioClaim: {unix.EBUSY}}, reader.ErrClaimed, "take 3; claim 3", ""},
		{"ours by a transfer", "usbfs", 3, map[uintptr][]error{ioDisconnectClaim: {unix.EBUSY}}, nil, "take 3; claim 3", "release 3; connect"},
		{"before Linux 3.7", "", 3, map[uintptr][]error{ioDisconnectClaim: {unix.ENOTTY}}, nil, "take 3; claim 3", "release 3; connect"},
		{"gone at the claim", "", 3, map[uintptr][]error{ioDisconnectClaim: {unix.ENODEV}}, reader.ErrGone, "take 3", ""},
		{"refused", "", 3, map[uintptr][]error{ioDisconnectClaim: {unix.EACCES}}, reader.ErrNoPermission, "take 3", ""},
		{"no such interface", "", 0, nil, reader.ErrInvalid, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newKernel(t)
			k.driver = tt.driver
			for req, errs := range tt.errs {
				k.errs[req] = errs
			}
			c, err := openDevice(Place{Name: "usb:test", Path: k.path}, tt.iface)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if got := k.called(); got != tt.calls {
				t.Errorf("called %q, want %q", got, tt.calls)
			}
			if err != nil {
				return
			}
			for range 2 {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			if got := k.called(); got != tt.closes {
				t.Errorf("Close called %q, want %q", got, tt.closes)
			}
		})
	}
	k := newKernel(t)
	readDescriptors = func(*os.File) ([]byte, error) { return kernelDevice[:17], unix.EIO }
	if _, err := openDevice(Place{Name: "usb:test", Path: k.path}, 3); !errors.Is(err, unix.EIO) {
		t.Errorf("descriptors that cannot be read: %v", err)
	}
	readDescriptors = func(*os.File) ([]byte, error) { return kernelDevice[:20], nil }
	if _, err := openDevice(Place{Name: "usb:test", Path: k.path}, 3); !errors.Is(err, reader.ErrProtocol) {
		t.Errorf("descriptors that are cut: %v", err)
	}
	readDescriptors = func(*os.File) ([]byte, error) { return kernelDevice, unix.ENODEV }
	k.open() // all were read
}

// Each kind of transfer: what the kernel is given, and what the caller gets.
func TestTransfers(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	k.called()
	p := make([]byte, 10)

	go k.finish(0, "hello")
	if n, err := c.In(t.Context(), kBulkIn, p, time.Hour); n != 5 || err != nil || string(p[:n]) != "hello" {
		t.Errorf("in: %q, %v", p[:n], err)
	}
	go k.finish(0, "event")
	if n, err := c.In(t.Context(), kIntrIn, p[:8], 0); n != 5 || err != nil {
		t.Errorf("interrupt: %d, %v", n, err)
	}
	go k.finish(unix.EOVERFLOW, "some")
	if n, err := c.In(t.Context(), kBulkIn, p, 0); n != 4 || !errors.Is(err, ErrOverflow) {
		t.Errorf("babble: %d, %v", n, err)
	}
	for _, zlp := range []bool{false, true} {
		go k.finish(0, "xxx")
		if n, err := c.Out(t.Context(), kBulkOut, []byte("abc"), zlp, 0); n != 3 || err != nil {
			t.Errorf("out: %d, %v", n, err)
		}
	}
	go k.finish(0, "")
	if n, err := c.Out(t.Context(), kBulkOut, nil, false, 0); n != 0 || err != nil {
		t.Errorf("nothing out: %d, %v", n, err)
	}
	if got, want := k.called(), "submit 3 82 10 00; submit 1 83 8 00; submit 3 82 10 00; submit 3 01 3 00; submit 3 01 3 40; submit 3 01 0 00"; got != want {
		t.Errorf("called\n%s, want\n%s", got, want)
	}

	// USB 2.0 §9.3: the setup packet, least significant bytes first, then the data.
	var setup []byte
	end := make(chan struct{})
	go func() {
		defer close(end)
		k.until(func() bool { return len(k.flying) > 0 })
		k.mu.Lock()
		u := k.flying[0]
		setup = bytes.Clone(buffer(u))
		k.mu.Unlock()
		k.finish(0, "xy")
	}()
	if n, err := c.Control(t.Context(), Setup{0x41, 0x22, 0x3344, 0x5566}, []byte("ab"), 0); n != 2 || err != nil {
		t.Errorf("control out: %d, %v", n, err)
	}
	<-end
	if want := []byte{0x41, 0x22, 0x44, 0x33, 0x66, 0x55, 2, 0, 'a', 'b'}; !bytes.Equal(setup, want) {
		t.Errorf("setup % X, want % X", setup, want)
	}
	go k.finish(0, "answer")
	if n, err := c.Control(t.Context(), Setup{0xC1, 1, 2, 3}, p, 0); n != 6 || err != nil || string(p[:n]) != "answer" {
		t.Errorf("control in: %q, %v", p[:n], err)
	}
	// An error has no byte of a command: what stands in wValue and wIndex may be some, as
	// those of an iKey 3000's block.
	go k.finish(unix.EPIPE, "")
	if _, err := c.Control(t.Context(), Setup{0xC1, 1, 0x3132, 0x3334}, p, 0); !errors.Is(err, ErrStall) ||
		!strings.Contains(err.Error(), "control IN C1 01: ") || strings.Contains(err.Error(), "31") || strings.Contains(err.Error(), "33") {
		t.Errorf("control stall: %v", err)
	}
	if _, err := c.Control(t.Context(), Setup{0x41, 1, 0x3132, 0x3334}, make([]byte, 1<<16), 0); !errors.Is(err, reader.ErrInvalid) ||
		!strings.Contains(err.Error(), "control OUT 41 01: ") || strings.Contains(err.Error(), "31") || strings.Contains(err.Error(), "33") {
		t.Errorf("control too long: %v", err)
	}

	for what, err := range map[string]error{
		"IN of an OUT endpoint": second(c.In(t.Context(), kBulkOut, p, 0)),
		"OUT of an IN endpoint": second(c.Out(t.Context(), kBulkIn, p, false, 0)),
		"IN of none":            second(c.In(t.Context(), 0x85, p, 0)),
		"OUT of none":           second(c.Out(t.Context(), 0x05, p, false, 0)),
		"too long IN":           second(c.In(t.Context(), kBulkIn, make([]byte, MaxTransfer+1), 0)),
		"too long OUT":          second(c.Out(t.Context(), kBulkOut, make([]byte, MaxTransfer+1), false, 0)),
		"too long control":      second(c.Control(t.Context(), Setup{}, make([]byte, 0x10000), 0)),
	} {
		if !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	go k.finish(0, "")
	if _, err := c.Out(t.Context(), kBulkOut, make([]byte, MaxTransfer), false, 0); err != nil {
		t.Errorf("the longest: %v", err)
	}
	go k.finish(0, "")
	if _, err := c.Control(t.Context(), Setup{}, make([]byte, 0xFFFF), 0); err != nil {
		t.Errorf("the longest control transfer: %v", err)
	}
	if in, idle := taken(c); in != 0 || idle != 1 {
		t.Errorf("%d urbs in flight, %d idle, want one that is used again", in, idle)
	}
}

func second(_ int, err error) error { return err }

// A transfer ends with its context or its time, and what it moved until then counts.
func TestTransferEnds(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	k.called()
	p := make([]byte, 8)
	if n, err := c.In(t.Context(), kIntrIn, p, time.Millisecond); n != 0 || !errors.Is(err, ErrTimeout) {
		t.Errorf("time-out: %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		k.until(func() bool { return len(k.flying) > 0 })
		cancel()
	}()
	if n, err := c.In(ctx, kIntrIn, p, time.Hour); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %d, %v", n, err)
	}
	if got, want := k.called(), "submit 1 83 8 00; discard; submit 1 83 8 00; discard"; got != want {
		t.Errorf("called %q, want %q", got, want)
	}
	// Cancelled before: nothing is sent.
	for what, err := range map[string]error{
		"in": second(c.In(ctx, kIntrIn, p, 0)), "clear": c.ClearHalt(ctx, kIntrIn), "reset": c.Reset(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := k.called(); got != "" {
		t.Errorf("called %q with an ended context", got)
	}
	// It ended by itself before it was discarded: that counts.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	k.fail(ioDiscard, unix.EINVAL)
	go func() {
		k.until(func() bool { return len(k.flying) > 0 })
		cancel()
		k.until(func() bool { return slices.Contains(k.calls, "discard") })
		k.finish(0, "late")
	}()
	if n, err := c.In(ctx, kIntrIn, p, 0); n != 4 || err != nil {
		t.Errorf("it ended first: %d, %v", n, err)
	}
	// A timer that was set for one transfer does not end the next.
	go k.finish(0, "a")
	if _, err := c.In(t.Context(), kIntrIn, p, time.Hour); err != nil {
		t.Error(err)
	}
	go k.finish(0, "b")
	if _, err := c.In(t.Context(), kIntrIn, p, 0); err != nil {
		t.Error(err)
	}
}

// Transfers of several endpoints are under way at once; each gets its own.
func TestTransfersAtOnce(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	var all sync.WaitGroup
	for range 4 {
		for _, ep := range []uint8{kBulkIn, kIntrIn} {
			all.Go(func() {
				p := make([]byte, 8)
				n, err := c.In(t.Context(), ep, p, 0)
				if want := fmt.Sprintf("%02X", ep); err != nil || string(p[:n]) != want {
					t.Errorf("%s: %q, %v", want, p[:n], err)
				}
			})
		}
	}
	k.until(func() bool { return len(k.flying) == 8 })
	if in, idle := taken(c); in != 8 || idle != 0 {
		t.Errorf("%d in flight, %d idle", in, idle)
	}
	for range 8 {
		k.mu.Lock()
		ep := k.flying[0].endpoint
		k.mu.Unlock()
		k.finish(0, fmt.Sprintf("%02X", ep))
	}
	all.Wait()
	if in, idle := taken(c); in != 0 || idle != 8 {
		t.Errorf("%d in flight, %d idle", in, idle)
	}
}

// The device leaves: transfers end with ErrGone, whatever status the kernel gives
// them, and Gone is closed without any.
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

// Whatever comes to hear ENODEV first, the departure is told before Gone is closed: who
// sees only Gone takes a reader for dead whose device is still there. A panic of the
// reaper is no departure.
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

// A device that does not answer on the bus is mostly being unplugged.
func TestNoAnswer(t *testing.T) {
	old := unplugTime
	unplugTime = time.Hour
	defer func() { unplugTime = old }()
	k := newKernel(t)
	c := k.open()
	end := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	in := func() {
		_, err := c.In(ctx, kBulkIn, make([]byte, 8), 0)
		end <- err
	}
	go in()
	k.finish(unix.EPROTO, "")
	cancel() // whoever waits may leave
	if err := await(t, end, "end"); !errors.Is(err, ErrBus) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want ErrBus", err)
	}
	ctx = t.Context()
	go in()
	k.finish(unix.EPROTO, "")
	k.unplug(0)
	if err := await(t, end, "end"); !errors.Is(err, reader.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}

// The system sleeps and wakes: the device is reset, the interface was taken from us, and
// a driver of the kernel's may have it.
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

// Reset gives the interface back for the while, and claims it again.
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

// Close ends what is under way with ErrGone, and is no departure.
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

// String descriptors (USB 2.0 §9.6.7), in the first language, asked for once.
func TestStrings(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	k.called()
	str := func(i uint8, answers ...string) string {
		end := make(chan string, 1)
		go func() { end <- c.String(i) }()
		for _, a := range answers {
			status := unix.Errno(0)
			if a == "stall" {
				status, a = unix.EPIPE, ""
			}
			k.finish(status, a)
		}
		return await(t, end, "string")
	}
	for _, tt := range []struct {
		index   uint8
		answers []string
		want    string
	}{
		{0, nil, ""},
		{1, []string{"stall"}, ""},    // no languages
		{1, []string{"\x02\x03"}, ""}, // an empty list
		{1, []string{"\x04\x03\x09\x04", "\x06\x03a\x00\xFC\x00"}, "aü"},
		{1, nil, "aü"},
		{2, []string{"\x20\x03x\x00"}, "x"},      // longer than what came
		{3, []string{"\x04\x03y\x00z\x00"}, "y"}, // shorter
		{4, []string{"\x03\x03y"}, ""},           // half a unit
		{5, []string{"\x04\x02y\x00"}, ""},       // not a string descriptor
		{6, []string{"\x04"}, ""},
		{7, []string{"\x00\x03y\x00"}, ""},
		{8, []string{"stall"}, ""},
	} {
		if got := str(tt.index, tt.answers...); got != tt.want {
			t.Errorf("string %d: %q, want %q", tt.index, got, tt.want)
		}
	}
	if got := k.called(); strings.Count(got, "submit 2 00 263 00") != strings.Count(got, "submit") {
		t.Errorf("called %q", got)
	}
}

func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s", what)
	}
	return v
}

// What the watcher knows is not asked for again: strings, and which configuration is in
// force.
func TestPlace(t *testing.T) {
	k := newKernel(t)
	c, err := openDevice(Place{Name: "usb:test", Path: k.path, Config: 1, Strings: map[uint8]string{3: "S1"}}, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k.called()
	if got := c.String(3); got != "S1" || k.called() != "" {
		t.Errorf("serial number %q", got)
	}
	if !bytes.Equal(c.Descriptors(), kernelDevice) {
		t.Errorf("descriptors % X", c.Descriptors())
	}
	if _, err := Usbfs(Place{Name: "usb:test", Path: k.path, Config: 2}, 3); !errors.Is(err, reader.ErrProtocol) {
		t.Errorf("configuration 2: %v", err)
	}
	if _, err := Open(t.Context(), reader.Device{Driver: "x"}, 3); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("no USB device: %v", err)
	}
}

// taken tells how many urbs a connection holds, in flight and idle.
func taken(c *conn) (inFlight, idle int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.inFlight), len(c.idle)
}
