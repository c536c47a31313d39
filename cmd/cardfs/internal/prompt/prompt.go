// Package prompt is the interactive prompt of `cardfs send -i`: line editing, completion and
// a history that holds no secret.
package prompt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/peterh/liner"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/ask"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/script"
)

// Commands are the lines of the prompt's own, and what they do.
var Commands = [][2]string{
	{".atr", "the card's ATR"},
	{".reset", "reset the card; .cold cuts its power"},
	{".lock", "hold the slot's transaction; .unlock ends it"},
	{".explain on|off", "commands and answers in words"},
	{".help", "the commands that have names"},
	{".quit", "the end, as ctrl-D"},
}

var own = []string{".atr", ".reset", ".cold", ".lock", ".unlock", ".explain", ".help", ".quit"}

// Prompt is a prompt on the terminal.
type Prompt struct {
	Name    string // of the slot
	Out     io.Writer
	Err     io.Writer
	History string // file; "" for none
	Locked  func() bool
	ATR     func() (string, error)
	Explain func(on bool)

	editor editor
}

// editor is a liner.State, or what a test has in its place.
type editor interface {
	Prompt(string) (string, error)
	PasswordPrompt(string) (string, error)
	AppendHistory(string)
	Close() error
}

// Open takes the terminal. What was typed in earlier sessions can be had again.
func (p *Prompt) Open() error {
	for fd, name := range []string{"standard input", "standard output"} {
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			return exit.Usage("send -i wants a terminal, and %s is none; for commands in a file there is -f", name)
		}
	}
	l := liner.NewLiner()
	l.SetCtrlCAborts(true)
	l.SetTabCompletionStyle(liner.TabPrints)
	l.SetCompleter(func(line string) []string { return script.Complete(line, own) })
	p.editor = l
	lines, err := loadHistory(p.History)
	if err != nil {
		fmt.Fprintf(p.Err, "cardfs: no history: %v\n", err)
		p.History = ""
	}
	for _, line := range lines {
		l.AppendHistory(line)
	}
	p.restoreOnSignal()
	return nil
}

// restoreOnSignal gives the terminal back before a signal ends the program, as ctrl-C does
// while the card works.
func (p *Prompt) restoreOnSignal() {
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if !signal.Ignored(s) { // as by nohup(1)
			signal.Notify(signals, s)
		}
	}
	go func() {
		s := <-signals
		p.Close()
		fmt.Fprintln(p.Out)
		signal.Reset(s)
		unix.Kill(unix.Getpid(), s.(unix.Signal))
	}()
}

// Close gives the terminal back.
func (p *Prompt) Close() { p.editor.Close() }

// Ask has the user type something without echo.
func (p *Prompt) Ask(what string) ([]byte, error) {
	typed, err := p.editor.PasswordPrompt(what + ": ")
	switch {
	case errors.Is(err, liner.ErrPromptAborted), err == io.EOF:
		return nil, exit.Usage("interrupted; nothing was sent")
	case err != nil: // a terminal in which lines cannot be edited
		return ask.Terminal(what)
	}
	return []byte(typed), nil
}

// Run reads lines and does what they say, until ctrl-D or .quit. What fails is said, and the
// prompt goes on.
func (p *Prompt) Run(s *script.Session) error {
	for {
		mark := ""
		if p.Locked() {
			mark = " locked"
		}
		line, err := p.editor.Prompt(fmt.Sprintf("cardfs %s%s> ", p.Name, mark))
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			continue
		case err == io.EOF:
			fmt.Fprintln(p.Out)
			return nil
		case err != nil:
			return fmt.Errorf("read a line from the terminal: %w", err)
		}
		line = strings.TrimSpace(line)
		if line == ".quit" || line == ".exit" {
			return nil
		}
		keep, err := p.do(s, line)
		if keep {
			p.keep(line)
		}
		if err != nil {
			fmt.Fprintf(p.Err, "cardfs: %v\n", err)
		}
	}
}

// do does what a line says, and reports whether the history may keep it.
func (p *Prompt) do(s *script.Session, line string) (keep bool, err error) {
	if !strings.HasPrefix(line, ".") {
		keep = s.Keep(line)
		return keep, s.Do(line)
	}
	switch word, rest, _ := strings.Cut(line, " "); {
	case line == ".reset", line == ".cold", line == ".lock", line == ".unlock":
		return true, s.Do(line[1:])
	case line == ".atr":
		text, err := p.ATR()
		if err == nil {
			fmt.Fprintln(p.Out, text)
		}
		return true, err
	case word == ".explain" && (rest == "on" || rest == "off"):
		p.Explain(rest == "on")
		return true, nil
	case line == ".help":
		p.help()
		return true, nil
	case word == ".explain":
		return false, exit.Usage("it is written .explain on, or .explain off")
	}
	return false, exit.Usage("the prompt has no such command; .help lists them")
}

func (p *Prompt) help() {
	for _, c := range append(script.Usage(), Commands...) {
		fmt.Fprintln(p.Out, strings.TrimRight(fmt.Sprintf("  %-34s %s", c[0], c[1]), " "))
	}
	fmt.Fprintln(p.Out, "  any line of a script, as: 00A4000C (3F00) = 9000")
}

// keep puts a line into the history.
func (p *Prompt) keep(line string) {
	p.editor.AppendHistory(line)
	if p.History == "" {
		return
	}
	if err := appendHistory(p.History, line); err != nil {
		fmt.Fprintf(p.Err, "cardfs: the history is not kept: %v\n", err)
		p.History = ""
	}
}
