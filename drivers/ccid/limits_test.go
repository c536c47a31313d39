package ccid

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// ask returns a GetSlotStatus, or an XfrBlock of one byte, with number seq, and its
// answer.
func ask(kind byte, seq int) string {
	if kind == cmdXfrBlock {
		return fmt.Sprintf("OUT 02 | 6F 01 00 00 00 00 %02X 00 00 00 00\n", byte(seq))
	}
	return fmt.Sprintf("OUT 02 | 65 00 00 00 00 00 %02X 00 00 00\n", byte(seq))
}

// CCID 1.1 §6.2: "bError contains the BWT multiplier value" of a time extension. The
// factors of quirks for slow readers apply in addition. Without an ATR the limit of an
// exchange is two seconds, that of a status three.
func TestTimesOnTheWire(t *testing.T) {
	more := func(wait string, factor int) string {
		return fmt.Sprintf("IN  81 %s | 80 00 00 00 00 00 01 80 %02X 00\n", wait, factor)
	}
	done := func(wait string) string { return "IN  81 " + wait + " | 80 02 00 00 00 00 01 00 00 00 90 00\n" }
	silent := func(wait string) string {
		return "IN  81 " + wait + " | timeout\nOUT 21 01 0200 0000 0000\nOUT 02 | 72 00 00 00 00 00 02 00 00 00\nIN  81 1s | 81 00 00 00 00 00 02 00 00 00\n"
	}
	slow := as(emu.TPDUReader(), 0x04E6, 0x5790, 0x100)   // 4 times the limits
	slower := as(emu.TPDUReader(), 0x0B81, 0x0200, 0x100) // 20 times
	for _, tt := range []struct {
		name    string
		cfg     emu.Config
		first   string // the wait for the status
		session string
		err     error
	}{
		{"no extension", emu.TPDUReader(), "3s", done("2s"), nil},
		{"multiplied", emu.TPDUReader(), "3s", more("2s", 10) + more("20s", 3) + done("6s"), nil},
		{"by 0 and 1", emu.TPDUReader(), "3s", more("2s", 0) + more("2s", 1) + done("2s"), nil},
		{"by 255", emu.TPDUReader(), "3s", more("2s", 255) + done("8m30s"), nil},
		{"quirk", slow, "12s", more("8s", 10) + done("1m20s"), nil},
		{"quirk, by 255", slower, "1m0s", more("40s", 255) + done("1h0m0s"), nil},
		{"first answer", as(emu.TPDUReader(), 0x09D8, 0x0427, 0x100), "30s", done("2s"), nil},
		{"silence", emu.TPDUReader(), "3s", silent("2s"), reader.ErrTimeout},
		{"silence after an extension", emu.TPDUReader(), "3s", more("2s", 7) + silent("14s"), reader.ErrTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := ask(cmdSlotStatus, 0) + "IN  81 " + tt.first + " | 81 00 00 00 00 00 00 01 00 00\n" + ask(cmdXfrBlock, 1) + tt.session
				r := opened(t, play(t, tt.cfg, script))
				_, err := r.slots[0].Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
				if !errors.Is(err, tt.err) {
					t.Errorf("%v, want %v", err, tt.err)
				}
			})
		})
	}
}

// The limit of an exchange is the time that the card may take: ISO/IEC 7816-3:2006 §10.2
// and §11.4.3 with the reader's clock, here 4 MHz.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	f := &function{ifd: &ifd{}, Interface: Interface{Descriptor: Descriptor{DefaultClock: 4000}}}
	p := f.timing(iso7816.Params{T: 0, TA1: 0x11, WI: 10})
	if p.Char != 1116*time.Microsecond || p.Wait != 892800*time.Microsecond || p.Gap != p.Wait { // 12 etu of 372/4 MHz; 960·10·372/4 MHz
		t.Errorf("T=0: %+v", p)
	}
	f.extraT1 = time.Minute
	q := f.timing(iso7816.Params{T: 1, TA1: 0x11, BWI: 4, CWI: 13})
	if q.Wait.Round(ms) != time.Minute+1430*ms || q.Gap.Round(ms) != 763*ms { // 11 etu + 2^4·960·372/4 MHz; 8203 etu
		t.Errorf("T=1: %+v", q)
	}
	if s := p.Slower(q); s.Char != max(p.Char, q.Char) || s.Wait != q.Wait || s.Gap != p.Gap || s != q.Slower(p) {
		t.Errorf("slower: %+v", s)
	}
	p = iso7816.Timing{Char: ms, Wait: time.Second, Gap: 100 * ms}
	for _, c := range []struct {
		n, wtx int
		want   time.Duration
	}{{0, 0, 3400 * ms}, {100, 0, 3600 * ms}, {100, 1, 3600 * ms}, {100, 5, 7600 * ms}, {100, 255, 257600 * ms}, {math.MaxInt32, 0, exchangeLimit}, {0, math.MaxInt32, exchangeLimit}} {
		if got := exchangeTime(p, c.n, c.wtx); got != c.want {
			t.Errorf("limit(%d, %d) = %v, want %v", c.n, c.wtx, got, c.want)
		}
	}
}

