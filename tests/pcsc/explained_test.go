package pcsc

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
)

// explanation is a pattern of names of cases, and why they differ.
type explanation struct {
	reason  string
	pattern string // as in path.Match
	want    string // what the files' library says; "": anything
	line    int
	used    int
}

// readExplained reads differences.txt: a reason is a paragraph at the left margin, and below
// it, indented, are the cases that differ for it. What comes behind a colon in such a line is
// what the files' library has to say.
func readExplained(file string) ([]*explanation, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []*explanation
	var reason []string
	inCases := false
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := lines.Text()
		word := strings.TrimSpace(text)
		switch {
		case word == "" || strings.HasPrefix(text, "#"):
		case text[0] != ' ' && text[0] != '\t':
			if inCases {
				reason, inCases = nil, false
			}
			reason = append(reason, word)
		default:
			if reason == nil {
				return nil, fmt.Errorf("%s:%d: a case without a reason", file, n)
			}
			inCases = true
			pattern, want, _ := strings.Cut(word, ": ")
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
			all = append(all, &explanation{reason: strings.Join(reason, " "), pattern: pattern, want: want, line: n})
		}
	}
	return all, lines.Err()
}

// table counts the cases.
type table struct{ cases, equal, explained, unexplained int }

func (t table) String() string {
	return fmt.Sprintf("%d cases: %d equal, %d differ with a reason, %d without", t.cases, t.equal, t.explained, t.unexplained)
}

// compare compares what the cases printed. It returns what differs without a reason.
func compare(pcscd, files []string, explained []*explanation) (table, []string) {
	var t table
	var bad []string
	here := make(map[string]string)
	for _, line := range files {
		name, said, _ := strings.Cut(line, ": ")
		here[name] = said
	}
	for _, line := range pcscd {
		name, want, _ := strings.Cut(line, ": ")
		got, ok := here[name]
		delete(here, name)
		t.cases++
		switch {
		case ok && got == want:
			t.equal++
		case explains(explained, name, got):
			t.explained++
		default:
			t.unexplained++
			bad = append(bad, fmt.Sprintf("%s\n\tpcscd: %s\n\tfiles: %s", name, want, got))
		}
	}
	for name := range here {
		t.cases++
		t.unexplained++
		bad = append(bad, name+": pcscd has no such case")
	}
	return t, bad
}

// explains reports whether a difference has a reason.
func explains(all []*explanation, name, got string) bool {
	for _, e := range all {
		if ok, _ := path.Match(e.pattern, name); ok && (e.want == "" || e.want == got) {
			e.used++
			return true
		}
	}
	return false
}

// "Each difference is either mended or listed in the man page with its reason."
func TestManPage(t *testing.T) {
	explained, err := readExplained("differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(cc.Root(), "cmd/cardfs/install/man/libpcsclite-cardfs.8.md"))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(string(page)), " ")
	for _, e := range explained {
		if !strings.Contains(words, e.reason) {
			t.Errorf("not in the manual page: %s", e.reason)
		}
	}
}
