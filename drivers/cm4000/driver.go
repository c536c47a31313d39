// Package cm4000 drives the Omnikey CardMan Mobile 4000, a PC card (PCMCIA), through the file of
// its driver in Linux: cm4000_cs, /dev/cmm0.
//
// That driver does much by itself. While the file is open it looks for a card every 50 ms,
// gives it power, reads the ATR and does the PPS, as is read in its source. It carries T=0 TPDUs
// and T=1 blocks, one in a write and the answer in a read. OpenCT 0.6.20 was observed to use the
// same file for ATRs; its T=0 does not fit the kernel's.
//
// What it cannot do: hold a card without power, tell a card that was exchanged faster than
// anybody looked from the one before, and end a call before the card answers or the kernel's
// time is over, which is 6 s in T=0 and 60 s in T=1. Until then the next call waits.
package cm4000

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const model = "Omnikey CardMan Mobile 4000"

// Driver drives a reader whose device file is named by the user.
type Driver struct{ Log *slog.Logger }

var _ reader.Attacher = Driver{}

// Name is "cm4000".
func (Driver) Name() string { return "cm4000" }

// IDs is empty: nothing announces the device file.
func (Driver) IDs() []reader.ID { return nil }

// Attach takes the name of the file, /dev/cmm0 to /dev/cmm3, as the address.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(); err != nil {
		return dev, err
	}
	dev.ID = reader.ID{Model: model}
	return chardev.Attach(dev, d.Log)
}

// Open opens the file. The kernel then begins to look for a card.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	s := &slot{name: dev.Name()}
	node, err := chardev.Open(ctx, dev)
	if err != nil {
		return nil, s.fail("open", err)
	}
	s.node = node
	if _, err := s.look(ctx); err != nil { // another device has another answer
		_ = node.Close()
		return nil, s.fail("open", err)
	}
	s.slots[0] = s
	return s, nil
}

const (
	// callWait is for calls that do not wait for the card.
	callWait = 5 * time.Second
	// atrWait is for the ATR, of which each character may take a second.
	atrWait = 10 * time.Second
	// atrPoll is how often the ATR is looked for. The kernel looks for cards every 50 ms.
	atrPoll = 20 * time.Millisecond
	// answerWait is for an answer for which the core gives no time: the kernel's longest.
	answerWait = 75 * time.Second
)

// slot is a Reader and its only Slot.
type slot struct {
	name   string
	node   chardev.Node
	slots  [1]reader.Slot
	pauser reader.Pauser

	on    bool // activated by us
	fresh bool // the card has got no command since its reset
	lost  bool // a command was left, and its answer may come
	buf   [512]byte
}

var (
	_ reader.Reader     = (*slot)(nil)
	_ reader.Slot       = (*slot)(nil)
	_ reader.Identifier = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot                  { return s.slots[:] }
func (s *slot) Gone() <-chan struct{}                 { return s.node.Gone() }
func (s *slot) Close() error                          { return s.node.Close() }
func (s *slot) Identify() (string, map[string]string) { return model, nil }

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}

// Traits: the kernel does the PPS.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSD: 254, Slack: time.Second}
}

// look asks for the bits of the status.
func (s *slot) look(ctx context.Context) (uint32, error) {
	var p [statusSize]byte
	if err := s.node.Ioctl(ctx, ioStatus, p[:], callWait); err != nil {
		return 0, err
	}
	bits := binary.NativeEndian.Uint32(p[:])
	if bits&noReader != 0 {
		return 0, fmt.Errorf("the kernel finds no reader in its socket: %w", reader.ErrGone)
	}
	return bits, nil
}

