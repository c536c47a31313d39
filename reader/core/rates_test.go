package core

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/link"
)

// "Rates are found, not insisted on. Where an agreed rate cannot be set, or nothing
// gets through after it, whoever negotiated (core or reader), the card is reset and
// the next slower rate tried, down to 372/1; a card in changeable specific mode gets
// its warm reset. … What worked is remembered for that card in that slot; `status`
// says `fallback`."
func TestRateFallback(t *testing.T) {
	const fast1, fast0 = "3B 90 96 01 07", "3B 10 96" // F 512, D 32
	all := []byte{0x96, 0x95, 0x98, 0x99, 0x94, 0x93, 0x92, 0x11}
	for _, tt := range []struct {
		name, atr string
		card      func(*rateCard)
		auto      bool
		resets    string
		asked     string // of the first power-up
		again     string // of the second
		params    string
		fallback  string
		err       error
	}{
		{name: "nothing is wrong", atr: fast1,
			resets: "cold", asked: "PPS FF 11 96 78, set T=1 96", again: "PPS FF 11 96 78, set T=1 96", params: "T=1 F=512 D=32"},
		{name: "T=1: nothing gets through at the fastest", atr: fast1, card: func(c *rateCard) { c.deaf = []byte{0x96} },
			resets: "cold cold", asked: "PPS FF 11 96 78, set T=1 96, PPS FF 11 99 77, set T=1 99", again: "PPS FF 11 99 77, set T=1 99",
			params: "T=1 F=512 D=20", fallback: "F=512 D=20 instead of F=512 D=32"},
		{name: "T=1: nothing gets through but at 372/1", atr: fast1, card: func(c *rateCard) { c.deaf = all[:7] },
			resets: "cold cold cold cold cold cold cold cold",
			asked:  "PPS FF 11 96 78, set T=1 96, PPS FF 11 99 77, set T=1 99, PPS FF 11 95 7B, set T=1 95, PPS FF 11 98 76, set T=1 98, PPS FF 11 94 7A, set T=1 94, PPS FF 11 93 7D, set T=1 93, PPS FF 11 92 7C, set T=1 92, set T=1 11",
			again:  "set T=1 11", params: "T=1 F=372 D=1", fallback: "F=372 D=1 instead of F=512 D=32"},
		{name: "T=1: the reader refuses what was agreed on", atr: fast1, card: func(c *rateCard) { c.deny = []byte{0x96, 0x99} },
			resets: "cold cold cold", asked: "PPS FF 11 96 78, set T=1 96, PPS FF 11 99 77, set T=1 99, PPS FF 11 95 7B, set T=1 95", again: "PPS FF 11 95 7B, set T=1 95",
			params: "T=1 F=512 D=16", fallback: "F=512 D=16 instead of F=512 D=32"},
		{name: "T=0: the reader refuses what was agreed on", atr: fast0, card: func(c *rateCard) { c.deny = []byte{0x96} },
			resets: "cold cold", asked: "PPS FF 10 96 79, set T=0 96, PPS FF 10 99 76, set T=0 99", again: "PPS FF 10 99 76, set T=0 99",
			params: "T=0 F=512 D=20", fallback: "F=512 D=20 instead of F=512 D=32"},
		{name: "the reader knows what it cannot do: no fallback", atr: fast1, card: func(c *rateCard) { c.cannot = []byte{0x96} },
			resets: "cold", asked: "PPS FF 11 99 77, set T=1 99", again: "PPS FF 11 99 77, set T=1 99", params: "T=1 F=512 D=20"},
		{name: "cannot do one, and nothing gets through at the next", atr: fast1,
			card:   func(c *rateCard) { c.cannot, c.deaf = []byte{0x96}, []byte{0x99} },
			resets: "cold cold", asked: "PPS FF 11 99 77, set T=1 99, PPS FF 11 95 7B, set T=1 95", again: "PPS FF 11 95 7B, set T=1 95",
			params: "T=1 F=512 D=16", fallback: "F=512 D=16 instead of F=512 D=20"},
		{name: "the card does not answer the PPS", atr: fast1, card: func(c *rateCard) { c.noPPS = true },
			resets: "cold cold", asked: "PPS FF 11 96 78, set T=1 11", again: "set T=1 11",
			params: "T=1 F=372 D=1", fallback: "F=372 D=1 instead of F=512 D=32"},
		{name: "nothing gets through at all: it is not the rate", atr: fast1, card: func(c *rateCard) { c.deaf = all },
			resets: "cold cold cold cold cold cold cold cold cold cold", err: reader.ErrTimeout,
			asked: "PPS FF 11 96 78, set T=1 96, PPS FF 11 99 77, set T=1 99, PPS FF 11 95 7B, set T=1 95, PPS FF 11 98 76, set T=1 98, PPS FF 11 94 7A, set T=1 94, PPS FF 11 93 7D, set T=1 93, PPS FF 11 92 7C, set T=1 92, set T=1 11, set T=1 11, set T=1 11"},

		{name: "automatic PPS: the reader refuses the card's rate", atr: fast1, auto: true, card: func(c *rateCard) { c.deny = []byte{0x96} },
			resets: "cold cold", asked: "select T=1 96, select T=1 99", again: "select T=1 99",
			params: "T=1 F=512 D=20", fallback: "F=512 D=20 instead of F=512 D=32"},
		{name: "automatic PPS: nothing gets through", atr: fast1, auto: true, card: func(c *rateCard) { c.deaf = []byte{0x96, 0x99} },
			resets: "cold cold cold", asked: "select T=1 96, select T=1 99, select T=1 95", again: "select T=1 95",
			params: "T=1 F=512 D=16", fallback: "F=512 D=16 instead of F=512 D=32"},
		{name: "automatic PPS: T=0, refused", atr: fast0, auto: true, card: func(c *rateCard) { c.deny = all[:7] },
			resets: "cold cold cold cold cold cold cold cold", again: "select T=0 11",
			asked:  "select T=0 96, select T=0 99, select T=0 95, select T=0 98, select T=0 94, select T=0 93, select T=0 92, select T=0 11",
			params: "T=0 F=372 D=1", fallback: "F=372 D=1 instead of F=512 D=32"},

		{name: "changeable specific mode, the reader refuses its rate", atr: "3B 90 96 11 01 16",
			card:   func(c *rateCard) { c.deny, c.warm = []byte{0x96}, hexb("3B 90 94 01 05") },
			resets: "cold warm", asked: "set T=1 96, PPS FF 11 94 7A, set T=1 94", again: "PPS FF 11 94 7A, set T=1 94",
			params: "T=1 F=512 D=8", fallback: "F=512 D=8 instead of F=512 D=32"},
		{name: "changeable specific mode, the reader knows that it cannot do it", atr: "3B 90 96 11 01 16",
			card:   func(c *rateCard) { c.cannot, c.warm = []byte{0x96}, hexb("3B 90 94 01 05") },
			resets: "cold warm", asked: "PPS FF 11 94 7A, set T=1 94", again: "PPS FF 11 94 7A, set T=1 94", params: "T=1 F=512 D=8"},
		{name: "changeable specific mode, nothing gets through", atr: "3B 90 96 11 01 16",
			card:   func(c *rateCard) { c.deaf, c.warm = []byte{0x96}, hexb("3B 90 94 01 05") },
			resets: "cold warm", asked: "set T=1 96, PPS FF 11 94 7A, set T=1 94", again: "PPS FF 11 94 7A, set T=1 94",
			params: "T=1 F=512 D=8", fallback: "F=512 D=8 instead of F=512 D=32"},
		{name: "changeable specific mode, automatic PPS", atr: "3B 90 96 11 01 16", auto: true,
			card:   func(c *rateCard) { c.deny, c.warm = []byte{0x96}, hexb("3B 90 94 01 05") },
			resets: "cold warm", asked: "select T=1 96, select T=1 94", again: "select T=1 94",
			params: "T=1 F=512 D=8", fallback: "F=512 D=8 instead of F=512 D=32"},
		{name: "specific mode that a warm reset does not change", atr: "3B 90 96 11 01 16", card: func(c *rateCard) { c.deny = []byte{0x96} },
			resets: "cold warm cold cold", asked: "set T=1 96, set T=1 96, set T=1 96, set T=1 96", err: reader.ErrProtocol},
		{name: "specific mode, not changeable", atr: "3B 90 96 11 81 96", card: func(c *rateCard) { c.deny = []byte{0x96} },
			resets: "cold cold cold", asked: "set T=1 96, set T=1 96, set T=1 96", err: reader.ErrProtocol},
		{name: "specific mode that is fine", atr: "3B 90 96 11 01 16",
			resets: "cold", asked: "set T=1 96", again: "set T=1 96", params: "T=1 F=512 D=32"},

		// "A refused SetParameters with the card still active is no reason to give the
		// card up: parameters default, pseudo-APDUs pass."
		{name: "a memory card's parameters", atr: "3B 04 17 04 FF FF", card: func(c *rateCard) { c.deny = []byte{0x11} },
			resets: "cold", asked: "set T=0 11", again: "set T=0 11", params: "T=0 F=372 D=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				c := newRateCard(t, tt.atr)
				if tt.card != nil {
					tt.card(c)
				}
				var s reader.Slot = c
				if tt.auto {
					c.traits.AutoPPS = true
					s = autoCard{c}
				}
				b := r.plugSlot(s, c.fakeSlot)
				session, err := b.Open(context.Background(), someone())
				resets, asked := strings.Join(c.resets, " "), strings.Join(c.asked, ", ")
				if tt.err != nil {
					wantErr(t, "open", err, tt.err)
					if resets != tt.resets || asked != tt.asked {
						t.Errorf("resets %s, asked %s", resets, asked)
					}
					// Nothing is known of its rates: it begins with the fastest.
					c.deaf, c.deny, c.asked = nil, nil, nil
					mustOpen(t, b, someone())
					if len(c.asked) == 0 || c.asked[0] != strings.Split(tt.asked, ", ")[0] {
						t.Errorf("asked %q afterwards", c.asked)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				check := func(want string) {
					t.Helper()
					if asked := strings.Join(c.asked, ", "); asked != want {
						t.Errorf("asked %s\nwant  %s", asked, want)
					}
					i := b.Info()
					if !strings.HasPrefix(i.Params.String(), tt.params+" ") {
						t.Errorf("in force: %s", i.Params)
					}
					if i.Fallback != tt.fallback {
						t.Errorf("fallback %q, want %q", i.Fallback, tt.fallback)
					}
				}
				if resets != tt.resets {
					t.Errorf("resets: %s", resets)
				}
				check(tt.asked)
				wantAnswer(t, session, "FF A4 00 00 01 06", "90 00")
				if len(c.commands) != 1 {
					t.Errorf("commands % X", c.commands)
				}
				c.asked = nil
				if err := b.Power(context.Background(), ResetCold, someone()); err != nil {
					t.Fatal(err)
				}
				check(tt.again)
				wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
			})
		})
	}
}

