package cards

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
)

// list makes a List of a text.
func list(t *testing.T, text string) *List {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return load([]string{path})
}

func bytesOf(t testing.TB, atr string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(atr, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const example = `# comment
	a line below a comment names nothing
3B 00
	One (Bank)
	https://example.org/one

3b0011
	Lower case
3B 00 11
	The same, again
	Lower case
3B 6. 0[1-2] .* 90
	A pattern
3B 65 01 AA 90
	Spelt out
# a comment in an entry
	which goes on
3B 04 A2 13 10 91
	Memory
3B 04 3F 13 10 91
	None of a memory card
3B 04 3B 13 10 91
	None of a memory card
3B 04 A2 13 10 91 00
	More
3B
	Shortest
3B 22
3B 23

	below an empty line
3B 24
	` + "\x1b[31mred\x1b[0m \xff tab\there" + `
3B (25
	bad pattern
.*
	all that there is
3B 26
	no newline`

// "ATR in regular expression form, \t descriptive text": what each line of a list comes to.
func TestName(t *testing.T) {
	l := list(t, example)
	for _, x := range []struct {
		atr  string
		want []string
	}{
		{"3B 00", []string{"One (Bank)"}},
		{"3B 00 11", []string{"Lower case", "The same, again"}},
		{"3B 65 01 AA 90", []string{"Spelt out", "which goes on", "A pattern"}},
		{"3B 65 02 AA BB 90", []string{"A pattern"}},
		{"3B 65 03 AA 90", nil},             // not of the class
		{"3B 65 01 AA 90 00", nil},          // anchored at its end
		{"3F 3B 65 01 AA 90", nil},          // and at its beginning
		{"A2 13 10 91", []string{"Memory"}}, // H1 to H4
		{"3B 04 A2 13 10 91", []string{"Memory"}},
		{"3B 13 10 91", nil}, // an ATR, if a wrong one
		{"3F 13 10 91", nil},
		{"A2 13 10 91 00", nil}, // not four bytes
		{"3B", []string{"Shortest"}},
		{"3B 22", nil},
		{"3B 23", nil},
		{"3B 24", []string{"[31mred[0m tab here"}}, // no escape for the terminal
		{"3B 25", nil},
		{"3B 26", []string{"no newline"}},
		{"", nil},
	} {
		for range 2 { // once from the list, once from memory
			if got := l.Name(bytesOf(t, x.atr)); !slices.Equal(got, x.want) {
				t.Errorf("%s: %q, want %q", x.atr, got, x.want)
			}
		}
	}
	// A caller that changes its result does not change later ones.
	l.Name(bytesOf(t, "3B 00"))[0] = "changed"
	if got := l.Name(bytesOf(t, "3B 00")); got[0] != "One (Bank)" {
		t.Error(got)
	}
}

// The first list that names a card is the list: the user's copy, unless it is empty, no
// file, or cannot be read.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, one, two := write("empty", ""), write("one", "3B 00\n\tone\n"), write("two", "3B 00\n\ttwo\n3B 01\n\ttwo\n")
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	l := load([]string{filepath.Join(dir, "nosuch"), dir, fifo, empty, one, two})
	if got := l.Name([]byte{0x3B, 0}); !slices.Equal(got, []string{"one"}) {
		t.Error(got)
	}
	if got := l.Name([]byte{0x3B, 1}); got != nil {
		t.Error("lists are not mixed:", got)
	}
	if got := load(nil).Name([]byte{0x3B, 0}); got != nil {
		t.Error(got)
	}

	t.Setenv("HOME", dir)
	t.Setenv("XDG_CACHE_HOME", "")
	write(".smartcard_list.txt", "3B 00\n\thome\n")
	if got := Load().Name([]byte{0x3B, 0}); !slices.Equal(got, []string{"home"}) {
		t.Error(got)
	}
	write(".cache/smartcard_list.txt", "3B 00\n\tcache\n")
	if got := Load().Name([]byte{0x3B, 0}); !slices.Equal(got, []string{"cache"}) {
		t.Error(got)
	}
	write("xdg/smartcard_list.txt", "3B 00\n\txdg\n")
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "xdg"))
	later := Load()
	if got := Load().Name([]byte{0x3B, 0}); !slices.Equal(got, []string{"xdg"}) {
		t.Error(got)
	}
	// The file is not read before the first name is asked for.
	write("xdg/smartcard_list.txt", "3B 00\n\tchanged\n")
	if got := later.Name([]byte{0x3B, 0}); !slices.Equal(got, []string{"changed"}) {
		t.Error(got)
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	for _, path := range paths() {
		if !filepath.IsAbs(path) {
			t.Errorf("without a home: %s", path)
		}
	}
}

