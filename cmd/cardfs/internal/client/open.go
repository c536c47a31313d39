package client

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// Forever is a wait without an end.
const Forever = time.Duration(-1)

// noticeAfter is how long a command waits before it says what for.
const noticeAfter = time.Second

// Open opens a file of the slot whose open waits for the reader or a card, for wait
// at most: forever, or 0 to fail at once. If it takes long, it says on stderr what it waits
// for.
func (s Slot) Open(stderr io.Writer, name string, flags int, wait time.Duration) (*os.File, error) {
	path := s.Path(name)
	notice := time.After(noticeAfter)
	asked := cmp.Or(wait, noticeAfter)
	if s.remote() {
		// There O_NONBLOCK does not arrive, and a program whose open waits cannot even be
		// killed: status says when the open will not wait.
		begin := time.Now()
		if err := s.await(stderr, name, notice, wait); err != nil {
			return nil, err
		}
		if wait != Forever {
			wait = max(wait-time.Since(begin), noticeAfter)
		}
	} else if wait == 0 {
		if err := s.Look(name, flags); err != nil {
			return nil, err
		}
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
	if wait != Forever {
		timeout = time.After(wait)
	}
	for {
		select {
		case o := <-done:
			return o.f, s.Explain(o.err)
		case <-timeout:
			// The open that still waits ends with the program.
			return nil, s.notReady(asked)
		case <-notice:
			s.tellWaiting(stderr, name)
		}
	}
}

// needsCard reports whether the open of a slot's file waits for a card, and not for the
// reader alone.
func needsCard(name string) bool { return name == "atr" || name == "apdu" || name == "memory" }

// Look opens the file without waiting, and returns the error that it gets. It keeps no
// descriptor: with O_NONBLOCK reads would not wait for answers either.
func (s Slot) Look(name string, flags int) error {
	fd, err := OpenNow(s.Path(name), flags)
	if err != nil {
		return s.Explain(err)
	}
	return unix.Close(fd)
}

// OpenNow opens a file of a mount that neither the open nor a read is to wait for; an os.File
// would have the read wait. It is the caller's to close. Signals do not end it: the Go runtime
// sends itself some.
func OpenNow(path string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// remote reports whether the slot is seen through another file system than cardfs, such
// as sshfs.
func (s Slot) remote() bool {
	dir, err := filepath.EvalSymlinks(s.Dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return false
	}
	at, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil || len(at) == 0 {
		return false
	}
	longest := at[0]
	for _, m := range at {
		if len(m.Mountpoint) >= len(longest.Mountpoint) {
			longest = m
		}
	}
	return longest.FSType != "fuse.cardfs"
}

// pollEvery is how often status is read where nothing else can be waited for.
const pollEvery = 200 * time.Millisecond

// await waits until status shows what the open of that file waits for, or a reader that
// failed.
func (s Slot) await(stderr io.Writer, name string, notice <-chan time.Time, wait time.Duration) error {
	var timeout <-chan time.Time
	if wait != Forever {
		timeout = time.After(wait)
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		lines, err := s.Status()
		if err != nil {
			return s.Explain(err)
		}
		switch state := lines.Value("state"); {
		case state == "present", state == "powered", state == "failed", state == "empty" && !needsCard(name):
			return nil
		case wait == 0 && state == "empty":
			return s.Explain(unix.ENOMEDIUM)
		case wait == 0:
			return s.Explain(unix.EAGAIN)
		}
		select {
		case <-tick.C:
		case <-timeout:
			return s.notReady(wait)
		case <-notice:
			s.tellWaiting(stderr, name)
		}
	}
}

func (s Slot) tellWaiting(stderr io.Writer, name string) {
	if what := s.waitingFor(name); what != "" {
		fmt.Fprintf(stderr, "cardfs: waiting for %s\n", what)
	}
}

// waitingFor is what keeps the open of that file waiting, "" if nothing lasting does.
func (s Slot) waitingFor(name string) string {
	lines, _ := s.Status()
	switch state := lines.Value("state"); {
	case state == "starting":
		return fmt.Sprintf("reader %s to start", s.Name)
	case state == "empty" && needsCard(name):
		return fmt.Sprintf("a card in slot %s", s.Name)
	}
	return ""
}

func (s Slot) notReady(wait time.Duration) error {
	lines, err := s.Status()
	switch {
	case err != nil:
		return s.Explain(err)
	case lines.Value("state") == "empty":
		return exit.Status{Code: exit.None, Err: fmt.Errorf("no card in slot %s within %v", s.Name, wait)}
	}
	return fmt.Errorf("slot %s is not ready after %v, it is %s", s.Name, wait, lines.Value("state"))
}

// WriteCtl writes one line to ctl. If it is refused, the same open reads the reason in
// words.
func (c *Mount) WriteCtl(f *os.File, line string) error {
	_, err := f.WriteString(line + "\n")
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return c.Explain(err)
	}
	if reason := bare(refusal(f)); reason != "" {
		return errors.New(reason)
	}
	// The line may hold keys of a PIN pad.
	word, _, _ := strings.Cut(line, " ")
	return fmt.Errorf("%s: refused (what there is: cardfs ctl)", word)
}

// OpenCtl opens ctl for one command, and locks it until Close: of two commands at the same
// time each has to find its own events.
func (c *Mount) OpenCtl() (*os.File, error) {
	f, err := os.OpenFile(c.Path("ctl"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%s: only %s, whose mount it is, may write to it", c.Path("ctl"), c.Owner())
	}
	if err != nil {
		return nil, c.Explain(err)
	}
	if err := Lock(f); err != nil {
		f.Close()
		return nil, c.Explain(fmt.Errorf("lock %s: %w", f.Name(), err))
	}
	return f, nil
}

// Lock takes flock(2) on f; on apdu that is the slot's transaction.
func Lock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			return err
		}
	}
}

// cutLine is the rest of the first line of text that begins with prefix.
func cutLine(text []byte, prefix string) (string, bool) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
			return string(bytes.TrimSpace(rest)), true
		}
	}
	return "", false
}
