package icc

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
)

// scripted is a card that answers by table; unknown commands get 6D00.
type scripted struct {
	atr     []byte
	answers map[string]string // C-APDU to R-APDU, hex
	calls   []string
	resets  []bool
}

func (s *scripted) ATR() []byte     { return s.atr }
func (s *scripted) Reset(warm bool) { s.resets = append(s.resets, warm) }

func (s *scripted) Process(c []byte) []byte {
	key := fmt.Sprintf("%X", c)
	s.calls = append(s.calls, key)
	if r, ok := s.answers[key]; ok {
		return unhex(r)
	}
	return []byte{0x6D, 0x00}
}

func unhex(s string) []byte {
	var b []byte
	s = strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s)
	if s == "" {
		return nil
	}
	if _, err := fmt.Sscanf(s, "%X", &b); err != nil {
		panic(s + ": " + err.Error())
	}
	return b
}

const (
	atrT1     = "3B 80 81 31 FE 45 8B"    // T=1, IFSC 254
	atrT1x16  = "3B 80 81 31 10 45 65"    // T=1, IFSC 16
	atrT1crc  = "3B 80 81 71 FE 45 01 CA" // T=1, CRC
	atrT0     = "3B 00"                   // T=0
	atrBoth   = "3B 90 95 80 31 FE 45 1F" // T=0 and T=1, TA1 95
	atrFixed  = "3B 90 95 10 11 10 10"    // not used by the engine beyond TA2
	challenge = "00 84 00 00 08"          // case 2
	random    = "11 22 33 44 55 66 77 88 90 00"
)

var cards = map[string]string{
	"0084000008":     random,
	"00A40000023F00": "90 00",
	"00D6000014" + "0102030405060708090A0B0C0D0E0F1011121314": "90 00",
	"00B0000017": "A0A1A2A3A4A5A6A7A8A9AAABACADAEAFB0B1B2B3B4B5B6 90 00",
}

