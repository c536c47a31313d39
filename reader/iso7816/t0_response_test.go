package iso7816

import (
	"fmt"
	"strings"
	"testing"
)

// mapped is a C-APDU over T=0: its TPDUs and the card's answers, as "header data:
// answer", and what the caller gets. A trace of another level is made from it.
type mapped struct {
	rule, apdu string
	tpdus      []string
	want       string
	plain      string // with t0=plain: what the caller gets after the first TPDU
}

// trace is the exchange at a level.
func (c mapped) trace(t *testing.T, mode T0Mode, tpdus []string) string {
	var sb strings.Builder
	for i, s := range tpdus {
		out, answer, _ := strings.Cut(s, ":")
		o, a := unhex(t, out), unhex(t, answer)
		switch {
		case mode == T0APDU && i == 0:
			fmt.Fprintf(&sb, "> % X\n< % X\n", unhex(t, c.apdu), a)
		case mode != T0Character:
			fmt.Fprintf(&sb, "> % X\n< % X\n", o, a)
		case len(o) > 5: // the card asks for the data by INS
			fmt.Fprintf(&sb, "> % X\n< %02X\n> % X\n< % X\n", o[:5], o[1], o[5:], a)
		case len(a)-2 == le(int(o[4]), 256):
			fmt.Fprintf(&sb, "> % X\n< %02X % X\n", o, o[1], a)
		case len(a) > 2: // it ends early: one by one
			fmt.Fprintf(&sb, "> % X\n<", o)
			for _, b := range a[:len(a)-2] {
				fmt.Fprintf(&sb, " %02X %02X", o[1]^0xFF, b)
			}
			fmt.Fprintf(&sb, " % X\n", a[len(a)-2:])
		default:
			fmt.Fprintf(&sb, "> % X\n< % X\n", o, a)
		}
	}
	return sb.String()
}

