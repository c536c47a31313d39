package usbtest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// A transfer to an endpoint that no descriptor has stalls, as on a bus.
func TestEndpointsThatAreNone(t *testing.T) {
	m := newMirror()
	p := m.Plug()
	defer m.Unplug()
	for _, zlp := range []bool{false, true} {
		for _, data := range [][]byte{nil, {1}, make([]byte, 64)} {
			if n, err := p.Out(ctx, 0x05, data, zlp, time.Second); n != 0 || !errors.Is(err, usb.ErrStall) {
				t.Errorf("OUT of %d bytes, zlp %v: %d, %v", len(data), zlp, n, err)
			}
		}
	}
	if n, err := p.In(ctx, 0x85, make([]byte, 8), time.Second); n != 0 || !errors.Is(err, usb.ErrStall) {
		t.Errorf("IN: %d, %v", n, err)
	}
}

// A zero-length packet follows a full last packet, and no other.
func TestZeroLengthPackets(t *testing.T) {
	m := newMirror()
	p := m.Plug()
	defer m.Unplug()
	for n, want := range map[int]bool{0: false, 1: false, 63: false, 64: true, 65: false, 128: true} {
		for _, zlp := range []bool{false, true} {
			var got []Line
			m.Observe(func(l Line) { got = append(got, l) })
			if _, err := p.Out(ctx, 0x02, make([]byte, n), zlp, time.Second); err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || got[0].ZLP != (want && zlp) || got[0].Timeout != time.Second || len(got[0].Data) != n {
				t.Errorf("%d bytes, zlp %v: %v", n, zlp, got)
			}
		}
	}
}

// USB 2.0 §5.8.3: a bulk transfer ends with a short packet. Data beyond the host's buffer
// goes to the next transfer if the packets are full; otherwise it is babble, and lost.
func TestPartsOfATransfer(t *testing.T) {
	m := newMirror()
	p := m.Plug()
	defer m.Unplug()
	read := func(room int) ([]byte, error) {
		b := make([]byte, room)
		n, err := p.In(ctx, 0x81, b, time.Millisecond)
		return b[:n], err
	}
	data := make([]byte, 100)
	for i := range data {
		data[i] = byte(i)
	}
	m.Send(0x81, bytes.Clone(data))
	m.Send(0x81, []byte("next"))
	if got, err := read(64); err != nil || !bytes.Equal(got, data[:64]) {
		t.Errorf("the first packet: % X, %v", got, err)
	}
	if got, err := read(64); err != nil || !bytes.Equal(got, data[64:]) {
		t.Errorf("the rest: % X, %v", got, err)
	}
	if got, err := read(64); err != nil || string(got) != "next" {
		t.Errorf("the next transfer: %q, %v", got, err)
	}
	m.Send(0x81, bytes.Clone(data))
	m.Send(0x81, []byte("next"))
	if got, err := read(65); len(got) != 0 || !errors.Is(err, usb.ErrOverflow) {
		t.Errorf("room for a packet and a byte: % X, %v", got, err)
	}
	if got, err := read(64); err != nil || string(got) != "next" {
		t.Errorf("after too much: %q, %v", got, err)
	}
	m.Send(0x81, []byte{1})
	if got, err := read(0); len(got) != 0 || !errors.Is(err, usb.ErrOverflow) {
		t.Errorf("no room at all: % X, %v", got, err)
	}
	m.Send(0x81, nil)
	if got, err := read(64); len(got) != 0 || err != nil {
		t.Errorf("an empty transfer: % X, %v", got, err)
	}
	if _, err := read(64); !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("and no more: %v", err)
	}
}

// USB 2.0 §5.8.3: a host that asked for more than came in full packets waits for the next
// packet. An empty one ends its transfer, and is a transfer of its own if the host asked for
// no more.
func TestFullLastPacket(t *testing.T) {
	for _, tt := range []struct {
		n, asked int
		zlp      bool
		want     []int // the lengths that come; -1: nothing does
	}{
		{63, 64, false, []int{63, -1}}, {63, 128, true, []int{63, -1}},
		{64, 64, false, []int{64, -1}}, {64, 128, false, []int{-1}},
		{64, 64, true, []int{64, 0, -1}}, {64, 128, true, []int{64, -1}},
		{128, 64, false, []int{64, 64, -1}}, {128, 64, true, []int{64, 64, 0, -1}},
	} {
		m := newMirror()
		p := m.Plug()
		m.SendPackets(0x81, make([]byte, tt.n), tt.zlp)
		for _, want := range tt.want {
			n, err := p.In(ctx, 0x81, make([]byte, tt.asked), time.Millisecond)
			if err != nil {
				n = -1
			}
			if n != want || n < 0 && !errors.Is(err, usb.ErrTimeout) {
				t.Errorf("%d bytes, zlp %v, %d asked for: %d, %v, want %d", tt.n, tt.zlp, tt.asked, n, err, want)
			}
		}
		m.Unplug()
	}
}

