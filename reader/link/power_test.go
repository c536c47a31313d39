package link

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// What PowerUp does with cards and readers, as a trace. ATRs: TA1=13 is F=372 D=4, below
// which there are D=2 (12) and D=1 (11).
func TestPowerUp(t *testing.T) {
	const ifs = "\n> 00 C1 01 FE 3E\n< 00 E1 01 FE 1E\n"
	for _, tt := range []struct {
		name     string // the rule
		has      string // what the reader has
		level    reader.Level
		auto     bool // AutoPPS
		always   bool // AlwaysPPS
		rates    []byte
		speaks   []int
		want     string // protocol asked for, "": any
		warm     bool
		script   string
		params   string // in force at the end
		fallback string
		err      error
		off      bool // the card has no power at the end
	}{
		{
			name: "a card that offers nothing gets no PPS, and the reader is told the defaults", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 00\nset T=0 TA1=11", params: "T=0 TA1=11",
		},
		{
			name: "at a reader that need not be told nothing is left to do", level: reader.TPDU,
			script: "cold\n< 3B 00", params: "T=0 TA1=11",
		},
		{
			name: "a warm reset is one", level: reader.TPDU, warm: true,
			script: "warm\n< 3B 00", params: "T=0 TA1=11",
		},
		{
			name: "7816-3 §9: the rate of TA1 is asked for by PPS, then the reader is told", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 13 FC\nset T=0 TA1=13", params: "T=0 TA1=13",
		},
		{
			name: "character by character PPSS and PPS0 say how long the response is", level: reader.Character,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC +2\n< FF 10\n> +2\n< 13 FC", params: "T=0 TA1=13",
		},
		{
			name: "a response without PPS1 has one character less", level: reader.Character, has: "set",
			script: "cold\n< 3B 10 13\n> FF 10 13 FC +2\n< FF 00\n> +1\n< FF\nset T=0 TA1=11", params: "T=0 TA1=11",
		},
		{
			name: "one character alone is no response", level: reader.Character, has: "set",
			script: "cold\n< 3B 10 13\n> FF 10 13 FC +2\n< FF\ncold\n< 3B 10 13\nset T=0 TA1=11", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "§9.3: without PPS1 in the response 11 holds", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 00 FF\nset T=0 TA1=11", params: "T=0 TA1=11",
		},
		{
			name: "§9.3: another rate in the response is a failed PPS; the card is reset and asked for none", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 12 FD\ncold\n< 3B 10 13\nset T=0 TA1=11", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "so is a wrong PCK", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 13 FD\ncold\n< 3B 10 13", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "so is another protocol", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 11 13 FD\ncold\n< 3B 10 13", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "so is silence", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< --\ncold\n< 3B 10 13", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "a reader that left is no refused PPS", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n! gone", err: reader.ErrGone, off: true,
		},
		{
			name: "nor is a card that left", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n! no card", err: reader.ErrNoCard, off: true,
		},
		{
			name: "a protocol that is not the card's first takes a PPS even without a rate", has: "set", level: reader.TPDU, want: "1",
			script: "cold\n< 3B 80 80 01 01\n> FF 01 FE\n< FF 01 FE\nset T=1 TA1=11" + ifs, params: "T=1 TA1=11",
		},
		{
			name: "a reader may need a PPS that asks for what holds anyway", has: "set", level: reader.TPDU, always: true,
			script: "cold\n< 3B 80 01 81\n> FF 01 FE\n< FF 01 FE\nset T=1 TA1=11" + ifs, params: "T=1 TA1=11",
		},
		{
			name: "one that asks for a rate will do", has: "set", level: reader.TPDU, always: true,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 13 FC\nset T=0 TA1=13", params: "T=0 TA1=13",
		},
		{
			name: "a card that refuses one that it can do without is sent none", has: "set", level: reader.TPDU, always: true,
			script: "cold\n< 3B 00\n> FF 00 FF\n< --\ncold\n< 3B 00\nset T=0 TA1=11", params: "T=0 TA1=11",
		},
		{
			name: "§6.3.1: in specific mode there is no PPS, even if the reader needs one", level: reader.TPDU, always: true,
			script: "cold\n< 3B 90 13 10 00\n", params: "T=0 TA1=13",
		},
		{
			name: "a reader that does it needs none", level: reader.TPDU, auto: true, always: true,
			script: "cold\n< 3B 00", params: "T=0 TA1=11",
		},
		{
			name: "it cannot be had without one", level: reader.TPDU, want: "1",
			script: "cold\n< 3B 80 80 01 01\n> FF 01 FE\n< FF 00 FF", err: reader.ErrProtocol,
		},
		{
			name: "a refused rate is not yet a refused protocol", level: reader.TPDU, want: "1",
			script: "cold\n< 3B 90 13 80 01 02\n> FF 11 13 FD\n< --\ncold\n< 3B 90 13 80 01 02\n> FF 01 FE\n< FF 01 FE" + ifs, params: "T=1 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "rates that the reader does not have are not asked for, and that is no fallback", has: "rates set", level: reader.TPDU, rates: []byte{0x12},
			script: "cold\n< 3B 10 13\n> FF 10 12 FD\n< FF 10 12 FD\nset T=0 TA1=12", params: "T=0 TA1=12",
		},
		{
			name: "a rate that the reader refuses is followed by the next slower one, after a reset", has: "set", level: reader.TPDU,
			script: `cold
				< 3B 10 13
				> FF 10 13 FC
				< FF 10 13 FC
				set T=0 TA1=13
				! protocol
				cold
				< 3B 10 13
				> FF 10 12 FD
				< FF 10 12 FD
				set T=0 TA1=12
				! unsupported
				cold
				< 3B 10 13
				set T=0 TA1=11`,
			params: "T=0 TA1=11", fallback: "F=372 D=1 instead of F=372 D=4",
		},
		{
			name: "default parameters that the reader refuses hold anyway", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 00\nset T=0 TA1=11\n! unsupported\nstatus\n< powered", params: "T=0 TA1=11",
		},
		{
			name: "unless the refusal took the card's power", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 00\nset T=0 TA1=11\n! unsupported\nstatus", err: reader.ErrUnsupported,
		},
		{
			name: "or nobody knows", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 00\nset T=0 TA1=11\n! unsupported\nstatus\n! parity", err: reader.ErrUnsupported,
		},
		{
			name: "or the card was brought to another protocol", has: "set", level: reader.TPDU, want: "1",
			script: "cold\n< 3B 80 80 01 01\n> FF 01 FE\n< FF 01 FE\nset T=1 TA1=11\n! unsupported", err: reader.ErrUnsupported,
		},
		{
			name: "a reader that left does not refuse", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 00\nset T=0 TA1=11\n! gone", err: reader.ErrGone, off: true,
		},
		{
			name: "T=1: nothing comes at the rate, three attempts, then the next slower one; it is proven by S(IFS)", level: reader.TPDU,
			script: `cold
				< 3B 90 12 01 83
				> FF 11 12 FC
				< FF 11 12 FC
				> 00 C1 01 FE 3E
				< --
				> 00 C1 01 FE 3E
				< --
				> 00 C1 01 FE 3E
				< --
				cold
				< 3B 90 12 01 83` + ifs,
			params: "T=1 TA1=11", fallback: "F=372 D=1 instead of F=372 D=2",
		},
		{
			name: "T=1: nothing comes at 11 either: three cold resets, then it is mute", level: reader.TPDU,
			script: strings.Repeat("cold\n< 3B 80 01 81\n"+strings.Repeat("> 00 C1 01 FE 3E\n< --\n", 3), 3), err: reader.ErrTimeout,
		},
		{
			name: "BWI 9: 48 s are longer than an activation may take, and nothing came, which is a matter of the rate", level: reader.TPDU,
			script: `cold
				< 3B 90 12 81 21 90 33
				> FF 11 12 FC
				< FF 11 12 FC
				> 00 C1 01 FE 3E
				< --
				cold
				< 3B 90 12 81 21 90 33` + ifs,
			params: "T=1 TA1=11", fallback: "F=372 D=1 instead of F=372 D=2",
		},
		{
			name: "a card without an ATR gets three cold resets, the first may be a warm one", level: reader.TPDU, warm: true,
			script: "warm\n! mute\ncold\n! mute\ncold\n! mute", err: reader.ErrMute,
		},
		{
			name: "the third may help", level: reader.TPDU,
			script: "cold\n! mute\ncold\n! timeout\ncold\n< 3B 00", params: "T=0 TA1=11",
		},
		{
			name: "an ATR without TS is none", level: reader.TPDU,
			script: "cold\n< 3C 00\ncold\n< 3C 00\ncold\n< 3B 00", params: "T=0 TA1=11",
		},
		{
			name: "an absent card is not looked for again", level: reader.TPDU,
			script: "cold\n! no card", err: reader.ErrNoCard, off: true,
		},
		{
			name: "nor a reader that left", level: reader.TPDU,
			script: "cold\n! gone", err: reader.ErrGone, off: true,
		},
		{
			name: "other errors are not tried again", level: reader.TPDU,
			script: "cold\n! unsupported", err: reader.ErrUnsupported,
		},
		{
			name: "a card that lost its power once may have been reset by anybody", level: reader.TPDU,
			script: "cold\n< 3B 10 13\n> FF 10 13 FC\n! stale\ncold\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 13 FC", params: "T=0 TA1=13",
		},
		{
			name: "one that lost it twice does so at that rate", level: reader.TPDU,
			script: "cold\n< 3B 10 12\n> FF 10 12 FD\n! stale\ncold\n< 3B 10 12\n> FF 10 12 FD\n! stale\ncold\n< 3B 10 12", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=2",
		},
		{
			name: "one that loses it at 11 is mute", has: "set", level: reader.TPDU,
			script: strings.Repeat("cold\n< 3B 00\nset T=0 TA1=11\n! stale\n", 3), err: reader.ErrMute,
		},
		{
			name: "the first protocol that card and reader have in common is used", has: "list", level: reader.TPDU, speaks: []int{1},
			script: "cold\n< 3B 80 80 01 01\n> FF 01 FE\n< FF 01 FE" + ifs, params: "T=1 TA1=11",
		},
		{
			name: "a card that has none of the reader's is left alone", has: "list", level: reader.TPDU, speaks: []int{1},
			script: "cold\n< 3B 00", err: reader.ErrUnsupported,
		},
		{
			name: "T=14 is nobody's", level: reader.TPDU,
			script: "cold\n< 3B 80 0E 8E", err: reader.ErrUnsupported,
		},
		{
			name: "a protocol that the reader does not have", has: "list", level: reader.TPDU, speaks: []int{0}, want: "1",
			script: "cold\n< 3B 80 80 01 01", err: reader.ErrUnsupported,
		},
		{
			name: "a protocol that the card does not have", level: reader.TPDU, want: "1",
			script: "cold\n< 3B 00", err: reader.ErrUnsupported,
		},
		{
			name: "a reader that says nothing of its protocols has both", has: "list", level: reader.TPDU,
			script: "cold\n< 3B 80 01 81" + ifs, params: "T=1 TA1=11",
		},
		{
			name: "§6.3.1: in specific mode TA2 says what holds, and there is no PPS", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 90 13 11 81 13\nset T=1 TA1=13" + ifs, params: "T=1 TA1=13",
		},
		{
			name: "the rate that the reader does not have is left by the warm reset", has: "rates set", level: reader.TPDU, rates: []byte{0x12},
			script: "cold\n< 3B 90 13 11 01 93\nwarm\n< 3B 90 13 01 82\n> FF 11 12 FC\n< FF 11 12 FC\nset T=1 TA1=12" + ifs, params: "T=1 TA1=12",
		},
		{
			name: "the protocol that was not asked for, too", level: reader.TPDU, want: "0",
			script: "cold\n< 3B 90 13 11 01 93\nwarm\n< 3B 10 13\n> FF 10 13 FC\n< FF 10 13 FC", params: "T=0 TA1=13",
		},
		{
			name: "one warm reset must do", level: reader.TPDU, want: "0",
			script: "cold\n< 3B 90 13 11 01 93\nwarm\n< 3B 90 13 11 01 93", err: reader.ErrUnsupported,
		},
		{
			name: "a card that cannot change stays", level: reader.TPDU, want: "0",
			script: "cold\n< 3B 90 13 11 81 13", err: reader.ErrUnsupported,
		},
		{
			name: "a rate of specific mode that the reader refuses is left by the warm reset; the card is then asked as any other", has: "set", level: reader.TPDU,
			script: `cold
				< 3B 90 13 11 01 93
				set T=1 TA1=13
				! protocol
				warm
				< 3B 90 13 01 82
				> FF 11 13 FD
				< FF 11 13 FD
				set T=1 TA1=13` + ifs,
			params: "T=1 TA1=13",
		},
		{
			name: "one that cannot be left fails", has: "set", level: reader.TPDU,
			script: "cold\n< 3B 90 13 11 81 13\nset T=1 TA1=13\n! unsupported", err: reader.ErrUnsupported,
		},
		{
			name: "a reader that does the PPS uses the card's first protocol", auto: true, level: reader.TPDU, has: "set",
			script: "cold\n< 3B 90 13 01 82" + ifs, params: "T=1 TA1=13",
		},
		{
			name: "and no other", auto: true, level: reader.TPDU, want: "1",
			script: "cold\n< 3B 80 80 01 01", err: reader.ErrUnsupported,
		},
		{
			name: "unless it lets the host choose", auto: true, level: reader.TPDU, has: "select", want: "1",
			script: "cold\n< 3B 90 13 80 01 02\nselect T=1 TA1=13" + ifs, params: "T=1 TA1=13",
		},
		{
			name: "a rate at which its negotiation fails is followed by the next slower one", auto: true, level: reader.TPDU, has: "select",
			script: "cold\n< 3B 10 12\nselect T=0 TA1=12\n! timeout\ncold\n< 3B 10 12\nselect T=0 TA1=11", params: "T=0 TA1=11",
			fallback: "F=372 D=1 instead of F=372 D=2",
		},
		{
			name: "a protocol that it does not have is no matter of the rate", auto: true, level: reader.TPDU, has: "select", want: "1",
			script: "cold\n< 3B 90 13 80 01 02\nselect T=1 TA1=13\n! unsupported", err: reader.ErrUnsupported,
		},
		{
			name: "the card's first can only fail by the rate", auto: true, level: reader.TPDU, has: "select",
			script: "cold\n< 3B 10 12\nselect T=0 TA1=12\n! unsupported\ncold\n< 3B 10 12\nselect T=0 TA1=11\n! unsupported", err: reader.ErrUnsupported,
		},
		{
			name: "a reader that leaves in the middle", auto: true, level: reader.TPDU, has: "select",
			script: "cold\n< 3B 10 12\nselect T=0 TA1=12\n! gone", err: reader.ErrGone, off: true,
		},
		{
			name: "it may choose otherwise where nobody asked", auto: true, level: reader.TPDU, has: "select",
			script: "cold\n< 3B 90 13 80 01 02\nselect T=0 TA1=13\n< T=1 TA1=11" + ifs, params: "T=1 TA1=11",
		},
		{
			name: "but not where somebody did", auto: true, level: reader.TPDU, has: "select", want: "0",
			script: "cold\n< 3B 90 13 80 01 02\nselect T=0 TA1=13\n< T=1 TA1=11", err: reader.ErrUnsupported,
		},
		{
			name: "a reader that takes APDUs has T=1 done by itself", auto: true, level: reader.ShortAPDU,
			script: "cold\n< 3B 80 01 81", params: "T=1 TA1=11",
		},
		{
			name: "a synchronous card has no protocol", level: reader.Synchronous,
			script: "cold\n< A2 13 10 91", params: "none",
		},
		{
			name: "and cannot be asked for one", level: reader.Synchronous, want: "0",
			script: "cold\n< A2 13 10 91", err: reader.ErrUnsupported,
		},
		{
			name: "its answer has four bytes", level: reader.Synchronous,
			script: strings.Repeat("cold\n< A2 13 10 91 00\n", 3), err: reader.ErrProtocol,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.script, tt.has, func(t *testing.T, s *script, l *Link) {
				s.Level, s.AutoPPS, s.AlwaysPPS, s.chosen, s.speaks = tt.level, tt.auto, tt.always, tt.rates, tt.speaks
				how, want := reader.Cold, -1
				if tt.warm {
					how = reader.Warm
				}
				if tt.want != "" {
					want = int(tt.want[0] - '0')
				}
				err := l.PowerUp(t.Context(), how, want)
				if !errors.Is(err, tt.err) || err != nil && tt.err == nil {
					t.Fatalf("error %v, want %v", err, tt.err)
				}
				if l.Active() == tt.off {
					t.Errorf("the card has power: %v", l.Active())
				}
				if err != nil {
					t.Log(err)
					return
				}
				params := fmt.Sprintf("T=%d TA1=%02X", l.Params().T, l.Params().TA1)
				if l.Params().T == iso7816.NoProtocol {
					params = "none"
				}
				if params != tt.params || l.Fallback() != tt.fallback {
					t.Errorf("%s, fallback %q; want %s, %q", params, l.Fallback(), tt.params, tt.fallback)
				}
				if l.ATR() == nil || l.Dead() || l.Traits() != s.Traits {
					t.Errorf("ATR %v, dead %v, traits %+v", l.ATR(), l.Dead(), l.Traits())
				}
			})
		})
	}
}

