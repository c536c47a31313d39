package cyberjack

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/cyberjack/emu"
	"github.com/cardfs/cardfs/reader"
)

// Keys are noted while a PIN is entered, and the card has it; S(WTX request) without a value
// is answered without one.
func TestPIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cfg := range []emu.Config{{}, {EmptyWTX: true}} {
			c := t0()
			c.busy = 10 * time.Second
			e := newReader(t, cfg, c)
			p := e.Plug()
			defer p.Unplug()
			s := open(t, p)
			connect(t, s)
			for _, tt := range []struct {
				typed        string
				at, answer   string
				acknowledged int
			}{
				{"1234", "00 20 00 01 08 31 32 33 34 FF FF FF FF", "90 00", 5},
				{"C", "", "64 01", 5},
				{"", "", "64 00", 5},
			} {
				c.last = nil
				e.Type(tt.typed)
				got, err := s.VerifyPIN(t.Context(), &verify, nil)
				if err != nil || !bytes.Equal(got, unhex(tt.answer)) || !bytes.Equal(c.last, unhex(tt.at)) {
					t.Errorf("%q: % X, %v; the card had % X", tt.typed, got, err, c.last)
				}
				if _, keys := e.Acknowledged(); keys != tt.acknowledged {
					t.Errorf("%q: %d keys were noted", tt.typed, keys)
				}
			}
			if _, err := s.ModifyPIN(t.Context(), &reader.PINModify{}, nil); !errors.Is(err, reader.ErrUnsupported) {
				t.Error(err)
			}
		}
	})
}

// A notice that the card moved is taken note of, and the card has lost its power for us; what
// means nothing is passed over: T=1 does not see it, and asks for nothing again.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, emu.Config{}, t1())
		p := e.Plug()
		defer p.Unplug()
		s := open(t, p)
		connect(t, s)
		var sent atomic.Int32
		e.Observe(func(l usbtest.Line) {
			if l.Kind == usbtest.Transfer && !l.In {
				sent.Add(1)
			}
		})
		asks := func(told byte, want reader.Status, blocks int32) {
			t.Helper()
			e.Tell(told)
			sent.Store(0)
			status(t, s, want)
			if n := sent.Load(); n != blocks {
				t.Errorf("%X: the host sent %d blocks, not %d", told, n, blocks)
			}
		}
		for _, pcb := range []byte{0xE1, 0xE6, 0xF6} {
			asks(pcb, reader.Powered, 1)
		}
		for n, pcb := range []byte{0xE5, 0xF5} {
			asks(pcb, reader.Present, 2)
			if cards, _ := e.Acknowledged(); cards != n+1 {
				t.Errorf("%X: %d were noted", pcb, cards)
			}
			connect(t, s)
		}
	})
}

// "00, the length of a T=1 block, low byte first, and the block": NAD, PCB, LEN and the sum are
// the least of one, and 255 bytes beside them the most.
func TestFrameLength(t *testing.T) {
	for _, tt := range []struct {
		head string
		want int // 0: no frame
	}{
		{"", 0}, {"00", 0}, {"00 04", 0},
		{"00 00 00", 0}, {"00 03 00", 0}, {"00 04 00", 7}, {"00 05 00 21", 8},
		{"00 FF 00", 258}, {"00 00 01", 259}, {"00 02 01", 261}, {"00 03 01", 262},
		{"00 04 01", 0}, {"00 04 02", 0}, {"00 04 FF", 0},
		{"01 04 00", 0}, {"80 04 00", 0}, {"FF 04 00", 0}, {"21 00 02 90 00 B3", 0},
	} {
		n, err := frameLength(unhex(tt.head))
		if n != tt.want || (err == nil) != (n != 0) || err != nil && !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("%q: %d, %v; want %d", tt.head, n, err, tt.want)
		}
	}
}

// "Errors: ErrNoCard": where there is no card none is waited for.
func TestNoCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, emu.Config{}, t1())
		p := e.Plug()
		defer p.Unplug()
		s := open(t, p)
		c := e.Contact.Remove()
		begin := time.Now()
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrNoCard) || time.Since(begin) > time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := e.Contact.Insert(c); err != nil {
			t.Fatal(err)
		}
		// A card that another program gave power is ejected first.
		if _, err := e.Contact.Activate(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		connect(t, s)
		if err := s.PowerOff(t.Context()); err != nil || e.Contact.Powered() {
			t.Errorf("%v; power %v", err, e.Contact.Powered())
		}
	})
}

