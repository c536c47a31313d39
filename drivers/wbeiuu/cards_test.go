package wbeiuu

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/wbeiuu/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Cards of both conventions, protocols and many rates, with a reader that drops characters of
// wrong parity and one that does not, one that ends full packets with an empty one, and zeros
// before the ATR: "OpenCT's author saw some".
func TestCards(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Fast, readertest.Inverse, readertest.Block, readertest.Quick, readertest.Dual, readertest.Top} {
		for _, o := range []emu.Options{{}, {Drops: true}, {ZLP: true}, {Zeros: 1}, {Zeros: 32}, {State: 0x04}, {State: 0xFB}} {
			for _, protocol := range []int{-1, 1} {
				a, err := iso7816.ParseATR(c.ATR())
				if err != nil {
					t.Fatal(err)
				}
				if protocol == 1 && !strings.Contains(fmt.Sprint(a.Protocols()), "1") {
					continue
				}
				synctest.Test(t, func(t *testing.T) {
					e, _, l := plug(t, c)
					e.Set(o)
					powerUp(t, l, protocol)
					if got := l.ATR().Bytes(); !bytes.Equal(got, c.ATR()) {
						t.Fatalf("%s, %+v: ATR % X", c, o, got)
					}
					best, _ := a.Best(l.Params().T, nil)
					if got := e.Contact.Rate(); got != best.TA1 || got != l.Params().TA1 || l.Fallback() != "" {
						t.Errorf("%s: rate %02X, %02X in the card, want %02X; %s", c, l.Params().TA1, got, best.TA1, l.Fallback())
					}
					transmit(t, l, challenge, response)
					for _, n := range []int{1, 2, 61, 62, 63, 64, 125, 126, 127, 248, 249, 250, 253, 254, 255} {
						transmit(t, l, []byte{0x00, 0xB0, 0, 0, byte(n)}, append(pattern(n), 0x90, 0x00))
						tx := append([]byte{0x80, 0xEE, 0, 0, byte(n)}, pattern(n)...)
						transmit(t, l, append(tx, 0), append(pattern(n), 0x90, 0x00))
					}
					transmit(t, l, unhex("00 B0 00 00 00"), append(pattern(256), 0x90, 0x00))
				})
			}
		}
	}
}

// A card of the other convention is put in: the parity of the one before does not matter.
func TestChangeOfCards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, readertest.Inverse)
		for _, o := range []emu.Options{{}, {Drops: true}} {
			e.Set(o)
			for _, c := range []card{readertest.Inverse, readertest.Plain, readertest.Dual, readertest.Fast, readertest.Inverse} {
				e.Contact.Remove()
				if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
					t.Fatalf("status %v, %v", st, err)
				}
				e.Contact.Insert(c)
				powerUp(t, l, -1)
				transmit(t, l, challenge, response)
				// Or so quickly that nobody saw it.
				e.Contact.Remove()
				e.Contact.Insert(readertest.Block)
				powerUp(t, l, -1)
				transmit(t, l, challenge, response)
			}
		}
	})
}

