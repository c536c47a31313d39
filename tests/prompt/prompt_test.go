// Package prompt types at the prompt of `cardfs send -i` in a terminal, with the real
// program.
package prompt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/tmux"
)

// program is the program, built once.
var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

// user is a person at the prompt of slot 0, which has a simulated card.
type user struct {
	*tmux.Pane
	t     *testing.T
	d     *daemon.Daemon
	state string // where the history is
	env   []string
}

func start(t *testing.T) *user {
	d := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off", "--sim", "t1")
	d.Await("0/status", "state present")
	return &user{t: t, d: d, state: t.TempDir()}
}

// opens opens a prompt in a terminal of its own.
func (u *user) opens(flags ...string) {
	words := append([]string{program, "send", "-i", "--mount", u.d.Path(""), "0"}, flags...)
	u.Pane = tmux.New(u.t, 120, 50, append([]string{"XDG_STATE_HOME=" + u.state}, u.env...), words...)
	u.Shows(`^cardfs 0( locked)?>$`)
}

// types types a line.
func (u *user) types(line string) { u.Tmux("send-keys", "-l", line); u.Keys("Enter") }

func (u *user) history() string {
	text, _ := os.ReadFile(filepath.Join(u.state, "cardfs", "history"))
	return string(text)
}

// nowhere fails if secretly typed text is on the screen, in its scrollback, or in the
// history.
func (u *user) nowhere(secrets ...string) {
	u.t.Helper()
	screen := u.Tmux("capture-pane", "-p", "-S", "-")
	for _, s := range secrets {
		if strings.Contains(screen, s) || strings.Contains(u.history(), s) {
			u.t.Errorf("%s is on the screen or in the history:\n%s\n%s", s, screen, u.history())
		}
	}
}

