package icc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ISO/IEC 7816-3:2006 §10.3.2: the card knows from the instruction which way the
// data go. It asks for those of a command by INS; the others it answers.
func TestIncoming(t *testing.T) {
	// ISO/IEC 7816-4:2013 table 4 and the commands of parts 8 and 9: those that have
	// a data field.
	with := unhex(`0E 0F  10 12 14  20 21 22 24 2A 2B 2C  82 86 87 88 89  A0 A1 A2 A4  C2
		D0 D1 D2 D6 D7 DA DB DC DD  E0 E2`)
	for ins := range 256 {
		if ins&0xF0 == 0x60 || ins&0xF0 == 0x90 || ins == insGetResponse { // no instructions (§10.3.2); no data of its own
			continue
		}
		c, card := powered(t, atrT0, Faults{})
		rx := c.Chars(context.Background(), []byte{0x00, byte(ins), 0x00, 0x00, 0x01}, 10)
		asked := bytes.Equal(rx, []byte{byte(ins)}) && len(card.calls) == 0
		if want := slices.Contains(with, byte(ins)); asked != want {
			t.Errorf("INS %02X: data asked for %v, want %v; % X", ins, asked, want, rx)
		}
		if c.Incoming(0x00, byte(ins)) != asked {
			t.Errorf("INS %02X: Incoming and the procedure byte differ", ins)
		}
	}
}

// What comes behind a message in one go is the next message, however many there are.
func TestCharsTogether(t *testing.T) {
	for _, x := range []struct{ name, atr, tx, want string }{
		{"T=0: PPS and command", atrBoth, "FF 00 FF  00 84 00 00 08", "84 11 22 33 44 55 66 77 88 90 00"},
		{"T=1: PPS and block", atrBoth, "FF 01 FE  00 C1 01 20 E0", "00 E1 01 20 C0"},
		{"T=1: three blocks", atrT1, "00 C1 01 20 E0  00 C1 01 20 E0  00 C1 01 40 80", "00 E1 01 40 A0"},
	} {
		c, _ := powered(t, x.atr, Faults{})
		rx := c.Chars(context.Background(), unhex(x.tx), 100)
		if got := fmt.Sprintf("% X", rx); !strings.HasSuffix(got, x.want) {
			t.Errorf("%s: % X, want %s at the end", x.name, rx, x.want)
		}
	}
}

// ISO/IEC 7816-3:2006 §9.2: a protocol that the ATR offers is agreed to, another is
// met with silence.
func TestPPSProtocols(t *testing.T) {
	for atr, offered := range map[string][2]bool{atrT0: {true, false}, atrT1: {false, true}, atrBoth: {true, true}} {
		for p, want := range offered {
			c, _ := powered(t, atr, Faults{})
			req := []byte{0xFF, byte(p), 0xFF ^ byte(p)}
			if got := bytes.Equal(c.PPS(req), req); got != want {
				t.Errorf("ATR %s, T=%d: agreed %v, want %v", atr, p, got, want)
			}
		}
	}
}

// ISO/IEC 7816-3:2006 §11.4.2: IFSC is 1 to 254; 00 and FF are reserved.
func TestIFSC(t *testing.T) {
	for ifsc, ok := range map[byte]bool{0: false, 1: true, 254: true, 255: false} {
		var c Contact
		c.Insert(short{[]byte{0x3B, 0x80, 0x81, 0x11, ifsc, 0x00}})
		if _, err := c.Activate(context.Background(), false); (err == nil) != ok {
			t.Errorf("IFSC %d: %v", ifsc, err)
		}
	}
}

// An ENVELOPE whose parts make no command is refused, and the next command begins anew.
func TestEnvelopeRefused(t *testing.T) {
	c, card := powered(t, atrT0, Faults{})
	trace(t, c, `
		> 00 C2 00 00 08 00 A4 00 00 00 00 02 3F      ; two bytes said, one there
		< 67 00
		> 00 C2 00 00 05 00 84 00 00 08
		< 61 08
		> 00 C0 00 00 08
		< 11 22 33 44 55 66 77 88 90 00`)
	if want := []string{"0084000008"}; !slices.Equal(card.calls, want) {
		t.Errorf("the card had %v, want %v", card.calls, want)
	}
}

// ISO/IEC 7816-3:2006 §10.2, §10.3.3: a card that computes longer than the work waiting
// time sends NULL before each is over.
func TestNulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, card := powered(t, atrT0, Faults{Slow: 5 * time.Second})
		nulls, start := 0, time.Now()
		for tx := unhex(challenge); ; tx = nil {
			last := time.Now()
			rx := c.Chars(context.Background(), tx, 1)
			if took := time.Since(last); took > c.BlockWait() {
				t.Fatalf("nothing for %v, the card has %v", took, c.BlockWait())
			}
			if len(rx) != 1 || rx[0] != 0x60 {
				break
			}
			nulls++
		}
		if least := int(5 * time.Second / c.BlockWait()); nulls < least || time.Since(start) != 5*time.Second || len(card.calls) != 1 {
			t.Errorf("%d NULLs, at least %d are due; after %v, %v", nulls, least, time.Since(start), card.calls)
		}
	})
}

