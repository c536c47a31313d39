package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// wire makes the slot's Exchange follow a script. "> FF 01 FE" must be sent, and the next line
// is the answer: "< FF 01 FE", "< timeout", "< gone". "+2" after the sent bytes is the number
// of characters to receive.
func wire(t testing.TB, script string) func(context.Context, reader.Transfer, []byte) ([]byte, error) {
	var steps []string
	for _, l := range strings.Split(strings.TrimSpace(script), "\n") {
		steps = append(steps, strings.TrimSpace(l))
	}
	t.Cleanup(func() {
		if len(steps) > 0 {
			t.Errorf("what the script goes on with did not happen: %q", steps)
		}
	})
	return func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
		got := strings.TrimSpace(fmt.Sprintf("> % X", x.Out))
		if x.Want > 0 {
			got += fmt.Sprintf(" +%d", x.Want)
		}
		if len(steps) < 2 || steps[0] != got {
			t.Errorf("sent %q, the script is at %q", got, steps[:min(1, len(steps))])
			return dst, reader.ErrGone
		}
		answer := strings.TrimPrefix(steps[1], "< ")
		steps = steps[2:]
		switch answer {
		case "timeout":
			return dst, reader.ErrTimeout
		case "gone":
			return dst, reader.ErrGone
		}
		return append(dst, hexb(answer)...), nil
	}
}

// paramSlot needs SetParams; rateSlot does not support every rate.
type paramSlot struct {
	*fakeSlot
	told []string
	fail func(iso7816.Params) error
}

func (s *paramSlot) SetParams(_ context.Context, p iso7816.Params) error {
	s.told = append(s.told, fmt.Sprintf("T=%d TA1=%02X", p.T, p.TA1))
	if s.fail != nil {
		return s.fail(p)
	}
	return nil
}

type rateSlot struct {
	*fakeSlot
	only byte
}

func (s rateSlot) Supports(ta1 byte) bool { return ta1 == s.only }

// S(IFS request) for 254 bytes, and its response.
const ifs = "\n> 00 C1 01 FE 3E\n< 00 E1 01 FE 1E"

