package reader

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What devices and users call themselves is shown in names, `status`, events and the
// log: it ends no line, commands no terminal, and looks like nothing that it is not.

const (
	maxValue = 256  // characters of one value of `status`, and of an event
	maxWords = 1024 // of an error
	maxPairs = 64   // of what a driver adds
	maxName  = 200  // bytes of a name below by-id; NAME_MAX is 255
)

// oneLine is for strings.Map: controls and separators become blanks. What is not shown
// (formats, among them those that turn the direction of writing; private use and
// surrogates) becomes U+FFFD.
func oneLine(r rune) rune {
	switch {
	case unicode.IsControl(r), unicode.In(r, unicode.Z):
		return ' '
	case unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs), !unicode.IsPrint(r):
		return utf8.RuneError
	}
	return r
}

// oneWord is oneLine for what must have no blanks either.
func oneWord(r rune) rune {
	if r = oneLine(r); r == ' ' {
		return '_'
	}
	return r
}

// printable is s on one line, cut to most characters.
func printable(s string, most int) string { return clip(strings.Map(oneLine, head(s, most)), most) }

// word is printable without blanks.
func word(s string, most int) string { return clip(strings.Map(oneWord, head(s, most)), most) }

// head is as much of s as clip can need.
func head(s string, most int) string { return s[:min(len(s), utf8.UTFMax*(most+1))] }

func clip(s string, most int) string {
	n := 0
	for i := range s {
		if n++; n == most {
			if utf8.RuneCountInString(s[i:]) > 1 {
				return s[:i] + "…"
			}
			break
		}
	}
	return s
}

// tidy is what a driver adds to `status`, made fit for it.
func tidy(more map[string]string) map[string]string {
	if len(more) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, key := range sortedKeys(more)[:min(len(more), maxPairs)] {
		out[word(key, maxName)] = printable(more[key], maxWords)
	}
	return out
}

// sortedKeys is for output that must not change from run to run.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// lastingName is a slot's name that survives replugging and reboot, in udev's
// style: bus, model, serial number or port, and the slot in the reader.
func lastingName(dev Device, index int) string {
	where, bus := dev.Serial, dev.Bus
	if where == "" {
		where = dev.Port
	}
	if where == "" {
		where = dev.Address
	}
	if bus == "" {
		bus = dev.Driver
	}
	model := dev.ID.Model
	if model != "" {
		model += "_"
	}
	name, slot := fmt.Sprintf("%s-%s%s", tame(bus), tame(model), tame(where)), fmt.Sprintf("-slot%d", index)
	if most := maxName - len(slot); len(name) > most {
		// What is cut off tells it from others all the same.
		sum := fnv.New64a()
		fmt.Fprint(sum, bus, "\x00", model, "\x00", where)
		tail := fmt.Sprintf("-%016x", sum.Sum64())
		name = name[:most-len(tail)] + tail
	}
	return name + slot
}

// tame keeps what udev keeps in names: letters, digits and "#+-.:=@_"; a run of
// anything else becomes one underscore.
func tame(s string) string {
	var out strings.Builder
	for _, r := range strings.TrimSpace(s) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune("#+-.:=@_", r):
			out.WriteRune(r)
		case !strings.HasSuffix(out.String(), "_"):
			out.WriteByte('_')
		}
	}
	return out.String()
}
