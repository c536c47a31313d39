package iso7816

import (
	"bytes"
	"errors"
	"testing"
)

// ISO/IEC 7816-3:2006 §10.3.3, table 11, and the forms with programming voltage of the
// 1989 edition: every procedure byte to every instruction, before and after a part of the
// data.
func TestT0ProcedureBytes(t *testing.T) {
	wwt := DefaultParams(0).WWT(0)
	for ins := 0; ins < 256; ins += 5 {
		if ins>>4 == 6 || ins>>4 == 9 {
			continue // TestT0Refused
		}
		ins := byte(ins)
		header := []byte{0x00, ins, 0x00, 0x00}
		for _, c := range []struct {
			name    string
			command []byte
			parts   int // one byte of the data was transferred so often
		}{
			{"no data", header, 0},
			{"data from the card", append(header[:4:4], 3), 0},
			{"the rest from the card", append(header[:4:4], 3), 2},
			{"data to the card", append(header[:4:4], 3, 0xA1, 0xA2, 0xA3), 0},
			{"the rest to the card", append(header[:4:4], 3, 0xA1, 0xA2, 0xA3), 2},
		} {
			toCard := len(c.command) > 5
			for b := range 256 {
				b := byte(b)
				m := NewT0(T0Config{Params: DefaultParams(0), Mode: T0Character})
				s := m.Start(c.command, nil)
				for range c.parts {
					s = m.Next([]byte{ins ^ 0xFF}, nil)
					if !toCard {
						s = m.Next([]byte{0xB0}, nil)
					}
				}
				if s.Done || s.Want != 1 || s.Wait != wwt {
					t.Fatalf("INS %02X, %s: %+v", ins, c.name, s)
				}
				s = m.Next([]byte{b}, nil)

				var send []byte
				want := 1
				switch b {
				case ins, ins ^ 0x01:
					switch {
					case toCard:
						send = c.command[5+c.parts:]
					case len(c.command) == 5:
						want = 3 - c.parts
					}
				case ins ^ 0xFF, ins ^ 0xFE:
					if toCard {
						send = c.command[5+c.parts : 6+c.parts]
					}
				default:
					if b>>4 != 6 && b>>4 != 9 {
						if !s.Done || !errors.Is(s.Err, ErrProtocol) || !m.Dead() {
							t.Fatalf("INS %02X, %s, %02X: %+v", ins, c.name, b, s)
						}
						continue
					}
				}
				if s.Done || s.Want != want || s.Wait != wwt || s.Extended != (b == 0x60) || !bytes.Equal(s.Send, send) || !m.Heard() {
					t.Fatalf("INS %02X, %s, %02X: %+v", ins, c.name, b, s)
				}
			}
		}
	}
}

// §10.3.3: SW1 is followed by SW2, one character, whatever it is; more of them, or more
// data than asked for, break the protocol.
func TestT0Characters(t *testing.T) {
	for _, c := range []struct {
		name  string
		comes [][]byte
		ok    bool
	}{
		{"SW1, SW2", [][]byte{{0x90}, {0x60}}, true},
		{"two characters in place of one", [][]byte{{0x90, 0x00}}, false},
		{"two for SW2", [][]byte{{0x90}, {0x00, 0x00}}, false},
		{"data and one more", [][]byte{{0x84}, {1, 2, 3}}, false},
		{"data in pieces", [][]byte{{0x84}, {1}, {2}, {0x90}, {0x00}}, true},
		{"data in pieces and one more", [][]byte{{0x84}, {1}, {2, 3}}, false},
		{"a byte and one more", [][]byte{{0x7B}, {1, 2}}, false},
	} {
		m := NewT0(T0Config{Params: DefaultParams(0), Mode: T0Character})
		s := m.Start([]byte{0x00, 0x84, 0x00, 0x00, 0x02}, nil)
		for i, rx := range c.comes {
			if s.Done {
				t.Errorf("%s: done before %d", c.name, i)
			}
			s = m.Next(rx, nil)
		}
		if !s.Done || (s.Err == nil) != c.ok || s.Err != nil && !errors.Is(s.Err, ErrProtocol) || m.Dead() == c.ok {
			t.Errorf("%s: %+v, dead %v", c.name, s, m.Dead())
		}
	}
}

// ENVELOPE carries the C-APDU in pieces of 255 bytes, the last as long as it must be; what
// its last answer says is followed as after any command of case 4.
func TestT0Envelope(t *testing.T) {
	for _, n := range []int{256, 500, 502, 503, 504, 757, 65535} {
		for _, le := range []bool{false, true} {
			capdu := append([]byte{0x00, 0xD6, 0x00, 0x00, 0x00, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{0xA5}, n)...)
			if le {
				capdu = append(capdu, 0x00, 0x00)
			}
			m := NewT0(T0Config{Params: DefaultParams(0), Mode: T0TPDU})
			var sent []byte
			s := m.Start(capdu, nil)
			for len(sent) < len(capdu) {
				left := min(255, len(capdu)-len(sent))
				if s.Done || !bytes.Equal(s.Send[:5], []byte{0x00, 0xC2, 0x00, 0x00, byte(left)}) || len(s.Send) != 5+left {
					t.Fatalf("%d bytes, after %d: % X", n, len(sent), s.Send[:min(10, len(s.Send))])
				}
				sent = append(sent, s.Send[5:]...)
				if len(sent) < len(capdu) {
					s = m.Next([]byte{0x90, 0x00}, nil)
				}
			}
			if !bytes.Equal(sent, capdu) {
				t.Errorf("%d bytes: another command was sent", n)
			}
			for sw, get := range map[string]byte{"\x61\x02": 2, "\x62\x83": 0, "\x6C\x02": 0xFF, "\x90\x00": 0xFF} {
				m := *m // a copy, in the state before the last answer
				s := m.Next([]byte(sw), nil)
				if !le || get == 0xFF {
					if !s.Done || s.Err != nil || string(m.Response()) != sw {
						t.Errorf("%d bytes, Le %v, % X: %+v, % X", n, le, sw, s, m.Response())
					}
				} else if s.Done || !bytes.Equal(s.Send, []byte{0x00, 0xC0, 0x00, 0x00, get}) {
					t.Errorf("%d bytes, % X: %+v", n, sw, s)
				}
			}
		}
	}
}
