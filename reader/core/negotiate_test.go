package core

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// rateCard is a slot with a card that follows its ATR. It speaks T=0 at TPDU level and T=1 in
// blocks, at the rates that the test lets through.
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
	damage   int    // this many of the next exchanges fail, at any rate
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

func (c *rateCard) Protocols() []int { return c.has }

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

// autoCard is a rateCard whose reader does the PPS itself.
type autoCard struct{ *rateCard }

func (c autoCard) SetParams() {} // hides rateCard's

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
	// The reader's protocols are known even before the first power-up.
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

// ownWay is an autoCard whose reader chooses T=1 whatever it is asked for.
type ownWay struct{ autoCard }

func (c ownWay) SelectProtocol(ctx context.Context, p iso7816.Params) (iso7816.Params, error) {
	c.autoCard.SelectProtocol(ctx, p)
	atr, _ := iso7816.ParseATR(c.atr)
	c.p, _ = atr.Params(1)
	c.t0, c.ta1 = 1, int(c.p.TA1)
	return c.p, nil
}

// "write T=0/T=1 negotiates": if the reader chose the other protocol by itself, the write says
// EOPNOTSUPP, "the card untouched", and `protocol` shows the protocol in force.
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
	// Before the first power-up the choice is unknown. The reader is asked, and afterwards the
	// card is without power again.
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
		// The reader was asked for T=1, so it has not refused T=0 yet.
		wantErr(t, "T=0", b.SelectProtocol(bg, 0, someone()), reader.ErrUnsupported)
		wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00", "90 00")
	})
	// A reader that obeys is asked.
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
	// After a warm reset without a result cold ones follow.
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
