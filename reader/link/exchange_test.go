package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Cards that need nothing but an activation.
const (
	cardT0 = "cold\n< 3B 00\n"
	cardT1 = "cold\n< 3B 80 01 81\n" // with IFSD 32
)

// Exchanges over each way to a card, as traces.
func TestTransmit(t *testing.T) {
	const challenge, answer = "00 84 00 00 02", "11 22 90 00"
	type exchange struct {
		capdu, answer string
		err           error
		dead          bool
	}
	one := func(capdu, answer string) []exchange { return []exchange{{capdu: capdu, answer: answer}} }
	fails := func(err error, dead bool) []exchange { return []exchange{{challenge, "", err, dead}} }
	for _, tt := range []struct {
		name   string
		level  reader.Level
		script string
		does   []exchange
	}{
		{"T=1: sequence numbers go on", reader.TPDU, cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 00 00 04 11 22 90 00 A7
			> 00 40 05 00 84 00 00 02 C3
			< 00 40 04 11 22 90 00 E7`,
			[]exchange{{challenge, answer, nil, false}, {challenge, answer, nil, false}}},
		{"T=1, characters: prologue first", reader.Character, cardT1 + `
			> 00 00 05 00 84 00 00 02 83 +3
			< 00 00 04
			> +5
			< 11 22 90 00 A7`,
			one(challenge, answer)},
		{"T=1: silence and damage are asked to be repeated", reader.TPDU, cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			! 00 00 04 11 parity
			> 00 81 00 81
			! timeout
			> 00 81 00 81
			< 00 00 04 11 22 90 00 A7`,
			one(challenge, answer)},
		{"T=1: after three failures and three S(RESYNCH) the card is out of step", reader.TPDU, cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 00 C3 01 01 C3
			> 00 E3 01 01 E3
			< --
			> 00 82 00 82
			< --
			> 00 82 00 82
			< --
			> 00 C0 00 C0
			< --
			> 00 C0 00 C0
			< --
			> 00 C0 00 C0
			< --`,
			fails(reader.ErrTimeout, true)},
		{"T=1: an error of one exchange is not the next one's", reader.TPDU, cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 00 00 01 90 91
			> 00 40 05 00 84 00 00 02 C3
			< 00 40 04 11 22 90 00 E7`,
			[]exchange{{challenge, "", reader.ErrProtocol, false}, {challenge, answer, nil, false}}},
		{"T=0: a message", reader.TPDU, cardT0 + "> 00 84 00 00 02\n< 11 22 90 00", one(challenge, answer)},
		{"T=0: GET RESPONSE brings what is missing", reader.TPDU, cardT0 + `
			> 00 84 00 00 02
			< 11 61 01
			> 00 C0 00 00 01
			< 22 90 00`,
			one(challenge, answer)},
		{"T=0: the corrected Le and what is fetched", reader.TPDU, cardT0 + `
			> 00 84 00 00 02
			< 6C 04
			> 00 84 00 00 04
			< 11 22 33 44 90 00`,
			one(challenge, answer)},
		{"T=0, characters", reader.Character, cardT0 + `
			> 00 84 00 00 02 +1
			< 60
			> +1
			< 84
			> +2
			< 11
			> +1
			< 22
			> +1
			< 90
			> +1
			< 00`,
			one(challenge, answer)},
		{"T=0: silence is the end, until a reset", reader.TPDU, cardT0 + "> 00 84 00 00 02\n< --", fails(reader.ErrTimeout, true)},
		{"T=0: so is damage", reader.TPDU, cardT0 + "> 00 84 00 00 02\n! parity", fails(reader.ErrProtocol, true)},
		{"a reader that refuses a TPDU has sent nothing", reader.TPDU, cardT0 + "> 00 84 00 00 02\n! invalid", fails(reader.ErrInvalid, false)},
		{"T=0: what fits no case is not sent", reader.TPDU, cardT0, []exchange{{"00 84 00 00 02 03", "", reader.ErrInvalid, false}}},
		{"a card that left is out of step", reader.TPDU, cardT1 + "> 00 00 05 00 84 00 00 02 83\n! no card", fails(reader.ErrNoCard, true)},
		{"so is one whose reader left", reader.TPDU, cardT1 + "> 00 00 05 00 84 00 00 02 83\n! gone", fails(reader.ErrGone, true)},
		{"a card without power has seen nothing of the first block", reader.TPDU, cardT1 + "> 00 00 05 00 84 00 00 02 83\n! stale", fails(reader.ErrStale, true)},
		{"one that lost it after that may have executed the command", reader.TPDU, cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			! parity
			> 00 81 00 81
			! stale`,
			fails(reader.ErrTimeout, true)},
		{"a reader that takes APDUs gets the C-APDU as it is", reader.ShortAPDU, cardT1 + "> 00 84 00 00 02\n< 11 22 90 00", one(challenge, answer)},
		{"even what fits no case", reader.ShortAPDU, cardT1 + "> 00 20 00 01 00\n< 63 C3\n> FF CA 00 00 00 00\n< 90 00",
			[]exchange{{"00 20 00 01 00", "63 C3", nil, false}, {"FF CA 00 00 00 00", "90 00", nil, false}}},
		{"an extended one only where it can", reader.ShortAPDU, cardT1, []exchange{{"00 B0 00 00 00 01 00", "", reader.ErrUnsupported, false}}},
		{"there", reader.ExtendedAPDU, cardT1 + "> 00 B0 00 00 00 01 00\n< 90 00", one("00 B0 00 00 00 01 00", "90 00")},
		{"its answer has SW1 SW2 at least", reader.ShortAPDU, cardT1 + "> 00 84 00 00 02\n< 90", fails(reader.ErrProtocol, false)},
		{"and may have no more", reader.ShortAPDU, cardT1 + "> 00 84 00 00 02\n< 6A 81", one(challenge, "6A 81")},
		{"its errors are passed on", reader.ShortAPDU, cardT1 + "> 00 84 00 00 02\n! timeout", fails(reader.ErrTimeout, false)},
		{"T=0 through a reader that takes APDUs still has its 61xx", reader.ShortAPDU, cardT0 + `
			> 00 A4 04 00 01 AA 00
			< 61 02
			> 00 C0 00 00 02
			< 11 22 90 00`,
			one("00 A4 04 00 01 AA 00", answer)},
		{"extended there", reader.ExtendedAPDU, cardT0 + "> 00 B0 00 00 00 01 00\n< 90 00", one("00 B0 00 00 00 01 00", "90 00")},
		{"not there", reader.ShortAPDU, cardT0, []exchange{{"00 B0 00 00 00 01 00", "", reader.ErrUnsupported, false}}},
		{"a synchronous card takes no commands", reader.Synchronous, "cold\n< A2 13 10 91", []exchange{{challenge, "", reader.ErrUnsupported, false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, "", func(t *testing.T, s *script, l *Link) {
				s.Level, s.IFSD = tt.level, 32
				powerUp(t, l)
				for _, x := range tt.does {
					transmit(t, l, x.capdu, x.answer, x.err)
					if l.Dead() != x.dead {
						t.Errorf("after %s: dead %v", x.capdu, l.Dead())
					}
				}
			})
		})
	}
}

// A reader that does all of T=0 (AutoT0) has the last word on 61xx and 6Cxx, and its card
// still needs a reset after silence.
func TestAutoT0(t *testing.T) {
	play(t, cardT0+`
		> 00 A4 04 00 01 AA 00
		< 61 02
		> 00 84 00 00 02
		< 6C 04
		> 00 84 00 00 02
		< --`, "", func(t *testing.T, s *script, l *Link) {
		s.Level, s.AutoT0 = reader.ShortAPDU, true
		powerUp(t, l)
		transmit(t, l, "00 A4 04 00 01 AA 00", "61 02", nil)
		transmit(t, l, "00 84 00 00 02", "6C 04", nil)
		transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout)
		if !l.Dead() {
			t.Error("not dead")
		}
	})
}

// ISO/IEC 7816-3:2006 §10.2, §11.4: the card may take a work waiting time or a block
// waiting time until its answer begins, and WWT or CWT between two characters. The way to
// the reader adds its own.
func TestWaits(t *testing.T) {
	const etu = time.Millisecond // at 372 kHz
	for _, tt := range []struct {
		name, script string
		level        reader.Level
		wait, gap    time.Duration // of the last transfer
		wtx          int
	}{
		{"T=0, a character", cardT0 + "> 00 84 00 00 02 +1\n! no card", reader.Character, 9600 * etu, 9600 * etu, 0},
		{"T=0, a message", cardT0 + "> 00 84 00 00 02\n! no card", reader.TPDU, 260 * 9600 * etu, 9600 * etu, 0},
		{"T=1", cardT1 + "> 00 00 05 00 84 00 00 02 83\n! no card", reader.TPDU, (11 + 16*960) * etu, (11 + 8192) * etu, 0},
		{"S(WTX)", cardT1 + "> 00 00 05 00 84 00 00 02 83\n< 00 C3 01 03 C1\n> 00 E3 01 03 E1\n! no card", reader.TPDU, 3 * (11 + 16*960) * etu, (11 + 8192) * etu, 3},
		{"S(WTX) of 0 is one of 1", cardT1 + "> 00 00 05 00 84 00 00 02 83\n< 00 C3 01 00 C2\n> 00 E3 01 00 E2\n! no card", reader.TPDU, (11 + 16*960) * etu, (11 + 8192) * etu, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, "", func(t *testing.T, s *script, l *Link) {
				s.Level, s.IFSD, s.Slack, s.ClockHz = tt.level, 32, 7*time.Second, 372_000
				powerUp(t, l)
				transmit(t, l, "00 84 00 00 02", "", reader.ErrNoCard)
				x := s.waited[len(s.waited)-1]
				if x.Wait != tt.wait+s.Slack || x.CharWait != tt.gap+s.Slack || x.WTX != tt.wtx {
					t.Errorf("%v, %v, WTX %d; want %v, %v, %d and %v", x.Wait, x.CharWait, x.WTX, tt.wait, tt.gap, tt.wtx, s.Slack)
				}
				if !x.Until.Equal(time.Now().Add(time.Hour)) || x.Extended == nil {
					t.Errorf("until %v, told %v", x.Until, x.Extended != nil)
				}
			})
		})
	}
}

// "As long as the card (S(WTX), NULL) or the reader asks for time, it has it, for an hour
// of real time by default": a limit of ten minutes.
func TestExchangeLimit(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		level        reader.Level
		told         int
		took         time.Duration
		err          error
		dead         bool
	}{
		{"NULL", cardT0 + `
			> 00 84 00 00 02 +1
			< 4m 60
			> +1
			< 4m 60
			> +1
			< 2m 60`, reader.Character, 3, 10 * time.Minute, reader.ErrTimeout, true},
		{"NULL, and the answer in the last second", cardT0 + `
			> 00 84 00 00 02 +1
			< 4m 60
			> +1
			< 5m59s 6A
			> +1
			< 82`, reader.Character, 1, 10*time.Minute - time.Second, nil, false},
		{"S(WTX): the card is brought back into step", cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 4m 00 C3 01 FF 3D
			> 00 E3 01 FF 1D
			< 6m 00 C3 01 FF 3D
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 00 05 00 84 00 00 02 83
			< 00 00 02 6A 82 EA`, reader.TPDU, 2, 10 * time.Minute, reader.ErrTimeout, false},
		{"what was granted ends with the limit", cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 9m 00 C3 01 FF 3D
			> 00 E3 01 FF 1D
			< --
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 00 05 00 84 00 00 02 83
			< 00 00 02 6A 82 EA`, reader.TPDU, 1, 10 * time.Minute, reader.ErrTimeout, false},
		{"a card that asks for time again when it shall be brought into step", cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 11m 00 C3 01 FF 3D
			> 00 C0 00 C0
			< 00 C3 01 FF 3D
			> 00 C0 00 C0
			< 00 C3 01 FF 3D
			> 00 C0 00 C0
			< 00 C3 01 FF 3D`, reader.TPDU, 1, 11 * time.Minute, reader.ErrTimeout, true},
		{"the reader's own time extension", cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 10m --
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 00 05 00 84 00 00 02 83
			< 00 00 02 6A 82 EA`, reader.TPDU, 0, 10 * time.Minute, reader.ErrTimeout, false},
		{"silence before the limit is the protocol's", cardT1 + `
			> 00 00 05 00 84 00 00 02 83
			< 9m --
			> 00 82 00 82
			< 00 00 02 6A 82 EA`, reader.TPDU, 0, 9 * time.Minute, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, "", func(t *testing.T, s *script, l *Link) {
				s.Level, s.IFSD = tt.level, 32
				l.Limit = 10 * time.Minute
				told := 0
				l.Extended = func() { told++ }
				powerUp(t, l)
				began := time.Now()
				want := "6A 82"
				transmit(t, l, "00 84 00 00 02", want, tt.err)
				if took := time.Since(began); took != tt.took || told != tt.told {
					t.Errorf("it took %v, and %d times somebody heard of it; want %v, %d", took, told, tt.took, tt.told)
				}
				if l.Dead() != tt.dead {
					t.Errorf("dead: %v", l.Dead())
				}
				if tt.err != nil && !tt.dead {
					transmit(t, l, "00 84 00 00 02", want, nil)
				}
			})
		})
	}
}

// The exchange that resynchronises a card after the limit may take as long as an activation.
func TestAfterTheLimit(t *testing.T) {
	play(t, cardT1+"> 00 00 05 00 84 00 00 02 83\n< 10m 00 C3 01 FF 3D\n> 00 C0 00 C0\n! gone", "", func(t *testing.T, s *script, l *Link) {
		s.IFSD, s.Slack = 32, time.Second
		l.Limit = 10 * time.Minute
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "", reader.ErrGone)
		if x := s.waited[1]; !x.Until.Equal(time.Now().Add(PowerLimit)) || x.Wait > 3*time.Second || x.WTX != 0 {
			t.Errorf("%+v", x)
		}
	})
}

// A deadline of the caller ends an exchange as the limit does, where it is earlier.
func TestDeadline(t *testing.T) {
	play(t, cardT1+"> 00 00 05 00 84 00 00 02 83\n< 20s 00 C3 01 FF 3D\n", "", func(t *testing.T, s *script, l *Link) {
		s.IFSD = 32
		powerUp(t, l)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := l.Transmit(ctx, unhex(t, "00 84 00 00 02"), nil)
		if !errors.Is(err, context.DeadlineExceeded) || !l.Dead() {
			t.Errorf("%v, dead %v", err, l.Dead())
		}
		if at, _ := ctx.Deadline(); !s.waited[0].Until.Equal(at) {
			t.Errorf("until %v, the deadline is %v", s.waited[0].Until, at)
		}
	})
}

// A reader that takes APDUs is told of the limit, too.
func TestLimitOfAPDU(t *testing.T) {
	play(t, cardT1+"> 00 84 00 00 02\n< 90 00", "", func(t *testing.T, s *script, l *Link) {
		s.Level, l.Limit = reader.ShortAPDU, time.Minute
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "90 00", nil)
		if x := s.waited[0]; !x.Until.Equal(time.Now().Add(time.Minute)) || x.Extended == nil {
			t.Errorf("%+v", x)
		}
	})
}

// PowerOff is the slot's where the card has power, and the end of what was known of it.
func TestPowerOff(t *testing.T) {
	play(t, cardT0+"> 00 84 00 00 02\n< --\noff\n"+cardT0+"off\n! gone", "", func(t *testing.T, s *script, l *Link) {
		if err := l.PowerOff(t.Context()); err != nil || l.Active() {
			t.Errorf("without power: %v", err)
		}
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "", reader.ErrTimeout)
		if !l.Dead() || !l.Active() {
			t.Errorf("dead %v, active %v", l.Dead(), l.Active())
		}
		if err := l.PowerOff(t.Context()); err != nil || l.Dead() || l.Active() {
			t.Errorf("%v, dead %v, active %v", err, l.Dead(), l.Active())
		}
		powerUp(t, l)
		l.Abandon()
		if !l.Dead() {
			t.Error("abandoned, and not dead")
		}
		if err := l.PowerOff(t.Context()); !errors.Is(err, reader.ErrGone) || l.Active() {
			t.Errorf("%v, active %v", err, l.Active())
		}
	})
}

// Whatever ends an exchange: nothing of a command or an answer is left in the buffers that
// outlive it. Any may be a PIN or a key.
func TestNothingIsLeft(t *testing.T) {
	const pin = "31 32 33 34 35 36 37 38"
	verify := "00 20 00 01 08 " + pin
	for _, tt := range []struct {
		name, script string
		level        reader.Level
	}{
		{"T=0, answered", cardT0 + "> " + verify + "\n< 90 00", reader.TPDU},
		{"T=0, silence", cardT0 + "> " + verify + "\n< --", reader.TPDU},
		{"T=0, the card left", cardT0 + "> " + verify + "\n! 31 32 no card", reader.TPDU},
		{"T=0, the reader left", cardT0 + "> " + verify + "\n! 31 32 33 34 gone", reader.TPDU},
		{"T=0, a panic", cardT0 + "> " + verify + "\n! panic", reader.TPDU},
		{"T=1, answered", cardT1 + "> 00 00 0D " + verify + " 2C\n< 00 00 02 90 00 92", reader.TPDU},
		{"T=1, the card left", cardT1 + "> 00 00 0D " + verify + " 2C\n! 31 32 no card", reader.TPDU},
		{"T=1, the reader left", cardT1 + "> 00 00 0D " + verify + " 2C\n! 31 32 33 34 gone", reader.TPDU},
		{"T=1, no power", cardT1 + "> 00 00 0D " + verify + " 2C\n! stale", reader.TPDU},
		{"T=1, a panic", cardT1 + "> 00 00 0D " + verify + " 2C\n! panic", reader.TPDU},
		{"T=1, characters, the reader left", cardT1 + "> 00 00 0D " + verify + " 2C +3\n< 00 00 08\n> +9\n! 31 32 33 34 gone", reader.Character},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, "", func(t *testing.T, s *script, l *Link) {
				s.Level, s.IFSD = tt.level, 32
				powerUp(t, l)
				capdu := unhex(t, verify)
				func() {
					defer func() { recover() }()
					l.Transmit(t.Context(), capdu, nil)
				}()
				for i, m := range s.memory {
					if bytes.Contains(m, []byte("12")) || bytes.Contains(m, []byte("34")) {
						t.Errorf("buffer %d: % X", i, m)
					}
				}
			})
		})
	}
}

// An answer that outgrows the receive buffer leaves nothing in the old or the new one.
func TestLongAnswerIsWiped(t *testing.T) {
	long := strings.Repeat("31 32 ", 400)
	play(t, cardT0+"> 00 B0 00 00 00 03 20\n< "+long+"90 00\n> 00 84 00 00 02\n< 31 32 90 00", "", func(t *testing.T, s *script, l *Link) {
		s.Level = reader.ExtendedAPDU
		powerUp(t, l)
		transmit(t, l, "00 B0 00 00 00 03 20", long+"90 00", nil)
		transmit(t, l, "00 84 00 00 02", "31 32 90 00", nil)
		for i, m := range append(s.memory, l.rx[:cap(l.rx)]) {
			if len(m) > 20 && bytes.Contains(m, []byte("12")) {
				t.Errorf("buffer %d, %d bytes", i, len(m))
			}
		}
	})
}

// A Link without a log, a trace or somebody to tell is quiet, and one with them keeps them.
func TestConfig(t *testing.T) {
	l := New(Config{})
	l.Extended()
	l.Log.Info("nobody reads this")
	l.Trace.Printf("nor this")
	if l.Limit != time.Hour || l.Trace.On() {
		t.Errorf("%+v", l.Config)
	}
	told := false
	log, trace := slog.New(slog.NewTextHandler(io.Discard, nil)), new(lines)
	l = New(Config{Limit: time.Second, Extended: func() { told = true }, Log: log, Trace: trace, T0Plain: true})
	if l.Extended(); !told || l.Limit != time.Second || l.Log != log || l.Trace != Trace(trace) || !l.T0Plain {
		t.Errorf("%+v", l.Config)
	}
}

// `t0=plain` turns GET RESPONSE and the corrected Le off.
func TestT0Plain(t *testing.T) {
	play(t, cardT0+"> 00 84 00 00 02\n< 6C 04", "", func(t *testing.T, s *script, l *Link) {
		l.T0Plain = true
		powerUp(t, l)
		transmit(t, l, "00 84 00 00 02", "6C 04", nil)
	})
}

// The card's clock, IFSC cap and IFSD are the reader's.
func TestTraits(t *testing.T) {
	play(t, cardT1+`> 00 C1 01 64 A4
		< 00 E1 01 64 84
		> 00 20 06 00 D6 00 00 06 01 F7
		< 00 90 00 90
		> 00 40 05 02 03 04 05 06 43
		< 00 00 02 90 00 92`, "", func(t *testing.T, s *script, l *Link) {
		s.IFSD, s.IFSC = 100, 6
		powerUp(t, l)
		transmit(t, l, "00 D6 00 00 06 01 02 03 04 05 06", "90 00", nil)
	})
	play(t, cardT1, "", func(t *testing.T, s *script, l *Link) {
		s.AutoIFSD = true // the reader has announced 254
		powerUp(t, l)
	})
}
