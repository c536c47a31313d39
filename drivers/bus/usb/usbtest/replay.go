package usbtest

import (
	"context"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// defaultTimeout is how long Replay gives a transfer that has no time of its own.
const defaultTimeout = 30 * time.Second

// Replay is the host of a session, for an emulated device: it sends what the
// session's host sent, and fails the test where the device answers otherwise.
// events are what the session's events do. A session that claims nothing has its
// device's first interface claimed.
func Replay(t T, s Session, port *Port, events map[string]func()) {
	t.Helper()
	h := host{port: port}
	defer h.release()
	for i := range s {
		l := &s[i]
		if l.Kind == Event {
			f := events[l.Name]
			if f == nil {
				t.Errorf("line %d: nothing does %q", l.number, l.Name)
				return
			}
			f()
			continue
		}
		got := h.do(l)
		if !l.Same(&got) {
			t.Errorf("line %d\ngot  %v\nwant %v", l.number, got, *l)
			return
		}
	}
}

// host does what the host of a session did.
type host struct {
	port *Port
	conn usb.Conn
}

func (h *host) release() {
	if h.conn != nil {
		h.conn.Close()
		h.conn = nil
	}
}

func (h *host) claim(iface uint8) (err error) {
	if h.conn == nil {
		h.conn, err = h.port.OpenUSB(context.Background(), iface)
	}
	return err
}

// do does one line and returns what came of it.
func (h *host) do(l *Line) Line {
	ctx := context.Background()
	got := *l
	got.Err = nil
	switch l.Kind {
	case Wait:
		time.Sleep(l.Held)
		return got
	case Unplug:
		h.port.Unplug()
		return got
	case Release:
		h.release()
		return got
	case Claim:
		got.Err = h.claim(l.Endpoint)
		return got
	case Transfer, ClearHalt, Reset:
		first := uint8(0)
		if all := usb.Interfaces(h.port.Descriptors()); len(all) > 0 {
			first = all[0].Number
		}
		if got.Err = h.claim(first); got.Err != nil {
			return got
		}
	}
	switch l.Kind {
	case ClearHalt:
		got.Err = h.conn.ClearHalt(ctx, l.Endpoint)
	case Reset:
		got.Err = h.conn.Reset(ctx)
	case Transfer:
		h.transfer(ctx, l, &got)
	}
	return got
}

func (h *host) transfer(ctx context.Context, l, got *Line) {
	timeout := l.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout + l.Held
	}
	data := slices.Clone(l.Data)
	if size := l.Asked; l.In || size > len(data) {
		if l.In && !l.Control && size == 0 {
			size = 1 << 16
		}
		data = append(make([]byte, 0, size), data...)[:size]
	}
	var n int
	switch {
	case l.Control:
		n, got.Err = h.conn.Control(ctx, l.Setup, data, timeout)
	case l.In:
		n, got.Err = h.conn.In(ctx, l.Endpoint, data, timeout)
	default:
		n, got.Err = h.conn.Out(ctx, l.Endpoint, data, l.ZLP, timeout)
	}
	if l.In || got.Err == nil {
		got.Data = data[:n]
	}
}