// "What worked is remembered for that card", even after a power-up in which no rate worked,
// for instance because the card was not fully inserted.
func TestRateRemembered(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 90 96 01 07")
		c.deaf = []byte{0x96}
		b := r.plugSlot(c, c.fakeSlot)
		mustOpen(t, b, someone())
		c.deaf = []byte{0x96, 0x99, 0x95, 0x98, 0x94, 0x93, 0x92, 0x11}
		wantErr(t, "reset", b.Power(context.Background(), ResetCold, someone()), reader.ErrTimeout)
		c.deaf, c.asked = []byte{0x96}, nil
		mustOpen(t, b, someone())
		if got := strings.Join(c.asked, ", "); got != "PPS FF 11 99 77, set T=1 99" {
			t.Errorf("asked %s", got)
		}
	})
}

// By its BWI a card may take so long to answer that one activation has no time for three
// attempts of S(IFS request). The wrong rate is detected nevertheless.
func TestRateFallbackOfASlowCard(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 90 96 81 21 95 A3") // BWI 9: 51 s
		c.deaf = []byte{0x96}
		c.exchange = func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
			rx, err := c.answer(ctx, x, dst)
			if err == nil {
				return rx, nil
			}
			select {
			case <-time.After(x.Wait):
				return rx, err
			case <-ctx.Done():
				return rx, ctx.Err()
			}
		}
		b := r.plugSlot(c, c.fakeSlot)
		start := time.Now()
		wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
		if took := time.Since(start); took != link.PowerLimit || b.Info().Params.TA1 != 0x99 {
			t.Errorf("%v, %s", took, b.Info().Params)
		}
		// If there is no slower rate, the card is at fault.
		c.deaf = []byte{0x99, 0x95, 0x98, 0x94, 0x93, 0x92, 0x11}
		wantErr(t, "reset", b.Power(context.Background(), ResetCold, someone()), reader.ErrTimeout)
		if took := time.Since(start); took > 8*link.PowerLimit {
			t.Errorf("%v", took)
		}
	})
}

