package smph

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Cards of both conventions, protocols and many rates, in every interface: the rate of the card is
// the fastest that the interface has, and commands and answers of every length pass.
func TestCards(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(rigs)) {
		for _, c := range []card{readertest.Plain, readertest.Fast, readertest.Inverse, readertest.Block, readertest.Quick, readertest.Dual, readertest.Guarded, readertest.Top} {
			a, err := iso7816.ParseATR(c.ATR())
			if err != nil {
				t.Fatal(err)
			}
			for _, protocol := range []int{-1, 1} {
				if protocol == 1 && !slices.Contains(a.Protocols(), 1) {
					continue
				}
				synctest.Test(t, func(t *testing.T) {
					e, s, l := plug(t, rigs[name], c)
					if name == "paced" && c == readertest.Guarded {
						return // a minute of characters
					}
					powerUp(t, l, protocol)
					if got := l.ATR().Bytes(); !bytes.Equal(got, c.ATR()) {
						t.Fatalf("%s, %s: ATR % X", name, c, got)
					}
					best, _ := a.Best(l.Params().T, s.Supports)
					if got := e.Contact.Rate(); got != best.TA1 || got != l.Params().TA1 || l.Fallback() != "" {
						t.Errorf("%s, %s: rate %02X, %02X in the card, want %02X; %s", name, c, l.Params().TA1, got, best.TA1, l.Fallback())
					}
					transmit(t, l, selectMF, unhex("90 00"))
					transmit(t, l, challenge, response)
					for _, n := range []int{1, 2, 31, 32, 33, 127, 128, 250, 251, 253, 254, 255} {
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
	for _, name := range []string{"phoenix", "smartmouse", "blind", "drops"} {
		synctest.Test(t, func(t *testing.T) {
			e, s, l := plug(t, rigs[name], readertest.Inverse)
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
		})
	}
}

// "etu = F/(D·f)"; a common rate if it is off by half a percent at most; 1200 to 230400 bit/s.
func TestBauds(t *testing.T) {
	for clock, want := range map[int]map[byte]int{
		3_579_545: {0x11: 9600, 0x12: 19200, 0x13: 38400, 0x14: 76979, 0x18: 115200, 0x94: 55930, 0x95: 111861, 0x96: 223722, 0x97: 0, 0xD1: 1748, 0x38: 57600, 0x98: 83896, 0x15: 153959, 0x19: 192449},
		3_570_000: {0x11: 9597 + 3, 0x18: 115200},
		6_000_000: {0x11: 16129, 0x12: 32258, 0x18: 193548, 0x15: 0, 0x94: 93750, 0x95: 187500, 0xD1: 2930},
		1_228_800: {0xB1: 1200, 0xC1: 0}, // the bounds
		3_686_400: {0x96: 230400, 0x97: 0},
		1_000_000: {0x11: 2688, 0xD1: 0},
		4_000_000: {0x11: 10753, 0x07: 0, 0xF1: 0, 0x10: 0, 0x7A: 0},
	} {
		for ta1, baud := range want {
			s := &slot{settings: settings{clockHz: clock}}
			got, ok := s.baud(ta1)
			if ok != (baud > 0) || ok && got != baud || s.Supports(ta1) != ok {
				t.Errorf("%d Hz, %02X: %d, %v; want %d", clock, ta1, got, ok, baud)
			}
		}
	}
	// All that is set is right to within half a percent.
	for _, clock := range []int{1_000_000, 3_570_000, 3_579_545, 3_686_400, 6_000_000, 8_000_000, 20_000_000} {
		for ta1 := range 256 {
			f, d, _, valid := iso7816.Params{TA1: byte(ta1)}.FD()
			rate := float64(clock) * float64(d) / float64(f)
			got, ok := settings{clockHz: clock}.baud(byte(ta1))
			if want := valid && rate >= 1199.5 && rate <= 230_400*1.005; ok != want && rate < 1193 {
				t.Errorf("%d, %02X, %.0f bit/s: %v", clock, ta1, rate, ok)
			}
			if ok && (float64(got)/rate < 0.9949 || float64(got)/rate > 1.0051) {
				t.Errorf("%d, %02X: %d for %.0f", clock, ta1, got, rate)
			}
		}
	}
}

// A card with an extra guard time gets its characters one by one (ISO/IEC 7816-3:2006 §8.3,
// TC1): N etu more than 12 from one to the next, of a PPS request, too.
func TestGuardTime(t *testing.T) {
	for _, x := range []struct {
		card
		n int
	}{{readertest.Guarded, 20}, {"3B D5 18 01 40 FF 62 01 02 01 04", 1}} {
		synctest.Test(t, func(t *testing.T) {
			e := newInterface(t, emu.Config{}, x.card)
			p := serialtest.Plug(e)
			defer p.Unplug()
			l := newLink(open(t, p, ""))
			sent := 0
			var last time.Time
			p.Observe(func(entry serialtest.Entry) {
				if entry.Kind != serialtest.Out {
					return
				}
				if sent++; len(entry.Data) != 1 {
					t.Errorf("%d characters at once", len(entry.Data))
				}
				if gap := time.Since(last); !last.IsZero() && gap < time.Duration(2+x.n)*31*time.Second/3_579_545 {
					t.Errorf("character %d after %v", sent, gap)
				}
				last = time.Now()
			})
			powerUp(t, l, -1)
			start := time.Now()
			transmit(t, l, selectMF, unhex("90 00"))
			// 5 and 2 characters, each after a turn of 6 etu.
			if took, etu := time.Since(start), l.Params().ETU(0); took > time.Duration(2*6+5*(2+x.n)+1)*etu {
				t.Errorf("SELECT took %v", took)
			}
			transmit(t, l, challenge, response)
			if sent < 12 {
				t.Errorf("%d characters", sent)
			}
		})
	}
	etu := 103924 * time.Nanosecond // 372 / 3579545 Hz
	for n, want := range map[byte]time.Duration{0: 0, 0xFF: 0, 1: 3 * etu, 20: 22 * etu, 254: 256 * etu} {
		for protocol, turn := range map[int]time.Duration{0: 6 * etu, 1: 12 * etu} {
			s := &slot{}
			s.clockHz = iso7816.DefaultClockHz
			p := iso7816.DefaultParams(protocol)
			p.N = n
			if s.times(p); s.guard/1000 != want/1000 || s.turn != turn {
				t.Errorf("T=%d, N %d: %v, %v; want %v, %v", protocol, n, s.guard, s.turn, want, turn)
			}
		}
	}
}

// "between the last character received and the first one sent" are 22 etu in T=1, and 16 in T=0.
// A character takes 10 until it has arrived.
func TestTurn(t *testing.T) {
	for c, cycles := range map[card]int{readertest.Plain: 6 * 372, "3B 80 01 81": 12 * 372, readertest.Fast: 6 * 31, "3B 90 18 01 89": 12 * 31} {
		synctest.Test(t, func(t *testing.T) {
			e := newInterface(t, emu.Config{}, c)
			p := serialtest.Plug(e)
			defer p.Unplug()
			l := newLink(open(t, p, ""))
			powerUp(t, l, -1)
			var heard time.Time
			sent := 0
			p.Observe(func(entry serialtest.Entry) {
				switch entry.Kind {
				case serialtest.In:
					heard = time.Now()
				case serialtest.Out:
					if gap, least := time.Since(heard), time.Duration(cycles)*time.Second/3_579_545; !heard.IsZero() && (gap < least || gap > 2*least) {
						t.Errorf("%s: %v from the last character to the next, want %v", c, gap, least)
					}
					sent++
				}
			})
			for range 3 {
				transmit(t, l, selectMF, unhex("90 00"))
			}
			if sent < 3 {
				t.Errorf("%d messages", sent)
			}
		})
	}
}

// "Only TS wrong, no bytes, or more than 33 fail."
func TestDefects(t *testing.T) {
	for _, x := range []struct {
		name    string
		card    card
		surplus string
		want    string // the ATR, or a part of the error
		is      error
	}{
		{"too few historical bytes", "3B 05 11 22 33", "", "3B 05 11 22 33", nil},
		{"no TCK", "3B 80 01", "", "3B 80 01", nil},
		{"wrong TCK", "3B 80 01 00", "", "3B 80 01 00", nil},
		{"too many", "3B 02 14 50", "77 88", "3B 02 14 50 77 88", nil},
		{"inverse, too many", "3F 02 14 50", "77 88", "3F 02 14 50 77 88", nil},
		{"33", "3B 02 14 50", strings.Repeat("55", 29), "3B 02 14 50" + strings.Repeat("55", 29), nil},
		{"34", "3B 02 14 50", strings.Repeat("55", 30), "34 characters or more; 33 are the most", reader.ErrProtocol},
		{"announces too many", "3B FF 11 11 11 F1 11 11 11 F1 11 11 11 F1 11 11 11 81 F1" + card(strings.Repeat(" 11", 14)), "", "33 are the most", reader.ErrProtocol},
		{"no TS", "55 02 14 50", "", "it begins with neither 3B nor 03", reader.ErrProtocol},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rig{Config: emu.Config{Surplus: unhex(x.surplus)}}
				_, s, l := plug(t, r, x.card)
				err := l.PowerUp(t.Context(), reader.Cold, -1)
				if x.is == nil {
					if want := unhex(x.want); err != nil || !bytes.Equal(l.ATR().Bytes(), want) {
						t.Fatalf("%v", err)
					}
					transmit(t, l, challenge, response)
					return
				}
				if _, err := s.PowerOn(t.Context(), reader.Cold); fmt.Sprint(err) == "" || !strings.Contains(fmt.Sprint(err), x.want) {
					t.Error(err)
				}
			})
		})
	}
}
