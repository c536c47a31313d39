package prompt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/peterh/liner"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/script"
)

// typist types lines; one that is ^C or ^D is that key.
type typist struct {
	lines, typed []string
	prompts      []string
	kept         []string
	err          error // at the end, in place of ctrl-D
}

func (e *typist) next(prompt string, from *[]string) (string, error) {
	e.prompts = append(e.prompts, prompt)
	if len(*from) == 0 {
		if e.err != nil {
			return "", e.err
		}
		return "", io.EOF
	}
	line := (*from)[0]
	*from = (*from)[1:]
	if line == "^C" {
		return "", liner.ErrPromptAborted
	}
	return line, nil
}

func (e *typist) Prompt(p string) (string, error)         { return e.next(p, &e.lines) }
func (e *typist) PasswordPrompt(p string) (string, error) { return e.next(p, &e.typed) }
func (e *typist) AppendHistory(line string)               { e.kept = append(e.kept, line) }
func (e *typist) Close() error                            { return nil }

// card notes what is asked for, and answers 9000.
type card struct {
	p    *Prompt
	did  []string
	lock bool
	err  error
}

func (c *card) do(what string) error { c.did = append(c.did, what); return c.err }

func (c *card) Exchange(capdu []byte, secret bool) ([]byte, error) {
	return []byte{0x90, 0}, c.do(fmt.Sprintf("%X %v", capdu, secret))
}
func (c *card) Reset(how string) error          { return c.do(how) }
func (c *card) Lock() error                     { c.lock = true; return c.do("lock") }
func (c *card) Unlock() error                   { c.lock = false; return c.do("unlock") }
func (c *card) Ask(what string) ([]byte, error) { return c.p.Ask(what) }
func (c *card) Echo(text string) error          { return c.do("say " + text) }

type session struct {
	*typist
	*card
	out, err bytes.Buffer
	explain  []bool
	history  string
}

func run(t *testing.T, history string, lines, typed []string, fault error) (*session, error) {
	s := &session{typist: &typist{lines: lines, typed: typed}, history: history}
	s.card = &card{err: fault}
	p := &Prompt{Name: "0", Out: &s.out, Err: &s.err, History: history, editor: s.typist,
		Locked:  func() bool { return s.card.lock },
		ATR:     func() (string, error) { return "3B 00", fault },
		Explain: func(on bool) { s.explain = append(s.explain, on) },
	}
	s.card.p = p
	return s, p.Run(&script.Session{Host: s.card})
}

// Each line does what it says, and the history keeps what it may.
func TestRun(t *testing.T) {
	history := filepath.Join(t.TempDir(), "history")
	s, err := run(t, history, []string{
		"00A40000", " select mf ", "", "# nothing", "^C", ".reset", ".cold", ".lock", "tries 1", ".unlock", ".atr", ".explain on", ".explain off",
		"verify 1", "00200001 04 31323334", "set A 31", "31323334", "hunter2", ".explain", ".explain maybe", ".nosuch", ".quit", "00B00000",
	}, []string{"1234"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	did := "00A40000 false|00A40000023F0000 false|reset|cold|lock|00200001 false|unlock|002000010431323334 true|002000010431323334 false|31323334 false"
	if got := strings.Join(s.did, "|"); got != did {
		t.Errorf("did %s\nwant %s", got, did)
	}
	kept := "select mf|.reset|.cold|.lock|tries 1|.unlock|.atr|.explain on|.explain off|verify 1"
	if got := strings.Join(s.kept, "|"); got != "00A40000|"+kept {
		t.Errorf("kept %s", got)
	}
	if text, _ := os.ReadFile(history); string(text) != strings.Join(s.kept, "\n")+"\n" {
		t.Errorf("the file has %q", text)
	}
	if s.out.String() != "3B 00\n" || fmt.Sprint(s.explain) != "[true false]" {
		t.Errorf("printed %q, explain %v", &s.out, s.explain)
	}
	prompts := map[string]int{}
	for _, p := range s.prompts {
		prompts[p]++
	}
	if len(prompts) != 3 || prompts["cardfs 0 locked> "] != 2 || prompts["PIN 1: "] != 1 {
		t.Errorf("prompts %v", prompts)
	}
	errs := strings.Split(strings.TrimSpace(s.err.String()), "\n")
	if len(errs) != 4 || !strings.Contains(errs[0], "no hex; nothing was sent") || !strings.Contains(errs[1], ".explain on") || !strings.Contains(errs[3], ".help lists them") {
		t.Errorf("%q", errs)
	}
}

// A failure is reported in one line, and the prompt goes on. ctrl-D or an error of the terminal
// ends it.
func TestFailures(t *testing.T) {
	lines := []string{"00A40000", ".reset", ".lock", ".atr", "echo x"}
	s, err := run(t, "", lines, nil, exit.Status{Code: exit.None, Err: errors.New("no card in slot 0")})
	if err != nil || strings.Count(s.err.String(), "cardfs: no card in slot 0\n") != len(lines) || !strings.HasSuffix(s.out.String(), "\n") {
		t.Errorf("%v, %q", err, &s.err)
	}
	s = &session{typist: &typist{err: syscall.EIO}, card: &card{}}
	p := &Prompt{editor: s.typist, Locked: func() bool { return false }}
	if err := p.Run(&script.Session{Host: s.card}); !errors.Is(err, syscall.EIO) {
		t.Errorf("a terminal that fails: %v", err)
	}
}

// ctrl-C and ctrl-D at a question send nothing.
func TestAskInterrupted(t *testing.T) {
	for _, typed := range [][]string{{"^C"}, {}, {""}} {
		s, err := run(t, "", []string{"verify 1", ".exit"}, typed, nil)
		if err != nil || len(s.did) > 0 || !strings.Contains(s.err.String(), "nothing was sent") {
			t.Errorf("%q: did %q, %q, %v", typed, s.did, &s.err, err)
		}
	}
}

// A history that cannot be written is reported once, and the prompt goes on.
func TestNoHistory(t *testing.T) {
	s, err := run(t, filepath.Join(t.TempDir(), "none", "history"), []string{"tries 1", "tries 2"}, nil, nil)
	if err != nil || len(s.did) != 2 || strings.Count(s.err.String(), "the history is not kept") != 1 || len(s.kept) != 2 {
		t.Errorf("%q, kept %q, %v", &s.err, s.kept, err)
	}
}

// .help names all commands.
func TestHelp(t *testing.T) {
	s, err := run(t, "", []string{".help"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range append(script.Names(), own...) {
		if !strings.Contains(s.out.String(), word) {
			t.Errorf("%s is not in it", word)
		}
	}
}

// Without a terminal there is no prompt.
func TestNoTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := os.Stdin
	defer func() { os.Stdin = before }()
	os.Stdin = null
	p := &Prompt{Err: io.Discard}
	if err := p.Open(); err != nil { // the test's own descriptors may be a terminal
		clienttest.WantError(t, "open", err, exit.BadUsage, "wants a terminal")
	} else {
		p.Close()
	}
}
