package towitoko

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

// rates are the F and D that a card ends up with.
var rates = map[card]byte{readertest.Plain: 0x11, readertest.Fast: 0x18, readertest.Inverse: 0x11, readertest.Block: 0x11, quick: 0x13, mirror: 0x12, readertest.Guarded: 0x14, common: 0x11}

// Cards of both conventions and protocols at the rates that reader and card have in common,
// with a reader that drops characters of wrong parity, and with one whose card hears one of the
// resets alone. Commands and answers have every length about which a header could be wrong.
func TestCards(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Fast, readertest.Inverse, readertest.Block, quick, mirror, common} {
		for _, o := range []emu.Options{{}, {Drops: true}, {LowOnly: true}, {Type: emu.KartenzwergII}, {Type: emu.KartenzwergII, Plain: true}, {Type: emu.Twin}, {Type: 0x99}} {
			for _, protocol := range []int{-1, 1} {
				a, err := iso7816.ParseATR(c.ATR())
				if err != nil {
					t.Fatal(err)
				}
				if protocol == 1 && len(a.Protocols()) < 2 {
					continue
				}
				synctest.Test(t, func(t *testing.T) {
					e, p, s, l := plug(t, o, c)
					powerUp(t, l, protocol)
					if got := l.ATR().Bytes(); !bytes.Equal(got, c.ATR()) {
						t.Fatalf("%s, %+v: ATR % X", c, o, got)
					}
					if got := e.Contact.Rate(); got != rates[c] || got != l.Params().TA1 || l.Fallback() != "" {
						t.Errorf("%s: rate %02X, %02X in the card, want %02X; %s", c, l.Params().TA1, got, rates[c], l.Fallback())
					}
					if got, want := p.Line().HostMode().Frame, map[bool]serial.Frame{false: "8E2", true: "8O2"}[c[:2] == "3F"]; got != want {
						t.Errorf("%s: %s, want %s", c, got, want)
					}
					transmit(t, l, challenge, response)
					for _, n := range []int{1, 2, 125, 126, 127, 245, 246, 247, 250, 251, 252, 253, 254, 255} {
						transmit(t, l, []byte{0x00, 0xB0, 0, 0, byte(n)}, append(pattern(n), 0x90, 0x00))
						tx := append([]byte{0x80, 0xEE, 0, 0, byte(n)}, pattern(n)...)
						transmit(t, l, append(tx, 0), append(pattern(n), 0x90, 0x00))
					}
					transmit(t, l, unhex("00 B0 00 00 00"), append(pattern(256), 0x90, 0x00))
					if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
						t.Errorf("%v, %v", st, err)
					}
					if err := l.PowerOff(t.Context()); err != nil || e.Contact.Powered() {
						t.Errorf("power off: %v", err)
					}
					// And again, and as the reader is when it gets power in the end.
					powerUp(t, l, -1)
					transmit(t, l, challenge, response)
					s.Close()
					if got := p.Line().Mode(); got.Baud != 9600 || got.Frame != serial.Frame8E2 || e.LED() != 0 {
						t.Errorf("left at %v, LED %d", got, e.LED())
					}
				})
			}
		}
	}
}

// A warm reset does not take the card's power; a cold one does.
func TestResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s, _ := plug(t, emu.Options{}, readertest.Plain)
		var log serialtest.Log
		count := func(how reader.Reset) string {
			log = serialtest.Log{}
			p.Observe(log.Add)
			if atr, err := s.PowerOn(t.Context(), how); err != nil || !bytes.Equal(atr, readertest.Plain.ATR()) {
				t.Errorf("% X, %v", atr, err)
			}
			return log.Session().String()
		}
		count(reader.Cold)
		if got := count(reader.Cold); !strings.Contains(got, "OUT | 61 0F 98") {
			t.Errorf("a cold reset without taking the power:\n%s", got)
		}
		if got := count(reader.Warm); strings.Contains(got, "OUT | 61 0F 98") {
			t.Errorf("a warm reset that takes the power:\n%s", got)
		}
	})
}

// A card of the other convention, or of another kind, is put in: the parity, the rate and the
// kind of the one before do not matter.
func TestChangeOfCards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, s, l := plug(t, emu.Options{}, readertest.Inverse)
		for _, c := range []icc.Card{readertest.Inverse, readertest.Plain, numbered("sle4442"), mirror, readertest.Fast, icc.NewMemory("sle4428"), quick} {
			for _, seen := range []bool{true, false} {
				e.Contact.Remove()
				if st, err := s.Status(t.Context()); seen && (st != reader.Absent || err != nil) {
					t.Fatalf("status %v, %v", st, err)
				}
				e.Contact.Insert(c)
				if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
					t.Fatalf("status %v, %v", st, err)
				}
				powerUp(t, l, -1)
				if _, memory := c.(*icc.Memory); memory != (l.Card() != nil) {
					t.Fatalf("a memory card: %v", !memory)
				} else if !memory {
					transmit(t, l, challenge, response)
				}
			}
		}
	})
}