// Entries that are too long, too many or cut off by an error are skipped; the rest counts.
func TestGarbage(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	i := parse(strings.NewReader("3B 00\n\t" + long + "\n\tshort\n\t" + strings.Repeat("é", 300) + "\n3B 02\n\t" + long[:maxName] + "\n" + long + long + "\n3B 01\n\tlast\n"))
	if got := i.find("3B 00"); len(got) != 2 || got[0] != "short" || len(got[1]) > maxName+len("…") || !strings.HasSuffix(got[1], "é…") {
		t.Errorf("%q", got)
	}
	if got := i.find("3B 02"); !slices.Equal(got, []string{long[:maxName]}) {
		t.Errorf("the longest name: %q", got)
	}
	if got := i.find("3B 01"); !slices.Equal(got, []string{"last"}) {
		t.Errorf("after a long line: %q", got)
	}
	i = parse(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("3B 00\n\tone\n"))))
	if len(i.patterns) != 0 || len(i.exact) > 1 {
		t.Errorf("%+v", i)
	}
	i = parse(strings.NewReader(strings.Repeat("3B .\n\tx\n", maxPatterns+10)))
	if len(i.patterns) != maxPatterns {
		t.Errorf("%d patterns", len(i.patterns))
	}
	if i = parse(endless{}); len(i.exact) != 1 {
		t.Errorf("%d ATRs", len(i.exact))
	}
	var names strings.Builder
	for n := range 3 * maxNames {
		fmt.Fprintf(&names, "3B %02X\n\tcard %d\n3B .%X\n\tpattern %d\n", n%2, n, n%2, n)
	}
	if got := parse(strings.NewReader(names.String())).find("3B 00"); len(got) != maxNames {
		t.Errorf("%d names", len(got))
	}
	l := list(t, "3B 00\n\tone\n3B .1\n\tpattern\n") // as many patterns as others
	if got := l.Name([]byte{0x3B, 0}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	for n := range maxKnown + 10 {
		l.Name([]byte{0x3B, 0x02, byte(n >> 8), byte(n)})
	}
	if len(l.known) > maxKnown || len(l.known) < 2 {
		t.Errorf("%d ATRs are remembered", len(l.known))
	}
}

// endless is a list without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte("3B 00\n\tx\n"), len(p)/9+1)), nil
}

func TestAtTheSameTime(t *testing.T) {
	l := list(t, example)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for m := range 100 {
				if got := l.Name([]byte{0x3B, 0x26, byte(n), byte(m)}[:2]); len(got) != 1 {
					t.Errorf("%q", got)
				}
			}
		})
	}
	all.Wait()
}

// ATR_analysis finds the same cards in Debian's list.
func TestAnalysis(t *testing.T) {
	const installed = "/usr/share/pcsc/smartcard_list.txt"
	analysis, err := exec.LookPath("ATR_analysis")
	if err != nil {
		t.Fatal("ATR_analysis is missing: apt-get install pcsc-tools")
	}
	text, err := os.ReadFile(installed)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	l := load([]string{installed})
	atrs := []string{"3B 65 00 00 9C 11 01 01 03", "3B 6F 00 00 80 5A 29 13 09 10 11 33 01 02 03 04 82 90 00", "3F 65 25 00 2C 09 69 90 00"}
	exact := regexp.MustCompile(`(?m)^3[BF]( [0-9A-F]{2}){2,32}$`).FindAllString(string(text), -1)
	for range 12 {
		atrs = append(atrs, exact[rand.IntN(len(exact))])
	}
	for _, atr := range atrs {
		out, err := exec.Command(analysis, atr).Output()
		if err != nil {
			t.Fatalf("ATR_analysis %s: %v", atr, err)
		}
		var want []string
		_, found, ok := strings.Cut(string(out), "Possibly identified card")
		if !ok {
			continue // memory cards end before
		}
		for line := range strings.Lines(regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(found, "")) {
			if name, ok := strings.CutPrefix(line, "\t"); ok {
				if name = clean([]byte(name)); name != "" {
					want = append(want, name)
				}
			}
		}
		got := l.Name(bytesOf(t, atr))
		slices.Sort(want)
		slices.Sort(got)
		if want = slices.Compact(want); !slices.Equal(got, want) {
			t.Errorf("%s:\n%q\nATR_analysis finds\n%q", atr, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example), []byte{0x3B, 0x65, 0x01, 0x90})
	f.Fuzz(func(t *testing.T, text, atr []byte) {
		for _, name := range parse(bytes.NewReader(text)).find(fmt.Sprintf("% X", atr)) {
			if name == "" || len(name) > maxName+len("…") || strings.ContainsAny(name, "\n\t\x1b") {
				t.Errorf("%q", name)
			}
		}
	})
}

// A thousand cards, each of another kind.
func BenchmarkThousand(b *testing.B) {
	for b.Loop() {
		l := load([]string{"/usr/share/pcsc/smartcard_list.txt"})
		for n := range 1000 {
			l.Name([]byte{0x3B, 0x65, 0x00, 0x00, 0x9C, byte(n >> 8), byte(n), 0x01, 0x03})
		}
	}
}
