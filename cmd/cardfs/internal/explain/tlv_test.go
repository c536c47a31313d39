package explain

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// shape writes objects as TAG(children) or TAG=value.
func shape(list []Object) string {
	var words []string
	for _, o := range list {
		if o.Constructed() {
			words = append(words, fmt.Sprintf("%X(%s)", o.Tag, shape(o.Children)))
		} else {
			words = append(words, fmt.Sprintf("%X=%X", o.Tag, o.Value))
		}
	}
	return strings.Join(words, " ")
}

// ISO/IEC 7816-4:2020 §6.3: tags of one to three bytes, lengths of one to four; the
// indefinite length is refused, and so is what is cut off.
func TestParseTLV(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"80 00":                      "80=",
		"80 01 AA 81 02 BB CC":       "80=AA 81=BBCC",
		"6F 04 84 02 3F 00":          "6F(84=3F00)",
		"A5 00":                      "A5()",
		"30 06 30 04 02 02 01 02":    "30(30(2=0102))",
		"5F 20 01 41":                "5F20=41",
		"9F 02 01 01":                "9F02=01",
		"5F C1 05 01 41":             "5FC105=41",
		"7F 49 03 86 01 04":          "7F49(86=04)",
		"80 81 01 AA":                "80=AA", // 7816-4 has no shortest form
		"80 82 00 01 AA":             "80=AA",
		"80 83 00 00 01 AA":          "80=AA",
		"BF 0C 00":                   "BF0C()",
		"80 7F" + hexes(0x7F):        "80=" + hexes(0x7F),
		"80 81 80" + hexes(0x80):     "80=" + hexes(0x80),
		"80 82 01 00" + hexes(0x100): "80=" + hexes(0x100),
		"82 02 00 FF":                "82=00FF",
	} {
		list, err := ParseTLV(unhex(t, in))
		if got := shape(list); err != nil || got != want {
			t.Errorf("%.40s: %.60s, %v, want %.60s", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		"00":                              errTag, // no tag, but padding
		"FF 01 00":                        errTag,
		"00 00":                           errTag,
		"80 01 AA 00":                     errTag,
		"5F":                              errTag,
		"5F 81":                           errTag,
		"5F 81 81 01 00":                  errTag, // four bytes
		"5F 80 01 00":                     errTag, // a number that begins with zeros
		"80":                              errLength,
		"6F 80 80 00 00 00":               errLength, // indefinite
		"80 81":                           errLength,
		"80 82 01":                        errLength,
		"80 84 00 00 00 01 AA":            errLength,
		"80 FF":                           errLength,
		"80 01":                           errShort,
		"80 02 AA":                        errShort,
		"80 83 FF FF FF 00":               errShort,
		"6F 03 80 02 AA":                  errShort,
		"6F 03 80 02 AA BB":               errShort, // the child longer than its parent
		"30 03 30 80 00":                  errLength,
		strings.Repeat("30 00", 1) + "00": errTag,
	} {
		list, err := ParseTLV(unhex(t, in))
		if err == nil || !strings.HasSuffix(err.Error(), want.Error()) || list != nil {
			t.Errorf("%s: %s, %v, want %v", in, shape(list), err, want)
		}
	}
}

func hexes(n int) string { return strings.Repeat("AB", n) }

// Objects are nested twelve deep, no deeper.
func TestDepth(t *testing.T) {
	for _, x := range []struct {
		depth int
		ok    bool
	}{{1, true}, {11, true}, {12, false}, {60, false}} {
		b := []byte{0x80, 0}
		for range x.depth {
			b = append([]byte{0x30, byte(len(b))}, b...)
		}
		if _, err := ParseTLV(b); (err == nil) != x.ok {
			t.Errorf("%d around one: %v", x.depth, err)
		}
	}
}

// Bytes 00 or FF fill a file or a record behind its last object; an object may end in such
// bytes itself.
func TestPadding(t *testing.T) {
	for _, x := range []struct {
		in, want string
		pad      int
	}{
		{"80 01 AA", "80=AA", 0},
		{"80 01 AA 00", "80=AA", 1},
		{"80 01 AA FF FF FF", "80=AA", 3},
		{"80 02 00 00 00 00", "80=0000", 2},
		{"80 02 FF FF FF", "80=FFFF", 1},
		{"80 01 AA 81 01 BB 00 00", "80=AA 81=BB", 2},
		{"61 03 4F 01 00 00", "61(4F=00)", 1},
		// none of these is a whole number of objects and a filler
		{"00 00", "", 0}, {"FF", "", 0}, {"80 01 AA 00 FF", "", 0}, {"80 01 AA FF 00", "", 0}, {"80 01 AA 12", "", 0},
		{"30 01 80 00", "", 0}, {"80 05 00 00", "", 0}, {"", "", 0},
	} {
		list, pad, err := parsePadded(unhex(t, x.in))
		if got := shape(list); got != x.want || len(pad) != x.pad || (err == nil) != (x.want != "" || x.in == "") {
			t.Errorf("%s: %s and %d bytes, %v; want %s and %d", x.in, got, len(pad), err, x.want, x.pad)
		}
	}
}

// encode is ParseTLV's inverse, with shortest lengths.
func encode(list []Object) (out []byte) {
	for _, o := range list {
		value := o.Value
		if o.Constructed() {
			value = encode(o.Children)
		}
		for shift := 16; shift >= 0; shift -= 8 {
			if b := byte(o.Tag >> shift); b != 0 || shift == 0 || o.Tag>>shift != 0 {
				out = append(out, b)
			}
		}
		switch n := len(value); {
		case n < 0x80:
			out = append(out, byte(n))
		case n < 0x100:
			out = append(out, 0x81, byte(n))
		default:
			out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
		}
		out = append(out, value...)
	}
	return out
}

// What was parsed is the same when it is written and parsed again, and no value reaches
// behind its parent.
func FuzzTLV(f *testing.F) {
	f.Add([]byte{0x6F, 4, 0x84, 2, 0x3F, 0})
	f.Add([]byte{0x5F, 0xC1, 5, 0x81, 1, 0x41, 0xFF, 0xFF})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Add(bytes.Repeat([]byte{0x30, 0x20}, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseTLV(b)
		if err == nil {
			again, err := ParseTLV(encode(list))
			if err != nil || shape(again) != shape(list) {
				t.Errorf("% X: %s, again %s, %v", b, shape(list), shape(again), err)
			}
		}
		list, pad, err := parsePadded(b)
		if err == nil && len(pad) > 0 {
			if whole, err := ParseTLV(b[:len(b)-len(pad)]); err != nil || shape(whole) != shape(list) {
				t.Errorf("% X: padding % X, %v", b, pad, err)
			}
		}
	})
}
