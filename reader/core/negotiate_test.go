package core

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/link"
)

// rateCard is a slot with a card that speaks whatever its ATR says, at the rates
// that the test lets through. It knows T=0 at TPDU level and T=1 in blocks.
type rateCard struct {
	*fakeSlot
	t0, ta1  int // protocol and TA1 in force at the card; -1: no PPS was made
	p        iso7816.Params
	deaf     []byte // rates at which nothing comes through
	deny     []byte // rates that SetParams or SelectProtocol refuses
	cannot   []byte // rates that Supports denies
	noPPS    bool   // the card does not answer a PPS
	warm     []byte // ATR after a warm reset; nil: the same
	has      []int  // the reader's protocols; nil: all
	damage   int    // so many exchanges from now come to nothing, whatever the rate
	resets   []string
	asked    []string // what the card was asked for by PPS, the reader by SetParams
	commands [][]byte
}

func newRateCard(t testing.TB, atr string) *rateCard {
	c := &rateCard{fakeSlot: newFakeSlot(t)}
	c.atr, c.traits = hexb(atr), reader.Traits{Level: reader.TPDU}
	c.power = func(_ context.Context, how reader.Reset) ([]byte, error) {
		c.t0, c.ta1 = -1, iso7816.DefaultTA1
		c.resets = append(c.resets, how.String())
		c.p = iso7816.DefaultParams(0)
		atr := c.atr
		if how == reader.Warm && c.warm != nil {
			atr = c.warm
		}
		if a, err := iso7816.ParseATR(atr); err == nil {
			c.p, _ = a.Params(a.Default())
			c.t0, c.ta1 = c.p.T, int(c.p.TA1)
		}
		return atr, nil
	}
	c.exchange = c.answer
	return c
}

func (c *rateCard) SetParams(_ context.Context, p iso7816.Params) error {
	c.asked = append(c.asked, fmt.Sprintf("set T=%d %02X", p.T, p.TA1))
	if slices.Contains(c.deny, p.TA1) {
		return fmt.Errorf("refused: %w", reader.ErrProtocol)
	}
	c.p = p
	return nil
}

func (c *rateCard) Supports(ta1 byte) bool { return !slices.Contains(c.cannot, ta1) }
func (c *rateCard) Protocols() []int       { return c.has }

func (c *rateCard) answer(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	out := x.Out
	if len(out) >= 3 && out[0] == 0xFF && iso7816.PPSLength(out) == len(out) && iso7816.LRC(out) == 0 {
		c.asked = append(c.asked, fmt.Sprintf("PPS % X", out))
		if c.noPPS {
			return dst, reader.ErrTimeout
		}
		if c.t0, c.ta1 = int(out[1]&0x0F), iso7816.DefaultTA1; out[1]&0x10 != 0 {
			c.ta1 = int(out[2])
		}
		return append(dst, out...), nil
	}
	if slices.Contains(c.deaf, byte(c.ta1)) || byte(c.ta1) != c.p.TA1 || c.t0 != c.p.T {
		return dst, reader.ErrTimeout
	}
	if c.damage > 0 {
		c.damage--
		return dst, reader.ErrTimeout
	}
	if c.t0 == 0 {
		if len(out) < 5 {
			return dst, fmt.Errorf("no TPDU: %w", reader.ErrProtocol)
		}
		c.commands = append(c.commands, bytes.Clone(out))
		return append(dst, 0x90, 0x00), nil
	}
	edc := 1
	if c.p.CRC {
		edc = 2
	}
	if len(out) != 3+int(out[2])+edc || out[0] != 0 {
		return dst, fmt.Errorf("no block: %w", reader.ErrProtocol)
	}
	switch pcb := out[1]; {
	case pcb == 0xC1:
		return c.block(dst, 0xE1, out[3]), nil
	case pcb&0x80 == 0:
		c.commands = append(c.commands, bytes.Clone(out[3:len(out)-edc]))
		return c.block(dst, pcb, 0x90, 0x00), nil
	}
	return dst, reader.ErrTimeout
}