// The kernel's rule for bit rates from 1200 to 230400: timers of 24 MHz above 46875 bit/s, 6 MHz
// above 11718, 2 MHz above 3906, 500 kHz above 977, and r = 256 - timer / (2 x speed). "The error
// of the sampling time shall be less than 0.2 etu", that is 2 % of ten etu.
func TestLines(t *testing.T) {
	for ta1 := range 256 {
		ta1 := byte(ta1)
		l, ok := lineAt(ta1, oddParity)
		f, d, _, valid := iso7816.Params{TA1: ta1}.FD()
		rate := 3_579_000 * float64(d) / float64(f)
		if want := valid && rate >= 1200 && rate <= 230_400; ok != want {
			t.Errorf("%02X, %.0f bit/s: %v", ta1, rate, ok)
		}
		if (&slot{}).Supports(ta1) != ok {
			t.Errorf("%02X is supported: %v", ta1, !ok)
		}
		if !ok {
			continue
		}
		got := []float64{24e6, 6e6, 2e6, 500e3}[l.timer] / (2 * (256 - float64(l.reload)))
		if got/rate < 0.98 || got/rate > 1.02 || l.format != oddParity {
			t.Errorf("%02X: %v, %.0f bit/s for %.0f", ta1, l, got, rate)
		}
		if least := []float64{46875, 11718, 3906, 977}; rate <= least[l.timer] || l.timer > 0 && rate > least[l.timer-1] {
			t.Errorf("%02X: %.0f bit/s with timer %d", ta1, rate, l.timer)
		}
	}
	// The kernel's codes for 9600, 19200, 38400 and 115200 bit/s are timer and reload value.
	for ta1, want := range map[byte]line{0x11: {2, 0x98, 1}, 0x12: {1, 0x64, 1}, 0x13: {1, 0xB2, 1}, 0x18: {0, 0x98, 1}} {
		if l, _ := lineAt(ta1, evenParity); l != want {
			t.Errorf("%02X: %v, want %v", ta1, l, want)
		}
	}
	if l, _ := lineAt(0x11, oddParity); l != defaultLine(oddParity) {
		t.Errorf("the default line is %v", l)
	}
	// What cannot be set is refused in words.
	synctest.Test(t, func(t *testing.T) {
		_, s, l := plug(t, readertest.Plain)
		powerUp(t, l, -1)
		p := iso7816.DefaultParams(0)
		p.TA1 = 0x97
		if err := s.(reader.ParamSetter).SetParams(t.Context(), p); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "TA1=97") {
			t.Error(err)
		}
		transmit(t, l, challenge, response)
	})
	// A line that could perhaps not be set is set again.
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, readertest.Fast)
		powerUp(t, l, -1)
		set := func(ta1 byte) error {
			p := iso7816.DefaultParams(0)
			p.TA1 = ta1
			return s.(reader.ParamSetter).SetParams(t.Context(), p)
		}
		if err := set(0x11); err != nil {
			t.Error(err)
		}
		e.Inject(usbtest.Fault{Kind: usbtest.Stalled})
		if err := set(0x18); !errors.Is(err, reader.ErrProtocol) {
			t.Error(err)
		}
		if err := set(0x18); err != nil {
			t.Error(err)
		}
		transmit(t, l, challenge, response)
	})
}

// A card with an extra guard time gets its characters one by one (ISO/IEC 7816-3:2006 §8.3,
// TC1): N etu more than 12 from one to the next.
func TestGuardTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, l := plug(t, readertest.Guarded)
		powerUp(t, l, -1)
		var last time.Time
		sent := 0
		etu := 372 * float64(time.Second) / 3_579_000
		e.Observe(func(line usbtest.Line) {
			if !line.In && len(line.Data) > 2 && line.Data[0] == 0x5E && line.Data[1] == 0x04 {
				if sent++; line.Data[2] != 1 {
					t.Errorf("%d characters at once", line.Data[2])
				}
				if gap := time.Since(last); float64(gap) < (12+20)*etu {
					t.Errorf("character %d after %v", sent, gap)
				}
				last = time.Now()
			}
		})
		transmit(t, l, unhex("00 A4 00 00 02 3F 00"), unhex("90 00"))
		transmit(t, l, challenge, response)
		if sent != 12 {
			t.Errorf("%d characters", sent)
		}
	})
	for n, want := range map[byte]time.Duration{0: 0, 0xFF: 0, 1: 1351216 * time.Nanosecond} {
		s := &slot{}
		p := iso7816.DefaultParams(1)
		p.N = n
		if s.times(p); s.guard != want || s.char != 1247276*time.Nanosecond {
			t.Errorf("N %d: %v, a character %v", n, s.guard, s.char)
		}
	}
}