// The agreement with the card at power-up (ISO/IEC 7816-3:2006 §6.3.1, §9).
func TestNegotiation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		atr    string
		level  reader.Level
		only   byte // the rate that the reader can do; 0: all
		refuse byte // SetParams refuses this rate
		script string
		calls  string // to the slot, besides exchanges
		told   string
		params string // in force in the end
	}{
		{
			name: "the card agrees", atr: "3B 90 95 01 04", level: reader.TPDU,
			script: "> FF 11 95 7B\n< FF 11 95 7B" + ifs,
			calls:  "cold", told: "[T=1 TA1=95]", params: "T=1 F=512 D=16",
		},
		{
			name: "the card agrees to the default only", atr: "3B 90 95 01 04", level: reader.TPDU,
			script: "> FF 11 95 7B\n< FF 01 FE" + ifs,
			calls:  "cold", told: "[T=1 TA1=11]", params: "T=1 F=372 D=1",
		},
		{
			name: "the card does not answer", atr: "3B 90 95 01 04", level: reader.TPDU,
			script: "> FF 11 95 7B\n< timeout" + ifs,
			calls:  "cold cold", told: "[T=1 TA1=11]", params: "T=1 F=372 D=1",
		},
		{
			name: "the card answers another rate", atr: "3B 90 95 01 04", level: reader.TPDU,
			script: "> FF 11 95 7B\n< FF 11 94 7A" + ifs,
			calls:  "cold cold", told: "[T=1 TA1=11]", params: "T=1 F=372 D=1",
		},
		{
			name: "PCK is wrong", atr: "3B 90 95 01 04", level: reader.TPDU,
			script: "> FF 11 95 7B\n< FF 11 95 7C" + ifs,
			calls:  "cold cold", told: "[T=1 TA1=11]", params: "T=1 F=372 D=1",
		},
		{
			name: "the card answers nothing that is a PPS", atr: "3B 90 95 01 04", level: reader.TPDU,
			script: "> FF 11 95 7B\n< 6E 00" + ifs,
			calls:  "cold cold", told: "[T=1 TA1=11]", params: "T=1 F=372 D=1",
		},
		{
			name: "the reader refuses what was agreed on", atr: "3B 90 95 01 04", level: reader.TPDU, refuse: 0x95,
			script: "> FF 11 95 7B\n< FF 11 95 7B\n> FF 11 98 76\n< FF 11 98 76" + ifs,
			calls:  "cold cold", told: "[T=1 TA1=95 T=1 TA1=98]", params: "T=1 F=512 D=12",
		},
		{
			name: "the reader can do the default only", atr: "3B 90 95 01 04", level: reader.TPDU, only: 0x11,
			script: ifs, calls: "cold", params: "T=1 F=372 D=1",
		},
		{
			name: "the reader can do a slower one", atr: "3B 90 95 01 04", level: reader.TPDU, only: 0x94,
			script: "> FF 11 94 7A\n< FF 11 94 7A" + ifs,
			calls:  "cold", params: "T=1 F=512 D=8",
		},
		{
			name: "specific mode: no PPS", atr: "3B 90 95 11 01 15", level: reader.TPDU,
			script: ifs, calls: "cold", told: "[T=1 TA1=95]", params: "T=1 F=512 D=16",
		},
		{
			name: "T=0, nothing to agree on", atr: "3B 00", level: reader.TPDU,
			calls: "cold", told: "[T=0 TA1=11]", params: "T=0 F=372 D=1",
		},
		{
			name: "T=0 with a rate", atr: "3B 10 95", level: reader.TPDU,
			script: "> FF 10 95 7A\n< FF 10 95 7A",
			calls:  "cold", told: "[T=0 TA1=95]", params: "T=0 F=512 D=16",
		},
		{
			name: "characters: the answer's length comes with its start", atr: "3B 10 95", level: reader.Character,
			script: "> FF 10 95 7A +2\n< FF 10\n> +2\n< 95 7A",
			calls:  "cold", told: "[T=0 TA1=95]", params: "T=0 F=512 D=16",
		},
		{
			name: "characters: a shorter answer", atr: "3B 10 95", level: reader.Character,
			script: "> FF 10 95 7A +2\n< FF 00\n> +1\n< FF",
			calls:  "cold", told: "[T=0 TA1=11]", params: "T=0 F=372 D=1",
		},
		{
			name: "characters: half an answer", atr: "3B 10 95", level: reader.Character,
			script: "> FF 10 95 7A +2\n< FF 10\n> +2\n< timeout",
			calls:  "cold cold", told: "[T=0 TA1=11]", params: "T=0 F=372 D=1",
		},
		{
			name: "T=1 at APDU level is the reader's matter", atr: "3B 80 01 81", level: reader.ExtendedAPDU,
			calls: "cold", told: "[T=1 TA1=11]", params: "T=1 F=372 D=1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				slot.atr = hexb(tt.atr)
				slot.traits = reader.Traits{Level: tt.level}
				if tt.script != "" {
					slot.exchange = wire(t, tt.script)
				}
				params := &paramSlot{fakeSlot: slot}
				if tt.refuse != 0 {
					params.fail = func(p iso7816.Params) error {
						if p.TA1 == tt.refuse {
							return reader.ErrUnsupported
						}
						return nil
					}
				}
				fake := newFakeReader(slot)
				fake.slots[0] = params
				if tt.only != 0 {
					fake.slots[0] = rateSlot{slot, tt.only}
				}
				b := r.plugReader(reader.Device{}, fake)
				mustOpen(t, b, someone())
				var calls []string
				for _, c := range slot.calls() {
					if how, ok := strings.CutPrefix(c, "power on "); ok {
						calls = append(calls, how)
					}
				}
				if got := strings.Join(calls, " "); got != tt.calls {
					t.Errorf("resets: %s, want %s", got, tt.calls)
				}
				if tt.told != "" && fmt.Sprint(params.told) != tt.told {
					t.Errorf("the reader was told %v, want %s", params.told, tt.told)
				}
				if got := b.Info().Params.String(); !strings.HasPrefix(got, tt.params+" ") {
					t.Errorf("in force: %s, want %s", got, tt.params)
				}
			})
		})
	}
}

