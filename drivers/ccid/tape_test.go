package ccid

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// tape is a reader that plays what a test wrote down:
//
//	> 65 …      the host sends this message
//	< 81 …      the reader sends that
//	--          the reader sends nothing until the transfer's time is over
//	t 3s        so long the host waits in the next bulk-IN transfer
//	< stall     the endpoint stalls; < overflow: the reader sends too much
//	c 21 01 …   the host does this control transfer: setup, data if it goes out
//	c … : 80 25 and what comes back, or : stall
//	# comment
type tape struct {
	t           *testing.T
	descriptors []byte
	gone        chan struct{}

	mu    sync.Mutex
	lines []string
	wake  chan struct{}
}

func record(t *testing.T, cfg emu.Config, script string) *tape {
	cfg.NoInterrupt = true
	tp := &tape{t: t, descriptors: newDevice(cfg).Descriptors(), gone: make(chan struct{}), wake: make(chan struct{})}
	for _, l := range strings.Split(script, "\n") {
		l, _, _ = strings.Cut(l, "#")
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			tp.lines = append(tp.lines, l)
		}
	}
	return tp
}

// next is the line that is due; it is taken when it is of that kind.
func (tp *tape) next(kind string) (string, bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(tp.lines) == 0 || !strings.HasPrefix(tp.lines[0], kind) {
		return "", false
	}
	l := tp.lines[0]
	tp.lines = tp.lines[1:]
	return strings.TrimSpace(strings.TrimPrefix(l, kind)), true
}

func (tp *tape) due() string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(tp.lines) == 0 {
		return "the end of the tape"
	}
	return tp.lines[0]
}

func (tp *tape) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	if timeout != writeLimit {
		tp.t.Errorf("a message may take %v on its way, want %v", timeout, writeLimit)
	}
	due := tp.due()
	want, ok := tp.next(">")
	if want == "stall" {
		return 0, usb.ErrStall
	}
	if got := fmt.Sprintf("% X", p); !ok || got != want {
		tp.t.Errorf("host sends > %s\ndue is     %s", got, due)
		return 0, errors.New("off the tape")
	}
	return len(p), nil
}

func (tp *tape) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if timeout <= 0 {
		tp.t.Errorf("the host waits for ever, due is %s", tp.due())
	}
	if want, ok := tp.next("t "); ok && want != timeout.String() {
		tp.t.Errorf("the host waits for %v, want %s, before %s", timeout, want, tp.due())
	}
	if _, ok := tp.next("--"); ok {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(timeout):
			return 0, usb.ErrTimeout
		}
	}
	due := tp.due()
	line, ok := tp.next("<")
	switch {
	case !ok:
		tp.t.Errorf("host reads, due is %s", due)
		return 0, errors.New("off the tape")
	case line == "stall":
		return 0, usb.ErrStall
	case line == "overflow":
		return 0, usb.ErrOverflow
	}
	return copy(p, unhex(line)), nil
}

func (tp *tape) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	limit := writeLimit
	switch {
	case s.RequestType == toInterface && s.Request == reqAbort:
		limit = syncLimit
	case s.Request == reqGetDataRates:
		limit = statusLimit
	}
	if timeout != limit {
		tp.t.Errorf("request %02X may take %v, want %v", s.Request, timeout, limit)
	}
	got := fmt.Sprintf("%02X %02X %04X %04X", s.RequestType, s.Request, s.Value, s.Index)
	if !s.In() && len(data) > 0 {
		got += fmt.Sprintf(" % X", data)
	}
	due := tp.due()
	line, ok := tp.next("c")
	want, back, _ := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(want) != got {
		tp.t.Errorf("host does c %s\ndue is     %s", got, due)
		return 0, errors.New("off the tape")
	}
	switch back = strings.TrimSpace(back); {
	case back == "stall":
		return 0, usb.ErrStall
	case back == "silence":
		return 0, usb.ErrTimeout
	case s.In():
		return copy(data, unhex(back)), nil
	}
	return len(data), nil
}

func (tp *tape) ClearHalt(ctx context.Context, ep uint8) error {
	if _, ok := tp.next(fmt.Sprintf("clear %02X", ep)); !ok {
		tp.t.Errorf("host clears the halt of %02X, due is %s", ep, tp.due())
	}
	return nil
}

func (tp *tape) Reset(context.Context) error {
	if _, ok := tp.next("reset"); !ok {
		tp.t.Errorf("host resets the port, due is %s", tp.due())
	}
	return nil
}

func (tp *tape) Descriptors() []byte                                        { return tp.descriptors }
func (tp *tape) String(uint8) string                                        { return "" }
func (tp *tape) Gone() <-chan struct{}                                      { return tp.gone }
func (tp *tape) Close() error                                               { return nil }
func (tp *tape) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) { return tp, nil }
func (tp *tape) open(t *testing.T) *ifd {
	t.Helper()
	r, err := Driver{}.Open(context.Background(), reader.Device{Link: tp})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if !t.Failed() && tp.due() != "the end of the tape" {
			t.Errorf("left on the tape: %s", tp.due())
		}
	})
	return r.(*ifd)
}