// What the state register says. Bits other than 01 and 04 do not matter.
func TestState(t *testing.T) {
	for state, want := range map[byte]reader.Status{0x01: reader.Present, 0x04: reader.Present, 0x03: reader.Present, 0xFE: reader.Present, 0xF1: reader.Present} {
		e, s, _ := plug(t, readertest.Plain)
		e.Set(emu.Options{State: state})
		if got, err := s.Status(t.Context()); got != want || err != nil {
			t.Errorf("state %02X: %v, %v", state, got, err)
		}
	}
	for _, state := range []byte{0x05, 0x07, 0xFF} {
		synctest.Test(t, func(t *testing.T) {
			e, s, l := plug(t, readertest.Plain)
			powerUp(t, l, -1)
			e.Set(emu.Options{State: state})
			_, err := s.Status(t.Context())
			check := func(err error) {
				t.Helper()
				if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "cards in both slots") || !strings.Contains(err.Error(), "take one out") {
					t.Errorf("state %02X: %v", state, err)
				}
			}
			check(err)
			_, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil)
			check(err)
			_, err = s.PowerOn(t.Context(), reader.Cold)
			check(err)
			if n := e.Contact.APDUs(); n != 0 {
				t.Errorf("the card had %d commands", n)
			}
			e.Set(emu.Options{})
			if got, err := s.Status(t.Context()); got != reader.Present || err != nil {
				t.Errorf("%v, %v: the card was not reset since", got, err)
			}
			powerUp(t, l, -1)
			transmit(t, l, challenge, response)
		})
	}
	// A second card comes during an exchange.
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, readertest.Plain)
		powerUp(t, l, -1)
		e.Contact.SetFaults(icc.Faults{Mute: true})
		time.AfterFunc(2*time.Second, func() { e.Set(emu.Options{State: 0x05}) })
		start := time.Now()
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Minute}, nil)
		if took := time.Since(start); !errors.Is(err, reader.ErrUnsupported) || took > 2500*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// "A Slot says so [ErrStale] of an exchange that found the card without power: the card saw
// nothing of it."
func TestNoPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, readertest.Plain)
		powerUp(t, l, -1)
		l.PowerOff(t.Context())
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil)
		if !errors.Is(err, reader.ErrStale) || e.Contact.APDUs() != 0 {
			t.Errorf("%v", err)
		}
		if got, err := s.Status(t.Context()); got != reader.Present || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		e.Contact.Remove()
		if _, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second}, nil); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("%v", err)
		}
		if _, err = s.PowerOn(t.Context(), reader.Warm); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("%v", err)
		}
	})
}

// A card that computes for a minute costs few looks, and its answer is not late by more than
// an eighth. The reader has never to hold more than 64 characters.
func TestPace(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Block, readertest.Top} {
		for _, busy := range []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				e, _, l := plug(t, c)
				l.Limit = time.Hour
				powerUp(t, l, -1)
				looks, most := 0, 0
				e.Observe(func(line usbtest.Line) {
					if looks++; line.In && len(line.Data) > most {
						most = len(line.Data)
					}
				})
				e.Contact.SetFaults(icc.Faults{Slow: busy})
				start := time.Now()
				transmit(t, l, []byte{0x00, 0xB0, 0, 0, 0xC8}, append(pattern(200), 0x90, 0x00))
				took, char := time.Since(start), l.Params().GT(3_579_000)
				if limit := busy + busy/8 + 330*char + 10*time.Millisecond; took > limit {
					t.Errorf("%s, busy for %v: %v, at most %v", c, busy, took, limit)
				}
				if perSecond := float64(looks) / took.Seconds(); busy >= time.Minute && c != readertest.Top && perSecond > 120 {
					t.Errorf("%s: %.0f transfers a second", c, perSecond)
				}
				if most > 64+2 {
					t.Errorf("%s: %d characters in one look", c, most)
				}
				t.Logf("%s, busy for %v: %v, %d transfers", c, busy, took.Round(time.Millisecond), looks)
			})
		}
	}
}
