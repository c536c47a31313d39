// Package wbeiuu drives the WB Electronics Infinity USB Unlimited: a reader of the Phoenix
// kind with its UART on USB. It passes characters between the host and the card. It has two
// slots, for full-size cards and for SIMs, on the same contacts: one card at a time.
//
// The maker published nothing. The commands are those of Linux's iuu_phoenix driver, as
// it was observed to send them, and of OpenCT 0.6.20, whose driver for this reader was never
// finished. The reader does not say when characters have arrived: the host asks again and
// again.
package wbeiuu

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	bulkOut = 0x02
	bulkIn  = 0x82

	// transferWait is OpenCT's time-out of a transfer. No transfer waits for the card.
	transferWait = time.Second
	// quietWait is how long nothing comes before that counts as silence.
	quietWait = 20 * time.Millisecond
	// mostLost is the most transfers, or answers, that may be left over from before.
	mostLost = 16
	// slack is added to the card's waiting times for the way through USB.
	slack = 300 * time.Millisecond
)

// Driver drives the reader.
type Driver struct{}

const model = "WB Electronics Infinity USB Unlimited"

// Name is "wbeiuu".
func (Driver) Name() string { return "wbeiuu" }

// IDs returns the one pair of vendor and product ID.
func (Driver) IDs() []reader.ID {
	return []reader.ID{{Vendor: 0x104F, Product: 0x0004, Model: model}}
}

// Open claims interface 0, wakes the device up and switches its UART on.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	s := &slot{name: dev.Name(), parity: evenParity}
	s.slots[0] = s
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, s.fail("claim interface 0", err)
	}
	s.conn = conn
	if err := s.start(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// slot is a Reader and its only Slot.
type slot struct {
	conn    usb.Conn
	name    string
	slots   [1]reader.Slot
	closing atomic.Bool
	pauser  reader.Pauser

	trouble trouble
	line    line // as set; zero: unknown
	powered bool // the card was reset and has answered
	parity  byte // the card's, or the one to try at the next reset
	inverse bool // the card's convention

	char  time.Duration // a character of the card with its guard time
	guard time.Duration // from one character to the card to the next; 0: as UART and card have it
	in    [1024]byte    // in[:n] came from the card and was not fetched yet
	n     int
	since time.Time // something was sent to the card, or it was reset
	stray bool      // the card or the reader may still send what belongs to something before

	frame [sendOverhead + mostSent]byte
}

// trouble is what has gone wrong since the reader last answered.
type trouble int

const (
	fine trouble = iota
	// lateAnswer: a transfer failed, and what it was for may still come.
	lateAnswer
	// lostState: the device was reset, or a second transfer failed.
	lostState
)

var (
	_ reader.Reader      = (*slot)(nil)
	_ reader.Slot        = (*slot)(nil)
	_ reader.Identifier  = (*slot)(nil)
	_ reader.ParamSetter = (*slot)(nil)
	_ reader.RateLimiter = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot  { return s.slots[:] }
func (s *slot) Gone() <-chan struct{} { return s.conn.Gone() }

// Close switches the UART off, as the kernel's driver does, and the LED, which that makes blue.
func (s *slot) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), transferWait)
	defer cancel()
	for _, p := range [][]byte{uartOff, ledOff} {
		if _, err := s.conn.Out(ctx, bulkOut, p, false, transferWait); err != nil {
			break
		}
	}
	return s.conn.Close()
}

// Identify returns the model, and bcdDevice as the version (USB 2.0 table 9-8).
func (s *slot) Identify() (string, map[string]string) {
	d := s.conn.Descriptors()
	if len(d) < 14 {
		return model, nil
	}
	return model, map[string]string{"version": fmt.Sprintf("%x.%02x", d[13], d[12])}
}

// Traits: the host does the PPS, T=0 and T=1. A block goes to the reader in one command, so
// that there are no gaps in it; therefore the cap of IFSC. A block of the card is never longer
// than what the reader can count: none overflows, however late the host looks.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.Character, IFSC: mostSent - blockOverhead, IFSD: mostCounted - blockOverhead, ClockHz: clockHz, Slack: slack}
}

// blockOverhead is NAD, PCB, LEN and a CRC (ISO/IEC 7816-3:2006 §11.3).
const blockOverhead = 5

// Supports reports whether the UART has the bit rate.
func (s *slot) Supports(ta1 byte) bool {
	_, ok := lineAt(ta1, s.parity)
	return ok
}

// SetParams sets the bit rate and the times of characters.
func (s *slot) SetParams(ctx context.Context, p iso7816.Params) error {
	const what = "set the bit rate"
	l, ok := lineAt(p.TA1, s.parity)
	if !ok {
		return s.fail(what, fmt.Errorf("TA1=%02X: the UART does not have it: %w", p.TA1, reader.ErrUnsupported))
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.setLine(ctx, what, l); err != nil {
		return err
	}
	s.times(p)
	return nil
}

// Status reads the state register. The card has power, and its clock, as long as it is in;
// Powered means that it was reset.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	in, err := s.present(ctx, "status")
	switch {
	case err != nil || !in:
		return reader.Absent, err
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// present reports whether there is a card.
func (s *slot) present(ctx context.Context, what string) (bool, error) {
	if err := s.ready(ctx); err != nil {
		return false, err
	}
	var state [1]byte
	if err := s.ask(ctx, what, cmdState, state[:]); err != nil {
		return false, err
	}
	switch state[0] & cardIn {
	case cardFull, cardSIM:
		return true, nil
	case 0:
		s.powered, s.parity = false, evenParity
		return false, nil
	}
	s.powered = false
	return false, s.fail(what, fmt.Errorf("there are cards in both slots, and the reader can use one at a time; take one out: %w", reader.ErrUnsupported))
}

// PowerOn resets the card. There is no cold reset: the card has its supply as long as it is
// in. What comes while RST is low belongs to something before.
func (s *slot) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	const what = "reset"
	if err := ctx.Err(); err != nil {
		return nil, s.fail(what, err)
	}
	s.powered, s.inverse = false, false
	if in, err := s.present(ctx, what); err != nil || !in {
		if err == nil {
			err = s.fail(what, reader.ErrNoCard)
		}
		return nil, err
	}
	if err := s.out(ctx, what, resetOn); err != nil {
		return nil, err
	}
	if err := s.setLine(ctx, what, defaultLine(s.parity)); err != nil {
		return nil, err
	}
	if err := s.flush(ctx, what); err != nil {
		return nil, err
	}
	s.times(iso7816.DefaultParams(0))
	if err := s.out(ctx, what, reset); err != nil {
		return nil, err
	}
	s.since = time.Now()
	atr, err := s.answerToReset(ctx)
	if err != nil {
		// Perhaps the reader drops characters with wrong parity, which is not known. The
		// core tries again.
		s.parity ^= evenParity | oddParity
		return nil, err
	}
	s.parity = evenParity
	if s.inverse {
		s.parity = oddParity
	}
	if err := s.setLine(ctx, what, defaultLine(s.parity)); err != nil {
		return nil, err
	}
	s.powered = true
	return atr, nil
}

// PowerOff holds the card in reset, in which it forgets a verified PIN. The UART stays on:
// nobody has seen the state register read while it is off.
func (s *slot) PowerOff(ctx context.Context) error {
	s.powered = false
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.out(ctx, "hold the card in reset", resetOn)
}
