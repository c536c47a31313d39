package client

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Channel exchanges commands with the card in a slot, through one open of its apdu file, or
// with the reader, through control. An error ends that open; Reopen begins again. No command
// is sent twice.
type Channel struct {
	Slot   Slot
	File   string        // apdu if empty
	Stderr io.Writer     // where it says what an open waits for
	Wait   time.Duration // for a card, as for Open
	Locked bool          // the transaction is held, and taken again by Reopen

	file *os.File // nil: closed
	in   *bufio.Reader
}

// Reopen closes the open that there may be and opens apdu anew, with the transaction if
// that was held.
func (c *Channel) Reopen() error {
	c.Close()
	file, err := c.Slot.Open(c.Stderr, c.name(), os.O_RDWR, c.Wait)
	if err != nil {
		return err
	}
	if c.Locked {
		if err := Lock(file); err != nil {
			file.Close()
			return c.Slot.Explain(err)
		}
	}
	c.file, c.in = file, bufio.NewReader(file)
	if c.inWords() {
		return c.askForWords()
	}
	return nil
}

// inWords reports whether errors come as lines: what a reader refuses is told in words by
// the answer alone.
func (c *Channel) inWords() bool { return c.name() == "control" }

func (c *Channel) askForWords() error {
	_, err := c.file.WriteString("errors\n")
	if err == nil {
		_, err = c.in.ReadString('\n')
	}
	if err != nil {
		c.Close()
	}
	return c.Slot.Explain(err)
}

func (c *Channel) name() string { return cmp.Or(c.File, "apdu") }

// Close ends the open, and with it the transaction.
func (c *Channel) Close() {
	if c.file != nil {
		c.file.Close()
	}
	c.file, c.in = nil, nil
}

// Exchange sends a command and waits for its answer. It opens apdu where it is closed. Its
// errors are in words already.
func (c *Channel) Exchange(capdu []byte) ([]byte, error) {
	if c.file == nil {
		if err := c.Reopen(); err != nil {
			return nil, err
		}
	}
	rapdu, err := c.exchange(capdu)
	if err != nil {
		c.Close()
		return nil, c.Slot.Explain(err)
	}
	return rapdu, nil
}

func (c *Channel) exchange(capdu []byte) ([]byte, error) {
	if _, err := fmt.Fprintf(c.file, "% X\n", capdu); err != nil {
		return nil, err
	}
	line, err := c.in.ReadString('\n')
	if err == io.EOF {
		err = errors.New("end of file in place of an answer")
	}
	if err != nil {
		return nil, err
	}
	if text, ok := strings.CutPrefix(line, "error "); ok && c.inWords() {
		name, reason, _ := strings.Cut(strings.TrimSpace(text), " ")
		return nil, c.Slot.refused(errnoOf(name), c.name(), reason)
	}
	rapdu, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
	if err != nil || len(rapdu) < 2 && c.name() == "apdu" {
		return nil, errors.New("what came is no answer")
	}
	return rapdu, nil
}

// errnoOf is the error that has this name in the manual pages.
func errnoOf(name string) error {
	if name == "EOPNOTSUPP" {
		return unix.EOPNOTSUPP // x/sys has its other name, ENOTSUP
	}
	for e := syscall.Errno(1); e < 200; e++ {
		if name != "" && unix.ErrnoName(e) == name { // some numbers have no name
			return e
		}
	}
	return unix.EIO
}

// Lock takes the transaction, and waits for it.
func (c *Channel) Lock() error {
	if c.file == nil {
		if err := c.Reopen(); err != nil {
			return err
		}
	}
	if err := Lock(c.file); err != nil {
		return c.Slot.Explain(err)
	}
	c.Locked = true
	return nil
}

// Holds reports whether the transaction is held now. An error has ended it with the open.
func (c *Channel) Holds() bool { return c.Locked && c.file != nil }

// Unlock ends the transaction.
func (c *Channel) Unlock() error {
	c.Locked = false
	if c.file == nil {
		return nil
	}
	return c.Slot.Explain(unix.Flock(int(c.file.Fd()), unix.LOCK_UN))
}

// Reset writes to the slot's power: reset, cold, on or off. The holder of the transaction
// keeps its open; any other is begun anew.
func (c *Channel) Reset(how string) error {
	f, err := c.Slot.Open(c.Stderr, "power", os.O_WRONLY, c.Wait)
	if err != nil {
		return err
	}
	_, err = f.WriteString(how + "\n")
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return c.Slot.Explain(err)
	}
	if c.Locked && c.file != nil {
		return nil
	}
	return c.Reopen()
}
