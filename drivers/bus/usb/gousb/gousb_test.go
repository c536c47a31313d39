//go:build cgo

package gousb

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	lib "github.com/google/gousb"
	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The field that holds libusb's handle exists in this version of gousb. A Device without a
// handle is refused.
func TestHandle(t *testing.T) {
	f, ok := reflect.TypeFor[lib.Device]().FieldByName("handle")
	if !ok || f.Type.Kind() != reflect.Pointer {
		t.Errorf("gousb.Device has no pointer handle: %+v", f)
	}
	if _, err := handleOf(new(lib.Device)); !errors.Is(err, errHandle) || !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("%v, want errHandle", err)
	}
}

// libusb's errors (libusb.h, enum libusb_error) as errors of package usb. Only NO_DEVICE
// means that the device has left.
func TestSortError(t *testing.T) {
	other := errors.New("other")
	for err, want := range map[error]error{
		lib.ErrorNoDevice: reader.ErrGone, lib.ErrorNotFound: usb.ErrNoEndpoint, lib.ErrorPipe: usb.ErrStall,
		lib.ErrorOverflow: usb.ErrOverflow, lib.ErrorTimeout: usb.ErrTimeout, lib.ErrorIO: usb.ErrBus, lib.ErrorOther: usb.ErrBus,
		lib.ErrorBusy: reader.ErrClaimed, lib.ErrorAccess: reader.ErrNoPermission,
		lib.ErrorInvalidParam: lib.ErrorInvalidParam, lib.ErrorNoMem: lib.ErrorNoMem, other: other,
	} {
		got := sortError(err)
		if !errors.Is(got, want) {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
		if errors.Is(got, reader.ErrGone) != (err == lib.ErrorNoDevice) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// A device that is not on the bus is gone, and nothing stays behind: see TestMain.
func TestOpenNothing(t *testing.T) {
	c, err := Open(usb.Place{Name: "usb:9-9", Path: "/dev/bus/usb/250/250", Bus: 250, Number: 250}, 0)
	if c != nil || err == nil {
		t.Fatalf("%v, %v", c, err)
	}
	t.Log(err)
}

// made is a connection without libusb. The test decides what happened to the interface, and
// whether a kernel driver releases it.
func made(f fate) *conn {
	c := newConn(usb.Place{Name: "usb:test"}, 0)
	c.ask = func() fate { return f }
	c.detach = func() error { return lib.ErrorNotFound }
	return c
}

// How a transfer ended, judged by libusb's status and the state of the interface. "libusb
// reports a transfer that the kernel ended … as complete and short."
func TestTransferEnds(t *testing.T) {
	const in, out = 0x81, 0x02
	ok := error(nil)
	for _, tt := range []struct {
		what string
		ep   uint8
		n    int // of 8
		err  error
		fate fate
		want error
	}{
		{"all in", in, 8, ok, free, nil},
		{"all out", out, 8, ok, free, nil},
		{"short in", in, 3, ok, claimed, nil},
		{"short in, elsewhere", in, 3, ok, unknown, nil},
		{"an empty packet", in, 0, ok, claimed, nil},
		{"ended by a reset", in, 0, ok, free, usb.ErrReset},
		{"ended by a reset, half way", in, 3, ok, kernels, usb.ErrReset},
		{"ended by the departure", in, 0, ok, left, reader.ErrGone},
		{"short out", out, 3, ok, claimed, usb.ErrReset},
		{"short out, gone", out, 3, ok, left, reader.ErrGone},
		{"stall", in, 0, lib.TransferStall, claimed, usb.ErrStall},
		{"babble", in, 0, lib.TransferOverflow, claimed, usb.ErrOverflow},
		{"noise", in, 0, lib.TransferError, claimed, usb.ErrBus},
		{"no device, says libusb", in, 0, lib.TransferNoDevice, left, reader.ErrGone},
		{"no device, and there it is", in, 0, lib.TransferNoDevice, free, usb.ErrReset},
		{"no device, elsewhere", in, 0, lib.TransferNoDevice, unknown, usb.ErrReset},
		{"cancelled by nobody", in, 0, lib.TransferCancelled, free, usb.ErrReset},
		{"refused", in, 0, lib.ErrorIO, claimed, usb.ErrBus},
		{"refused, gone", in, 0, lib.ErrorIO, left, reader.ErrGone},
		{"refused, no device", in, 0, lib.ErrorNoDevice, left, reader.ErrGone},
		{"refused, no device, elsewhere", in, 0, lib.ErrorNoDevice, unknown, reader.ErrGone},
		{"refused, no device, and there it is", in, 0, lib.ErrorNoDevice, claimed, usb.ErrReset},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := made(tt.fate)
			c.detach = func() error {
				t.Errorf("%s: no driver of the kernel's has the interface, and it is taken from one", tt.what)
				return nil
			}
			n, err := c.move(t.Context(), tt.ep, 8, 0, func(context.Context) (int, error) { return tt.n, tt.err })
			if n != tt.n || !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("%s: %d, %v, want %d, %v", tt.what, n, err, tt.n, tt.want)
			}
			select {
			case <-c.gone:
				if tt.fate != left {
					t.Errorf("%s: Gone is closed", tt.what)
				}
			default:
				if tt.fate == left {
					t.Errorf("%s: Gone is open", tt.what)
				}
			}
			if !c.using.TryLock() {
				t.Errorf("%s: the connection is still in use", tt.what)
			}
		})
	}
}

