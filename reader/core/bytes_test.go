package core

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// "What comes by ioctl or in binary goes to the card as it is wherever the way can
// carry it (T=1, a reader that takes APDUs) … Over T=0 what fits no case says EINVAL. A
// command that is well formed but too long for the way says EOPNOTSUPP, nothing sent."
// ENVELOPE is for contact cards over T=0 TPDUs only.
func TestBytesAsTheyAre(t *testing.T) {
	const (
		contact0    = "3B 00"
		contact1    = "3B 80 01 81"
		contactless = "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00 6A" // T=0 named first
		oldLc       = "00 B2 01 14 00 00"
		pseudo      = "FF 88 00 04 60 00"
		extended    = "00 B0 00 00 00 10 00"
	)
	extended3 := "00 D6 00 00 00 01 00" + strings.Repeat(" AB", 256)
	long := strings.Repeat("AB ", 262) // no C-APDU
	for _, tt := range []struct {
		name, atr string
		level     reader.Level
		capdu     string
		want      error
	}{
		{"T=1", contact1, reader.TPDU, oldLc, nil},
		{"T=1", contact1, reader.TPDU, pseudo, nil},
		{"T=1", contact1, reader.TPDU, extended, nil},
		{"T=1", contact1, reader.TPDU, long, nil},
		{"T=0", contact0, reader.TPDU, oldLc, reader.ErrInvalid},
		{"T=0", contact0, reader.TPDU, pseudo, reader.ErrInvalid},
		{"T=0", contact0, reader.Character, oldLc, reader.ErrInvalid},
		{"T=0 has ENVELOPE", contact0, reader.TPDU, extended3, nil},
		{"short APDUs, T=1", contact1, reader.ShortAPDU, oldLc, nil},
		{"short APDUs, T=1", contact1, reader.ShortAPDU, pseudo, nil},
		{"short APDUs, T=1", contact1, reader.ShortAPDU, extended, reader.ErrUnsupported},
		{"short APDUs, T=1", contact1, reader.ShortAPDU, long, reader.ErrUnsupported},
		{"short APDUs, T=0", contact0, reader.ShortAPDU, oldLc, nil},
		{"short APDUs, T=0", contact0, reader.ShortAPDU, extended, reader.ErrUnsupported},
		{"short APDUs, T=0", contact0, reader.ShortAPDU, extended3, reader.ErrUnsupported},
		{"short APDUs, contactless", contactless, reader.ShortAPDU, pseudo, nil},
		{"short APDUs, contactless", contactless, reader.ShortAPDU, extended, reader.ErrUnsupported},
		{"short APDUs, contactless", contactless, reader.ShortAPDU, extended3, reader.ErrUnsupported},
		{"extended APDUs", contact1, reader.ExtendedAPDU, oldLc, nil},
		{"extended APDUs", contact1, reader.ExtendedAPDU, extended, nil},
		{"extended APDUs", contact1, reader.ExtendedAPDU, long, nil},
		{"extended APDUs, contactless", contactless, reader.ExtendedAPDU, extended3, nil},
	} {
		t.Run(fmt.Sprintf("%s, %.20s", tt.name, tt.capdu), func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				c := newRateCard(t, tt.atr)
				c.traits.Level, c.traits.AutoIFSD = tt.level, true
				c.p.IFSC = 254
				if tt.level >= reader.ShortAPDU {
					c.traits.AutoPPS = true
					c.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
						c.commands = append(c.commands, x.Out)
						return append(dst, 0x90, 0x00), nil
					}
				}
				var got []byte // by T=1 blocks, in pieces
				if strings.HasPrefix(tt.name, "T=1") {
					c.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
						got = append(got, x.Out[3:len(x.Out)-1]...)
						if x.Out[1]&0x20 != 0 {
							return c.block(dst, 0x80|^x.Out[1]>>2&0x10), nil
						}
						c.commands = append(c.commands, got)
						return c.block(dst, 0, 0x90, 0x00), nil
					}
				}
				b := r.plugSlot(c, c.fakeSlot)
				s := mustOpen(t, b, someone())
				_, err := s.Transmit(context.Background(), hexb(tt.capdu), nil)
				wantErr(t, "transmit", err, tt.want)
				if tt.want != nil {
					if len(c.sent) != 0 || b.Info().Err != nil {
						t.Errorf("sent % X, error %v", c.sent, b.Info().Err)
					}
					if tt.level != reader.Character {
						wantAnswer(t, s, "00 A4 00 00", "90 00")
					}
					return
				}
				if tt.name == "T=0 has ENVELOPE" {
					return
				}
				if len(c.commands) != 1 || fmt.Sprintf("%X", c.commands[0]) != fmt.Sprintf("%X", hexb(tt.capdu)) {
					t.Errorf("the card got % X", c.commands)
				}
			})
		})
	}
}

// "t0=plain at attach turns all of this off."
func TestPlainT0(t *testing.T) {
	for _, plain := range []bool{false, true} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.atr, slot.traits = atrT0, reader.Traits{Level: reader.TPDU}
			script := "> 00 A4 00 00 02 3F 00\n< 61 02"
			want := "61 02"
			if !plain {
				script += "\n> 00 C0 00 00 02\n< AA BB 90 00"
				want = "AA BB 90 00"
			}
			slot.exchange = wire(t, script)
			b := r.plugReader(reader.Device{T0Plain: plain}, newFakeReader(slot))
			wantAnswer(t, mustOpen(t, b, someone()), "00 A4 00 00 02 3F 00 00", want)
			if got := b.Info().Device.T0Plain; got != plain {
				t.Errorf("t0=plain is %v", got)
			}
		})
	}
}

// "Transfer carries the character waiting time": whoever has the line to the card knows
// when an answer is over, in each protocol and for the PPS before.
func TestCharWait(t *testing.T) {
	for _, tt := range []struct {
		atr  string
		want func(p iso7816.Params) time.Duration
	}{
		{"3B 80 01 81", func(p iso7816.Params) time.Duration { return p.CWT(4_000_000) }},
		{"3B 00", func(p iso7816.Params) time.Duration { return p.WWT(4_000_000) }},
	} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.traits = reader.Traits{Level: reader.TPDU, AutoIFSD: true, AutoPPS: true, ClockHz: 4_000_000, Slack: time.Second}
			slot.power = func(context.Context, reader.Reset) ([]byte, error) { return hexb(tt.atr), nil }
			var got []time.Duration
			slot.set(func(f *fakeSlot) {
				f.exchange = func(_ context.Context, x reader.Transfer, _ []byte) ([]byte, error) {
					got = append(got, x.CharWait)
					return nil, reader.ErrNoCard
				}
			})
			_, b := r.plug(reader.Device{}, slot)
			s := mustOpen(t, b, someone())
			transmit(s, "00B0 0000 04")
			want := tt.want(s.Slot().link.Params()) + time.Second
			if len(got) != 1 || got[0] != want {
				t.Errorf("%s: %v, want %v", tt.atr, got, want)
			}
		})
	}
}
