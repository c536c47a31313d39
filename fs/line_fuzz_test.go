package fs

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/reader/core"
)

// lineCard takes every line that apdu takes.
type lineCard struct{ apduFile }

func (*lineCard) set(context.Context, string, string) error { return nil }

func (*lineCard) control(_ context.Context, _ []byte, _ core.Moment, dst []byte) ([]byte, error) {
	return dst, nil
}

// parseAll hands pieces to a channel as writes, and returns what came of them and the line that
// is not whole.
func parseAll(pieces ...[]byte) (all []command, rest []byte, err error) {
	c := &channel{to: &lineCard{}, lockLines: true}
	for _, p := range pieces {
		commands, rest, joined, err := c.parse(bytes.Clone(p))
		if err != nil {
			return nil, nil, err
		}
		all = append(all, commands...)
		c.setLine(rest, joined)
	}
	return all, c.line, nil
}

// "A line may come in pieces": what whole lines give does not depend on how they are cut.
func FuzzLines(f *testing.F) {
	for _, s := range []string{
		"00A4000C023F00\n", "00 a4 00 00 # x\nlock\n", "errors\n\n \t\r\n#\nunlock", "power reset\npower\tcold # so\n", "protocol T=1\nprotocol  T=0",
		"control 42000D48\ncontrol 42 33 00 0A", "trylock\ntry", "control 42\n", "powers\n", "cont#\n", "c0 00 00 00\n", "co", "l#\n", "e\nE0A40000\n",
		"00CA", "power #reset\n", "control\n", "00\x0000\n",
	} {
		for _, cut := range []int{0, 1, 3, 8, len(s)} {
			f.Add([]byte(s), cut)
		}
	}
	same := func(a, b command) bool { return a.word == b.word && a.room == b.room && bytes.Equal(a.data, b.data) }
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		if cut < 0 || cut > len(text) || bytes.Count(text, []byte("\n")) > maxAnswers {
			return
		}
		text = append(bytes.Clone(text), '\n')
		whole, line, err := parseAll(text)
		parts, partsLine, partsErr := parseAll(text[:cut], text[cut:])
		switch {
		case err != nil && partsErr == nil:
			t.Fatalf("%q is taken when cut at %d, and refused in one piece: %v", text, cut, err)
		case err == nil && partsErr != nil:
			t.Fatalf("%q is refused when cut at %d: %v", text, cut, partsErr)
		case err == nil && (!slices.EqualFunc(whole, parts, same) || !bytes.Equal(line, partsLine)):
			t.Fatalf("%q, cut at %d: %v and %q; in one piece %v and %q", text, cut, parts, partsLine, whole, line)
		}
		for _, c := range whole {
			if c.none() || c.word == "" && len(c.data) < 4 || c.word == wordControl && len(c.data) < controlCode {
				t.Fatalf("%q: a command %q of %d bytes", text, c.word, len(c.data))
			}
		}
	})
}