// A transfer that ends while the device is being unplugged ends with the departure, also if the
// kernel has not noticed it yet and the interface is still ours.
func TestEndedByDeparture(t *testing.T) {
	const in, out = 0x81, 0x02
	for _, tt := range []struct {
		what string
		ep   uint8
		n    int
		err  error
	}{
		{"short out", out, 3, nil},
		{"no device, says libusb", in, 0, lib.TransferNoDevice},
		{"cancelled by nobody", in, 0, lib.TransferCancelled},
		{"refused, no device", in, 0, lib.ErrorNoDevice},
		{"noise", in, 0, lib.TransferError},
		{"refused", in, 0, lib.ErrorIO},
	} {
		for _, fate := range []fate{claimed, unknown} {
			synctest.Test(t, func(t *testing.T) {
				c := made(fate)
				time.AfterFunc(300*time.Millisecond, c.leave) // hubs are asked every 256 ms
				if _, err := c.move(t.Context(), tt.ep, 8, 0, func(context.Context) (int, error) { return tt.n, tt.err }); !errors.Is(err, reader.ErrGone) {
					t.Errorf("%s, %v: %v, want ErrGone", tt.what, fate, err)
				}
			})
		}
	}
}

// "Another program's reset took the interface from us, and gave it to a driver of the
// kernel's": it is taken back, once, and the transfer tried again.
func TestTakenBack(t *testing.T) {
	for _, yields := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := made(kernels)
			c.detach = func() error {
				if yields {
					c.ask = func() fate { return claimed }
					return nil
				}
				return lib.ErrorBusy
			}
			tries := 0
			n, err := c.move(t.Context(), 0x81, 8, 0, func(context.Context) (int, error) {
				if tries++; tries == 1 {
					return 0, lib.ErrorIO
				}
				return 8, nil
			})
			if yields && (n != 8 || err != nil || tries != 2) || !yields && (tries != 1 || !errors.Is(err, usb.ErrBus)) {
				t.Errorf("yields %v: %d, %v after %d tries", yields, n, err, tries)
			}
		})
	}
}

// "Each transfer ends with ctx (ctx.Err()), after timeout (ErrTimeout; 0 means none)",
// with Reset and with Close; what was moved until then is handed over.
func TestTransferIsEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout time.Duration
		end     func(c *conn, cancel func())
		want    error
	}{
		"context":  {0, func(_ *conn, cancel func()) { cancel() }, context.Canceled},
		"time-out": {time.Second, func(*conn, func()) {}, usb.ErrTimeout},
		"reset":    {0, func(c *conn, _ func()) { c.alone(usb.ErrReset, false); c.using.Unlock() }, usb.ErrReset},
		"close":    {0, func(c *conn, _ func()) { c.alone(errClosed, true); c.using.Unlock() }, reader.ErrGone},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := made(claimed)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				time.Sleep(time.Minute / 2)
				tt.end(c, cancel)
			}()
			begin := time.Now()
			n, err := c.move(ctx, 0x81, 8, tt.timeout, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return 3, lib.TransferCancelled
			})
			if n != 3 || !errors.Is(err, tt.want) {
				t.Errorf("%s: %d, %v, want 3, %v", name, n, err, tt.want)
			}
			if took := time.Since(begin); tt.timeout > 0 && took != tt.timeout {
				t.Errorf("%s: after %v", name, took)
			}
			time.Sleep(time.Minute)
			_, err = c.move(ctx, 0x81, 8, 0, func(ctx context.Context) (int, error) { return 8, nil })
			if name == "close" && !errors.Is(err, reader.ErrGone) {
				t.Errorf("after Close: %v", err)
			}
			if c.alone(nil, true) == (name == "close") {
				t.Errorf("%s: closed twice, or not at all", name)
			}
		})
	}
}