// "write T=0/T=1 negotiates (PPS)".
func TestSelectProtocol(t *testing.T) {
	bg := context.Background()
	open := func(t *testing.T, r *rig, traits reader.Traits) (*fakeSlot, *Slot, *Session) {
		slot := newFakeSlot(t)
		slot.atr, slot.traits = atrBoth, traits
		_, b := r.plug(reader.Device{}, slot)
		return slot, b, mustOpen(t, b, someone())
	}
	t.Run("done", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot, b, s := open(t, r, reader.Traits{Level: reader.TPDU})
			slot.set(func(s *fakeSlot) { s.exchange = wire(t, "> FF 01 FE\n< FF 01 FE"+ifs) })
			if err := b.SelectProtocol(bg, 1, someone()); err != nil {
				t.Fatal(err)
			}
			if i := b.Info(); i.Params.T != 1 || fmt.Sprint(i.Offered) != "[0 1]" {
				t.Errorf("T=%d, offered %v", i.Params.T, i.Offered)
			}
			_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
			wantErr(t, "an earlier session", err, reader.ErrStale)
			if slot.count("power on warm") != 1 {
				t.Errorf("calls %q", slot.calls())
			}
		})
	})
	t.Run("refused by the card", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot, b, _ := open(t, r, reader.Traits{Level: reader.TPDU})
			slot.set(func(s *fakeSlot) { s.exchange = wire(t, "> FF 01 FE\n< timeout") })
			wantErr(t, "select", b.SelectProtocol(bg, 1, someone()), reader.ErrProtocol)
			// The next open finds the card in its own protocol.
			mustOpen(t, b, someone())
			if i := b.Info(); i.Params.T != 0 || i.State != "powered" {
				t.Errorf("T=%d, %s", i.Params.T, i.State)
			}
		})
	})
	t.Run("not offered", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			_, b := r.plug(reader.Device{}, slot)
			s := mustOpen(t, b, someone())
			wantErr(t, "select", b.SelectProtocol(bg, 0, someone()), reader.ErrUnsupported)
			wantAnswer(t, s, "00 01 00 00", "00 01 00 00 90 00")
		})
	})
	t.Run("the reader chooses by itself", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			_, b, _ := open(t, r, reader.Traits{Level: reader.ExtendedAPDU, AutoPPS: true})
			wantErr(t, "select", b.SelectProtocol(bg, 1, someone()), reader.ErrUnsupported)
			mustOpen(t, b, someone())
		})
	})
	t.Run("before any power-up", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.atr, slot.traits = atrBoth, reader.Traits{Level: reader.TPDU}
			slot.exchange = wire(t, "> FF 01 FE\n< FF 01 FE"+ifs)
			_, b := r.plug(reader.Device{}, slot)
			if err := b.SelectProtocol(bg, 1, someone()); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// A card that does not answer the first reset, and then refuses the PPS, is still powered up.
func TestMuteThenRefused(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits = reader.Traits{Level: reader.TPDU}
		slot.exchange = wire(t, "> FF 11 95 7B\n< timeout"+ifs)
		n := 0
		slot.power = func(context.Context, reader.Reset) ([]byte, error) {
			if n++; n == 1 {
				return nil, reader.ErrMute
			}
			return atrFast, nil
		}
		_, b := r.plug(reader.Device{}, slot)
		mustOpen(t, b, someone())
		if n != 3 {
			t.Errorf("%d resets", n)
		}
	})
}

