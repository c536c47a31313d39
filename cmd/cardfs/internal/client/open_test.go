package client

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// Where O_NONBLOCK does not arrive, status says whether the open will wait. --wait
// 0 waits for nothing, and a bound is a bound wherever the time goes.
func TestOpenRemote(t *testing.T) {
	for _, x := range []struct {
		state string
		wait  time.Duration
		code  int
		words string
	}{
		{"powered", Forever, 0, ""}, {"present", 0, 0, ""}, {"powered", time.Minute, 0, ""},
		{"failed", 0, 0, ""}, // the open says why
		{"empty", 0, 3, "no card in slot 0"},
		{"starting", 0, 1, "still starting"},
		{"empty", 30 * time.Millisecond, 3, "no card in slot 0 within 30ms"},
		{"starting", 30 * time.Millisecond, 1, "slot 0 is not ready after 30ms, it is starting"},
	} {
		c := tree(t, map[string]string{"ctl": "", "0/status": "state " + x.state + "\n", "0/apdu": ""})
		s := c.Slot(0)
		if !s.remote() {
			t.Fatal("a temporary directory is taken for a cardfs")
		}
		f, err := s.Open(io.Discard, "apdu", os.O_RDWR, x.wait)
		clienttest.WantError(t, x.state, err, x.code, x.words)
		if (f != nil) != (x.code == 0) {
			t.Errorf("%s: file %v with %v", x.state, f, err)
		}
		if f != nil {
			f.Close()
		}
	}
	// An open that waits nevertheless, because the card left after the look.
	c := tree(t, map[string]string{"ctl": "", "0/status": "state powered\n"})
	if err := unix.Mkfifo(c.Path("0/apdu"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	_, err := c.Slot(0).Open(&said, "apdu", os.O_RDONLY, 0)
	clienttest.WantError(t, "--wait 0", err, 1, "slot 0 is not ready after 1s, it is powered")
	_, err = c.Slot(0).Open(&said, "apdu", os.O_RDONLY, 1100*time.Millisecond)
	clienttest.WantError(t, "--wait 1.1s", err, 1, "slot 0 is not ready after 1.1s, it is powered")
	os.WriteFile(c.Path("0/status"), []byte("state empty\n"), 0o600)
	_, err = c.Slot(0).Open(&said, "atr", os.O_RDONLY, 2500*time.Millisecond)
	clienttest.WantError(t, "no card", err, 3, "no card in slot 0 within 2.5s")
	if got := said.String(); got != "cardfs: waiting for a card in slot 0\n" {
		t.Errorf("said %q", got)
	}
	clienttest.WantError(t, "no reader", func() error {
		_, err := c.Slot(1).Open(&said, "apdu", os.O_RDWR, 0)
		return err
	}(), 3, "no reader 1; there is 0")
	if f, err := os.OpenFile(c.Path("0/apdu"), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close() // the open that still waits ends
	}
}

func TestWaitingFor(t *testing.T) {
	for state, want := range map[string]string{"starting": "reader 0 to start", "empty": "a card in slot 0", "powered": "", "failed": ""} {
		c := tree(t, map[string]string{"0/status": "state " + state + "\n"})
		if got := c.Slot(0).waitingFor("apdu"); got != want {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}
}

// "--wait 0 fails at once without a card": the look does not wait, says what open
// said, and leaves nothing open.
func TestLook(t *testing.T) {
	c := tree(t, map[string]string{"ctl": "", "0/status": "state empty\n", "0/apdu": "", "1/status": "state empty\n"})
	if err := unix.Mkfifo(c.Path("1/apdu"), 0o600); err != nil { // its open would wait
		t.Fatal(err)
	}
	if err := c.Slot(0).Look("apdu", os.O_RDWR); err != nil {
		t.Error(err)
	}
	if err := c.Slot(1).Look("apdu", os.O_WRONLY); !errors.Is(err, syscall.ENXIO) {
		t.Error(err)
	}
	clienttest.WantError(t, "no reader", c.Slot(2).Look("apdu", os.O_RDWR), exit.None, "no reader 2; there are 0, 1")
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if name, _ := os.Readlink(fd); strings.HasPrefix(name, c.Dir) {
			t.Errorf("%s is still open", name)
		}
	}
}

// A line of a file counts from its beginning on, and without blanks around it.
func TestCutLine(t *testing.T) {
	for _, x := range []struct {
		text, want string
		ok         bool
	}{
		{"error no card\n", "no card", true}, {"a\nerror  b \nerror c\n", "b", true}, {"error x", "x", true},
		{"", "", false}, {" error x\n", "", false}, {"error\n", "", false}, {"x error y\n", "", false},
	} {
		if got, ok := cutLine([]byte(x.text), "error "); got != x.want || ok != x.ok {
			t.Errorf("%q: %q, %v", x.text, got, ok)
		}
	}
}
