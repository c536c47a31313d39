package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// forever is a wait without an end.
const forever = time.Duration(-1)

// noticeAfter is how long a command waits before it says what for.
const noticeAfter = time.Second

// openReady opens a file of slot n whose open waits for the reader or a card,
// and says on stderr what it waits for if that takes long. wait bounds it:
// forever, or 0 to fail at once.
func (c *client) openReady(stderr io.Writer, n int, name string, flags int, wait time.Duration) (*os.File, error) {
	path := c.path(strconv.Itoa(n), name)
	if wait == 0 {
		// Only a look: an open with O_NONBLOCK would not wait for answers either.
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, c.explainSlot(n, err)
		}
		unix.Close(fd)
		wait = noticeAfter
	}
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(path, flags, 0)
		done <- opened{f, err}
	}()
	var timeout <-chan time.Time
	if wait != forever {
		timeout = time.After(wait)
	}
	notice := time.After(noticeAfter)
	for {
		select {
		case o := <-done:
			return o.f, c.explainSlot(n, o.err)
		case <-timeout:
			// The open that still waits ends with the program.
			return nil, c.notReady(n, wait)
		case <-notice:
			if what := c.waitingFor(n); what != "" {
				fmt.Fprintf(stderr, "cardfs: waiting for %s\n", what)
			}
		}
	}
}

// waitingFor is what keeps an open of slot n waiting, "" if nothing lasting does.
func (c *client) waitingFor(n int) string {
	s, _ := c.status(n)
	switch s.value("state") {
	case "starting":
		return fmt.Sprintf("reader %d to start", n)
	case "empty":
		return fmt.Sprintf("a card in slot %d", n)
	}
	return ""
}

func (c *client) notReady(n int, wait time.Duration) error {
	s, err := c.status(n)
	switch {
	case err != nil:
		return c.explainSlot(n, err)
	case s.value("state") == "empty":
		return exitStatus{exitNone, fmt.Errorf("no card in slot %d within %v", n, wait)}
	}
	return fmt.Errorf("slot %d is not ready after %v, it is %s", n, wait, s.value("state"))
}

// writeCtl does one line of ctl. The mount keeps the reason for a refusal in
// words for the open that was refused.
func (c *client) writeCtl(f *os.File, line string) error {
	_, err := f.WriteString(line + "\n")
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EINVAL) {
		buf := make([]byte, 4096)
		n, _ := f.ReadAt(buf, 0)
		if reason, ok := cutLine(buf[:n], "error "); ok {
			return errors.New(strings.TrimSuffix(reason, ": "+reader.ErrInvalid.Error()))
		}
		return fmt.Errorf("%s: refused (what there is: cat %s)", line, filepath.Join(c.dir, "ctl"))
	}
	return c.explain(err)
}

// openCtl opens ctl for a command. The lock keeps the events of two commands
// given at once apart; it ends with Close.
func (c *client) openCtl() (*os.File, error) {
	f, err := os.OpenFile(c.path("ctl"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%s: only %s, whose mount it is, may attach and detach", c.path("ctl"), c.owner())
	}
	if err != nil {
		return nil, c.explain(err)
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, c.explain(fmt.Errorf("lock %s: %w", f.Name(), err))
	}
	return f, nil
}

// lock takes flock(2) on f; on apdu that is the slot's transaction.
func lock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			return err
		}
	}
}
