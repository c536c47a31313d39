// Package tmux provides a terminal for tests of programs that draw on one.
package tmux

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// Pane is a terminal of tmux. A shell in it runs a program and then waits.
type Pane struct {
	t   testing.TB
	dir string
}

// New runs a program in a terminal of that size. The output of stty(1) before and after is
// in the files before and after, the exit code in the file code.
func New(t testing.TB, width, height int, env []string, words ...string) *Pane {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("tmux is missing, and with it this test: apt-get install tmux")
	}
	dir, err := os.MkdirTemp("", "pane") // short: the name of a socket has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	p := &Pane{t: t, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last screen:\n%s", p.Screen())
		}
		p.Tmux("kill-server")
		os.RemoveAll(dir)
	})
	script := `stty -g >before; "$@"; echo $? >code; stty -g >after; echo ended; exec cat`
	args := []string{"-f", "/dev/null", "new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), "-c", dir,
		"env", "-u", "NO_COLOR", "LC_ALL=C.UTF-8"}
	args = append(append(append(args, env...), "sh", "-c", script, "sh"), words...)
	if out, err := p.run(args...); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	return p
}

func (p *Pane) run(args ...string) (string, error) {
	// Under nohup(1) programs would inherit that SIGHUP is ignored.
	cmd := exec.Command("env", append([]string{"--default-signal=HUP", "tmux"}, args...)...)
	cmd.Env = append(os.Environ(), "TMUX_TMPDIR="+p.dir, "TMUX=", "TERM=xterm")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Tmux runs a command of tmux, and returns its output.
func (p *Pane) Tmux(args ...string) string {
	out, _ := p.run(args...)
	return strings.TrimRight(out, "\n")
}

// Screen returns the contents of the terminal.
func (p *Pane) Screen() string { return p.Tmux("capture-pane", "-p") }

// Keys presses keys, named as tmux names them.
func (p *Pane) Keys(keys ...string) { p.Tmux(append([]string{"send-keys"}, keys...)...) }

// Shows waits until the screen matches the pattern.
func (p *Pane) Shows(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	var screen string
	daemon.Eventually(p.t, "the screen shows "+pattern, func() bool {
		screen = p.Screen()
		return re.MatchString(screen)
	})
	return screen
}

// Restored waits for the end of the program, and checks that the terminal is as it was.
func (p *Pane) Restored(what, code string) {
	p.t.Helper()
	p.Shows("^ended$")
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(p.dir, name))
		if err != nil {
			p.t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	if got := read("code"); got != code {
		p.t.Errorf("%s: exit code %s, want %s", what, got, code)
	}
	if before, after := read("before"), read("after"); before != after {
		p.t.Errorf("%s: the terminal was left otherwise: stty %s, before %s", what, after, before)
	}
	if got := p.Tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{keypad_flag} #{mouse_any_flag}"); got != "0 1 0 0" {
		p.t.Errorf("%s: other screen, cursor, keypad, mouse: %s", what, got)
	}
}

// Child is the program that the pane's shell runs.
func (p *Pane) Child() int {
	p.t.Helper()
	shell := p.Tmux("display-message", "-p", "#{pane_pid}")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%[1]s/children", shell))
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, err2); err != nil {
		p.t.Fatal(err)
	}
	return pid
}
