package main

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
		{"powered", forever, 0, ""}, {"present", 0, 0, ""}, {"powered", time.Minute, 0, ""},
		{"failed", 0, 0, ""}, // the open says why
		{"empty", 0, 3, "no card in slot 0"},
		{"starting", 0, 1, "still starting"},
		{"empty", 30 * time.Millisecond, 3, "no card in slot 0 within 30ms"},
		{"starting", 30 * time.Millisecond, 1, "slot 0 is not ready after 30ms, it is starting"},
	} {
		c := tree(t, map[string]string{"ctl": "", "0/status": "state " + x.state + "\n", "0/apdu": ""})
		s := c.numbered(0)
		if !s.remote() {
			t.Fatal("a temporary directory is taken for a cardfs")
		}
		f, err := s.openReady(io.Discard, "apdu", os.O_RDWR, x.wait)
		wantError(t, x.state, err, x.code, x.words)
		if (f != nil) != (x.code == 0) {
			t.Errorf("%s: file %v with %v", x.state, f, err)
		}
		if f != nil {
			f.Close()
		}
	}
	// An open that waits all the same, as the card left after the look.
	c := tree(t, map[string]string{"ctl": "", "0/status": "state powered\n"})
	if err := unix.Mkfifo(c.path("0/apdu"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	_, err := c.numbered(0).openReady(&said, "apdu", os.O_RDONLY, 0)
	wantError(t, "--wait 0", err, 1, "slot 0 is not ready after 1s, it is powered")
	_, err = c.numbered(0).openReady(&said, "apdu", os.O_RDONLY, 1100*time.Millisecond)
	wantError(t, "--wait 1.1s", err, 1, "slot 0 is not ready after 1.1s, it is powered")
	os.WriteFile(c.path("0/status"), []byte("state empty\n"), 0o600)
	_, err = c.numbered(0).openReady(&said, "atr", os.O_RDONLY, 2500*time.Millisecond)
	wantError(t, "no card", err, 3, "no card in slot 0 within 2.5s")
	if got := said.String(); got != "cardfs: waiting for a card in slot 0\n" {
		t.Errorf("said %q", got)
	}
	wantError(t, "no reader", func() error {
		_, err := c.numbered(1).openReady(&said, "apdu", os.O_RDWR, 0)
		return err
	}(), 3, "no reader 1; there is 0")
	if f, err := os.OpenFile(c.path("0/apdu"), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close() // the open that still waits ends
	}
}

func TestWaitingFor(t *testing.T) {
	for state, want := range map[string]string{"starting": "reader 0 to start", "empty": "a card in slot 0", "powered": "", "failed": ""} {
		c := tree(t, map[string]string{"0/status": "state " + state + "\n"})
		if got := c.numbered(0).waitingFor(); got != want {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}
}

// "--wait 0 fails at once without a card": the look does not wait, says what open
// said, and leaves nothing open.
func TestLook(t *testing.T) {
	c := tree(t, map[string]string{"ctl": "", "0/status": "state empty\n", "0/apdu": "", "1/status": "state empty\n"})
	if err := unix.Mkfifo(c.path("1/apdu"), 0o600); err != nil { // its open would wait
		t.Fatal(err)
	}
	if err := c.numbered(0).look("apdu", os.O_RDWR); err != nil {
		t.Error(err)
	}
	if err := c.numbered(1).look("apdu", os.O_WRONLY); !errors.Is(err, syscall.ENXIO) {
		t.Error(err)
	}
	wantError(t, "no reader", c.numbered(2).look("apdu", os.O_RDWR), exitNone, "no reader 2; there are 0, 1")
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if name, _ := os.Readlink(fd); strings.HasPrefix(name, c.dir) {
			t.Errorf("%s is still open", name)
		}
	}
}
