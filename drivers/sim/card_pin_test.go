package sim

import (
	"bytes"
	"strings"
	"testing"
)

// A PIN has 4 to 8 bytes, padded with FF or not. One byte more or less is refused, costs no
// try, and changes nothing.
func TestPINLengths(t *testing.T) {
	for n := range 11 {
		for _, fill := range []int{0, pinMax} {
			fresh := append(bytes.Repeat([]byte{'7'}, n), bytes.Repeat([]byte{0xFF}, max(0, fill-n))...)
			old := append([]byte("1234"), bytes.Repeat([]byte{0xFF}, max(0, fill-4))...)
			want := n >= pinMin && n <= pinMax
			for name, do := range map[string]func(*card) int{
				"change":  func(c *card) int { return c.changePIN(command{p2: 1, data: append(old, fresh...)}) },
				"unblock": func(c *card) int { return c.resetRetryCounter(command{p2: 1, data: append([]byte(puk), fresh...)}) },
			} {
				c := &card{pins: [2]pin{newPIN("1234")}}
				sw := do(c)
				p, value := &c.pins[0], "1234"
				if want {
					value = strings.Repeat("7", n)
				}
				if (sw == swOK) != want || string(bare(p.value[:])) != value || p.tries != pinTries || p.pukTries != pukTries {
					t.Errorf("%s to %d digits in %d bytes: %04X, %+v", name, n, len(fresh), sw, p)
				}
			}
			c := &card{pins: [2]pin{newPIN("1234")}}
			sw := c.verify(command{p2: 1, data: fresh})
			if tried := len(fresh) >= pinMin && len(fresh) <= pinMax; (sw == swTries|2) != tried || (c.pins[0].tries == pinTries-1) != tried {
				t.Errorf("verify %d bytes: %04X, %d tries", len(fresh), sw, c.pins[0].tries)
			}
		}
	}
}

// Without tries left the answer is 6983, whatever else is wrong.
func TestBlocked(t *testing.T) {
	for p1, data := range map[byte]string{0: "12345678", 1: "5678"} {
		c := &card{pins: [2]pin{newPIN("1234")}}
		c.pins[0].tries = 0
		for _, d := range []string{data, data[:3]} {
			if sw := c.changePIN(command{p1: p1, p2: 1, data: []byte(d)}); sw != swBlocked || string(bare(c.pins[0].value[:])) != "1234" {
				t.Errorf("change, P1 %02X, %d bytes: %04X", p1, len(d), sw)
			}
		}
		if sw := c.verify(command{p2: 1, data: []byte("1234")}); sw != swBlocked || c.pins[0].verified {
			t.Errorf("verify: %04X", sw)
		}
	}
}