// block appends a block with its EDC.
func (c *rateCard) block(dst []byte, pcb byte, inf ...byte) []byte {
	b := append([]byte{0, pcb, byte(len(inf))}, inf...)
	if !c.p.CRC {
		return append(append(dst, b...), iso7816.LRC(b))
	}
	crc := iso7816.CRC(b)
	return append(append(dst, b...), byte(crc>>8), byte(crc))
}

// autoCard is a rateCard whose reader makes the PPS.
type autoCard struct{ *rateCard }

func (c autoCard) SetParams() {} // hides the other

func (c autoCard) SelectProtocol(_ context.Context, p iso7816.Params) (iso7816.Params, error) {
	c.asked = append(c.asked, fmt.Sprintf("select T=%d %02X", p.T, p.TA1))
	if slices.Contains(c.deny, p.TA1) {
		return p, fmt.Errorf("refused: %w", reader.ErrProtocol)
	}
	c.p, c.t0, c.ta1 = p, p.T, int(p.TA1)
	return p, nil
}

func (r *rig) plugSlot(s reader.Slot, f *fakeSlot) *Slot {
	r.t.Helper()
	fake := newFakeReader(f)
	fake.slots[0] = s
	return r.plugReader(reader.Device{}, fake)
}

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
					// Nothing is known of its rates: it begins from above.
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
					if i.Fallback != tt.fallback || tt.fallback != "" && !strings.Contains(string(i.Lines()), "\nfallback "+tt.fallback+"\n") {
						t.Errorf("fallback %q, want %q\n%s", i.Fallback, tt.fallback, i.Lines())
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

// "What worked is remembered for that card": also after a power-up at which nothing
// came at any rate, as from a card that is not quite in.
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

// A card may take so long to answer, by its BWI, that one activation has not the time
// for three attempts of S(IFS request). That the rate is wrong is found out then, too.
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
		// Where there is no slower rate it is the card.
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
				// What worked is not doubted any more: a command that fails later has
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
	// A rate at which something came is not given up.
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
	// Nor is the rate to blame where nothing comes at 372/1 either.
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

// "A protocol is used only where card and reader both have it (the reader's
// dwProtocols; T=14 and others by no one): else EOPNOTSUPP, the card untouched."
func TestProtocolsInCommon(t *testing.T) {
	both := "3B 80 80 01 01"
	for _, tt := range []struct {
		name, atr string
		has       []int
		auto      bool
		want      int // asked for after the open; -1: nothing
		openErr   error
		err       error
		asked     string // in all
		inForce   int
	}{
		{name: "the card's first", atr: both, want: -1, asked: "set T=0 11", inForce: 0},
		{name: "T=1 asked for", atr: both, want: 1, asked: "set T=0 11, PPS FF 01 FE, set T=1 11", inForce: 1},
		{name: "T=0 asked for of a card whose first is T=1", atr: "3B 80 81 00 01", want: 0, asked: "set T=1 11, PPS FF 00 FF, set T=0 11", inForce: 0},
		{name: "T=1 asked for, the reader has T=0 only", atr: both, has: []int{0}, want: 1, err: reader.ErrUnsupported, asked: "set T=0 11", inForce: 0},
		{name: "T=0 asked for, the reader has T=1 only", atr: both, has: []int{1}, want: 0, err: reader.ErrUnsupported, asked: "PPS FF 01 FE, set T=1 11", inForce: 1},
		{name: "T=1 asked for, the card has T=0 only", atr: "3B 00", want: 1, err: reader.ErrUnsupported, asked: "set T=0 11", inForce: 0},
		{name: "the reader has T=1 only", atr: both, has: []int{1}, want: -1, asked: "PPS FF 01 FE, set T=1 11", inForce: 1},
		{name: "the reader has no protocol of the card", atr: "3B 80 01 81", has: []int{0}, want: -1, openErr: reader.ErrUnsupported},
		{name: "T=14 first, T=1 second", atr: "3B 80 8E 01 0F", want: -1, asked: "PPS FF 01 FE, set T=1 11", inForce: 1},
		{name: "T=14 first, T=1 second, which the reader has not", atr: "3B 80 8E 01 0F", has: []int{0}, want: -1, openErr: reader.ErrUnsupported},
		{name: "T=14 alone", atr: "3B 80 0E 8E", want: -1, openErr: reader.ErrUnsupported},
		{name: "T=14 alone, automatic", atr: "3B 80 0E 8E", auto: true, want: -1, openErr: reader.ErrUnsupported},
		{name: "T=14 asked for", atr: "3B 80 8E 01 0F", want: 14, err: reader.ErrUnsupported, asked: "PPS FF 01 FE, set T=1 11", inForce: 1},
		{name: "automatic, T=1 asked for", atr: both, auto: true, want: 1, asked: "select T=0 11, select T=1 11", inForce: 1},
		{name: "automatic, the reader has T=0 only", atr: both, auto: true, has: []int{0}, want: 1, err: reader.ErrUnsupported, asked: "select T=0 11", inForce: 0},
		{name: "specific mode", atr: "3B 80 90 90 01 81", want: 1, err: reader.ErrUnsupported, asked: "set T=0 11", inForce: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				bg := context.Background()
				c := newRateCard(t, tt.atr)
				c.has = tt.has
				var slot reader.Slot = c
				if tt.auto {
					c.traits.AutoPPS = true
					slot = autoCard{c}
				}
				b := r.plugSlot(slot, c.fakeSlot)
				s, err := b.Open(bg, someone())
				if tt.openErr != nil {
					wantErr(t, "open", err, tt.openErr)
					if len(c.sent) != 0 || len(c.asked) != 0 || len(c.resets) != 1 {
						t.Errorf("sent % X, asked %q, resets %q", c.sent, c.asked, c.resets)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				before := len(c.resets)
				if tt.want >= 0 {
					wantErr(t, "select", b.SelectProtocol(bg, tt.want, someone()), tt.err)
				}
				if tt.err != nil {
					// The card untouched.
					if len(c.resets) != before {
						t.Errorf("resets %q", c.resets)
					}
					wantAnswer(t, s, "00 A4 00 00", "90 00")
				}
				if asked := strings.Join(c.asked, ", "); asked != tt.asked {
					t.Errorf("asked %s, want %s", asked, tt.asked)
				}
				if i := b.Info(); i.Params.T != tt.inForce {
					t.Errorf("T=%d in force", i.Params.T)
				}
				wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
			})
		})
	}
	// Before any power-up the reader's protocols are known, too.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, both)
		c.has = []int{0}
		b := r.plugSlot(c, c.fakeSlot)
		if err := b.WaitReady(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "select", b.SelectProtocol(context.Background(), 1, someone()), reader.ErrUnsupported)
		if len(c.resets) != 0 {
			t.Errorf("resets %q", c.resets)
		}
	})
	// A card in changeable specific mode gets the warm reset for the other protocol.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 80 90 10 01 01")
		c.warm = hexb("3B 80 80 01 01")
		b := r.plugSlot(c, c.fakeSlot)
		mustOpen(t, b, someone())
		if err := b.SelectProtocol(context.Background(), 1, someone()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.resets, " "); got != "cold warm" || b.Info().Params.T != 1 {
			t.Errorf("resets %s, %s", got, b.Info().Params)
		}
	})
}

