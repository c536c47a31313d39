// Package top draws the live screen of `cardfs top` in a terminal, with the real program.
package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/internal/tmux"
)

// program is the program, built once.
var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

// start starts a daemon with that many simulated readers.
func start(t *testing.T, readers int) *daemon.Daemon {
	t.Helper()
	d := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off")
	for range readers {
		d.Ctl("attach sim t1")
	}
	d.Await(fmt.Sprintf("%d/status", readers-1), "state present")
	return d
}

// events follows the mount's event file.
func events(t *testing.T, d *daemon.Daemon) *proc.Log {
	t.Helper()
	var log proc.Log
	follow, err := proc.Start(exec.Command("cat", d.Path("event")), &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(follow.Kill)
	return &log
}

func await(t *testing.T, log *proc.Log, event string, from int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if err := log.Wait(ctx, event, from); err != nil {
		t.Fatal(err)
	}
}

// exchange sends a command to a slot that many times a second, until the test ends.
func exchange(t *testing.T, d *daemon.Daemon, slot, often int) {
	t.Helper()
	f, err := os.OpenFile(d.Path(fmt.Sprint(slot, "/apdu")), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended; f.Close() })
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second / time.Duration(often))
		defer tick.Stop()
		buf := make([]byte, 100)
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, err := f.WriteString("00A4000C023F00\n")
			if err == nil {
				_, err = f.Read(buf)
			}
			if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENODEV) {
				return
			}
			if err != nil {
				t.Errorf("exchange with slot %d: %v", slot, err)
				return
			}
		}
	}()
}

// "top in tmux with 1,000 sim readers": rows and keys in 80x24, what keys do seen in
// `event`, and the CPU that it costs, which is printed.
func TestThousand(t *testing.T) {
	d := start(t, 1000)
	log := events(t, d)
	p := tmux.New(t, 80, 24, nil, program, "top", "-m", d.Dir)
	p.Shows(`^cardfs  1000 readers, 1000 cards, 0 powered  0 exch/s  /tmp/`)
	p.Shows(`^    0 present +Simulated T… +0 +- +0$`)
	p.Shows(`^   19 present`)
	p.Shows(`^0: Simulated T=1 reader, sim-`)

	// keys: choose, page
	p.Keys("j", "j", "j")
	p.Shows(`^3: Simulated`)
	p.Keys("G")
	p.Shows(`^  999 present`)
	p.Keys("PageUp", "k")
	p.Shows(`^978: Simulated`)
	p.Keys("g", "Down", "Down", "Down")
	p.Shows(`^3: Simulated`)

	// power, reset, eject
	p.Keys("p")
	await(t, log, " 3 powered ", 0)
	p.Shows(`^    3 powered  Simulated T… \S`)
	p.Shows(`^slot 3: power on done$`)
	p.Keys("r")
	p.Shows(`^Reset slot 3, Simulated T=1 reader\? \(y/n\)$`)
	p.Keys("n")
	p.Shows(`^\? help`)
	if strings.Contains(log.String(), " 3 reset ") {
		t.Error("it was reset without asking")
	}
	p.Keys("r", "y")
	await(t, log, " 3 reset ", 0)
	p.Shows(`^slot 3: reset done$`)
	p.Keys("p", "y")
	await(t, log, " 3 powered power=off", 0)
	p.Shows(`^    3 present`)
	p.Keys("e")
	p.Shows(`^Eject slot 3`)
	p.Keys("y")
	p.Shows(`^slot 3: this reader or card cannot do that$`)

	// An event of a slot is shown at once, not when the slot's turn comes.
	d.Ctl("sim 7 remove")
	p.Shows(`^    7 empty`)
	d.Ctl("detach 5")
	p.Shows(`999 readers(.*\n)+    4 present.*\n    6 present`)
	d.Ctl("attach sim t1 card=none")
	p.Shows(`1000 readers(.*\n)+    4 present.*\n    5 empty`)

	// filter
	p.Keys("/", "9", "9", "9")
	p.Shows(`^/999_ +2 match$`)
	p.Shows(`^  999 present`)
	p.Keys("Enter")
	p.Shows(`  /999: 2 `)
	p.Keys("Escape")
	p.Shows(`  0 exch/s  /tmp/`)
	p.Keys("g")
	p.Shows(`^    0 present`)

	// Rates, and sorting by them; the plot has bars.
	for slot := 500; slot < 508; slot++ {
		exchange(t, d, slot, 50)
	}
	p.Keys("g", "s")
	p.Shows(`  by rate .*\n.*\n  50\d powered (.*\n){7}  50\d powered`)
	shot := p.Shows(`^  50\d powered .* [1-9]\S* +\S+(µs|ms) +[▁-█]{3,} +\d+$`)
	t.Logf("1,000 readers, eight clients with 50 exchanges a second each:\n%s", shot)
	pid := p.Child()
	cpu := func() (top, served time.Duration) {
		top, err := proc.OnCPU(pid)
		served, err2 := proc.OnCPU(d.Pid())
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return top, served
	}
	const span = 5 * time.Second
	top0, served0 := cpu()
	time.Sleep(span)
	top1, served1 := cpu()
	rss, err := proc.RSS(pid)
	if err != nil {
		t.Error(err)
	}
	syscall.Kill(pid, syscall.SIGSTOP)
	_, alone0 := cpu()
	time.Sleep(span)
	_, alone1 := cpu()
	syscall.Kill(pid, syscall.SIGCONT)
	t.Logf("top has %.1f %% of a CPU and %d MiB, the daemon %.1f %% with top and the clients, %.1f %% with the clients alone",
		percent(top1-top0, span), rss>>10, percent(served1-served0, span), percent(alone1-alone0, span))

	// trace
	p.Keys("g", "t")
	p.Shows(`^trace of slot 50\d  Simulated T=1 reader`)
	p.Shows(`00 A4 00 0C 02 3F 00`)
	p.Keys("q")
	p.Shows(`  by rate `)

	// sizes: SIGWINCH
	p.Tmux("resize-window", "-x", "120", "-y", "40")
	p.Shows(`(^ +\d+ (powered|present|empty) .*\n){36}`)
	p.Tmux("resize-window", "-x", "60", "-y", "8")
	p.Shows(`\A.*\n +N STATE.*\n( +\d+ (powered|present|empty) .*\n){4}50\d: Simulated.*\n\? help`)
	p.Keys("?")
	p.Shows(`choose a row`)
	p.Keys("x")
	p.Shows(`^ +N STATE`)
	p.Keys("q")
	p.Restored("q", "0")
}