// powered is a Contact with a card in it that was just activated.
func powered(t testing.TB, atr string, f Faults) (*Contact, *scripted) {
	t.Helper()
	card := &scripted{atr: unhex(atr), answers: cards}
	c := new(Contact)
	c.SetFaults(f)
	if err := c.Insert(card); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Activate(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	return c, card
}

// trace plays a wire trace: ">" is what the interface device sends, "<" what
// the card must answer, "< --" that it must stay silent. Both may have an
// explanation behind ";".
func trace(t *testing.T, c *Contact, lines string) {
	t.Helper()
	var rx []byte
	for _, line := range strings.Split(lines, "\n") {
		text, _, _ := strings.Cut(line, ";")
		text = strings.TrimSpace(text)
		switch {
		case text == "":
		case text[0] == '>':
			rx = c.TPDU(context.Background(), unhex(text[1:]))
		case text == "< --":
			if rx != nil {
				t.Errorf("%s\n     got % X", strings.TrimSpace(line), rx)
			}
		case text[0] == '<':
			if !bytes.Equal(rx, unhex(text[1:])) {
				t.Errorf("%s\n     got % X", strings.TrimSpace(line), rx)
			}
		}
	}
}

// The card's side of ISO/IEC 7816-3:2006 §11.6.3, rule by rule. Errors on the
// line are written as the damaged block that the card receives, or as the
// complaint of an interface device that received one.
func TestT1(t *testing.T) {
	for _, x := range []struct {
		name, atr string
		faults    Faults
		trace     string
	}{
		{"rule 2.1: N(S) of both sides alternate", atrT1, Faults{}, `
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 40 07 00 A4 00 00 02 3F 00 DE
			< 00 40 02 90 00 D2
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"the EDC is a CRC where TC3 says so", atrT1crc, Faults{}, `
			> 00 00 05 00 84 00 00 08 BB C1
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 6A D8
			> 00 40 05 00 84 00 00 08 C9     ; an LRC
			< 00 92 00 13 DE                 ; N(R) 1: the expected block`},
		{"the answer's NAD is the swapped one", atrT1, Faults{}, `
			> 21 00 05 00 84 00 00 08 A8
			< 12 00 0A 11 22 33 44 55 66 77 88 90 00 00`},
		{"rule 2.2: parts of a command are asked for by R-blocks", atrT1x16, Faults{}, `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92`},
		{"rules 2.2 and 4: parts of an answer follow the IFSD", atrT1, Faults{}, `
			> 00 C1 01 10 D0
			< 00 E1 01 10 F0
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 90 00 90
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E
			> 00 40 05 00 84 00 00 08 C9
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"rule 5: no I-block while the card chains", atrT1, Faults{}, `
			> 00 C1 01 10 D0
			< 00 E1 01 10 F0
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 40 05 00 84 00 00 08 C9
			< 00 92 00 92`},
		{"rule 7.1: wrong EDC, error code 1", atrT1, Faults{}, `
			> 00 00 05 00 84 00 00 08 88
			< 00 81 00 81
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"rule 7.1 in a later exchange", atrT1, Faults{}, `
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 40 05 00 84 00 00 08 C8
			< 00 91 00 91
			> 00 40 05 00 84 00 00 08 C9
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52`},
		{"rule 7.1: what else is wrong with a block, error code 2", atrT1x16, Faults{}, `
			> 00 C5 00 C5          ; undefined PCB
			< 00 82 00 82
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 90 01 00 91       ; R-block with LEN 1
			< 00 92 00 92
			> 00 B0 00 B0          ; R-block with bit 6
			< 00 92 00 92
			> 00 C1 01 00 C0       ; IFS 0 is reserved
			< 00 92 00 92
			> 00 40 05 00 84 00 00 08 C9
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52
			> 00 00 11 00 D6 00 00 0C 01 02 03 04 05 06 07 08 09 0A 0B 0C C7 ; longer than IFSC
			< 00 82 00 82
			> 00 40 05 00 84 00 00 08 C9 ; N(S) 0 is due
			< 00 82 00 82
			> 00 C3 01 01 C3       ; S(WTX request) is the card's
			< 00 82 00 82`},
		{"rule 7.4.3: after three reports the card only listens", atrT1, Faults{}, `
			> 00 C5 00 C5
			< 00 82 00 82
			> 00 C5 00 C5
			< 00 82 00 82
			> 00 C5 00 C5
			< 00 82 00 82
			> 00 C5 00 C5
			< --
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"rule 7.5: the card repeats the block that is asked for", atrT1, Faults{}, `
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 81 00 81
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 82 00 82
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"nothing was received: the R-block says what is expected", atrT1, Faults{}, `
			> 00 82 00 82
			< 00 80 00 80
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 92 00 92          ; the second command was lost
			< 00 90 00 90
			> 00 40 05 00 84 00 00 08 C9
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52`},
		{"rule 7.2: the R-block within a chain again", atrT1x16, Faults{}, `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 90 00 90
			> 00 81 00 81          ; it was damaged on its way
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5C ; wrong EDC
			< 00 91 00 91
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92`},
		{"rule 7.1: an R-block that arrives damaged while the card chains", atrT1, Faults{}, `
			> 00 C1 01 10 D0
			< 00 E1 01 10 F0
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 90 00 91
			< 00 91 00 91
			> 00 90 00 90
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E
			> 00 91 00 91
			< 00 40 09 B0 B1 B2 B3 B4 B5 B6 90 00 6E`},
		{"rule 6.3: RESYNCH sets numbers and IFSD back", atrT1, Faults{}, `
			> 00 C1 01 10 D0
			< 00 E1 01 10 F0
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 00 05 00 B0 00 00 17 A2
			< 00 00 19 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF B0 B1 B2 B3 B4 B5 B6 90 00 3E`},
		{"RESYNCH in the middle of a chain drops it", atrT1x16, Faults{}, `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 90 00 90
			> 00 C0 00 C0
			< 00 E0 00 E0
			> 00 00 05 00 84 00 00 08 89
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"rule 9: the interface device aborts the card's chain", atrT1, Faults{}, `
			> 00 C1 01 10 D0
			< 00 E1 01 10 F0
			> 00 00 05 00 B0 00 00 17 A2
			< 00 20 10 A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF 30
			> 00 C2 00 C2
			< 00 E2 00 E2
			> 00 40 05 00 84 00 00 08 C9
			< 00 40 0A 11 22 33 44 55 66 77 88 90 00 52`},
		{"rule 9: the card aborts a chain and gives the right to send back", atrT1x16, Faults{AbortChain: 1}, `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 C2 00 C2
			> 00 E2 00 E3          ; rule 7.3: wrong EDC, the request again
			< 00 C2 00 C2
			> 00 E2 00 E2
			< 00 90 00 90
			> 00 40 05 00 84 00 00 08 C9
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"rule 4: the card raises its IFSC within a chain", atrT1x16, Faults{RequestIFS: 32}, `
			> 00 20 10 00 D6 00 00 14 01 02 03 04 05 06 07 08 09 0A 0B F2
			< 00 C1 01 20 E0
			> 00 E1 01 21 C1       ; another value: rule 7.3
			< 00 C1 01 20 E0
			> 00 82 00 82
			< 00 C1 01 20 E0
			> 00 E1 01 20 C0
			< 00 90 00 90
			> 00 40 09 0C 0D 0E 0F 10 11 12 13 14 5D
			< 00 00 02 90 00 92
			> 00 00 11 00 D6 00 00 0C 01 02 03 04 05 06 07 08 09 0A 0B 0C C7
			< 00 40 02 6D 00 2F`},
		{"rule 4: or before its answer", atrT1, Faults{RequestIFS: 32}, `
			> 00 00 05 00 84 00 00 08 89
			< 00 C1 01 20 E0
			> 00 E1 01 20 C0
			< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12`},
		{"an empty I-block is a command too short to be one", atrT1, Faults{}, `
			> 00 00 00 00
			< 00 00 02 6D 00 6F`},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, card := powered(t, x.atr, x.faults)
			trace(t, c, x.trace)
			if got := c.APDUs(); got != uint64(len(card.calls)) {
				t.Errorf("APDUs says %d, the card had %d", got, len(card.calls))
			}
		})
	}
}

// ISO/IEC 7816-3:2006 §9: only in negotiable mode and directly after the ATR.
func TestPPS(t *testing.T) {
	for _, x := range []struct {
		name, atr, trace string
		protocol         int
		rate             byte
	}{
		{"agreed rate is echoed", atrBoth, "> FF 11 95 7B\n< FF 11 95 7B\n> 00 00 05 00 84 00 00 08 89\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12", 1, 0x95},
		{"a lower D than offered too", atrBoth, "> FF 11 94 7A\n< FF 11 94 7A", 1, 0x94},
		{"one that was not offered is left out", atrBoth, "> FF 11 18 F6\n< FF 01 FE", 1, 0x11},
		{"no parameters", atrBoth, "> FF 00 FF\n< FF 00 FF\n> 00 84 00 00 08\n< " + random, 0, 0x11},
		{"a protocol that was not offered", atrT0, "> FF 01 FE\n< --", 0, 0x11},
		{"T=14", atrBoth, "> FF 0E F1\n< --", 0, 0x11},
		{"wrong PCK", atrBoth, "> FF 11 95 7A\n< --", 0, 0x11},
		{"too short", atrBoth, "> FF 11 95\n< --", 0, 0x11},
		{"after a protocol has begun it is none", atrT1, "> 00 00 05 00 84 00 00 08 89\n< 00 00 0A 11 22 33 44 55 66 77 88 90 00 12\n> FF 01 FE\n< 00 92 00 92", 1, 0x11},
		{"in specific mode it is none", "3B 90 95 11 01 15", "> FF 01 FE\n< 00 82 00 82", 1, 0x95},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, _ := powered(t, x.atr, Faults{})
			trace(t, c, x.trace)
			if got := c.Protocol(); got != x.protocol {
				t.Errorf("T=%d in force, want T=%d", got, x.protocol)
			}
			if got := c.Rate(); got != x.rate {
				t.Errorf("rate %02X in force, want %02X", got, x.rate)
			}
			if c.Deactivate(); c.Rate() != 0x11 {
				t.Errorf("rate %02X without power", c.Rate())
			}
		})
	}
}

// ISO/IEC 7816-3:2006 §12.2: the cases as TPDUs.
func TestT0(t *testing.T) {
	for _, x := range []struct{ name, trace string }{
		{"case 2", "> 00 84 00 00 08\n< " + random},
		{"case 2, Le too large: 6Cxx, and the answer without running it again", "> 00 84 00 00 10\n< 6C 0A\n> 00 84 00 00 0A\n< 01 02 03 04 05 06 07 08 09 0A 90 00"},
		{"case 3", "> 00 D6 00 00 02 AA BB\n< 90 00"},
		{"case 3 without its data: the card waits", "> 00 D6 00 00 02 AA\n< --"},
		{"case 4", "> 00 A4 00 00 02 3F 00\n< 61 04\n> 00 C0 00 00 04\n< 6F 02 84 00 90 00\n> 00 C0 00 00 04\n< 69 85"},
		{"case 4, fetched in parts", "> 00 A4 00 00 02 3F 00\n< 61 04\n> 00 C0 00 00 01\n< 6F 61 03\n> 00 C0 00 00 00\n< 6C 03\n> 00 C0 00 00 03\n< 02 84 00 90 00"},
		{"GET RESPONSE with P1 P2", "> 00 A4 00 00 02 3F 00\n< 61 04\n> 00 C0 01 00 04\n< 6A 86"},
		{"another command drops what was held", "> 00 A4 00 00 02 3F 00\n< 61 04\n> 00 84 00 00 08\n< " + random + "\n> 00 C0 00 00 04\n< 69 85"},
		{"case 1", "> 00 44 00 00 00\n< 6D 00"},
		{"half a header: the card waits", "> 00 84 00\n< --"},
	} {
		t.Run(x.name, func(t *testing.T) {
			card := &scripted{atr: unhex(atrT0), answers: map[string]string{
				"0084000008":       random,
				"0084000010":       "01 02 03 04 05 06 07 08 09 0A 90 00",
				"00D6000002AABB00": "90 00",
				"00A40000023F0000": "6F 02 84 00 90 00",
			}}
			c := new(Contact)
			c.Insert(card)
			c.Activate(context.Background(), false)
			trace(t, c, x.trace)
			seen := make(map[string]bool)
			for _, call := range card.calls {
				if seen[call] {
					t.Errorf("%s reached the card twice", call)
				}
				seen[call] = true
			}
		})
	}
}

// An extended C-APDU comes in pieces by ENVELOPE (§12.2.4); what is in the
// pieces reaches the card as one command.
func TestEnvelope(t *testing.T) {
	for _, n := range []int{256, 248, 249, 500, 503, 1000} {
		capdu := append([]byte{0, 0xD6, 0, 0, 0, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{0xA5}, n)...)
		card := &scripted{atr: unhex(atrT0), answers: map[string]string{fmt.Sprintf("%X", capdu): "90 00"}}
		c := new(Contact)
		c.Insert(card)
		c.Activate(context.Background(), false)
		for rest := capdu; len(rest) > 0; {
			k := min(255, len(rest))
			rx := c.TPDU(context.Background(), append([]byte{0, 0xC2, 0, 0, byte(k)}, rest[:k]...))
			if !bytes.Equal(rx, []byte{0x90, 0}) {
				t.Errorf("%d bytes, %d left: % X", n, len(rest), rx)
			}
			rest = rest[k:]
		}
		if len(card.calls) != 1 || card.calls[0] != fmt.Sprintf("%X", capdu) {
			t.Errorf("%d bytes: the card had %d commands", n, len(card.calls))
		}
	}
}

// Character level: what is sent, how many characters are wanted, what comes.
func TestChars(t *testing.T) {
	type step struct {
		tx   string
		want int
		rx   string
	}
	for _, x := range []struct {
		name, atr string
		faults    Faults
		steps     []step
	}{
		{"T=0, §10.3.3: INS asks for all data", atrT0, Faults{}, []step{
			{"00 D6 00 00 02", 1, "D6"}, {"AA BB", 1, "90"}, {"", 1, "00"}, {"", 1, ""}}},
		{"T=0, case 2: INS, data, SW1 SW2", atrT0, Faults{}, []step{
			{"00 84 00 00 08", 1, "84"}, {"", 8, "11 22 33 44 55 66 77 88"}, {"", 2, "90 00"}}},
		{"T=0, noisy: NULLs, complement of INS for single bytes", atrT0, Faults{Every: 1}, []step{
			{"00 D6 00 00 02", 1, "60"}, {"", 1, "60"}, {"", 1, "29"}, {"AA", 3, "60 60 29"}, {"BB", 1, "60"}, {"", 2, "90 00"}}},
		{"T=0: a header in two pieces", atrT0, Faults{}, []step{
			{"00 84 00", 1, ""}, {"00 08", 1, "84"}}},
		{"T=1: prologue, then the rest", atrT1, Faults{}, []step{
			{"00 00 05 00 84 00 00 08 89", 3, "00 00 0A"}, {"", 11, "11 22 33 44 55 66 77 88 90 00 12"}}},
		{"T=1, CWT: a block that stops in the middle is invalid", atrT1, Faults{}, []step{
			{"00 00 05 00 84", 4, "00 82 00 82"}, {"00 00 05 00 84 00 00 08 89", 4, "00 00 0A 11"}}},
		{"PPS, then the protocol agreed on", atrBoth, Faults{}, []step{
			{"FF 11 95 7B", 2, "FF 11"}, {"", 2, "95 7B"}, {"00 00 05 00 84 00 00 08 89", 3, "00 00 0A"}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, card := powered(t, x.atr, x.faults)
			card.answers = map[string]string{"0084000008": random, "00D6000002AABB00": "90 00"}
			for _, s := range x.steps {
				rx := c.Chars(context.Background(), unhex(s.tx), s.want)
				if !bytes.Equal(rx, unhex(s.rx)) {
					t.Fatalf("> %s, %d wanted: got % X, want %s", s.tx, s.want, rx, s.rx)
				}
			}
		})
	}
}
