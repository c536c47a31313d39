package ccid

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// ICCD versions A and B with all cards that they can have, through the core.
func TestICCD(t *testing.T) {
	short := emu.ICCDB()
	short.Level = reader.ShortAPDU
	tpdu := emu.ICCDB()
	tpdu.Level = reader.TPDU
	none := emu.ICCDB()
	none.Level = reader.Character // KONA: no level bit
	cases := []struct {
		name    string
		cfg     emu.Config
		atr     []byte
		longest int
	}{
		{"A", emu.ICCDA(), atrT0, 0},
		{"B, extended APDU", emu.ICCDB(), atrT1, 65535},
		{"B, extended APDU, T=0", emu.ICCDB(), atrT0, 65535},
		{"B, short APDU", short, atrT1, 0},
		{"B, TPDU", tpdu, atrT1IFSC, 1024},
		{"B, TPDU, T=0", tpdu, atrT0, 0},
		{"B, no level", none, atrT0, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				card := &testCard{atr: c.atr}
				b := plug(t, c.cfg, card)
				s := b.session(0)
				exercise(t, s, c.longest)
				transmit(t, s, unhex("80 E8 00 14"), unhex("90 00")) // 2 s
				if err := s.Slot().Power(context.Background(), core.ResetCold, core.Caller{Wait: true}); err != nil {
					t.Fatal(err)
				}
				transmit(t, b.session(0), unhex("00 84 00 00 02"), unhex("00 01 90 00"))
			})
		})
	}
}

func TestICCDWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := opened(t, play(t, emu.ICCDA(), `
			OUT 21 63 0000 0000 0000                    # ICC_POWER_OFF
			IN  A1 A0 0000 0000 0001 | 00               # GET_ICC_STATUS
			IN  A1 62 0000 0000 0200 | 3B 02 14 50      # ICC_POWER_ON: the ATR
			OUT 21 65 0000 0000 0005 | 00 84 00 00 02   # XFR_BLOCK: header
			IN  A1 A0 0000 0000 0001 | 40               # busy
			IN  A1 A0 0000 0000 0001 | 00               # neither busy nor ready
			IN  A1 A0 0000 0000 0001 | 10               # data are there
			IN  A1 6F 0000 0000 0002 | 01 02            # DATA_BLOCK
			IN  A1 A0 0000 0000 0001 | 20               # SW1 SW2 are there
			IN  A1 6F 0000 0000 0002 | 90 00
			OUT 21 65 0000 0000 0005 | 00 A4 00 00 02   # header
			IN  A1 A0 0000 0000 0001 | 10               # ready for data
			OUT 21 65 0000 0000 0002 | 3F 00
			IN  A1 A0 0000 0000 0001 | 20
			IN  A1 6F 0000 0000 0002 | 90 00
			OUT 21 65 0000 0000 0005 | 00 A4 00 00 02
			IN  A1 A0 0000 0000 0001 | 20               # refused by the header
			IN  A1 6F 0000 0000 0002 | 6D 00
			OUT 21 65 0000 0000 0005 | 00 A4 00 00 02
			IN  A1 A0 0000 0000 0001 | 80               # mute
			OUT 21 63 0000 0000 0000                    # nothing is left for the next command
			IN  A1 A0 0000 0000 0001 | 00
			IN  A1 62 0000 0000 0200 | 3B 02 14 50
			OUT 21 65 0000 0000 0005 | 00 A4 00 00 02 stall
			OUT 21 63 0000 0000 0000
			IN  A1 A0 0000 0000 0001 | 00
			IN  A1 62 0000 0000 0200 | 3B 02 14 50
			OUT 21 65 0000 0000 0005 | 00 84 00 00 02
			IN  A1 A0 0000 0000 0001 | 10
			IN  A1 6F 0000 0000 0002 | 01               # shorter than Le
			OUT 21 63 0000 0000 0000 | timeout          # and now it is silent, and is reset
			reset
			OUT 21 63 0000 0000 0000                    # once more, before anything else
			IN  A1 A0 0000 0000 0001 | 00
			IN  A1 62 0000 0000 0200 | 3B 02 14 50
		`))
		s := r.slots[0]
		atr, err := s.PowerOn(ctx, reader.Cold)
		check(t, atr, err, atrT0, nil)
		for _, x := range []struct {
			tx, rx string
			err    error
		}{
			{"00 84 00 00 02", "01 02 90 00", nil},
			{"00 A4 00 00 02 3F 00", "90 00", nil},
			{"00 A4 00 00 02 3F 00", "6D 00", nil},
			{"00 A4 00 00", "", reader.ErrInvalid},
			{"00 A4 00 00 02 3F 00", "", reader.ErrTimeout},
			{"00 A4 00 00 02 3F 00", "", reader.ErrStale}, // nothing is sent to a card without power
			{"", "", nil},
			{"00 A4 00 00 02 3F 00", "", reader.ErrProtocol},
			{"", "", nil},
			{"00 84 00 00 02", "", reader.ErrProtocol},
			{"00 84 00 00 02", "", reader.ErrStale},
			{"", "", nil},
		} {
			if x.tx == "" {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, atrT0, nil)
				continue
			}
			rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex(x.tx)}, nil)
			check(t, rx, err, unhex(x.rx), x.err)
			if st, err := s.Status(ctx); err != nil || st == reader.Powered != (x.err == nil || x.err == reader.ErrInvalid) {
				t.Errorf("OUT 02 | %s: status %v, %v", x.tx, st, err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		cfg := emu.ICCDB()
		cfg.MaxMessage = 15
		r := opened(t, play(t, cfg, `
			OUT 21 63 0000 0000 0000
			IN  A1 81 0000 0000 0003 | 40 01 00         # SLOT_STATUS: no power
			OUT 21 62 0001 0000 0000                    # ICC_POWER_ON
			IN  A1 6F 0000 0000 0200 | 80 02 00         # DATA_BLOCK: ask again in 20 ms
			IN  A1 6F 0000 0000 0200 | 00 3B 02 14 50
			OUT 21 65 0100 0000 0005 | 00 01 02 03 04   # XFR_BLOCK, first part
			IN  A1 6F 0000 0000 0200 | 10
			OUT 21 65 0200 0000 0002 | 05 06            # last part
			IN  A1 6F 0000 0000 0200 | 01 AA BB
			OUT 21 65 1000 0000 0000
			IN  A1 6F 0000 0000 0200 | 02 90 00
			OUT 21 65 0000 0000 0001 | 00
			IN  A1 6F 0000 0000 0200 | 40 40 FE         # failed: mute
			OUT 21 65 0000 0000 0001 | 00
			IN  A1 6F 0000 0000 0200 | 80 02 00         # a second and more of polling
			IN  A1 6F 0000 0000 0200 | 80 00 02
			IN  A1 6F 0000 0000 0200 | 40 41 FE         # failed: mute, and without power for that
			OUT 21 62 0001 0000 0000
			IN  A1 6F 0000 0000 0200 | 00 3B 02 14 50
			OUT 21 65 0000 0000 0001 | 00
			IN  A1 6F 0000 0000 0200 | 40 41 FE         # without power, at once: the card saw nothing
			OUT 21 62 0001 0000 0000
			IN  A1 6F 0000 0000 0200 | 00 3B 02 14 50
			OUT 21 65 0000 0000 0001 | 00
			IN  A1 6F 0000 0000 0200 | 40 42 FE         # no card
			IN  A1 81 0000 0000 0003 | 40 00 00
			IN  A1 81 0000 0000 0003 | 40 02 00
			IN  A1 81 0000 0000 0003 | 40
		`))
		s := r.slots[0]
		atr, err := s.PowerOn(ctx, reader.Cold)
		check(t, atr, err, atrT0, nil)
		rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(7)}, nil)
		check(t, rx, err, unhex("AA BB 90 00"), nil)
		for _, want := range []error{reader.ErrTimeout, reader.ErrTimeout, reader.ErrStale, reader.ErrNoCard} {
			if !s.(*iccd).active {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, atrT0, nil)
			}
			rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(1)}, nil)
			check(t, rx, err, nil, want)
			if want != reader.ErrStale && errors.Is(err, reader.ErrStale) {
				t.Error(err)
			}
		}
		for _, want := range []reader.Status{reader.Powered, reader.Absent} {
			if st, err := s.Status(ctx); st != want || err != nil {
				t.Error(st, err)
			}
		}
		_, err = s.Status(ctx)
		check(t, nil, err, nil, reader.ErrProtocol)
	})
}