func percent(part, whole time.Duration) float64 { return 100 * float64(part) / float64(whole) }

// "restores the terminal at every exit": keys, signals, the mount's end.
func TestRestores(t *testing.T) {
	d := start(t, 2)
	for name, end := range map[string]func(p *tmux.Pane){
		"ctrl-C":  func(p *tmux.Pane) { p.Keys("C-c") },
		"SIGINT":  func(p *tmux.Pane) { syscall.Kill(p.Child(), syscall.SIGINT) },
		"SIGTERM": func(p *tmux.Pane) { syscall.Kill(p.Child(), syscall.SIGTERM) },
		"SIGHUP":  func(p *tmux.Pane) { syscall.Kill(p.Child(), syscall.SIGHUP) },
		"SIGQUIT": func(p *tmux.Pane) { syscall.Kill(p.Child(), syscall.SIGQUIT) },
	} {
		p := tmux.New(t, 80, 24, nil, program, "top", "-m", d.Dir)
		p.Shows(`^    1 present`)
		end(p)
		p.Restored(name, "0")
	}

	// The terminal is lost: the program ends.
	p := tmux.New(t, 80, 24, nil, program, "top", "-m", d.Dir)
	p.Shows(`^    1 present`)
	pid := p.Child()
	p.Tmux("kill-server")
	daemon.Eventually(t, "top ends with its terminal", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })

	for name, end := range map[string]func(){"the daemon leaves": func() { d.Stop() }, "the daemon is killed": func() { d.Kill() }} {
		if !d.Running() {
			d.Start()
		}
		p := tmux.New(t, 80, 24, nil, program, "top", "-m", d.Dir)
		p.Shows(`^cardfs  [02] readers`) // two at first, none after a restart
		end()
		p.Restored(name, "1")
		p.Shows(`^cardfs: .*` + regexp.QuoteMeta(d.Dir))
	}
}

// ctrl-Z gives the terminal back to the shell, and fg returns to the program.
func TestSuspend(t *testing.T) {
	d := start(t, 1)
	p := tmux.New(t, 80, 24, nil, "bash", "--norc", "-i")
	p.Keys(program+" top -m "+d.Dir, "Enter")
	p.Shows(`^    0 present`)
	p.Keys("C-z")
	p.Shows(`Stopped`)
	p.Keys("echo back$((40 + 2))", "Enter")
	p.Shows(`^back42$`)
	p.Keys("fg", "Enter")
	p.Shows(`^    0 present`)
	d.Ctl("sim 0 remove")
	p.Shows(`^    0 empty`)
	p.Keys("q")
	p.Shows(`^bash-\S+[#$]$`)
	p.Keys("exit", "Enter")
	p.Restored("bash", "0")
}

// "NO_COLOR": no colour; without UTF-8 nothing but ASCII.
func TestPlainTerminals(t *testing.T) {
	d := start(t, 1)
	exchange(t, d, 0, 50)
	colour := regexp.MustCompile(`\x1b\[([0-9;]*;)?[34][0-7]`)
	for _, tt := range []struct {
		env    string
		colour bool
		bar    string
	}{{"NO_COLOR=", true, `▁`}, {"NO_COLOR=1", false, `▁`}, {"LC_ALL=C", true, `_`}} {
		p := tmux.New(t, 80, 24, []string{tt.env}, program, "top", "-m", d.Dir, "-d", ".1")
		p.Shows(`^    0 powered .*(us|µs|ms) +[^0-9]*` + tt.bar + tt.bar)
		screen := p.Tmux("capture-pane", "-p", "-e")
		if colour.MatchString(screen) != tt.colour {
			t.Errorf("%s: colours: %v\n%q", tt.env, !tt.colour, screen)
		}
		if tt.env == "LC_ALL=C" && strings.ContainsFunc(screen, func(r rune) bool { return r > '~' }) {
			t.Errorf("%s: \n%s", tt.env, screen)
		}
		p.Keys("q")
		p.Restored(tt.env, "0")
	}
}
