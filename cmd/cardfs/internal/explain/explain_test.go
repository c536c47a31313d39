package explain

import (
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file")

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return b
}

// testdata/exchanges.txt holds exchanges and what is said of them: lines of "> COMMAND" and
// "< ANSWER" are the input, the lines indented below them the words.
func TestExchanges(t *testing.T) {
	const file = "testdata/exchanges.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	var e Explainer
	for line := range strings.Lines(string(text)) {
		var w Words
		switch {
		case strings.HasPrefix(line, "#"), line == "\n":
			got.WriteString(line)
			continue
		case strings.HasPrefix(line, "> "):
			w = e.Command(unhex(t, strings.TrimSpace(line[2:])), false)
		case strings.HasPrefix(line, "< "):
			w = e.Answer(unhex(t, strings.TrimSpace(line[2:])))
		default:
			continue // what was said
		}
		got.WriteString(line)
		if w.Masked {
			got.WriteString("    " + w.Hex + "\n")
		}
		for _, l := range w.Lines {
			got.WriteString("    " + l + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, have := strings.Split(string(text), "\n"), strings.Split(got.String(), "\n")
	for i := range max(len(want), len(have)) {
		if i >= len(want) || i >= len(have) || want[i] != have[i] {
			t.Fatalf("line %d is\n%s\nwant\n%s", i+1, at(have, i), at(want, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(none)"
}

// What a secret command holds is nowhere in its words, nor in those of its answer and of what
// GET RESPONSE fetches of it: nor is a length.
func TestMasked(t *testing.T) {
	for _, x := range []struct {
		command, answer string
		secret          bool // the caller says so
	}{
		{"00 20 00 01 04 5A5B5C5D", "63C2", false},
		{"00 24 00 01 08 5A5B5C5D 5A5B5C5D", "9000", false},
		{"00 20 00 01 000004 5A5B5C5D", "9000", false},
		{"00 2A 80 86 04 5A5B5C5D 00", "5A5B5C5D 9000", false},
		{"00 86 00 00 04 5A5B5C5D 00", "5A5B5C5D 9000", false},
		{"00 A4 04 00 04 5A5B5C5D", "9000", true},
		{"00 DB 3F FF 04 5A5B5C5D", "5A5B5C5D 5A5B", false},
		{"00 DB 3F FF 04 5A5B5C5D", "5A5B", false},
		{"00 DB 3F FF 04 5A5B5C5D", "5A", false},
		{"5A 5B 5C", "6700", false}, // a PIN typed into the wrong place
	} {
		var e Explainer
		say := func(w Words) string {
			return w.Hex + "\n" + w.Name + "\n" + w.Data + w.SW + w.Status + "\n" + strings.Join(w.Lines, "\n")
		}
		command, answer := unhex(t, x.command), unhex(t, x.answer)
		said := []string{say(e.Command(command, x.secret)), say(e.Answer(answer))}
		fetch := e.Command(unhex(t, "00C0000004"), false)
		said = append(said, say(fetch), say(e.Answer(unhex(t, "5A5B5C5D9000"))))
		header := strings.ToUpper(hex.EncodeToString(command[:min(4, len(command))]))
		for i, s := range said {
			flat := strings.ReplaceAll(s, " ", "")
			if i == 0 {
				flat = strings.Replace(flat, header, "", 1)
			}
			for _, bad := range []string{"5A", "5B", "5C", "5D", "5E", "Z[", "byte"} {
				if strings.Contains(flat, bad) {
					t.Errorf("%s, %s: said %q", x.command, x.answer, s)
				}
			}
		}
		if !fetch.Masked {
			t.Errorf("%s: GET RESPONSE is shown", x.command)
		}
		if w := e.Command(unhex(t, "00B0000002"), false); w.Masked {
			t.Errorf("%s: the next command is masked: %s", x.command, w.Hex)
		}
	}
}

// After a reset GET RESPONSE does not fetch the answer of an earlier command.
func TestReset(t *testing.T) {
	var e Explainer
	e.Command(unhex(t, "002A808601AA"), false)
	e.Reset()
	if w := e.Command(unhex(t, "00C0000001"), false); w.Masked {
		t.Errorf("%q is masked", w.Hex)
	}
}

// The answer to a secret command is not decoded into a tree.
func TestMaskedTree(t *testing.T) {
	var e Explainer
	if w := e.Command(unhex(t, "00DB3FFF05 5C035FC105"), false); w.Tree != nil {
		t.Error("PUT DATA has a tree")
	}
	if w := e.Answer(unhex(t, "5C035FC1059000")); w.Tree != nil || !w.Masked {
		t.Error("its answer has a tree")
	}
	e.Command(unhex(t, "00CB3FFF05 5C035FC105"), false)
	if w := e.Answer(unhex(t, "5C035FC1059000")); len(w.Tree) != 1 || w.Masked || w.Tree[0].Tag != "5C" || w.Tree[0].Value != "5F C1 05" {
		t.Errorf("GET DATA's answer: %+v", w)
	}
}

// Nothing that a card or a user sends makes it panic, or say more than a few times what
// came.
func FuzzExplain(f *testing.F) {
	f.Add([]byte{0, 0xA4, 4, 0, 2, 0x3F, 0, 0}, []byte{0x6F, 3, 0x82, 1, 0x38, 0x90, 0})
	f.Add([]byte{0, 0xCB, 0x3F, 0xFF, 5, 0x5C, 3, 0x5F, 0xC1, 5, 0}, []byte{0x53, 3, 0x70, 1, 0, 0x90, 0})
	f.Add([]byte{0, 0xB2, 1, 4, 0}, []byte{0x70, 6, 0x8C, 1, 0x9A, 0x06, 1, 0x80, 0x90, 0})
	f.Add([]byte{0, 0xB0, 0, 0, 0}, []byte{0x62, 2, 0x82, 0, 0, 0, 0x90, 0})
	f.Fuzz(func(t *testing.T, command, answer []byte) {
		var e Explainer
		for _, w := range []Words{e.Command(command, false), e.Answer(answer)} {
			size := 0
			for _, l := range w.Lines {
				size += len(l)
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("%q", l)
				}
			}
			if size > 1000+150*(len(command)+len(answer)) {
				t.Errorf("%d bytes of words for %d and %d bytes", size, len(command), len(answer))
			}
			if len(w.Lines) == 0 {
				t.Error("no words")
			}
		}
	})
}