// "Changed since the last status": a card that was taken out and put back between two looks is
// not the one that was reset, and its commands say so instead of waiting for it.
func TestSwapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, s, l := plug(t, emu.Options{}, readertest.Plain)
		powerUp(t, l, -1)
		e.Contact.Remove()
		e.Contact.Insert(readertest.Plain)
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second, CharWait: time.Second}, nil)
		if !errors.Is(err, reader.ErrStale) {
			t.Error(err)
		}
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		_, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second, CharWait: time.Second}, nil)
		if !errors.Is(err, reader.ErrStale) || e.Contact.APDUs() != 0 {
			t.Errorf("%v, %d commands", err, e.Contact.APDUs())
		}
		e.Contact.Remove()
		_, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Second, CharWait: time.Second}, nil)
		if !errors.Is(err, reader.ErrNoCard) {
			t.Error(err)
		}
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrNoCard) {
			t.Error(err)
		}
	})
}

// The rates by libtowitoko's table of speeds, and its clock of 372 x 9600 Hz. "The error of the
// sampling time shall be less than 0.2 etu", that is 2 % of ten etu.
func TestRates(t *testing.T) {
	table := []float64{1200, 2400, 4800, 6975, 9600, 14400, 19200, 28800, 38400, 57600, 115200}
	for ta1 := range 256 {
		ta1 := byte(ta1)
		f, d, _, valid := iso7816.Params{TA1: ta1}.FD()
		rate := 372 * 9600 * float64(d) / float64(f)
		want := 0.0
		for _, b := range table {
			if valid && b > rate*0.98 && b < rate*1.02 {
				want = b
			}
		}
		got, ok := baudOf(ta1)
		if float64(got) != want || ok != (want > 0) || (&slot{}).Supports(ta1) != ok {
			t.Errorf("%02X, %.0f bit/s: %d, %v", ta1, rate, got, ok)
		}
	}
	for ta1, want := range map[byte]int{0x11: 9600, 0x12: 19200, 0x13: 38400, 0x18: 115200, 0x91: 6975, 0x38: 57600, 0x58: 28800, 0x94: 0, 0x96: 0} {
		if got, _ := baudOf(ta1); got != want {
			t.Errorf("%02X: %d, want %d", ta1, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		_, _, s, l := plug(t, emu.Options{}, readertest.Plain)
		powerUp(t, l, -1)
		p := iso7816.DefaultParams(0)
		p.TA1 = 0x96
		if err := s.SetParams(t.Context(), p); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "TA1=96") {
			t.Error(err)
		}
		transmit(t, l, challenge, response)
	})
}

// Every speed of the table is that of reader and port, after a command at the old one.
func TestSpeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s, _ := plug(t, emu.Options{}, readertest.Plain)
		for range 2 {
			for _, x := range speeds {
				start := time.Now()
				if err := s.setSpeed(t.Context(), x.baud); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < 150*time.Millisecond {
					t.Errorf("%d: ready after %v", x.baud, took)
				}
				if got := p.Line().Mode().Baud; got != x.baud || p.Line().HostMode().Baud != x.baud {
					t.Errorf("%d: %d, %d", x.baud, got, p.Line().HostMode().Baud)
				}
				if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
					t.Errorf("%d: %v, %v", x.baud, st, err)
				}
			}
		}
		if err := s.setSpeed(t.Context(), 9600); err != nil {
			t.Error(err)
		}
	})
}

// A card with an extra guard time gets its characters one by one (ISO/IEC 7816-3:2006 §8.3,
// TC1): N etu more than 12 from one to the next.
func TestGuardTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _, l := plug(t, emu.Options{}, readertest.Guarded)
		powerUp(t, l, -1)
		var last time.Time
		sent := 0
		etu := float64(time.Second) / 9600
		p.Observe(func(e serialtest.Entry) {
			if e.Kind != serialtest.Out || e.Data[0] == 0x6F {
				return
			}
			if sent++; len(e.Data) != 1 {
				t.Errorf("%d characters at once", len(e.Data))
			}
			if gap := time.Since(last); float64(gap) < (12+20)*etu {
				t.Errorf("character %d after %v", sent, gap)
			}
			last = time.Now()
		})
		transmit(t, l, unhex("00 A4 00 00 02 3F 00"), unhex("90 00"))
		transmit(t, l, challenge, response)
		if sent != 12 {
			t.Errorf("%d characters", sent)
		}
	})
	for n, want := range map[byte]time.Duration{0: 0, 0xFF: 0, 1: 1354167} {
		s := &slot{}
		p := iso7816.DefaultParams(1)
		p.N = n
		if s.times(p); s.guard != want {
			t.Errorf("N %d: %v", n, s.guard)
		}
	}
}