func TestICCDFaults(t *testing.T) {
	for _, cfg := range []emu.Config{emu.ICCDA(), emu.ICCDB()} {
		for name, f := range map[string]emu.Fault{
			"stall":   {Kind: emu.StallIn, On: 0x65},
			"babble":  {Kind: emu.Babble, On: 0x6F},
			"short":   {Kind: emu.Runt, On: 0x6F},
			"silence": {Kind: emu.Silence, On: 0x6F},
			"hang":    {Kind: emu.Hang, On: 0x65},
			"stone":   {Kind: emu.Stone, On: 0x65},
			"endless": {Kind: emu.Endless, On: 0x65},
			"detach":  {Kind: emu.Detach, On: 0x65},
		} {
			t.Run(fmt.Sprintf("%d/%s", cfg.Protocol, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					card := &testCard{atr: atrT0}
					b := plug(t, cfg, card)
					s := b.session(0)
					b.e.Inject(f)
					start := time.Now()
					rx, err := s.Transmit(context.Background(), unhex("00 84 00 00 04"), nil)
					gone := f.Kind == emu.Detach
					// A polling response whose time was lost is still a polling response.
					polled := f.Kind == emu.Runt && cfg.Protocol == ProtocolICCDB
					if err == nil && !polled || gone && !errors.Is(err, reader.ErrGone) {
						t.Errorf("% X, %v", rx, err)
					}
					if took := time.Since(start); took > exchangeLimit+time.Minute {
						t.Error(took)
					}
					if n := card.count(); n > 1 {
						t.Errorf("the card saw the command %d times", n)
					}
					if f.Kind == emu.Stone { // noticed at the next command, if not before
						b.open(0)
					}
					if gone || f.Kind == emu.Stone {
						b.departed(f.Kind)
						return
					}
					transmit(t, b.session(0), unhex("00 84 00 00 02"), unhex("00 01 90 00"))
				})
			})
		}
	}
}