// When the protocol breaks down, the card loses its power and the session becomes stale: only a
// new open may reset the card. The command is not sent again.
func TestDeadProtocol(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits = reader.Traits{Level: reader.TPDU, AutoIFSD: true}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		slot.set(func(s *fakeSlot) {
			s.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) { return dst, reader.ErrTimeout }
		})
		_, err := s.Transmit(bg, hexb("00 01 00 00"), nil)
		if !errors.Is(err, reader.ErrTimeout) && !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("transmit: %v", err)
		}
		iBlocks := 0
		for _, p := range slot.sent {
			if p[1]&0x80 == 0 {
				iBlocks++
			}
		}
		if iBlocks != 1 {
			t.Errorf("the command was sent %d times: % X", iBlocks, slot.sent)
		}
		if i := b.Info(); i.State != "present" || i.Err == nil {
			t.Errorf("state %s, error %v", i.State, i.Err)
		}
		_, err = s.Transmit(bg, hexb("00 02 00 00"), nil)
		wantErr(t, "transmit", err, reader.ErrStale)
		slot.set(func(s *fakeSlot) { s.exchange = wire(t, "> 00 00 04 00 03 00 00 07\n< 00 00 02 90 00 92") })
		wantAnswer(t, mustOpen(t, b, someone()), "00 03 00 00", "90 00")
	})
}

// Commands that the reader's level cannot carry, and answers that are no R-APDU.
func TestLevels(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits = reader.Traits{Level: reader.ShortAPDU, AutoPPS: true}
		_, b := r.plug(reader.Device{}, slot)
		s := mustOpen(t, b, someone())
		_, err := s.Transmit(bg, hexb("00 B0 00 00 00 10 00"), nil)
		wantErr(t, "an extended C-APDU", err, reader.ErrUnsupported)
		for _, short := range []string{"", "00 A4", "00 A4 00"} {
			_, err = s.Transmit(bg, hexb(short), nil)
			wantErr(t, "no command: "+short, err, reader.ErrInvalid)
		}
		if len(slot.sent) != 0 {
			t.Errorf("sent % X", slot.sent)
		}
		if i := b.Info(); i.Err != nil {
			t.Errorf("a caller's mistake became the slot's error: %v", i.Err)
		}
		for _, answer := range []string{"", "90"} {
			slot.set(func(f *fakeSlot) {
				f.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
					return append(dst, hexb(answer)...), nil
				}
			})
			got, err := s.Transmit(bg, hexb("00 B0 00 00"), []byte("before"))
			wantErr(t, fmt.Sprintf("answer %q (got % X)", answer, got), err, reader.ErrProtocol)
		}
	})
}

// "ESTALE: the card was reset, changed or powered off since this open". A command may be the
// first to notice, when the reader says that the card has no power. The card did not see the
// command: this is no fault of the slot, and nothing is tried again.
func TestCommandFindsTheCardWithoutPower(t *testing.T) {
	for _, level := range []reader.Level{reader.TPDU, reader.ExtendedAPDU} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.traits = reader.Traits{Level: level, AutoIFSD: true, AutoPPS: true}
			_, b := r.plug(reader.Device{}, slot)
			s := mustOpen(t, b, someone())
			slot.set(func(s *fakeSlot) {
				s.status = reader.Present
				s.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
					return dst, fmt.Errorf("inactive: %w", reader.ErrStale)
				}
			})
			for range 2 {
				_, err := s.Transmit(context.Background(), hexb("00 01 00 00"), nil)
				wantErr(t, "transmit", err, reader.ErrStale)
			}
			if len(slot.sent) != 1 {
				t.Errorf("sent % X", slot.sent)
			}
			if i := b.Info(); i.State != "present" || i.Err != nil {
				t.Errorf("state %s, error %v", i.State, i.Err)
			}
			mustOpen(t, b, someone())
		})
	}
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		slot.traits = reader.Traits{Level: reader.TPDU, AutoPPS: true}
		slot.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) { return dst, reader.ErrStale }
		_, b := r.plug(reader.Device{}, slot)
		_, err := b.Open(context.Background(), someone())
		wantErr(t, "open", err, reader.ErrMute) // of S(IFS request)
		if errors.Is(err, reader.ErrStale) || slot.count("power on cold") != attempts {
			t.Errorf("open: %v; %q", err, slot.calls())
		}
	})
}
