package usb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// impatient makes a test not wait for a departure that does not come.
func impatient(t *testing.T) {
	old := unplugTime
	unplugTime = time.Millisecond
	t.Cleanup(func() { unplugTime = old })
}

// Opening claims the interface. Close lets the kernel's drivers have it again.
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

// Each kind of transfer: what the kernel receives, and what the caller gets.
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
	// An error contains no byte of a command. wValue and wIndex may be some: they are in an
	// iKey 3000's block.
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

// A transfer ends with its context or its time-out, and returns what it had moved until
// then.
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
	// It ended by itself before it was discarded: its result counts.
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

// Transfers on several endpoints run at once; each gets its own data.
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

// A device that does not respond on the bus is usually being unplugged.
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