// A card that is muted by its rates for good is activated 16 times at the most, and what
// was noted of it is dropped.
func TestPowerUpEnds(t *testing.T) {
	play(t, strings.Repeat("cold\n< 3B 00\nset T=0 TA1=11\n! stale\n", 3)+"cold\n< 3B 00\nset T=0 TA1=11", "set", func(t *testing.T, s *script, l *Link) {
		err := l.PowerUp(t.Context(), reader.Cold, -1)
		if !errors.Is(err, reader.ErrMute) || len(l.known) != 0 {
			t.Errorf("%v, %v", err, l.known)
		}
		powerUp(t, l)
	})
	var all strings.Builder // F=512 D=32 and everything below
	for _, ta1 := range []int{0x96, 0x99, 0x95, 0x98, 0x94, 0x93, 0x92} {
		fmt.Fprintf(&all, "cold\n< 3B 10 96\n> FF 10 %02X %02X\n< FF 10 %02X %02X\nset T=0 TA1=%02X\n! protocol\n", ta1, 0xEF^ta1, ta1, 0xEF^ta1, ta1)
	}
	play(t, all.String()+"cold\n< 3B 10 96\nset T=0 TA1=11\n", "set", func(t *testing.T, s *script, l *Link) {
		powerUp(t, l)
		if want := "F=372 D=1 instead of F=512 D=32"; l.Fallback() != want {
			t.Errorf("fallback %q", l.Fallback())
		}
	})
}

