package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// memorySlot is a reader with a memory card whose PSC was found right. Its other methods are not called.
type memorySlot struct {
	reader.Slot
	atr      []byte
	level    reader.Level
	off, on  error
	tries    error
	verified bool
	offs     int
}

func (s *memorySlot) PowerOff(context.Context) error { s.offs++; s.verified = false; return s.off }
func (s *memorySlot) PowerOn(context.Context, reader.Reset) ([]byte, error) {
	return s.atr, s.on
}
func (s *memorySlot) Traits() reader.Traits { return reader.Traits{Level: s.level} }
func (s *memorySlot) Chip() reader.Chip {
	return reader.Chip{Bus: reader.TwoWire, Size: 256, Page: 16, PSC: 3}
}
func (s *memorySlot) ReadMemory(_ context.Context, at, n int, dst []byte) ([]byte, error) {
	return append(dst, make([]byte, n)...), nil
}
func (s *memorySlot) WriteMemory(context.Context, int, []byte) error { return nil }
func (s *memorySlot) ReadProtection(context.Context, int, int, []bool) ([]bool, error) {
	return nil, reader.ErrUnsupported
}
func (s *memorySlot) PSCTries(context.Context) (int, error) { return 3, s.tries }
func (s *memorySlot) VerifyPSC(context.Context, []byte) (bool, int, error) {
	s.verified = true
	return true, 3, nil
}
func (s *memorySlot) ChangePSC(context.Context, []byte) error { return nil }

// traced is a trace.
type traced struct{ text []string }

func (l *traced) On() bool { return true }
func (l *traced) Printf(format string, args ...any) {
	l.text = append(l.text, fmt.Sprintf(format, args...))
}

func onMemoryCard(t *testing.T) (*Link, *memorySlot, *traced) {
	t.Helper()
	s, trace := &memorySlot{atr: []byte{0xA2, 0x13, 0x10, 0x91}, level: reader.Synchronous}, new(traced)
	l := New(Config{Slot: s, Features: reader.Features{Memory: s}, Trace: trace})
	if err := l.PowerUp(context.Background(), reader.Cold, -1); err != nil || l.Card() == nil {
		t.Fatal(err)
	}
	return l, s, trace
}

// "Ending a verification cycles power": off and on, and the card must be the same.
func TestRelock(t *testing.T) {
	for _, tt := range []struct {
		what  string
		spoil func(*memorySlot)
		err   error
	}{
		{"right", func(*memorySlot) {}, nil},
		{"power off fails", func(s *memorySlot) { s.off = reader.ErrGone }, reader.ErrGone},
		{"power on fails", func(s *memorySlot) { s.on = reader.ErrNoCard }, reader.ErrNoCard},
		{"another card", func(s *memorySlot) { s.atr = []byte{0xA2, 0x13, 0x10, 0x92} }, reader.ErrStale},
		{"a card with a processor", func(s *memorySlot) { s.level = reader.TPDU }, reader.ErrStale},
	} {
		l, s, trace := onMemoryCard(t)
		ctx := context.Background()
		if answer, err := l.Transmit(ctx, []byte{0, 0x20, 0, 0, 3, 1, 2, 3}, nil); err != nil || !bytes.Equal(answer, []byte{0x90, 0}) {
			t.Fatalf("% X, %v", answer, err)
		}
		if !l.Secret() {
			t.Error("VERIFY is no secret")
		}
		tt.spoil(s)
		err := l.Relock(ctx)
		if !errors.Is(err, tt.err) || s.offs != 1 {
			t.Errorf("%s: %v, %d times off", tt.what, err, s.offs)
		}
		_, verified, _ := l.Card().PSC()
		if verified != (tt.err != nil) {
			t.Errorf("%s: verified %v", tt.what, verified)
		}
		if said := strings.Join(trace.text, "\n"); !strings.Contains(said, "power off and on") || strings.Contains(said, "01 02 03") {
			t.Errorf("%s: trace %q", tt.what, said)
		}
		if _, err := l.ReadMemory(ctx, 7, 2, nil); err != nil || l.Secret() {
			t.Errorf("%s: a read after VERIFY: %v, secret %v", tt.what, err, l.Secret())
		}
		l.secrecy = true
		if _, err := l.WriteMemory(ctx, 256, []byte{1}, 0); !errors.Is(err, reader.ErrNoSpace) && !errors.Is(err, reader.ErrNoPermission) || l.Secret() {
			t.Errorf("%s: a write after VERIFY: %v, secret %v", tt.what, err, l.Secret())
		}
		if last := trace.text[len(trace.text)-1]; last[:2] != "! " {
			t.Errorf("%s: trace %q", tt.what, last)
		}
		// Power off, and another card: nothing is left of this one.
		if l.PowerOff(ctx); l.Card() != nil {
			t.Error("a card without power")
		}
		if _, err := l.ReadMemory(ctx, 0, 1, []byte{5}); !errors.Is(err, reader.ErrUnsupported) {
			t.Errorf("read without a card: %v", err)
		}
		if n, err := l.WriteMemory(ctx, 0, []byte{5}, 0); n != 0 || !errors.Is(err, reader.ErrUnsupported) {
			t.Errorf("write without a card: %d, %v", n, err)
		}
		if err := l.Relock(ctx); err != nil || s.offs != 2 {
			t.Errorf("relock without a card: %v, %d times off", err, s.offs)
		}
	}
}

// A power-up in which the counter of tries cannot be read fails.
func TestPowerUpReadsTries(t *testing.T) {
	s := &memorySlot{atr: []byte{0xA2, 0x13, 0x10, 0x91}, level: reader.Synchronous, tries: reader.ErrTimeout}
	l := New(Config{Slot: s, Features: reader.Features{Memory: s}})
	l.secrecy, l.late = true, true
	if err := l.PowerUp(context.Background(), reader.Cold, -1); !errors.Is(err, reader.ErrTimeout) {
		t.Errorf("%v", err)
	}
	if l.Secret() || l.late {
		t.Error("the secret of the card before")
	}
	s.tries = reader.ErrUnsupported // the reader keeps it to itself
	if err := l.PowerUp(context.Background(), reader.Cold, -1); err != nil {
		t.Errorf("%v", err)
	}
}