// "Over T=0, once a byte of a command was sent, that command is never repeated: it
// fails, the card is reset, and the next slower rate holds from then on." As over
// T=1 where the reader announces IFSD, so that the core has no exchange of its own.
func TestFallbackAfterACommand(t *testing.T) {
	for _, tt := range []struct {
		name, atr string
		auto      bool
		slower    []string
	}{
		{"T=0", "3B 10 94", false, []string{"PPS FF 10 94 7B, set T=0 94", "PPS FF 10 93 7C, set T=0 93", "PPS FF 10 92 7D, set T=0 92", "set T=0 11"}},
		{"T=0, automatic PPS", "3B 10 94", true, []string{"select T=0 94", "select T=0 93", "select T=0 92", "select T=0 11"}},
		{"T=1", "3B 90 94 01 05", false, []string{"PPS FF 11 94 7A, set T=1 94", "PPS FF 11 93 7D, set T=1 93", "PPS FF 11 92 7C, set T=1 92", "set T=1 11"}},
		{"T=0, changeable specific mode", "3B 90 94 10 00", false, []string{"set T=0 94", "PPS FF 10 93 7C, set T=0 93", "PPS FF 10 92 7D, set T=0 92", "set T=0 11"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				bg := context.Background()
				c := newRateCard(t, tt.atr)
				c.deaf = []byte{0x94, 0x93, 0x92}
				c.traits.AutoIFSD = true
				c.warm = nil
				if strings.Contains(tt.name, "specific") {
					c.warm = hexb("3B 10 93")
				}
				var slot reader.Slot = c
				if tt.auto {
					c.traits.AutoPPS = true
					slot = autoCard{c}
				}
				b := r.plugSlot(slot, c.fakeSlot)
				for i, want := range tt.slower {
					c.asked = nil
					s := mustOpen(t, b, someone())
					if asked := strings.Join(c.asked, ", "); asked != want {
						t.Errorf("asked %s, want %s", asked, want)
					}
					if i == len(tt.slower)-1 {
						wantAnswer(t, s, "00 A4 00 00", "90 00")
						break
					}
					sent := len(c.sent)
					_, err := s.Transmit(bg, hexb("00 A4 00 00"), nil)
					wantErr(t, "the first command", err, reader.ErrTimeout)
					commands := 0
					for _, p := range c.sent[sent:] {
						if bytes.Contains(p, hexb("00 A4 00 00")) {
							commands++
						}
					}
					if commands != 1 {
						t.Errorf("the command was sent %d times: % X", commands, c.sent[sent:])
					}
					_, err = s.Transmit(bg, hexb("00 A4 00 00"), nil)
					wantErr(t, "the next", err, reader.ErrStale)
				}
				// A rate that worked is no longer doubted: a command that fails later has
				// another reason.
				if f := b.Info().Fallback; f != "F=372 D=1 instead of F=512 D=8" {
					t.Errorf("fallback %q", f)
				}
				c.deaf = nil
				c.asked = nil
				if err := b.Power(bg, ResetCold, someone()); err != nil {
					t.Fatal(err)
				}
				if asked := strings.Join(c.asked, ", "); asked != tt.slower[len(tt.slower)-1] {
					t.Errorf("asked %s", asked)
				}
			})
		})
	}
	// A rate at which anything was received is kept.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 10 94")
		b := r.plugSlot(c, c.fakeSlot)
		s := mustOpen(t, b, someone())
		wantAnswer(t, s, "00 A4 00 00", "90 00")
		c.damage = 1
		_, err := s.Transmit(context.Background(), hexb("00 A4 00 00"), nil)
		wantErr(t, "a command", err, reader.ErrTimeout)
		c.asked = nil
		mustOpen(t, b, someone())
		if fmt.Sprint(c.asked) != "[PPS FF 10 94 7B set T=0 94]" || b.Info().Fallback != "" {
			t.Errorf("asked %q, fallback %q", c.asked, b.Info().Fallback)
		}
	})
	// Nor is the rate to blame if nothing comes at 372/1 either.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 10 92")
		c.deaf = []byte{0x92, 0x11}
		b := r.plugSlot(c, c.fakeSlot)
		for range 2 {
			_, err := mustOpen(t, b, someone()).Transmit(context.Background(), hexb("00 A4 00 00"), nil)
			wantErr(t, "a command", err, reader.ErrTimeout)
		}
		c.asked = nil
		mustOpen(t, b, someone())
		if len(c.asked) != 2 || c.asked[0] != "PPS FF 10 92 7D" {
			t.Errorf("asked %q", c.asked)
		}
	})
}