// ownWay is an autoCard whose reader takes T=1 whatever it is asked for.
type ownWay struct{ autoCard }

func (c ownWay) SelectProtocol(ctx context.Context, p iso7816.Params) (iso7816.Params, error) {
	c.autoCard.SelectProtocol(ctx, p)
	atr, _ := iso7816.ParseATR(c.atr)
	c.p, _ = atr.Params(1)
	c.t0, c.ta1 = 1, int(c.p.TA1)
	return c.p, nil
}

// "write T=0/T=1 negotiates": a reader that chose the other protocol by itself makes it
// EOPNOTSUPP, "the card untouched", and `protocol` says what is in force.
func TestReaderThatChoosesByItself(t *testing.T) {
	bg := context.Background()
	plug := func(t *testing.T, r *rig) (*rateCard, *Slot) {
		c := newRateCard(t, "3B 80 80 01 01")
		c.traits.AutoPPS = true
		return c, r.plugSlot(ownWay{autoCard{c}}, c.fakeSlot)
	}
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c, b := plug(t, r)
		s := mustOpen(t, b, someone())
		if i := b.Info(); i.Params.T != 1 {
			t.Fatalf("T=%d in force", i.Params.T)
		}
		wantErr(t, "T=0", b.SelectProtocol(bg, 0, someone()), reader.ErrUnsupported)
		if err := b.SelectProtocol(bg, 1, someone()); err != nil {
			t.Errorf("what is in force: %v", err)
		}
		if len(c.resets) != 1 || b.Info().Params.T != 1 {
			t.Errorf("resets %q, %v", c.resets, b.Info().Params)
		}
		wantAnswer(t, s, "00 A4 00 00", "90 00")
	})
	// Before the card had power nobody knows: the reader is asked, and the card has no
	// power after that, as before.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c, b := plug(t, r)
		if err := b.WaitReady(bg, true); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "T=0", b.SelectProtocol(bg, 0, someone()), reader.ErrUnsupported)
		if i := b.Info(); i.State != "present" || len(c.resets) != 1 {
			t.Errorf("state %s, resets %q", i.State, c.resets)
		}
		if err := b.SelectProtocol(bg, 1, someone()); err != nil {
			t.Errorf("T=1: %v", err)
		}
		wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
		// And T=1 was asked for, so that T=0 was not refused yet.
		wantErr(t, "T=0", b.SelectProtocol(bg, 0, someone()), reader.ErrUnsupported)
		wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
	})
	// A reader that does as it is told is asked.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 80 80 01 01")
		c.traits.AutoPPS = true
		b := r.plugSlot(autoCard{c}, c.fakeSlot)
		mustOpen(t, b, someone())
		for _, to := range []int{1, 0, 1} {
			if err := b.SelectProtocol(bg, to, someone()); err != nil || b.Info().Params.T != to {
				t.Errorf("T=%d: %v, in force %v", to, err, b.Info().Params)
			}
		}
	})
}