// "PINs typed at a prompt are not echoed and not in the history", nor is a line with a PIN
// in it, or what is no command; the history is its owner's alone and comes again.
func TestSecrets(t *testing.T) {
	u := start(t)
	u.opens()
	u.types("select cardfs")
	u.Shows(`^6F .* 90 00$`)
	u.types("verify 0x81")
	u.Shows(`^PIN 129:$`)
	u.types("5678")
	u.Shows(`PIN 129:\s*\n90 00$`)
	u.types("tries 0x81")
	u.Shows(`^cardfs 0> tries 0x81\n90 00$`)
	u.nowhere("5678", "35 36 37 38", "35363738")
	// typed where a PIN does not belong
	u.types("00200001 04 31323339")
	u.Shows(`^63 C2  wrong; 2 tries left$`)
	u.types("set PIN 31323339")
	u.types("31323339")
	u.types("hunter2")
	u.Shows(`no command's name and no hex; nothing was sent$`)
	// explained
	u.types(".explain on")
	u.types("verify 1")
	u.Shows(`^PIN 1:$`)
	u.types("8888")
	u.Shows(`^> 00 20 00 01 \[masked\]\n    VERIFY: reference data 1 of the card`)
	u.Shows(`^    63C1: wrong; 1 try left\n`)
	u.nowhere("8888", "38 38 38 38")
	// ctrl-C keeps none of it
	u.types("verify 1")
	u.Shows(`1 try left\n(.*\n)*PIN 1:$`)
	u.Tmux("send-keys", "-l", "7777")
	u.Keys("C-c")
	u.Shows(`^cardfs: interrupted; nothing was sent$`)
	u.types(".quit")
	u.Restored("quit", "0")
	u.nowhere("7777", "8888")
	if got, want := u.history(), "select cardfs\nverify 0x81\ntries 0x81\n.explain on\nverify 1\nverify 1\n"; got != want {
		t.Errorf("the history is %q, want %q", got, want)
	}
	for path, want := range map[string]os.FileMode{"cardfs": 0o700 | os.ModeDir, "cardfs/history": 0o600} {
		if info, err := os.Stat(filepath.Join(u.state, path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	// the next session
	u.opens("--explain")
	u.Keys("Up", "Up", "Up") // a line typed twice in a row comes up once
	u.Shows(`^cardfs 0> tries 0x81$`)
	u.Keys("Enter")
	u.Shows(`^    VERIFY: reference data 1 of the DF, asks for the tries left$`)
	u.Keys("C-d")
	u.Restored("ctrl-D", "0")
}

// Names are completed, and lines edited. ctrl-C clears the line.
func TestEditing(t *testing.T) {
	u := start(t)
	u.opens("--lock")
	u.Shows(`^cardfs 0 locked>$`)
	u.Tmux("send-keys", "-l", "read-b")
	u.Keys("Tab")
	u.Shows(`> read-binary$`)
	u.Keys("C-c")
	u.Shows(`^cardfs 0 locked>$`)
	u.Tmux("send-keys", "-l", "SEL")
	u.Keys("Tab")
	u.Shows(`> select$`)
	u.Tmux("send-keys", "-l", " openp")
	u.Keys("Tab")
	u.Shows(`> select openpgp$`)
	u.Keys("Enter")
	u.Shows(`^6A 82  file or application not found$`)
	u.Tmux("send-keys", "-l", ".ex")
	u.Keys("Tab")
	u.Shows(`> \.explain$`)
	u.Keys("C-c")
	u.Tmux("send-keys", "-l", "selct 3F00")
	u.Keys("C-a", "Right", "Right", "Right", "e", "Enter")
	u.Shows(`^6F .*90 00$`)
	u.types(".help")
	u.Shows(`^  read-binary \[OFFSET \[LENGTH\]\]`)
	u.types(".nosuch")
	u.Shows(`no such command; \.help lists them$`)
	u.types(".atr")
	u.Shows(`^3B [0-9A-F ]+$`)
	// The lock is held, given up and taken.
	if f, err := os.OpenFile(u.d.Path("0/power"), os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := f.WriteString("reset"); err == nil {
		t.Error("another resets the card under the lock")
	} else {
		f.Close()
	}
	u.types(".unlock")
	u.Shows(`^cardfs 0>$`)
	u.types("lock")
	u.types(".reset")
	u.types("select 3F00")
	u.Shows(`select 3F00\n6F .*90 00\n`)
	u.types(".quit")
	u.Restored("quit", "0")
}

// The card is removed, or reset by others: one line of error, and the prompt continues.
func TestPulled(t *testing.T) {
	u := start(t)
	u.opens()
	u.types("select 3F00")
	u.Shows(`^6F .*90 00$`)
	u.d.Ctl("sim 0 remove")
	u.d.Await("0/status", "state empty")
	u.types("read-binary")
	u.Shows(`^cardfs: no card in slot 0\n(cardfs 0>)$`)
	u.types("select 3F00")
	u.Shows(`select 3F00\ncardfs: no card in slot 0\ncardfs 0>$`)
	u.d.Ctl("sim 0 insert")
	u.d.Await("0/status", "state present")
	u.types("select mf")
	u.Shows(`select mf\n6F .*90 00\ncardfs 0>$`)
	if err := os.WriteFile(u.d.Path("0/power"), []byte("reset\n"), 0); err != nil {
		t.Fatal(err)
	}
	u.types("tries 1")
	u.Shows(`^cardfs: slot 0: the card was reset`)
	u.types("get-challenge")
	u.Shows(`^([0-9A-F]{2} ){8}90 00$`)
	u.types(".quit")
	u.Restored("quit", "0")
}

// A terminal without line editing does not echo PINs either.
func TestDumbTerminal(t *testing.T) {
	u := start(t)
	u.env = []string{"TERM=dumb"}
	u.opens()
	u.types("verify 1")
	u.Shows(`^PIN 1:$`)
	u.types("1234")
	u.Shows(`PIN 1:\s*\n90 00$`)
	u.nowhere("1234")
	u.types("tries 1")
	u.Shows(`tries 1\n90 00$`)
	u.Keys("C-d")
	u.Restored("ctrl-D", "0")
}

// ctrl-C while the card works ends the program, and restores the terminal.
func TestInterruptedExchange(t *testing.T) {
	u := start(t)
	u.d.Ctl("attach sim t1 slow=1h")
	u.d.Await("1/status", "state present")
	u.Pane = tmux.New(t, 120, 20, []string{"XDG_STATE_HOME=" + u.state}, program, "send", "-i", "--explain", "--mount", u.d.Path(""), "1")
	u.Shows(`^cardfs 1>$`)
	u.types("select 3F00")
	u.Shows(`^> 00 A4 00 00 02 3F 00 00$`) // from then on it waits for the card
	// The key would also reach the shell of the test.
	stty, err := exec.Command("stty", "-a", "-F", u.Tmux("display-message", "-p", "#{pane_tty}")).CombinedOutput()
	if err != nil || strings.Contains(string(stty), "-isig") || !strings.Contains(string(stty), "intr = ^C;") {
		t.Errorf("ctrl-C is no signal: %v\n%s", err, stty)
	}
	if err := syscall.Kill(u.Child(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	u.Restored("ctrl-C", "130")
}

// A signal restores the terminal.
func TestSignal(t *testing.T) {
	u := start(t)
	u.opens()
	if err := syscall.Kill(u.Child(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	u.Restored("SIGTERM", "143")
}

// A script's question at the terminal is not echoed either, and ctrl-C restores the echo.
func TestScriptAsks(t *testing.T) {
	u := start(t)
	script := filepath.Join(t.TempDir(), "pin.apdu")
	if err := os.WriteFile(script, []byte("verify 1 = 9000\necho verified\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func() {
		u.Pane = tmux.New(t, 120, 20, nil, program, "send", "--mount", u.d.Path(""), "-f", script, "0")
		u.Shows(`^PIN 1:$`)
	}
	run()
	u.types("1234")
	u.Shows(`^verified$`)
	u.Restored("typed", "0")
	u.nowhere("1234")
	run()
	u.Tmux("send-keys", "-l", "12")
	u.Keys("C-c")
	u.Shows(`^cardfs: .*pin.apdu:1: interrupted; nothing was sent$`)
	u.Restored("ctrl-C", "1")
	run()
	u.Keys("C-d")
	u.Shows(`interrupted; nothing was sent$`)
	u.Restored("ctrl-D", "1")
	run()
	if err := syscall.Kill(u.Child(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	u.Restored("SIGTERM", "143")
}
