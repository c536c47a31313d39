package ccid

import (
	"context"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// mirror is a reader that answers 90 00 at once and has no cost of its own.
type mirror struct {
	chaos
	answer []byte
}

func (m *mirror) Out(_ context.Context, _ uint8, p []byte, _ bool, _ time.Duration) (int, error) {
	kind := byte(0x80)
	n := byte(2)
	if p[0] != cmdXfrBlock {
		kind, n = answerOf(p[0]), 0
	}
	m.answer = append(m.answer[:0], kind, n, 0, 0, 0, p[5], p[6], 0, 0, 0, 0x90, 0)[:10+n]
	return len(p), nil
}

func (m *mirror) In(_ context.Context, _ uint8, p []byte, _ time.Duration) (int, error) {
	return copy(p, m.answer), nil
}

func mirrored(tb testing.TB) *slot {
	cfg := emu.TPDUReader()
	cfg.NoInterrupt = true
	m := &mirror{chaos: chaos{desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}}
	r, err := Driver{}.Open(ctx, reader.Device{Link: conn{m}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	return r.Slots()[0].(*slot)
}

// conn makes a Conn its own Opener.
type conn struct{ *mirror }

func (c conn) OpenUSB(context.Context, uint8) (usb.Conn, error) { return c, nil }

// An exchange allocates nothing and wakes nobody.
func TestExchangeCost(t *testing.T) {
	s := mirrored(t)
	tx, rx := pattern(261), make([]byte, 0, 300)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Exchange(ctx, reader.Transfer{Out: tx, Wait: time.Second}, rx); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkExchange(b *testing.B) {
	s := mirrored(b)
	tx, rx := pattern(261), make([]byte, 0, 300)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Exchange(ctx, reader.Transfer{Out: tx, Wait: time.Second}, rx); err != nil {
			b.Fatal(err)
		}
	}
}