// ISO/IEC 7816-3:2006 §6.2.3: three attempts before the card is rejected.
func TestThreeAttempts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first []error // of the first resets
		want  error
	}{
		{"mute twice", []error{reader.ErrMute, reader.ErrMute}, nil},
		{"damaged twice", []error{reader.ErrProtocol, reader.ErrProtocol}, nil},
		{"late twice", []error{reader.ErrTimeout, reader.ErrTimeout}, nil},
		{"each once", []error{reader.ErrStale, reader.ErrTimeout}, nil},
		{"mute three times", []error{reader.ErrMute, reader.ErrMute, reader.ErrMute}, reader.ErrMute},
		{"taken out", []error{reader.ErrNoCard}, reader.ErrNoCard},
		{"something else", []error{reader.ErrUnsupported}, reader.ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				c := newRateCard(t, "3B 00")
				power, n := c.power, 0
				var how []reader.Reset
				c.power = func(ctx context.Context, h reader.Reset) ([]byte, error) {
					how = append(how, h)
					if n++; n <= len(tt.first) {
						return nil, tt.first[n-1]
					}
					return power(ctx, h)
				}
				b := r.plugSlot(c, c.fakeSlot)
				if err := b.WaitReady(context.Background(), true); err != nil {
					t.Fatal(err)
				}
				by := someone()
				by.Wait = tt.want != reader.ErrNoCard
				_, err := b.Open(context.Background(), by)
				wantErr(t, "open", err, tt.want)
				want := len(tt.first)
				if tt.want == nil {
					want++
				}
				if n != want || slices.Contains(how, reader.Warm) {
					t.Errorf("%d resets, want %d: %v", n, want, how)
				}
			})
		})
	}
	// A warm reset that brings nothing is followed by cold ones.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 00")
		power := c.power
		b := r.plugSlot(c, c.fakeSlot)
		mustOpen(t, b, someone())
		c.power = func(ctx context.Context, h reader.Reset) ([]byte, error) {
			if h == reader.Warm {
				c.resets = append(c.resets, "mute")
				return nil, reader.ErrMute
			}
			return power(ctx, h)
		}
		if err := b.Power(context.Background(), ResetWarm, someone()); err != nil {
			t.Error(err)
		}
		if got := strings.Join(c.resets, " "); got != "cold mute cold" {
			t.Errorf("resets %s", got)
		}
	})
	// A card whose ATR changes at each reset, and that never speaks, is given up.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 90 96 01 07")
		power, n := c.power, byte(0)
		c.deaf = []byte{0x96}
		c.power = func(ctx context.Context, h reader.Reset) ([]byte, error) {
			n++
			c.atr = []byte{0x3B, 0x91, 0x96, 0x01, n, 0x06 ^ n}
			return power(ctx, h)
		}
		b := r.plugSlot(c, c.fakeSlot)
		_, err := b.Open(context.Background(), someone())
		wantErr(t, "open", err, reader.ErrTimeout)
		if n > maxResets+attempts {
			t.Errorf("%d resets", n)
		}
	})
}