// FuzzFrames: whatever a reader sends, a frame is what it says to be, and calls end.
func FuzzFrames(f *testing.F) {
	f.Add(unhex("00 06 00 21 00 02 90 00 B3"))
	f.Add(unhex("00 04 00 2E C4 00 EA"))
	f.Add(unhex("00 04 00 2E C3 00 ED"))
	f.Add(unhex("00 03 01 00"))
	f.Add(unhex("01 06 00 21 00 02 90 00 B3"))
	f.Add(unhex("00 03 00 21 00 00"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if n, err := frameLength(sent); err == nil && (n < headSize+4 || n > headSize+mostBlock || sent[0] != 0) {
			t.Errorf("% X is %d bytes long", sent, n)
		}
		synctest.Test(t, func(t *testing.T) {
			e := newReader(t, emu.Config{}, t1())
			p := e.Plug()
			defer p.Unplug()
			s := open(t, p)
			e.Send(0x82, bytes.Clone(sent))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, _ = s.Status(ctx)
			_, _ = s.PowerOn(ctx, reader.Cold)
			if ctx.Err() != nil {
				t.Error("it took an hour")
			}
		})
	})
}

// A block is NAD, PCB, LEN, as many bytes as that says, and the sum of all.
func TestWhole(t *testing.T) {
	for block, want := range map[string]bool{
		"": false, "2E": false, "2E E0 00": false, "2E CE E0": false, "2E E0 00 CE": true, "2E E0 00 CF": false,
		"21 00 02 90 00 B3": true, "21 00 02 90 00 B2": false, "21 00 01 90 00 B0": false, "21 00 03 90 00 B2": false,
	} {
		if got := whole(unhex(block)); got != want {
			t.Errorf("%q: %v", block, got)
		}
	}
}

// The answers to REQUEST ICC that say by themselves what they mean: 6200 is no card, 9000 a
// memory card unless an ATR comes with it, and 9001 a processor card, which has one.
func TestRequestAnswers(t *testing.T) {
	for _, tt := range []struct {
		atr  string
		sw   uint16
		want error
	}{
		{"", 0x6200, reader.ErrNoCard},
		{"", 0x9000, reader.ErrUnsupported},
		{"A2 13 10 91", 0x9000, reader.ErrUnsupported},
		{"3B 00", 0x9000, nil},
		{"3F 00", 0x9000, nil},
		{"", 0x9001, reader.ErrMute},
		{"3B", 0x9001, nil},
		{"3B 00", 0x9001, nil},
	} {
		if err := (&slot{}).accept(t.Context(), unhex(tt.atr), tt.sw); !errors.Is(err, tt.want) {
			t.Errorf("%q, %04X: %v; want %v", tt.atr, tt.sw, err, tt.want)
		}
	}
}

// A card that was swapped, and has no power, did not execute what the reader answered; nor did
// one that is gone. The caller gets nothing of that answer.
func TestSwapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, emu.Config{}, t1())
		p := e.Plug()
		defer p.Unplug()
		s := open(t, p)
		exchange := func(want error) {
			t.Helper()
			got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08")}, append(make([]byte, 0, 8), 1))
			if !errors.Is(err, want) || !bytes.Equal(got, []byte{1}) || !bytes.Equal(got[:3], []byte{1, 0, 0}) {
				t.Errorf("% X, %v; want %v", got[:3], err, want)
			}
		}
		connect(t, s)
		c := e.Contact.Remove()
		if err := e.Contact.Insert(c); err != nil {
			t.Fatal(err)
		}
		exchange(reader.ErrStale)
		connect(t, s)
		e.Contact.Remove()
		exchange(reader.ErrNoCard)
	})
}

// "interface 0 lacks a bulk endpoint of either direction": such a device is not opened.
func TestEndpoints(t *testing.T) {
	whole := emu.New(emu.Config{}).Descriptors()
	for _, at := range []int{len(whole) - 14, len(whole) - 7} { // bulk OUT, bulk IN
		d := bytes.Clone(whole)
		d[at+3] = 3 // an interrupt endpoint
		p := usbtest.New(usbtest.Model{Descriptors: d}).Plug()
		r, err := Driver{}.Open(t.Context(), device(p))
		if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "lacks a bulk endpoint") || r != nil {
			t.Errorf("% X: %v", d[at:at+7], err)
		}
		p.Unplug()
	}
}