// What the core relies on.
func TestTraits(t *testing.T) {
	want := reader.Traits{Level: reader.Character, IFSC: 250, ClockHz: 3_571_200, Slack: 300 * time.Millisecond}
	if got := (&slot{}).Traits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// The models by their types; the line of each; DTR and RTS, of which a Twin gets DTR alone.
func TestModels(t *testing.T) {
	for _, x := range []struct {
		o     emu.Options
		name  string
		frame serial.Frame
		lines serial.Lines
	}{
		{emu.Options{Type: 0x61}, "Towitoko Chipdrive Micro", "8E2", serial.DTR | serial.RTS},
		{emu.Options{Type: 0x64}, "Towitoko Kartenzwerg II", "8E2", serial.DTR | serial.RTS},
		{emu.Options{Type: 0x64, Plain: true}, "Towitoko Kartenzwerg II", "8E2", serial.DTR | serial.RTS},
		{emu.Options{Type: 0x80}, "Towitoko Kartenzwerg", "8N1", serial.DTR | serial.RTS},
		{emu.Options{Type: 0x84}, "Towitoko Chipdrive External", "8E2", serial.DTR | serial.RTS},
		{emu.Options{Type: 0x88}, "Towitoko Chipdrive Twin", "8E2", serial.DTR},
		{emu.Options{Type: 0x90}, "Towitoko Chipdrive Internal", "8E2", serial.DTR | serial.RTS},
		{emu.Options{Type: 0x99}, "Towitoko reader, type 99", "8E2", serial.DTR | serial.RTS},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, p, s, _ := plug(t, x.o, nil)
			if name, more := s.Identify(); name != x.name || more["version"] != "10" {
				t.Errorf("%02X: %s, %v", x.o.Type, name, more)
			}
			if m := p.Line().HostMode(); m.Baud != 9600 || m.Frame != x.frame || p.Line().Lines() != x.lines {
				t.Errorf("%02X: %v, %v", x.o.Type, m, p.Line().Lines())
			}
			status := func(want reader.Status, led byte) {
				t.Helper()
				if st, err := s.Status(t.Context()); st != want || err != nil || e.LED() != led {
					t.Errorf("%02X: %v, %v, LED %d", x.o.Type, st, err, e.LED())
				}
			}
			status(reader.Absent, 0)
			e.Contact.Insert(readertest.Plain)
			status(reader.Present, 1)
			e.Contact.Remove()
			status(reader.Absent, 0)
		})
	}
	// A Kartenzwerg has nothing for processor cards.
	synctest.Test(t, func(t *testing.T) {
		e, p, s, _ := plug(t, emu.Options{Type: emu.Kartenzwerg}, readertest.Plain)
		var log serialtest.Log
		p.Observe(log.Add)
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrMute) {
			t.Error(err)
		}
		if got := log.Session().String(); strings.Contains(got, "6F 00 05") || strings.Contains(got, "6F 40") {
			t.Errorf("it is sent\n%s", got)
		}
		e.Contact.Remove()
		e.Contact.Insert(icc.NewMemory("sle4442"))
		if atr, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(atr, unhex("A2 13 10 91")) {
			t.Errorf("% X, %v", atr, err)
		}
	})
	// A reader whose LED cannot be set is not waited for each time.
	synctest.Test(t, func(t *testing.T) {
		_, _, s, _ := plug(t, emu.Options{NoLED: true}, readertest.Plain)
		for i := range 3 {
			start := time.Now()
			if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
				t.Errorf("%v, %v", st, err)
			}
			if took := time.Since(start); i > 0 && took > 500*time.Millisecond {
				t.Errorf("look %d took %v", i, took)
			}
		}
	})
	// "The first status can take longer than 1 s; it is asked again."
	synctest.Test(t, func(t *testing.T) {
		e, _, s, l := plug(t, emu.Options{Slow: 1500 * time.Millisecond}, readertest.Plain)
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		powerUp(t, l, -1)
		transmit(t, l, challenge, response)
		e.Contact.Remove()
		if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
			t.Errorf("%v, %v", st, err)
		}
	})
}