// The rules that the contract gives for T=0, each at every level.
func TestT0Response(t *testing.T) {
	const (
		own      = "interindustry classes (00-7F) their own without the bits for chaining and secure messaging"
		gsm      = "A0 stays A0 (GSM 11.11)"
		emv      = "80-9F becomes 00 with the channel kept"
		other    = "any other stays"
		once     = "a 6E00 or 6D00 to it is tried once with the other choice (same class, or 00)"
		warning  = "62xx (but 6202 to 6280) or 63xx and no data gets a GET RESPONSE: the answer is the data and the warning"
		alone    = "without data the warning alone"
		notAsked = "but 6202 to 6280 / 63Cx / 6300 to VERIFY, CHANGE REFERENCE DATA, EXTERNAL and MUTUAL AUTHENTICATE"
		case13   = "a case 1 or 3 command gets its 61xx as it is"
	)
	var table []mapped
	add := func(rule, apdu, want, plain string, tpdus ...string) {
		table = append(table, mapped{rule, apdu, tpdus, want, plain})
	}

	// The class of GET RESPONSE, and the other choice.
	for _, c := range []struct {
		rule              string
		cla, first, other byte
	}{
		{own, 0x00, 0x00, 0x00}, {own, 0x01, 0x01, 0x01}, {own, 0x03, 0x03, 0x03},
		{own, 0x04, 0x00, 0x04}, {own, 0x08, 0x00, 0x08}, {own, 0x0C, 0x00, 0x0C}, {own, 0x0E, 0x02, 0x0E},
		{own, 0x10, 0x00, 0x10}, {own, 0x1F, 0x03, 0x1F}, {own, 0x20, 0x20, 0x20}, {own, 0x3F, 0x23, 0x3F},
		{own, 0x40, 0x40, 0x40}, {own, 0x4F, 0x4F, 0x4F}, {own, 0x50, 0x40, 0x50}, {own, 0x60, 0x40, 0x60},
		{own, 0x7A, 0x4A, 0x7A}, {own, 0x7F, 0x4F, 0x7F},
		{emv, 0x80, 0x00, 0x80}, {emv, 0x81, 0x01, 0x81}, {emv, 0x84, 0x00, 0x84}, {emv, 0x8F, 0x03, 0x8F},
		{emv, 0x90, 0x00, 0x90}, {emv, 0x9F, 0x03, 0x9F},
		{gsm, 0xA0, 0xA0, 0x00}, {other, 0xA1, 0xA1, 0x00}, {other, 0xB0, 0xB0, 0x00}, {other, 0xC5, 0xC5, 0x00}, {other, 0xFE, 0xFE, 0x00},
	} {
		apdu, command := fmt.Sprintf("%02XA40400 02A000 00", c.cla), fmt.Sprintf("%02X A4 04 00 02 A0 00: 61 02", c.cla)
		get := func(cla byte, answer string) string { return fmt.Sprintf("%02X C0 00 00 02: %s", cla, answer) }
		add(c.rule, apdu, "AABB9000", "6102", command, get(c.first, "AA BB 90 00"))
		add(c.rule, apdu, "6F00", "6102", command, get(c.first, "6F 00"))
		for _, sw := range []string{"6E 00", "6D 00"} {
			if c.first == c.other {
				add(once, apdu, sw, "6102", command, get(c.first, sw))
				continue
			}
			add(once, apdu, "AABB9000", "6102", command, get(c.first, sw), get(c.other, "AA BB 90 00"))
			add(once, apdu, sw, "6102", command, get(c.first, sw), get(c.other, sw))
			add("what worked holds for the rest", apdu, "AABBCC9000", "6102",
				command, get(c.first, sw), get(c.other, "AA BB 61 01"), fmt.Sprintf("%02X C0 00 00 01: CC 90 00", c.other))
		}
	}
	add("only 6E00 and 6D00", "80A4040002A00000", "6E01", "6102", "80 A4 04 00 02 A0 00: 61 02", "00 C0 00 00 02: 6E 01")
	add("only 6E00 and 6D00", "80A4040002A00000", "6B00", "6102", "80 A4 04 00 02 A0 00: 61 02", "00 C0 00 00 02: 6B 00")
	add("not after data came", "80A4040002A00000", "AA6D00", "6104",
		"80 A4 04 00 02 A0 00: 61 04", "00 C0 00 00 04: AA 6D 00")
	add("a corrected length, then the other class", "80A4040002A00000", "AA9000", "6104",
		"80 A4 04 00 02 A0 00: 61 04", "00 C0 00 00 04: 6C 01", "00 C0 00 00 01: 6D 00", "80 C0 00 00 01: AA 90 00")
	add("case 2, 61xx", "80CA000000", "AABB9000", "AA6101", "80 CA 00 00 00: AA 61 01", "00 C0 00 00 01: BB 90 00")
	add("case 2, 6Cxx: the command's own class", "80CA000000", "AA9000", "6C01", "80 CA 00 00 00: 6C 01", "80 CA 00 00 01: AA 90 00")

	// Warnings of a case 4 command.
	for sw2 := range 256 {
		for _, sw1 := range []int{0x62, 0x63} {
			sw := fmt.Sprintf("%02X%02X", sw1, sw2)
			asked := sw1 == 0x62 && (sw2 < 2 || sw2 > 0x80) || sw1 == 0x63 && sw2>>4 != 0xC
			if !asked {
				add(notAsked, "00A4040002A00000", sw, sw, "00 A4 04 00 02 A0 00: "+sw)
				continue
			}
			add(warning, "00A4040002A00000", "AABB"+sw, sw, "00 A4 04 00 02 A0 00: "+sw, "00 C0 00 00 00: AA BB 90 00")
			add(alone, "00A4040002A00005", sw, sw, "00 A4 04 00 02 A0 00: "+sw, "00 C0 00 00 05: 6F 00")
		}
	}
	for ins := range 256 {
		if ins>>4 == 6 || ins>>4 == 9 {
			continue
		}
		command := fmt.Sprintf("00 %02X 04 00 02 A0 00", ins)
		switch ins {
		case 0x20, 0x21, 0x24, 0x25, 0x82:
			add(notAsked, command+"00", "6300", "6300", command+": 63 00")
		default:
			add(warning, command+"00", "AA6300", "6300", command+": 63 00", "00 C0 00 00 00: AA 90 00")
		}
		add(warning, command+"00", "AA6301", "6301", command+": 63 01", "00 C0 00 00 00: AA 90 00")
	}
	const select4 = "00A4040002A00000"
	first := "00 A4 04 00 02 A0 00: 62 83"
	add(warning, select4, "AABB6283", "6283", first, "00 C0 00 00 00: 6C 02", "00 C0 00 00 02: AA BB 90 00")
	add(warning, select4, "AABB6283", "6283", first, "00 C0 00 00 00: AA 61 01", "00 C0 00 00 01: BB 90 00")
	add(warning, select4, "AA6283", "6283", first, "00 C0 00 00 00: AA 62 82")
	add(alone, select4, "6283", "6283", first, "00 C0 00 00 00: 90 00")
	add(warning, select4, "AA6283", "6283", first, "00 C0 00 00 00: AA 63 00")
	add(warning, "00A4040002A00001", "AA6283", "6283", first, "00 C0 00 00 01: AA 61 05")
	add("an error after the data is not hidden", select4, "AA6400", "6283", first, "00 C0 00 00 00: AA 64 00")
	add(alone, select4, "6283", "6283", first, "00 C0 00 00 00: 61 04")
	add(alone, select4, "6283", "6283", first, "00 C0 00 00 00: 6C 02", "00 C0 00 00 02: 6C 03")
	add(alone, select4, "6283", "6283", first, "00 C0 00 00 00: 69 85")
	add("data that broke off are no answer with a warning", select4, "AA6F00", "6283", first, "00 C0 00 00 00: AA 61 04", "00 C0 00 00 04: 6F 00")
	add(once, "80A4040002A00000", "AA6283", "6283", "80 A4 04 00 02 A0 00: 62 83", "00 C0 00 00 00: 6E 00", "80 C0 00 00 00: AA 90 00")
	add(alone, "80A4040002A00000", "6283", "6283", "80 A4 04 00 02 A0 00: 62 83", "00 C0 00 00 00: 6E 00", "80 C0 00 00 00: 6D 00")
	add("case 4 only", "00B0000002", "6282", "6282", "00 B0 00 00 02: 62 82")
	add("case 4 only", "00B0000002", "AA6282", "AA6282", "00 B0 00 00 02: AA 62 82")
	add("case 4 only", "00D600000101", "6281", "6281", "00 D6 00 00 01 01: 62 81")
	add("the command's answer only", select4, "6282", "6104", "00 A4 04 00 02 A0 00: 61 04", "00 C0 00 00 04: 62 82")

	// Status words that end the exchange.
	for _, sw := range []string{"9000", "9F10", "6400", "6581", "6700", "6982", "6A82", "6D00", "6E00", "6F00"} {
		add("passed up", select4, sw, sw, "00 A4 04 00 02 A0 00: "+sw)
	}
	add(case13, "00A40400 02A000", "6110", "6110", "00 A4 04 00 02 A0 00: 61 10")
	add(case13, "00A40400", "6110", "6110", "00 A4 04 00 00: 61 10")
	add(case13, "00A40400 02A000", "6283", "6283", "00 A4 04 00 02 A0 00: 62 83")

	for _, c := range table {
		name := fmt.Sprintf("%s/%s", c.apdu, strings.Join(c.tpdus, "/"))
		for mode, level := range map[T0Mode]string{T0Character: "character", T0TPDU: "TPDU", T0APDU: "APDU"} {
			t.Run(level+"/"+name, func(t *testing.T) {
				t0Trace{rule: c.rule, mode: mode, apdu: c.apdu, want: c.want, trace: c.trace(t, mode, c.tpdus)}.run(t)
			})
			t.Run(level+", plain/"+name, func(t *testing.T) {
				t0Trace{rule: "t0=plain turns all of this off", mode: mode, plain: true, apdu: c.apdu, want: c.plain,
					trace: c.trace(t, mode, c.tpdus[:1])}.run(t)
			})
		}
	}
}
