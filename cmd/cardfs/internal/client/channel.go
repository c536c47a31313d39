package client

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Channel exchanges commands with the card in a slot, through one open of its apdu file. An
// error ends that open; Reopen begins again. No command is sent twice.
type Channel struct {
	Slot   Slot
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
	file, err := c.Slot.Open(c.Stderr, "apdu", os.O_RDWR, c.Wait)
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
	return nil
}

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
	rapdu, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
	if err != nil || len(rapdu) < 2 {
		return nil, errors.New("what came is no answer of a card")
	}
	return rapdu, nil
}

// Lock takes the transaction, and waits for it.
func (c *Channel) Lock() error {
	c.Locked = true
	if c.file == nil {
		return c.Reopen()
	}
	if err := Lock(c.file); err != nil {
		c.Locked = false
		return c.Slot.Explain(err)
	}
	return nil
}

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
