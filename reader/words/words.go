// Package words sanitises the names and texts of devices and users for file names, `status`,
// events and the log. The result ends no line, sends no command to a terminal, cannot pass
// for something else, and is not too long.
package words

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	MaxValue = 256  // characters of one value of `status`, and of an event
	MaxWords = 1024 // of an error
	MaxPairs = 64   // of what a driver adds
	MaxName  = 200  // bytes of a name below by-id; NAME_MAX is 255
)

// OneLine is for strings.Map: controls and separators become blanks. What is not shown
// (formats, among them those that turn the direction of writing; private use and
// surrogates) becomes U+FFFD.
func OneLine(r rune) rune {
	switch {
	case unicode.IsControl(r), unicode.In(r, unicode.Z):
		return ' '
	case unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs), !unicode.IsPrint(r):
		return utf8.RuneError
	}
	return r
}

// oneWord is OneLine for what must have no blanks either.
func oneWord(r rune) rune {
	if r = OneLine(r); r == ' ' {
		return '_'
	}
	return r
}

// Printable is s on one line, cut to most characters.
func Printable(s string, most int) string { return clip(strings.Map(OneLine, head(s, most)), most) }

// Word is Printable without blanks.
func Word(s string, most int) string { return clip(strings.Map(oneWord, head(s, most)), most) }

// head returns the most of s that clip can need.
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

// Tidy sanitises the pairs that a driver adds to `status`.
func Tidy(more map[string]string) map[string]string {
	if len(more) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, key := range SortedKeys(more)[:min(len(more), MaxPairs)] {
		out[Word(key, MaxName)] = Printable(more[key], MaxWords)
	}
	return out
}

// SortedKeys is for output that must not change from run to run.
func SortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