// A halted endpoint stalls at once, held or not, until the host clears the halt. Data that
// it has for the host arrives then. An error other than a stall halts nothing.
func TestHalt(t *testing.T) {
	m := newMirror()
	p := m.Plug()
	defer m.Unplug()
	m.Hold(0x02, true)
	m.Halt(0x02)
	m.SendError(0x81, usb.ErrStall)
	m.Send(0x81, []byte("kept"))
	for range 2 {
		if _, err := p.Out(ctx, 0x02, []byte{1}, false, 0); !errors.Is(err, usb.ErrStall) {
			t.Errorf("OUT: %v", err)
		}
		if _, err := p.In(ctx, 0x81, make([]byte, 8), 0); !errors.Is(err, usb.ErrStall) {
			t.Errorf("IN: %v", err)
		}
	}
	for _, ep := range []uint8{0x02, 0x81} {
		if err := p.ClearHalt(ctx, ep); err != nil {
			t.Error(err)
		}
	}
	m.Hold(0x02, false)
	b := make([]byte, 8)
	if n, err := p.In(ctx, 0x81, b, 0); err != nil || string(b[:n]) != "kept" {
		t.Errorf("IN after the halt: %q, %v", b[:n], err)
	}
	if _, err := p.Out(ctx, 0x02, []byte("x"), false, 0); err != nil {
		t.Errorf("OUT after the halt: %v", err)
	}
	if n, err := p.In(ctx, 0x81, b, 0); err != nil || string(b[:n]) != "x" {
		t.Errorf("the mirror: %q, %v", b[:n], err)
	}
	m.SendError(0x81, usb.ErrBus)
	m.Send(0x81, []byte("next"))
	if _, err := p.In(ctx, 0x81, b, 0); !errors.Is(err, usb.ErrBus) {
		t.Errorf("noise: %v", err)
	}
	if n, err := p.In(ctx, 0x81, b, 0); err != nil || string(b[:n]) != "next" {
		t.Errorf("after noise: %q, %v", b[:n], err)
	}
}

// A port reset and unplugging discard what is queued and end halts. Either revives a dead
// device, unless it is dead for good.
func TestWhatAResetTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		p := m.Plug()
		b := make([]byte, 8)
		for name, again := range map[string]func(){"reset": func() { p.Reset() }, "unplugged": func() { m.Unplug(); p = m.Plug() }} {
			m.Send(0x81, []byte("stale"))
			m.Halt(0x02)
			m.Die(false)
			again()
			if _, err := p.In(ctx, 0x81, b, time.Second); !errors.Is(err, usb.ErrTimeout) {
				t.Errorf("%s: what was queued before: %v", name, err)
			}
			if _, err := p.Out(ctx, 0x02, []byte{1}, false, time.Second); err != nil {
				t.Errorf("%s: the halt before: %v", name, err)
			}
			if n, err := p.In(ctx, 0x81, b, time.Second); n != 1 || err != nil {
				t.Errorf("%s: it is dead: %d, %v", name, n, err)
			}
			m.Die(true)
			again()
			p.Out(ctx, 0x02, []byte{1}, false, time.Second)
			if _, err := p.In(ctx, 0x81, b, time.Second); !errors.Is(err, usb.ErrTimeout) {
				t.Errorf("%s: it was dead for good: %v", name, err)
			}
			m.Heal()
		}
		m.Unplug()
		m.Send(0x81, []byte("to nobody"))
		p = m.Plug()
		defer m.Unplug()
		if _, err := p.In(ctx, 0x81, b, time.Second); !errors.Is(err, usb.ErrTimeout) {
			t.Errorf("sent while it was unplugged: %v", err)
		}
	})
}