// GET RESPONSE for one byte more than there is: 6Cxx, and the data are still there.
func TestGetResponseLimits(t *testing.T) {
	c, card := powered(t, atrT0, Faults{})
	card.answers = map[string]string{"0084000007": random}
	trace(t, c, `
		> 00 84 00 00 07
		< 11 22 33 44 55 66 77 61 01
		> 00 C0 00 00 02
		< 6C 01
		> 00 C0 00 00 01
		< 88 90 00
		> 00 C0 00 00 01
		< 69 85`)
	if c.APDUs() != 1 {
		t.Errorf("%d commands", c.APDUs())
	}
}

// Hold "is false when it ended early": whatever begins a new life of the card.
func TestHoldEnds(t *testing.T) {
	for name, f := range map[string]func(*Contact){
		"warm reset": func(c *Contact) { c.Activate(context.Background(), true) },
		"cold reset": func(c *Contact) { c.Activate(context.Background(), false) },
		"power off":  func(c *Contact) { c.Deactivate() },
		"removed":    func(c *Contact) { c.Remove() },
		"changed": func(c *Contact) {
			c.Remove()
			c.Insert(short{[]byte{0x3B, 0x00}})
			c.Activate(context.Background(), false)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := powered(t, atrT0, Faults{})
			time.AfterFunc(time.Second, func() { f(c) })
			start := time.Now()
			if whole := c.Hold(context.Background(), time.Minute); whole || time.Since(start) != time.Second {
				t.Errorf("%s: %v after %v", name, whole, time.Since(start))
			}
		})
	}
}

// bounded has a Deadline and nothing that tells of it, as it costs no timer.
type bounded struct {
	context.Context
	until time.Time
}

func (b bounded) Deadline() (time.Time, bool) { return b.until, true }

// A card that computes is not waited for beyond the Deadline of ctx.
func TestDeadline(t *testing.T) {
	for name, exchange := range map[string]func(context.Context, *Contact) []byte{
		"TPDU": func(ctx context.Context, c *Contact) []byte { return c.TPDU(ctx, unhex(challenge)) },
		"APDU": func(ctx context.Context, c *Contact) []byte { return c.APDU(ctx, unhex(challenge)) },
	} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := powered(t, atrT0, Faults{Slow: time.Minute})
			start := time.Now()
			rx := exchange(bounded{context.Background(), start.Add(2 * time.Second)}, c)
			if rx != nil || time.Since(start) != 2*time.Second {
				t.Errorf("%s: % X after %v", name, rx, time.Since(start))
			}
		})
	}
}

// With the Le that 6Cxx names the answer does not end early any more: 6282 (ISO/IEC
// 7816-4:2013 table 6, "end of file or record reached before reading Ne bytes") is then 9000,
// and another warning stays.
func TestWarningAfterWrongLe(t *testing.T) {
	for sw, want := range map[string]string{"62 82": "90 00", "62 83": "62 83", "63 00": "63 00", "90 00": "90 00"} {
		c, card := powered(t, atrT0, Faults{})
		card.answers = map[string]string{"00B0000008": "11 22 33" + sw}
		trace(t, c, `
			> 00 B0 00 00 08
			< 6C 03
			> 00 B0 00 00 03
			< 11 22 33 `+want)
		if c.APDUs() != 1 {
			t.Errorf("%s: %d commands", sw, c.APDUs())
		}
	}
}

// Fraction is the share of messages that are damaged.
func TestNoiseFraction(t *testing.T) {
	for _, fraction := range []float64{0, 0.125, 0.5, 1} {
		c, _ := powered(t, atrT1, Faults{Fraction: fraction, Seed: 3})
		const messages = 10000
		hits := 0
		for range messages {
			if c.noise.hit() {
				hits++
			}
		}
		if got := float64(hits) / messages; got < fraction*0.9 || got > fraction*1.1 {
			t.Errorf("%.3f of the messages were hit, want %.3f", got, fraction)
		}
	}
}

// A character that did not come in time does not come, not even a NULL.
func TestDeadlineOfChars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, card := powered(t, atrT0, Faults{Slow: time.Minute})
		start := time.Now()
		ctx := bounded{context.Background(), start.Add(time.Millisecond)}
		if rx := c.Chars(ctx, unhex(challenge), 1); rx != nil || time.Since(start) != time.Millisecond {
			t.Errorf("% X after %v, %v", rx, time.Since(start), card.calls)
		}
	})
}