// The end of the caller's context ends a power-up at once. Its own limit gives a time-out.
func TestPowerUpIsEnded(t *testing.T) {
	play(t, "cold\n< 1m 3B 00\n", "", func(t *testing.T, s *script, l *Link) {
		began := time.Now()
		if err := l.PowerUp(t.Context(), reader.Cold, -1); !errors.Is(err, reader.ErrTimeout) || time.Since(began) != PowerLimit {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	play(t, "cold\n< 3B 90 12 01 83\n> FF 11 12 FC\n< FF 11 12 FC\n> 00 C1 01 FE 3E\n< 1m 00", "", func(t *testing.T, s *script, l *Link) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, reader.ErrAborted)
		defer cancel()
		began := time.Now()
		if err := l.PowerUp(ctx, reader.Cold, -1); !errors.Is(err, reader.ErrTimeout) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// The rates of a card that cannot be read after its warm reset are not kept.
func TestNothingIsKeptOfAMute(t *testing.T) {
	play(t, "cold\n< 3B 90 13 11 01 93\nset T=1 TA1=13\n! protocol\nwarm\n< 00\ncold\n< 00\ncold\n< 00", "set", func(t *testing.T, s *script, l *Link) {
		if err := l.PowerUp(t.Context(), reader.Cold, -1); !errors.Is(err, reader.ErrProtocol) || len(l.known) != 0 {
			t.Errorf("%v, %v", err, l.known)
		}
	})
}

// An error says what was asked for.
func TestErrorsSayWhat(t *testing.T) {
	for _, tt := range []struct{ script, has, says string }{
		{"cold\n< 3B 00\nselect T=0 TA1=11\n! unsupported", "select", "select T=0 TA1=11: the script's: "},
		{"cold\n< 3B 00\nset T=0 TA1=11\n! gone", "set", "set parameters T=0 TA1=11: "},
		{"cold\n! no card", "", "power up: "},
		{"cold\n< 3B 10 13\n> FF 10 13 FC\n! no card", "", "PPS for T=0 TA1=13: "},
		{"cold\n< 3B 80 01 81\n> 00 C1 01 FE 3E\n! no card", "", "parameters T=1 TA1=11: S(IFS request): "},
		{strings.Repeat("cold\n< 3C 01\n", 3), "", "ATR 3C 01: "},
		{"cold\n< 3B 80 0E 8E", "", "the card offers T=[14], of which this reader has none"},
	} {
		play(t, tt.script, tt.has, func(t *testing.T, s *script, l *Link) {
			s.AutoPPS = tt.has == "select"
			err := l.PowerUp(t.Context(), reader.Cold, -1)
			if err == nil || !strings.HasPrefix(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
	play(t, cardT1+"> 00 84 00 00 02\n< 90", "", func(t *testing.T, s *script, l *Link) {
		s.Level = reader.ShortAPDU
		powerUp(t, l)
		_, err := l.Transmit(t.Context(), unhex(t, "00 84 00 00 02"), []byte("before"))
		if err == nil || !strings.HasPrefix(err.Error(), "R-APDU of 1 bytes, ") {
			t.Error(err)
		}
	})
}
