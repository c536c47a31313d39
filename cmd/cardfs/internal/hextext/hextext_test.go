package hextext

import (
	"bytes"
	"strings"
	"testing"
)

// Blanks anywhere, case free, # begins a comment.
func TestParseHex(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"  \t\r\n":                "",
		"# nothing":               "",
		"00A4":                    "\x00\xa4",
		" 0 0 a4\t3f # MF zz":     "\x00\xa4\x3f",
		"00 A4 04 00 02 3F 00 \n": "\x00\xa4\x04\x00\x02\x3f\x00",
	} {
		got, err := Parse(text)
		if err != nil || string(got) != want {
			t.Errorf("%q: % X, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"0":                          "an odd number of hex digits",
		"00A":                        "an odd number of hex digits",
		"00GA":                       "character 3 is no hex digit",
		"0x00":                       "character 2 is no hex digit",
		"00 20 00 01 04 31 32 33 3P": "character 26 is no hex digit",
		"ü":                          "character 1 is no hex digit",
		"0ü0x":                       "character 2 is no hex digit",
	} {
		if _, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzParseHex(f *testing.F) {
	f.Add("00 a4 00 0C # MF")
	f.Add("0")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(strings.ToUpper(string(hexOf(b))))
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%q: % X and % X, %v", text, b, again, err)
		}
	})
}

func hexOf(b []byte) []byte {
	var out []byte
	for _, c := range b {
		out = append(out, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15], ' ')
	}
	return out
}