// A transfer's deadline is the earlier of its own time-out and its context's. A slow
// emulated card looks at it.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		port := newMirror().Plug()
		defer port.Unplug()
		now := time.Now()
		sooner, cancel := context.WithDeadline(context.WithValue(ctx, key{}, "value"), now.Add(time.Second))
		defer cancel()
		for _, x := range []struct {
			ctx     context.Context
			timeout time.Duration
			want    time.Duration // 0: none
		}{{ctx, 0, 0}, {ctx, time.Minute, time.Minute}, {sooner, 0, time.Second}, {sooner, time.Minute, time.Second}, {sooner, time.Millisecond, time.Millisecond}} {
			w := &wait{Context: x.ctx, port: port, timeout: x.timeout}
			end, ok := w.Deadline()
			if ok != (x.want > 0) || ok && !end.Equal(now.Add(x.want)) {
				t.Errorf("%v: %v, %v", x, end, ok)
			}
			w.stop()
		}
		w := &wait{Context: sooner, port: port, timeout: time.Millisecond}
		if w.Value(key{}) != "value" || w.Err() != nil {
			t.Errorf("value %v, error %v", w.Value(key{}), w.Err())
		}
		<-w.Done()
		if !errors.Is(w.Err(), usb.ErrTimeout) || time.Since(now) != time.Millisecond {
			t.Errorf("%v after %v", w.Err(), time.Since(now))
		}
		w.stop()
		claim, release := context.WithCancel(ctx)
		w = &wait{Context: ctx, port: port, claim: claim}
		done := w.Done()
		release()
		<-done
		if !errors.Is(w.Err(), reader.ErrGone) {
			t.Errorf("the claim ended: %v", w.Err())
		}
		w.stop()
	})
}

// Drop is Unplug by the device itself, reported once. The context of the device's own work
// ends.
func TestDrop(t *testing.T) {
	m := newMirror()
	p := m.Plug()
	unplugs := 0
	m.Observe(func(l Line) {
		if l.Kind == Unplug {
			unplugs++
		}
	})
	m.Go(func() { m.Drop(); m.Drop() })
	<-p.Gone()
	m.Go(func() { t.Error("works for a device that left") })
	m.Unplug()
	m.Unplug()
	if unplugs != 1 {
		t.Errorf("it left %d times", unplugs)
	}
}

// Strings are numbered from 1 (USB 2.0 §9.6.7: 0 is the list of languages).
func TestStringNumbers(t *testing.T) {
	m := newMirror()
	for i, want := range []string{"", "cardfs", "mirror", ""} {
		if got := m.String(uint8(i)); got != want {
			t.Errorf("string %d: %q", i, got)
		}
	}
}

// What a dead device has queued stays there: "the device answers nothing".
func TestDeadDeviceGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		p := m.Plug()
		defer m.Unplug()
		m.Send(0x81, []byte("queued"))
		m.Die(false)
		if n, err := p.In(ctx, 0x81, make([]byte, 8), time.Second); n != 0 || !errors.Is(err, usb.ErrTimeout) {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// "Short: N bytes are moved, at least one fewer than there are. Long: N bytes more come to the
// host, at least one. More than it asked for are usb.ErrOverflow."
func TestLengthsOfFaults(t *testing.T) {
	for _, x := range []struct {
		kind         FaultKind
		n, have, ask int
		want         int
		err          error
	}{
		{Long, 0, 3, 4, 4, nil}, {Long, 2, 3, 5, 5, nil}, {Long, 2, 3, 8, 5, nil}, {Long, 3, 3, 5, 0, usb.ErrOverflow}, {Long, 1, 3, 3, 0, usb.ErrOverflow},
		{Short, 0, 3, 8, 0, nil}, {Short, 1, 3, 8, 1, nil}, {Short, 2, 3, 8, 2, nil}, {Short, 3, 3, 8, 2, nil}, {Short, 9, 3, 8, 2, nil}, {Short, 5, 0, 8, 0, nil},
		{Garbage, 0, 3, 8, 3, nil},
	} {
		m := newMirror()
		p := m.Plug()
		m.Send(0x81, []byte("abc")[:x.have])
		m.Inject(Fault{Kind: x.kind, N: x.n, On: "IN 81"})
		b := make([]byte, x.ask)
		n, err := p.In(ctx, 0x81, b, time.Second)
		if n != x.want || x.err == nil && err != nil || x.err != nil && !errors.Is(err, x.err) {
			t.Errorf("%v, N %d, %d bytes of %d: %d, %v; want %d, %v", x.kind, x.n, x.have, x.ask, n, err, x.want, x.err)
		}
		if x.kind == Short && !bytes.HasPrefix([]byte("abc"), b[:n]) {
			t.Errorf("%v, N %d: %q", x.kind, x.n, b[:n])
		}
		m.Unplug()
	}
}