// "Any ATR that begins with 3B or 3F gives a working card … `status` says
// `atr-defect` with what the standard has against it. Only TS wrong, no bytes, or
// more than 33 fail."
func TestDefectiveATR(t *testing.T) {
	for _, tt := range []struct {
		name, atr string
		defect    string // what status says
		err       error
	}{
		{"fine", "3B 80 01 81", "", nil},
		{"TS alone", "3B", "T0 is missing: the ATR ends after TS", nil},
		{"ends early", "3B 9F 95 81", "TD2 is announced, but the ATR ends after 4 bytes", nil},
		{"TCK is wrong", "3B 80 01 80", "TCK is 80 instead of 81", nil},
		{"TCK is missing", "3B 80 01", "TCK is missing", nil},
		{"more than it announces", "3B 00 00 01", "2 bytes announced, 4 are there", nil},
		{"a gas card", "3B 10 14 50", "3 bytes announced, 4 are there", nil},
		{"a GSM card", "3B 67 00 00 29 20 00 6F 78 90 00 4A", "11 bytes announced, 12 are there", nil},
		{"two defects", "3B 82 01 41", "2 historical bytes are announced, 1 are there; TCK is missing", nil},
		{"T=15 first", "3B 80 0F 8F", "TD1 is 0F: T=15", nil},
		{"33 bytes", "3B 0F" + strings.Repeat(" 55", 31), "17 bytes announced, 33 are there", nil},
		{"TDs without end", "3B 80" + strings.Repeat(" 80", 31), "TD32 is announced", nil},
		{"nothing", "", "", reader.ErrProtocol},
		{"no TS", "00 00 00", "", reader.ErrProtocol},
		{"34 bytes", "3B 0F" + strings.Repeat(" 55", 32), "", reader.ErrProtocol},
	} {
		for _, level := range []reader.Level{reader.TPDU, reader.ShortAPDU, reader.ExtendedAPDU} {
			t.Run(fmt.Sprintf("%s, level %d", tt.name, level), func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					c := newRateCard(t, tt.atr)
					if level != reader.TPDU {
						c.traits.Level, c.traits.AutoPPS = level, true
						c.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
							return append(dst, 0x90, 0x00), nil
						}
					}
					b := r.plugSlot(c, c.fakeSlot)
					s, err := b.Open(context.Background(), someone())
					wantErr(t, "open", err, tt.err)
					if tt.err != nil {
						if len(c.resets) != attempts || b.Info().State != "present" || c.count("power off") != 1 {
							t.Errorf("resets %q, state %s, calls %q", c.resets, b.Info().State, c.calls())
						}
						return
					}
					if !bytes.Equal(s.ATR(), hexb(tt.atr)) {
						t.Errorf("ATR % X", s.ATR())
					}
					wantAnswer(t, s, "00 A4 04 00 01 A0 00", "90 00")
					lines := string(b.Info().Lines())
					if has := strings.Contains(lines, "\natr-defect "); has != (tt.defect != "") || !strings.Contains(lines, "\natr-defect "+tt.defect) && has {
						t.Errorf("%s", lines)
					}
				})
			})
		}
	}
}

