package main

import (
	"bytes"
	"reflect"
	"regexp"
	"slices"
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
		got, err := parseHex(text)
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
		if _, err := parseHex(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// "SEQ SLOT EVENT key=value…"; lost is not one of the event's own keys.
func TestParseEvent(t *testing.T) {
	got, err := parseEvent("17 3 powered lost=4 atr=3B00 protocol=T=0\n")
	want := event{Seq: 17, Slot: 3, Event: "powered", More: map[string]string{"atr": "3B00", "protocol": "T=0"}, Lost: 4}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if text := got.text(); text != "slot 3: card powered, T=0, ATR 3B00 (4 events before this were lost)" {
		t.Error(text)
	}
	for _, line := range []string{"", "1 2", "x 0 ready", "1 x ready", "-1 0 ready"} {
		if _, err := parseEvent(line); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
}

func TestEventText(t *testing.T) {
	for line, want := range map[string]string{
		"1 0 arrived driver=sim device=t1-1 reader=Simulated_T_1_reader": "slot 0: reader arrived: Simulated T 1 reader (sim t1-1)",
		"1 0 arrived driver=vpcd device=127.0.0.1:35963":                 "slot 0: reader arrived (vpcd 127.0.0.1:35963)",
		"2 0 ready":                       "slot 0: reader ready",
		"3 0 failed error=no_x":           "slot 0: failed: no x",
		"4 0 inserted":                    "slot 0: card inserted",
		"5 0 powered power=off":           "slot 0: card powered off",
		"6 0 reset atr=3B00 protocol=T=0": "slot 0: card reset, T=0, ATR 3B00",
		"7 0 removed":                     "slot 0: card removed",
		"8 0 left":                        "slot 0: reader left",
		"9 0 new":                         "slot 0: new",
	} {
		e, err := parseEvent(line)
		if err != nil || e.text() != want {
			t.Errorf("%s: %q, %v", line, e.text(), err)
		}
	}
}

// The reader that attach made is the new one whose device is, or begins with,
// what was asked for; else the first new one of the driver.
func TestNewcomer(t *testing.T) {
	parse := func(lines string) (list []event) {
		for line := range strings.Lines(lines) {
			e, err := parseEvent(line)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, e)
		}
		return list
	}
	before := parse("1 0 arrived driver=vpcd device=unix:/a\n2 0 ready\n")
	now := append(slices.Clone(before), parse(`4 2 arrived driver=sim device=t1-1
5 3 arrived driver=vpcd device=unix:/a+2
6 1 arrived driver=vpcd device=unix:/b=c
`)...)
	for _, c := range []struct {
		driver, device string
		number         int
		ok             bool
	}{
		{"sim", "t1", 2, true},
		{"vpcd", "unix:/b=c", 1, true},
		{"vpcd", "unix:relative", 3, true},
		{"ccid", "x", 0, false},
	} {
		n, ok := newcomer(before, now, c.driver, c.device)
		if n != c.number || ok != c.ok {
			t.Errorf("%s %s: %d, %v", c.driver, c.device, n, ok)
		}
	}
}

// Every command has an example, every flag a description and a name for its value: they
// are the manual.
func TestHelp(t *testing.T) {
	root := newRoot()
	for _, cmd := range root.Commands() {
		if cmd.Runnable() && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.Name())
		}
		if cmd.Long == "" && cmd.Name() != "version" {
			t.Errorf("%s says nothing of itself", cmd.Name())
		}
		for line := range strings.Lines(cmd.Flags().FlagUsages()) {
			if flag := regexp.MustCompile(`--[a-z-]+( (string|duration)s?\b.*|\s*\n)`).FindString(line); flag != "" {
				t.Errorf("%s: %s", cmd.Name(), line)
			}
		}
		for _, text := range []string{cmd.Long, cmd.Example} {
			for line := range strings.Lines(text) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 100 {
					t.Errorf("%s: a line of %d columns: %s", cmd.Name(), n, line)
				}
			}
		}
	}
}

func FuzzParseHex(f *testing.F) {
	f.Add("00 a4 00 0C # MF")
	f.Add("0")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := parseHex(text)
		if err != nil {
			return
		}
		again, err := parseHex(strings.ToUpper(string(hexOf(b))))
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

func FuzzParseEvent(f *testing.F) {
	f.Add("1 0 arrived driver=sim device=t1-1 lost=3")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := parseEvent(line)
		if err == nil && (e.Event == "" || e.text() == "") {
			t.Errorf("%q: %+v", line, e)
		}
	})
}

// A line of a file counts from its beginning on, and without blanks around it.
func TestCutLine(t *testing.T) {
	for _, x := range []struct {
		text, want string
		ok         bool
	}{
		{"error no card\n", "no card", true}, {"a\nerror  b \nerror c\n", "b", true}, {"error x", "x", true},
		{"", "", false}, {" error x\n", "", false}, {"error\n", "", false}, {"x error y\n", "", false},
	} {
		if got, ok := cutLine([]byte(x.text), "error "); got != x.want || ok != x.ok {
			t.Errorf("%q: %q, %v", x.text, got, ok)
		}
	}
}