// "With its context the caller gets back, and the transfer runs on to its time-out: the
// next one waits for it, and so does Close."
func TestControlGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := made(claimed)
		running, let := 0, make(chan struct{})
		c.request = func(s usb.Setup, data []byte, timeout time.Duration) (int, error) {
			if running++; running > 1 {
				t.Error("two control transfers at once")
			}
			defer func() { running-- }()
			if timeout != 5*time.Second {
				t.Errorf("time-out %v; without one it is 5 s (USB 2.0 §9.2.6.1)", timeout)
			}
			<-let
			return copy(data, "late"), nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		data := make([]byte, 8)
		setup := usb.Setup{RequestType: 0xC0}
		if n, err := c.Control(ctx, setup, data, 0); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d, %v, want the context's deadline", n, err)
		}
		if n, err := c.Control(t.Context(), setup, data, time.Second); n != 0 || !errors.Is(err, usb.ErrTimeout) || !strings.Contains(err.Error(), "cannot cancel") {
			t.Errorf("%d, %v, want a time-out and why", n, err)
		}
		if c.using.TryLock() {
			t.Error("Close would not wait")
			c.using.Unlock()
		}
		let <- struct{}{}
		synctest.Wait()
		if !bytes.Equal(data, make([]byte, 8)) {
			t.Errorf("what came late is in the caller's buffer: % X", data)
		}
		close(let)
		if n, err := c.Control(t.Context(), setup, data, 0); n != 4 || err != nil {
			t.Errorf("the next: %d, %v", n, err)
		}
		if !c.alone(errClosed, true) { // as Close does, and nothing runs
			t.Error("closed already")
		}
		c.using.Unlock()
		if _, err := c.Control(t.Context(), setup, data, 0); !errors.Is(err, reader.ErrGone) {
			t.Errorf("closed: %v", err)
		}
	})
}

// What a control transfer answers, and libusb's limit for its data.
func TestControl(t *testing.T) {
	const in, out = 0xC0, 0x40
	for _, tt := range []struct {
		what    string
		kind    uint8
		size    int
		timeout time.Duration
		n       int
		err     error
		f       fate
		want    error
		asked   int // -1: not at all
		limit   time.Duration
	}{
		{"in", in, 8, time.Second, 3, nil, claimed, nil, 8, time.Second},
		{"out", out, 8, time.Microsecond, 8, nil, claimed, nil, 8, time.Millisecond},
		{"as long as can be", out, 4096, 1500 * time.Microsecond, 4096, nil, claimed, nil, 4096, 2 * time.Millisecond},
		{"longer", out, 4097, 0, 0, nil, claimed, reader.ErrUnsupported, -1, 0},
		{"room for more", in, 65535, 0, 4095, nil, claimed, nil, 4096, 5 * time.Second},
		{"it may be cut", in, 65535, 0, 4096, nil, claimed, usb.ErrOverflow, 4096, 5 * time.Second},
		{"full", in, 4096, 0, 4096, nil, claimed, nil, 4096, 5 * time.Second},
		{"stall", in, 8, 0, -9, lib.ErrorPipe, claimed, usb.ErrStall, 8, 5 * time.Second},
		{"time-out", in, 8, 0, -7, lib.ErrorTimeout, claimed, usb.ErrTimeout, 8, 5 * time.Second},
		{"gone", in, 8, 0, -4, lib.ErrorNoDevice, left, reader.ErrGone, 8, 5 * time.Second},
		{"reset", in, 8, 0, -4, lib.ErrorNoDevice, claimed, usb.ErrReset, 8, 5 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := made(tt.f)
			asked := -1
			c.request = func(s usb.Setup, data []byte, timeout time.Duration) (int, error) {
				asked = len(data)
				if timeout != tt.limit {
					t.Errorf("%s: time-out %v, want %v", tt.what, timeout, tt.limit)
				}
				if s.In() {
					copy(data, bytes.Repeat([]byte{7}, max(tt.n, 0)))
				} else if !bytes.Equal(data, bytes.Repeat([]byte{9}, len(data))) {
					t.Errorf("%s: other data goes out", tt.what)
				}
				return tt.n, tt.err
			}
			data := bytes.Repeat([]byte{9}, tt.size)
			n, err := c.Control(t.Context(), usb.Setup{RequestType: tt.kind, Value: 0xABCD, Index: 0xEF89}, data, tt.timeout)
			// wValue and wIndex may be bytes of a command.
			if err != nil && (strings.Contains(err.Error(), "ABCD") || strings.Contains(err.Error(), "EF89")) {
				t.Errorf("%s: %v", tt.what, err)
			}
			if n != max(tt.n, 0) || !errors.Is(err, tt.want) || tt.want == nil && err != nil || asked != tt.asked {
				t.Errorf("%s: %d, %v with %d bytes asked for; want %d, %v with %d", tt.what, n, err, asked, max(tt.n, 0), tt.want, tt.asked)
			}
			if tt.kind == in && bytes.Count(data, []byte{7}) != max(tt.n, 0) {
				t.Errorf("%s: %d bytes came", tt.what, bytes.Count(data, []byte{7}))
			}
		})
	}
}