// Every ATR without wildcards that Debian's pcsc-tools list is that of a card which
// works somewhere: with each of them a simulated card at TPDU level answers a SELECT.
func TestEveryATR(t *testing.T) {
	const list = "/usr/share/pcsc/smartcard_list.txt"
	f, err := os.Open(list)
	if err != nil {
		t.Fatalf("%v\nThis test needs the list of Debian's pcsc-tools: apt-get install pcsc-tools", err)
	}
	defer f.Close()
	// "T=14 and others by no one": these have nothing else.
	refused := []string{
		"3B 88 8E FE 53 2A 03 1E 04 92 80 00 41 32 36 01 11 E4",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 03 83 95 00 80 55",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 03 84 55 6D FF 80",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 03 84 55 FF 80 6D",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 31 2E 32 A0",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 34 2E 31 9D",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 30 9D",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 33 9E",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 34 99",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 37 9A",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 36 2E 30 9E",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 37 2E 30 9F",
		"3B F5 71 00 FF FE 24 00 01 1E 0F 33 39 32 01 03",
	}
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 00")
		b := r.plugSlot(c, c.fakeSlot)
		n := 0
		in := bufio.NewScanner(f)
		for in.Scan() {
			line := strings.TrimRight(in.Text(), " \t\r")
			if line == "" || strings.Trim(line, "0123456789ABCDEF ") != "" || !strings.Contains(line, " ") {
				continue
			}
			n++
			c.atr, c.commands = hexb(line), nil
			if err := b.Power(context.Background(), PowerDown, someone()); err != nil {
				t.Fatal(err)
			}
			s, err := b.Open(context.Background(), someone())
			if slices.Contains(refused, line) {
				wantErr(t, line, err, reader.ErrUnsupported)
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			answer, err := s.Transmit(context.Background(), hexb("00 A4 04 00 02 3F 00 00"), nil)
			if err != nil || !bytes.Equal(answer, hexb("90 00")) || len(c.commands) != 1 {
				t.Errorf("%s: % X, %v", line, answer, err)
			}
			s.Close()
		}
		if n != 3803 {
			t.Errorf("%d ATRs", n)
		}
	})
}

// Where there is no other way there is no other reset: a reader that makes the PPS and
// cannot be told a rate, and a card that lost its power over refused parameters.
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

// The same where the reader takes the power from a card at a rate that cannot be: once
// that may be anybody's reset of the port, for which the rate is not given up.
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

// losingCard loses its power so often at the rate at.
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

// losingAuto is a losingCard whose reader makes the PPS.
type losingAuto struct{ *losingCard }

func (c losingAuto) SetParams() {} // hides the other

func (c losingAuto) SelectProtocol(ctx context.Context, p iso7816.Params) (iso7816.Params, error) {
	if c.inSet && p.TA1 == c.at && c.times > 0 {
		c.times--
		return p, reader.ErrStale
	}
	return autoCard{c.rateCard}.SelectProtocol(ctx, p)
}