// Without an alternative there is no further reset: if the reader does the PPS and takes no
// rate from the core, and if the card lost its power because parameters were refused.
func TestNoOtherRate(t *testing.T) {
	for name, prepare := range map[string]func(*rateCard){
		"automatic PPS": func(c *rateCard) { c.traits.AutoPPS, c.deaf = true, []byte{0x11} },
		"the power lost": func(c *rateCard) {
			c.atr, c.deny = hexb("3B 00"), []byte{0x11}
			c.state = func(context.Context) (reader.Status, error) { return reader.Present, nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				c := newRateCard(t, "3B 90 96 01 07")
				prepare(c)
				b := r.plugSlot(c, c.fakeSlot)
				if _, err := b.Open(context.Background(), someone()); err == nil {
					t.Error("no error")
				}
				if len(c.resets) != attempts {
					t.Errorf("resets %q", c.resets)
				}
			})
		})
	}
}

// A reader may take the power from a card at a rate that does not work. The first time this
// may be somebody's reset of the port, and the rate is kept.
func TestPowerLostOverARate(t *testing.T) {
	for _, auto := range []bool{false, true} {
		for _, where := range []string{"set", "exchange"} {
			for times, want := range map[int]string{1: "F=512 D=32", 2: "F=512 D=20"} {
				t.Run(fmt.Sprintf("%v/%s/%d", auto, where, times), func(t *testing.T) {
					bubble(t, Options{}, func(t *testing.T, r *rig) {
						c := &losingCard{rateCard: newRateCard(t, "3B 90 96 01 07"), at: 0x96, times: times}
						c.exchange = func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
							if where == "exchange" && byte(c.ta1) == c.at && c.times > 0 && x.Out[1] == 0xC1 {
								c.times--
								return dst, reader.ErrStale
							}
							return c.answer(ctx, x, dst)
						}
						c.inSet = where == "set"
						var s reader.Slot = c
						if auto {
							c.traits.AutoPPS = true
							s = losingAuto{c}
						}
						b := r.plugSlot(s, c.fakeSlot)
						wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
						i := b.Info()
						if !strings.HasPrefix(i.Params.String(), "T=1 "+want+" ") || (i.Fallback != "") != (times > 1) {
							t.Errorf("in force %s, fallback %q, asked %q", i.Params, i.Fallback, c.asked)
						}
					})
				})
			}
		}
	}
}

// losingCard loses its power at the rate at, a given number of times.
type losingCard struct {
	*rateCard
	at    byte
	times int
	inSet bool
}

func (c *losingCard) SetParams(ctx context.Context, p iso7816.Params) error {
	if c.inSet && p.TA1 == c.at && c.times > 0 {
		c.times--
		return reader.ErrStale
	}
	return c.rateCard.SetParams(ctx, p)
}

// losingAuto is a losingCard whose reader does the PPS itself.
type losingAuto struct{ *losingCard }

func (c losingAuto) SetParams() {} // hides rateCard's

func (c losingAuto) SelectProtocol(ctx context.Context, p iso7816.Params) (iso7816.Params, error) {
	if c.inSet && p.TA1 == c.at && c.times > 0 {
		c.times--
		return p, reader.ErrStale
	}
	return autoCard{c.rateCard}.SelectProtocol(ctx, p)
}
