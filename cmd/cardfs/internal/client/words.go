package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/reader"
)

// Say writes a word to a file of the slot that takes words, as power and protocol do, and
// waits until it is done. Where it is refused the error says why, and ends with the hint
// that there is for its errno.
func (s Slot) Say(stderr io.Writer, file, word string, hints map[syscall.Errno]string) error {
	f, err := s.Open(stderr, file, os.O_RDWR, Forever)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.WriteString(word + "\n"); err == nil {
		return nil
	}
	reason := refusal(f)
	said := s.refused(err, file+" "+word, reason)
	var errno syscall.Errno
	held := reason == reader.ErrLocked.Error() // a transaction hinders every word alike
	if errors.As(err, &errno) && hints[errno] != "" && !held {
		return exit.Status{Code: codeOf(said), Err: fmt.Errorf("%w; %s", said, hints[errno])}
	}
	return said
}

// refused is Explain for what failed with err. The reason that the file gave comes in the
// place of Explain's words where it says more.
func (s Slot) refused(err error, what, reason string) error {
	said := s.Explain(err)
	if codeOf(said) == exit.None || errors.Is(err, syscall.ESTALE) || s.failed() {
		return said
	}
	reason = strings.TrimPrefix(reason, what+": ")
	reason = bare(strings.TrimPrefix(reason, what[strings.LastIndexByte(what, ' ')+1:]+": "))
	if reason == "" {
		return said
	}
	return exit.Status{Code: codeOf(said), Err: fmt.Errorf("slot %s: %s: %s", s.Name, what, reason)}
}

func codeOf(err error) int {
	status := exit.Status{Code: exit.Error}
	errors.As(err, &status)
	return status.Code
}

// refusal is why a write to f failed, in the words that the same open reads then, or "".
func refusal(f *os.File) string {
	buf := make([]byte, 4096)
	n, _ := f.ReadAt(buf, 0)
	reason, _ := cutLine(buf[:n], "error ")
	return reason
}

// bare is a reason without the words of its kind where the errno tells as much, "" if there
// are no others.
func bare(reason string) string {
	switch reason {
	case reader.ErrInvalid.Error(), reader.ErrUnsupported.Error(), reader.ErrLocked.Error(), reader.ErrNoPermission.Error():
		return ""
	}
	for _, kind := range []error{reader.ErrInvalid, reader.ErrLocked} {
		reason = strings.TrimSuffix(reason, ": "+kind.Error())
	}
	return reason
}

// Text is the whole of a text file of the slot.
func (s Slot) Text(stderr io.Writer, file string) ([]byte, error) {
	f, err := s.Open(stderr, file, os.O_RDONLY, Forever)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	return text, s.Explain(err)
}

// Ctl writes one line to ctl.
func (c *Mount) Ctl(line string) error {
	f, err := c.OpenCtl()
	if err != nil {
		return err
	}
	defer f.Close()
	return c.WriteCtl(f, line)
}
