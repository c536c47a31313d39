package serialtest

import (
	"strings"
	"testing"
)

const example = `
# a Chipdrive
line 9600 8E2            # the first is that of the opening
host DTR RTS
wait 1s
flush
OUT | 00 01
IN 1s held 200ms | 84 ??
                 | 35!
device CTS CD
== power on
host DTR
OUT | 80 6F 00 05 76
IN 1s | timeout
break 250ms
* the card leaves
device -
host -
unplug
`

// The notation says all that there is: a session read, written and read again is the same.
func TestParse(t *testing.T) {
	s, err := Parse(example)
	if err != nil {
		t.Fatal(err)
	}
	const want = `line 9600 8E2
host DTR RTS
wait 1s
flush
OUT | 00 01
IN 1s held 200ms | 84 ?? 35!
device CTS CD
== power on
host DTR
OUT | 80 6F 00 05 76
IN 1s | timeout
break 250ms
* the card leaves
device -
host -
unplug
`
	if got := s.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if out, in := s.Bytes(); out != 7 || in != 3 {
		t.Errorf("%d bytes out, %d in", out, in)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, reason := range map[string]string{
		"OUT 00 01":               "no bar",
		"OUT | ":                  "no bytes",
		"OUT":                     "no bar",
		"IN":                      "no bar",
		"IN |":                    "no bytes",
		"OUT | 1":                 "no bytes",
		"OUT | 00 timeout":        "no bytes",
		"OUT | 00!":               "to the host",
		"IN | 0001!":              "one byte",
		"IN | timeout":            "behind the time",
		"IN 1s | 00 timeout":      "stands alone",
		"IN 1s | timeout 00":      "behind timeout",
		"IN 1s held 1s | timeout": "stands alone",
		"IN 1 | 00":               "missing unit",
		"IN -1s | 00":             "negative",
		"IN held -1s | 00":        "negative",
		"| 00":                    "without a direction",
		"flush\n| 00":             "without a direction",
		"line 9600":               "no mode",
		"line 9600 9N1":           "no mode",
		"line 0 8N1":              "no mode",
		"host CTS":                "none is -",
		"host":                    "none is -",
		"device DTR":              "none is -",
		"device FOO":              "no modem line",
		"break":                   "invalid duration",
		"wait -1s":                "negative",
		"flush now":               "behind flush",
		"unplug it":               "behind unplug",
		"*":                       "no name",
		"==":                      "no name",
		"claim 0":                 "no direction",
	} {
		if s, err := Parse(text); err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v, error %v, want %q", text, s, err, reason)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.String())
		if err != nil {
			t.Fatalf("%v of\n%s", err, s)
		}
		if again.String() != s.String() {
			t.Errorf("got\n%s\nwant\n%s", again, s)
		}
	})
}
