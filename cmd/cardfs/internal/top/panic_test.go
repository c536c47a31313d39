package top

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// panicEnv makes the test binary show a mount whose power file panics.
const panicEnv = "CARDFS_TEST_TOP_PANICS"

func TestMain(m *testing.M) {
	if os.Getenv(panicEnv) != "" {
		t, err := openTerminal()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		o := Options{Mount: &client.Mount{Dir: "/mnt/cards"}, Interval: time.Second, Name: func(string) string { return "" }}
		show(context.Background(), t, newFakeMount(slot(13, "state present")), o)
		return
	}
	os.Exit(m.Run())
}

// newPTY opens a terminal and returns its far end and the end for programs.
func newPTY(t *testing.T) (far, near *os.File) {
	t.Helper()
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if err := unix.IoctlSetPointerInt(int(far.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(far.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	near, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if err := unix.IoctlSetWinsize(int(near.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	return far, near
}

// "restores the terminal at every exit", including a panic in any goroutine. The panic's message
// is on the screen that stays.
func TestPanicRestores(t *testing.T) {
	far, near := newPTY(t)
	before, err := unix.IoctlGetTermios(int(near.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), panicEnv+"=1", "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = near, near, near
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	go func() {
		var all strings.Builder
		buf := make([]byte, 4096)
		pressed := false
		for !strings.Contains(all.String(), "goroutine ") {
			n, err := far.Read(buf)
			all.Write(buf[:n])
			if !pressed && strings.Contains(all.String(), "present") {
				pressed = true
				far.WriteString("p")
			}
			if err != nil {
				break
			}
		}
		said <- all.String()
		// A write to a terminal blocks if nobody reads it.
		for {
			if _, err := far.Read(buf); err != nil {
				return
			}
		}
	}()
	text := <-said
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("%v, want the exit code of a panic", err)
	}
	const leave = "\x1b[?1049l" // xterm's: back to the first screen
	left, why := strings.Index(text, leave), strings.Index(text, "out of luck")
	if left < 0 || why < left {
		t.Errorf("the screen was left at %d, the panic said at %d:\n%q", left, why, text)
	}
	after, err := unix.IoctlGetTermios(int(near.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("%v: termios %+v, before %+v", err, after, before)
	}
}
