package tracelog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/pcapng"
)

// Capture makes packets of the lines of one slot's trace, see package pcapng: one of each
// exchange, and notes of all else but what goes over the contacts below the APDUs.
type Capture struct {
	iface   *pcapng.Interface
	command *Line // that was not answered yet
	lost    uint64
}

// NewCapture writes to an interface.
func NewCapture(iface *pcapng.Interface) *Capture { return &Capture{iface: iface} }

// filler stands in packets for what is masked.
var filler = bytes.Repeat([]byte{0xFF}, 8)

// getResponse is the even INS of GET RESPONSE.
const getResponse = 0xC0

const (
	maskedWords = "masked: the FFs stand for bytes that may be a PIN or a key, however many"
	padWords    = "entered at the PIN pad; the FFs stand for it"
)

// Take takes the next line.
func (c *Capture) Take(l Line) error {
	switch l.Kind {
	case Wire:
		return nil
	case Lost:
		c.lost += l.Lost
		c.iface.Lost(l.Lost)
		words := fmt.Sprintf("%d lines of the trace were lost here", l.Lost)
		return errors.Join(c.unanswered(l.At, "its answer was lost"), c.iface.Packet(l.At, pcapng.Note(l.At, words), words))
	case Command:
		err := c.unanswered(l.At, "its answer is missing")
		c.command = &l
		return err
	case Answer, Error:
		if command := c.command; command != nil {
			c.command = nil
			if l.Kind == Error {
				return c.exchange(l.At, command, nil, "error: "+l.Text)
			}
			return c.exchange(l.At, command, &l)
		}
	}
	words := l.Text
	if l.Kind == Reset {
		words += " reset"
	}
	return c.iface.Packet(l.At, pcapng.Note(l.At, words))
}

// unanswered writes the command that waits for an answer, if there is one.
func (c *Capture) unanswered(at time.Time, why string) error {
	command := c.command
	if command == nil {
		return nil
	}
	c.command = nil
	return c.exchange(at, command, nil, why)
}

// exchange writes a command with its answer; nil: it has none.
func (c *Capture) exchange(at time.Time, command, answer *Line, comments ...string) error {
	cmd, rsp := command.Bytes, pcapng.NoAnswer
	switch {
	case command.PINPad:
		comments = append(comments, padWords)
	case command.Masked, answer != nil && answer.Masked:
		comments = append(comments, maskedWords)
	}
	fetches := len(cmd) >= 4 && cmd[1]&^1 == getResponse && command.Masked
	switch {
	case fetches: // its P3 is the masked Le
		cmd = slices.Concat(cmd, []byte{byte(len(filler))})
	case command.Masked:
		cmd = slices.Concat(cmd, []byte{byte(len(filler))}, filler)
	}
	if answer != nil {
		rsp = answer.Bytes
		if answer.Masked && len(rsp) < 2 {
			rsp = pcapng.NoAnswer // not even the status word is shown
		}
		if answer.Masked {
			rsp = slices.Concat(filler, rsp)
		}
	}
	packet, more := pcapng.Exchange(cmd, rsp)
	if command.Masked {
		more = nil // of what is made up
	}
	return c.iface.Packet(at, packet, append(comments, more...)...)
}

// End writes how it ended: why in words.
func (c *Capture) End(at time.Time, why string) error {
	comments := []string{why}
	if c.lost > 0 {
		comments = append(comments, fmt.Sprintf("%d lines of the trace were lost", c.lost))
	}
	return errors.Join(c.unanswered(at, "it was not answered before the end"), c.iface.End(at, comments...))
}