// Status goes by the contacts: a card is there before its ATR is.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	bits, err := s.look(ctx)
	switch {
	case err != nil:
		return reader.Absent, s.fail("status", err)
	case bits&cardIn == 0:
		s.on = false
		return reader.Absent, nil
	case bits&atrValid == 0: // reset by the kernel, for a card that has just come
		s.on = false
	}
	if s.on {
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// awaitATR waits until the kernel has the ATR of the card. The ioctl that would do so might
// wait for ever.
func (s *slot) awaitATR(ctx context.Context) error {
	for until := time.Now().Add(atrWait); ; {
		bits, err := s.look(ctx)
		switch {
		case err != nil:
			return err
		case bits&cardIn == 0:
			return reader.ErrNoCard
		case bits&atrPresent != 0:
			return nil
		case bits&badCard != 0, time.Now().After(until):
			return fmt.Errorf("no ATR: %w", reader.ErrMute)
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

func (s *slot) pause(ctx context.Context) error {
	return s.pauser.Pause(ctx, s.Gone(), atrPoll)
}

// reset takes the power from the card. The kernel gives it back at once, and the call returns
// when there is a valid ATR. A card that has not shown one is left alone: the kernel tries it.
func (s *slot) reset(ctx context.Context) error {
	bits, err := s.look(ctx)
	switch {
	case err != nil:
		return err
	case bits&cardIn == 0:
		return reader.ErrNoCard
	case bits&(cardPowered|atrValid) != cardPowered|atrValid:
		return nil
	}
	err = s.node.Ioctl(ctx, ioCardOff, nil, atrWait)
	if errors.Is(err, reader.ErrTimeout) {
		return fmt.Errorf("no ATR any more (%v): %w", err, reader.ErrMute)
	}
	return err
}

// PowerOn resets the card, unless that was just done, and returns the ATR. There is no warm
// reset.
func (s *slot) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	s.on = false
	if err := s.awaitATR(ctx); err != nil {
		return nil, s.fail("power up", err)
	}
	if !s.fresh {
		if err := s.reset(ctx); err != nil {
			return nil, s.fail("power up", s.gone(ctx, err))
		}
		if err := s.awaitATR(ctx); err != nil {
			return nil, s.fail("power up", err)
		}
	}
	s.fresh, s.lost = false, false
	var p [atreqSize]byte
	if err := s.node.Ioctl(ctx, ioATR, p[:], callWait); err != nil {
		return nil, s.fail("power up", s.gone(ctx, err))
	}
	atr, err := parseATR(p[:])
	s.on = err == nil
	return atr, s.fail("power up", err)
}

// PowerOff resets the card, which forgets what was allowed. The kernel does not leave it
// without power.
func (s *slot) PowerOff(ctx context.Context) error {
	s.on = false
	if s.fresh {
		return nil
	}
	err := s.reset(ctx)
	if errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrMute) {
		err = nil
	}
	s.fresh = err == nil
	return s.fail("power off", err)
}

// gone is err, or the reason for EIO, which the kernel says if the card left, has no valid ATR,
// or was silent for too long.
func (s *slot) gone(ctx context.Context, err error) error {
	if !errors.Is(err, syscall.EIO) {
		return err
	}
	bits, e := s.look(ctx)
	switch {
	case e != nil:
		return e
	case bits&cardIn == 0:
		return fmt.Errorf("%w (%v)", reader.ErrNoCard, err)
	case bits&atrValid == 0:
		return fmt.Errorf("%w (%v)", reader.ErrStale, err)
	}
	return fmt.Errorf("the card was silent (%v): %w", err, reader.ErrTimeout)
}

// Exchange sends a T=0 TPDU or a T=1 block by one write, which returns when the card has
// answered, and gets the answer by one read. After a command whose answer did not come only a
// reset helps: the file has no way to drop what comes late.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	switch {
	case len(x.Out) < 4:
		return dst, s.fail("exchange", fmt.Errorf("%d bytes are neither a TPDU nor a block: %w", len(x.Out), reader.ErrInvalid))
	case s.lost:
		return dst, s.fail("exchange", fmt.Errorf("an earlier command was left unanswered; the card must be reset: %w", reader.ErrTimeout))
	}
	wait := x.Wait
	if wait <= 0 {
		wait = answerWait
	}
	s.fresh, s.lost = false, true
	n, err := s.node.Write(ctx, x.Out, wait)
	if err == nil && n != len(x.Out) {
		err = fmt.Errorf("the kernel took only a part: %w", reader.ErrProtocol)
	}
	if err != nil {
		return dst, s.fail("exchange: send", s.failed(ctx, err))
	}
	defer clear(s.buf[:])
	// A read that asks for less than is there does not show where SW1 SW2 are.
	if n, err = s.node.Read(ctx, s.buf[:], callWait); err != nil {
		return dst, s.fail("exchange: answer", s.failed(ctx, err))
	}
	s.lost = false
	return iso7816.AppendResponse(dst, len(dst), s.buf[:n]...), nil
}

// failed is gone for an exchange: the kernel gave it up, so that no answer comes late.
func (s *slot) failed(ctx context.Context, err error) error {
	if errors.Is(err, syscall.EIO) {
		s.lost = false
	}
	return s.gone(ctx, err)
}