// No combination of device, card and quirks makes a time overflow or exceed the exchange
// limit. Once, dwDefaultClock 1 made an APDU hold the slot for 51 hours.
func TestNoTimeIsLongerThanTheLimit(t *testing.T) {
	cards := []iso7816.Params{
		{T: 0, TA1: 0x11, WI: 10}, {T: 0, TA1: 0xD1, N: 254, WI: 255}, {T: 1, TA1: 0xD1, N: 254, BWI: 9, CWI: 15, IFSC: 254}, {T: 1, TA1: 0xFF, N: 255, BWI: 15, CWI: 255},
	}
	for _, clock := range []uint32{0, 1, 2, 100, 249, 250, 999, 1000, 3580, 40_000, 40_001, 1_024_000, 0x7FFFFFFF, 0xFFFFFFFF} {
		_, ifs, err := Parse(edited(emu.TPDUReader(), func(c []byte) {
			c[10], c[11], c[12], c[13] = byte(clock), byte(clock>>8), byte(clock>>16), byte(clock>>24)
		}))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(ifs[0].Notes); n > 0 != (clock < 250 || clock > 40_000) {
			t.Errorf("clock %d: notes %q", clock, ifs[0].Notes)
		}
		for _, extra := range []time.Duration{0, 5 * time.Minute} {
			f := &function{ifd: &ifd{effects: effects{extraT1: extra}}, Interface: ifs[0]}
			if hz := f.traits().ClockHz; hz < 1_000_000 || hz > 40_000_000 {
				t.Errorf("clock %d kHz: %d Hz", clock, hz)
			}
			for _, card := range cards {
				p := f.timing(card)
				if p.Char <= 0 || p.Wait <= 0 || p.Gap <= 0 || p.Wait > time.Hour/4 {
					t.Errorf("clock %d, %v: %+v", clock, card, p)
				}
				for _, n := range []int{0, 261, 2 * 65544} {
					for _, wtx := range []int{0, 1, 255} {
						limit := exchangeTime(p, n, wtx)
						for _, factor := range []int{1, 4, 20, 200, 255 * 20} {
							if got := times(limit, factor); got < min(limit, exchangeLimit) || got > exchangeLimit || got < 2*time.Second {
								t.Errorf("clock %d, %v, %d characters, WTX %d, times %d: %v", clock, card, n, wtx, factor, got)
							}
						}
					}
				}
			}
		}
	}
}

// "As long as the card or the reader asks for time, it has it": until the exchange limit
// by the clock, however early and often it asks.
func TestExtensionsUntilTheLimit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every time.Duration // how often the reader asks
		takes time.Duration // how long the card does
		until time.Duration // the core's limit; 0: none
		want  time.Duration // when Exchange ends
	}{
		{"rarely, 40 minutes", 2 * time.Second, 40 * time.Minute, 0, 40 * time.Minute},
		{"often, 40 minutes", 20 * time.Millisecond, 40 * time.Minute, 0, 40 * time.Minute},
		{"soon", 100 * time.Millisecond, 3 * time.Second, 0, 3 * time.Second},
		{"longer than an hour", time.Second, 2 * time.Hour, 0, time.Hour},
		{"longer than the core allows", time.Second, 2 * time.Hour, time.Minute, time.Minute},
		{"longer, and the core allows more than an hour", time.Second, 2 * time.Hour, 3 * time.Hour, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := emu.ShortAPDUReader()
				cfg.ExtensionEvery = tt.every
				e := newDevice(cfg)
				e.Contact(0).Insert(&slowCard{testCard{atr: atrT1}, tt.takes})
				s := open(t, e).slots[0]
				if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
					t.Fatal(err)
				}
				asked := 0
				x := reader.Transfer{Out: unhex("80 E8 00 00"), Extended: func() { asked++ }}
				start := time.Now()
				if tt.until > 0 {
					x.Until = start.Add(tt.until)
				}
				_, err := s.Exchange(ctx, x, nil)
				took := time.Since(start)
				if (err == nil) != (tt.want == tt.takes) || err != nil && !errors.Is(err, reader.ErrTimeout) {
					t.Errorf("error %v", err)
				}
				if took < tt.want || took > tt.want+2*time.Second {
					t.Errorf("it took %v, want %v", took, tt.want)
				}
				if asked == 0 {
					t.Error("nobody was told that the reader asks for time")
				}
				// Its late answer is not taken for the next command's.
				start = time.Now()
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01"), Until: start.Add(time.Hour)}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
			})
		})
	}
}

