package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const good = `# a comment
[mount]
allow-other = true
open_timeout = "30s" # _ or -
mode = 0o660
"verbose" = 2
allow-escape = ["pcscd",
   # why
   'nobody']

[[attach]]
driver = "sim"
device = "t0"

[[attach]]
timeout = "5m"
device = "unix:/run/a b"
cards = 1_0
public = false
driver = "vpcd"
[[reader]]
by-id = "usb-*"
group = 1000
mode = "0640"
[[reader]]
[[quirk]]
usb = "08e6:3437"
no-pinpad = true
time-factor = 0x10
`

func TestParse(t *testing.T) {
	got, err := Parse("f", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Name: "f",
		Mount: []Option{{"allow-other", []string{"true"}, 3}, {"open-timeout", []string{"30s"}, 4}, {"mode", []string{"0660"}, 5},
			{"verbose", []string{"2"}, 6}, {"allow-escape", []string{"pcscd", "nobody"}, 7}},
		Attach: []Attach{{"sim", "t0", map[string]string{}, 11},
			{"vpcd", "unix:/run/a b", map[string]string{"timeout": "5m", "cards": "10", "public": "false"}, 15}},
		Readers: []Reader{{"usb-*", "1000", "0640", 21}, {"", "", "", 25}},
		Quirks: []Quirk{{0x08E6, 0x3437, map[string]string{"no-pinpad": "true", "time-factor": "16"},
			map[string]int{"no-pinpad": 28, "time-factor": 29}, 26}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if got, err := Parse("f", nil); err != nil || !reflect.DeepEqual(got, &File{Name: "f"}) {
		t.Errorf("nothing: %+v, %v", got, err)
	}
}

// Every error names its line. All errors are found at once, unless one makes the rest
// unreadable.
func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[mount":                                       "f:1: expected ']' to close table name",
		"[mount]\nmode = 0660":                         "f:2: integers cannot have leading zeroes",
		"[mount]\nmode = \"0660":                       "f:2: ",
		"[mount]\nmode = 1\nmode = 2":                  "f:3: key mode is already defined",
		"[mount]\n[mount]":                             "f:2: ",
		"mode = \"0660\"":                              "f:1: mode is in no table; a line with [mount] has to be before it",
		"\n[mounts]\nx = 1":                            "f:2: no table [mounts]; there are [mount], [[attach]], [[reader]], [[quirk]]",
		"[[mount]]":                                    "f:1: no table [[mount]]; there are",
		"[attach]\ndriver = \"sim\"":                   "f:1: no table [attach]; there are",
		"[mount]\na.b = 1":                             "f:2: a.b: keys with dots mean nothing here",
		"[mount]\na.b = 1\nc.d = 1":                    "f:2: a.b: keys with dots mean nothing here\nf:3: c.d: keys",
		"[a.b]\nx = {a = 1}\n[mount]\nmode = {a = 1}":  "f:1: a.b: keys with dots mean nothing here\nf:4: mode: a string",
		"[mount.x]\na = 1\n":                           "f:1: mount.x: keys with dots mean nothing here",
		"[mount]\nmode = 1.5":                          "f:2: mode: a string, a whole number, true or false is wanted",
		"[mount]\nmode = 2026-11-28":                   "f:2: mode: a string,",
		"[mount]\nmode = {a = 1}":                      "f:2: mode: a string,",
		"[mount]\nmode = [[1]]":                        "f:2: mode: a string,",
		"[[attach]]\ndevice = \"t0\"":                  "f:1: [[attach]] wants a driver: driver = \"vpcd\"",
		"[[attach]]\ndriver = [\"sim\"]":               "f:1: [[attach]] wants a driver: driver = \"vpcd\"\nf:2: driver is a list; one value is wanted",
		"[[attach]]\ndriver = \"sim\"\ncard = [\"a\"]": "f:3: card is a list; one value is wanted",
		"[[reader]]\nname = 1\nmode = 1\nowner = 2": "f:2: [[reader]] has no key \"name\"; there are by-id, group, mode\n" +
			"f:4: [[reader]] has no key \"owner\"; there are by-id, group, mode",
		"[[quirk]]\nno-pps = true":            "f:1: [[quirk]] wants the IDs of a device: usb = \"08E6:3437\"",
		"[[quirk]]\n\nusb = \"8E6:3437\"":     "f:3: [[quirk]] wants the IDs",
		"[[quirk]]\nusb = \"08E6:34370\"":     "f:2: [[quirk]] wants the IDs",
		"[[quirk]]\nusb = \"08E6\"":           "f:2: [[quirk]] wants the IDs",
		"[[quirk]]\nusb = \"08E6:3437:0001\"": "f:2: [[quirk]] wants the IDs",
		"[[quirk]]\nusb = \"08EG:3437\"":      "f:2: [[quirk]] wants the IDs",
	} {
		f, err := Parse("f", []byte(text))
		if err == nil || f != nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\n%v, want\n%s", text, err, want)
		}
		if strings.Contains(want, "\n") != (err != nil && strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v: how many errors?", text, err)
		}
		if all := (Errors)(nil); !errors.As(err, &all) {
			t.Errorf("%q: a %T", text, err)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if _, err := Read(name); err == nil || err.Error() != name+": no such file or directory" || !errors.Is(err.(Errors)[0], os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Read(dir); err == nil || err.Error() != dir+": is a directory" {
		t.Error(err)
	}
	if _, err := Read("/dev/zero"); err == nil || err.Error() != "/dev/zero: larger than 1048576 bytes" {
		t.Error(err)
	}
	if err := os.WriteFile(name, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := Read(name); err != nil || f.Name != name || len(f.Attach) != 2 {
		t.Errorf("%+v, %v", f, err)
	}
	for size, ok := range map[int64]bool{maxSize: true, maxSize + 1: false} {
		text := append([]byte(good), bytes.Repeat([]byte("\n"), int(size)-len(good))...)
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(name); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// Two lines are the same if they attach the same, in whatever order.
func TestKey(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range []Attach{
		{Driver: "a", Device: "b"}, {Driver: "a b"}, {Driver: "a", Device: "b", Params: map[string]string{"c": "d"}},
		{Driver: "a", Device: "b", Params: map[string]string{"c": "d", "e": "f"}}, {Driver: "a", Device: "b", Params: map[string]string{"c": "d e=f"}},
		{Driver: "a", Device: "b c=d"},
	} {
		if seen[a.Key()] {
			t.Errorf("%s twice", a.Key())
		}
		seen[a.Key()] = true
		again := a
		if again.Line = 7; again.Key() != a.Key() {
			t.Error("another line, another key")
		}
	}
}

// No file causes a panic, and accepted entries have line numbers of the file.
func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("[mount]\na.b = [1, {c = 2}]\n[[x.y]]")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("f", []byte(text))
		lines := strings.Count(text, "\n") + 1
		in := func(line int) bool { return line >= 1 && line <= lines }
		if err != nil {
			for _, e := range err.(Errors) {
				if e.Line != 0 && !in(e.Line) {
					t.Errorf("%v", e)
				}
			}
			return
		}
		for _, o := range file.Mount {
			if !in(o.Line) {
				t.Errorf("%+v", o)
			}
		}
		for _, a := range file.Attach {
			if !in(a.Line) || a.Driver == "" {
				t.Errorf("%+v", a)
			}
		}
	})
}