// slowCard takes its time over 80 E8.
type slowCard struct {
	testCard
	takes time.Duration
}

func (c *slowCard) Busy(capdu []byte) time.Duration {
	if capdu[1] == 0xE8 {
		return c.takes
	}
	return 0
}

// A reader that asks for time without a pause does not keep a processor busy for an hour:
// after a while it is read at most a hundred times a second.
func TestExtensionsWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var script strings.Builder
		script.WriteString(hello + ask(cmdXfrBlock, 1))
		for range extensionBurst + 1000 {
			script.WriteString("IN  81 | 80 00 00 00 00 00 01 80 01 00\n")
		}
		script.WriteString("IN  81 | 80 02 00 00 00 00 01 00 00 00 90 00\n")
		s := opened(t, play(t, emu.TPDUReader(), script.String())).slots[0]
		start := time.Now()
		rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
		check(t, rx, err, unhex("90 00"), nil)
		if took := time.Since(start); took < 5*time.Second || took > 20*time.Second {
			t.Errorf("1100 of them in %v", took)
		}
	})
}

// A command that involves no card has a minute: nobody checks for the card meanwhile.
func TestExtensionsOfAStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.TPDUReader())
		s := open(t, e).slots[0]
		e.Inject(emu.Fault{Kind: emu.Endless, On: cmdSlotStatus})
		start := time.Now()
		_, err := s.Status(ctx)
		if took := time.Since(start); !errors.Is(err, reader.ErrTimeout) || took < 3*time.Second || took > 65*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// The answer to an abandoned command may come as late as its one-byte number is due
// again. So the number is not used again before that answer has come.
func TestNumberOfAnAnswerThatIsStillDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := hello + ask(cmdXfrBlock, 1) + "IN  81 | timeout\nOUT 21 01 0200 0000 0000\nOUT 02 | 72 00 00 00 00 00 02 00 00 00\nIN  81 | 81 00 00 00 00 00 02 00 00 00\n"
		status := func(seq int) {
			script += ask(cmdSlotStatus, seq) + fmt.Sprintf("IN  81 | 81 00 00 00 00 00 %02X 00 00 00\n", byte(seq))
		}
		// A time extension of that command is not its answer.
		script += ask(cmdSlotStatus, 3) + "IN  81 | 80 00 00 00 00 00 01 80 01 00\n" + "IN  81 | 81 00 00 00 00 00 03 00 00 00\n"
		for n := 4; n <= 256; n++ {
			status(n)
		}
		script += ask(cmdXfrBlock, 2) + "IN  81 | 80 02 00 00 00 00 01 00 00 00 6F 00\n" + "IN  81 | 80 02 00 00 00 00 02 00 00 00 90 00\n"
		for n := 3; n <= 257; n++ {
			status(n)
		}
		s := opened(t, play(t, emu.TPDUReader(), script)).slots[0]
		_, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
		check(t, nil, err, nil, reader.ErrTimeout)
		for range 254 {
			s.Status(ctx)
		}
		rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
		check(t, rx, err, unhex("90 00"), nil)
		for range 255 {
			s.Status(ctx)
		}
	})
}

// The limit of an exchange does not apply to what follows it.
func TestLimitEndsWithTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newDevice(emu.ExtendedAPDUReader())
		e.Contact(0).Insert(&testCard{atr: atrT1})
		s := open(t, e).slots[0].(*slot)
		if _, err := s.PowerOn(context.Background(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		x := reader.Transfer{Out: unhex("00 84 00 00 01"), Until: time.Now().Add(time.Minute), Extended: func() {}}
		rx, err := s.Exchange(ctx, x, nil)
		check(t, rx, err, unhex("00 90 00"), nil)
		time.Sleep(time.Hour)
		if st, err := s.Status(ctx); st != reader.Powered || err != nil {
			t.Error(st, err)
		}
		if !s.lane.until.IsZero() || s.lane.extended != nil {
			t.Error("kept")
		}
	})
}
