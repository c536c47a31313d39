// Package smartboard drives the reader in a Cherry SmartBoard, a keyboard with a serial line of its own for the
// reader. The CCID keyboards of the same maker are for package ccid.
//
// The maker published nothing. Frames and codes are those that OpenCT 0.6.20 sends and accepts; its author had watched
// the line, and tried one kind of card. So some things are not known, and the driver does without them:
//
//   - what the reader does when a frame does not arrive whole. The driver sends it nothing more then: the
//     rest of a broken command would be made up of the next one. A break, by which OpenCT starts the reader, starts
//     it again.
//   - how the reader cuts what is longer than a frame. Commands in T=0 have at most 249 bytes of data, and answers
//     252.
//   - a command that takes the power from the card. A reset takes its place.
package smartboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/words"
)

// Driver drives the reader.
type Driver struct {
	Log *slog.Logger // of the serial ports; may be nil
}

const model = "Cherry SmartBoard"

var _ reader.Attacher = Driver{}

// Name is "smartboard".
func (Driver) Name() string { return "smartboard" }

// IDs is empty: a reader is attached by the name of its port.
func (Driver) IDs() []reader.ID { return nil }

// Attach takes a reader on a serial port, whose name is the address.
func (d Driver) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(); err != nil {
		return dev, err
	}
	dev.ID = reader.ID{Model: model}
	return serial.Attach(dev, d.Log)
}

// mode is the line's, from the begin to the end.
var mode = serial.Mode{Baud: 115200, Frame: serial.Frame8E2, Check: true}

// Open opens the port and starts the reader.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	s := &slot{name: dev.Name()}
	s.slots[0] = s
	var err error
	if s.Port, err = serial.Open(ctx, dev, mode); err != nil {
		return nil, s.fail("open", err)
	}
	if err := s.start(ctx); err != nil {
		_ = s.Port.Close()
		return nil, s.fail("open", err)
	}
	return s, nil
}

// slot is a Reader and its only Slot.
type slot struct {
	wire
	name    string
	slots   [1]reader.Slot
	text    string // by which the reader identifies itself
	powered bool   // the card was reset, and has not left since, as far as we know
	t       int    // its protocol
}

var (
	_ reader.Reader     = (*slot)(nil)
	_ reader.Slot       = (*slot)(nil)
	_ reader.Identifier = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot { return s.slots[:] }

func (s *slot) Identify() (string, map[string]string) {
	if s.text == "" {
		return model, nil
	}
	return model, map[string]string{"identification": s.text}
}

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}

// Traits: the reader does the PPS, as far as there is one. In T=1 the information fields have at most 32 bytes either
// way, whatever the ATR says, as in OpenCT. That is the IFSD of ISO/IEC 7816-3:2006 §11.4.2, which need not be
// announced.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSC: ifs, IFSD: ifs, Slack: time.Second}
}

const ifs = 32

// Status asks the reader.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	const what = "status"
	if err := s.ready(ctx); err != nil {
		return reader.Absent, s.fail(what, err)
	}
	f, err := s.ask(ctx, cmdStatus, nil, answerWait, isStatus)
	if err != nil {
		return reader.Absent, s.fail(what, err)
	}
	return s.judge(what, f)
}

// judge is what an answer to cmdStatus means. A card that was put in since the last one has not been reset.
func (s *slot) judge(what string, f frame) (reader.Status, error) {
	in, waits := f.code == ansIn, true
	if f.code == ansStatus {
		var err error
		if in, waits, err = parseStatus(f.data); err != nil {
			return reader.Absent, s.fail(what, err)
		}
	}
	s.powered = s.powered && in && !waits
	switch {
	case !in:
		return reader.Absent, nil
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// PowerOn resets the card. The reader has no cold reset that is known.
func (s *slot) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	const what = "reset"
	s.powered = false
	switch in, err := s.Status(ctx); {
	case err != nil:
		return nil, err
	case in == reader.Absent:
		return nil, s.fail(what, reader.ErrNoCard)
	}
	atr, err := s.reset(ctx)
	if err != nil {
		return nil, s.fail(what, err)
	}
	if t, ok := protocol(atr); ok {
		s.t = t
		_, err := s.ask(ctx, cmdProtocol, protocols[t], answerWait, is(ansProtocol))
		if err != nil {
			return nil, s.fail(fmt.Sprintf("set the protocol T=%d", t), err)
		}
		s.powered = true
	}
	return atr, nil
}

// reset resets the card and returns its ATR.
func (s *slot) reset(ctx context.Context) ([]byte, error) {
	f, err := s.ask(ctx, cmdReset, nil, resetWait, is(ansData))
	switch {
	case errors.Is(err, serial.ErrTimeout): // the reader answered a moment ago
		return nil, fmt.Errorf("%w: %w", err, reader.ErrMute)
	case err != nil:
		return nil, err
	case len(f.data) == 0:
		return nil, fmt.Errorf("an empty ATR: %w", reader.ErrMute)
	}
	return bytes.Clone(f.data), nil
}

// protocol returns the protocol of a card: the first in its ATR that the reader has. The core goes by the same rule.
func protocol(atr []byte) (t int, ok bool) {
	a, err := iso7816.ParseATR(atr)
	if err != nil {
		return 0, false
	}
	if t, _, specific := a.Specific(); specific {
		return t, t < len(protocols)
	}
	i := slices.IndexFunc(a.Protocols(), func(t int) bool { return t < len(protocols) })
	if i < 0 {
		return 0, false
	}
	return a.Protocols()[i], true
}

// PowerOff resets the card, which makes it forget a verified PIN. A card that was not reset since it came has nothing
// to forget.
func (s *slot) PowerOff(ctx context.Context) error {
	if !s.powered {
		return nil
	}
	s.powered = false
	err := s.ready(ctx)
	if err == nil {
		_, err = s.reset(ctx)
	}
	if errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrMute) {
		err = nil
	}
	return s.fail("reset instead of power off", err)
}

// Exchange sends a TPDU to the card.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	const what = "exchange"
	if err := s.awake(ctx); err != nil {
		return dst, s.fail(what, err)
	}
	if len(x.Out) > mostData {
		return dst, s.fail(what, fmt.Errorf("the reader takes TPDUs of %d bytes at most, in T=0 with 249 bytes of data: %w", mostData, reader.ErrInvalid))
	}
	f, err := s.transfer(ctx, x)
	if err == nil {
		defer s.forget()
		err = s.check(x.Out, f.data)
	}
	if err != nil {
		return dst, s.fail(what, err)
	}
	return append(dst, f.data...), nil
}

// awake checks that there is a card, which was reset.
func (s *slot) awake(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if s.powered {
		return nil
	}
	f, err := s.ask(ctx, cmdStatus, nil, answerWait, isStatus)
	if err != nil {
		return err
	}
	switch in, err := s.judge("status", f); {
	case err != nil:
		return err
	case in == reader.Absent:
		return reader.ErrNoCard
	}
	return reader.ErrStale
}

// check returns an error if rx cannot be the card's answer to a TPDU. In T=1 the core does so.
func (s *slot) check(tx, rx []byte) error {
	if s.t != 0 {
		return nil
	}
	most := 2
	if len(tx) == 5 {
		if most += int(tx[4]); tx[4] == 0 {
			most += 256
		}
	}
	switch {
	case len(rx) < 2 || len(rx) > most:
		s.trouble = max(s.trouble, late) // what came is perhaps another answer
		return fmt.Errorf("an answer of %d bytes; SW1 SW2 are the least, and %d bytes were asked for: %w", len(rx), most, reader.ErrProtocol)
	case rx[len(rx)-2]&0xF0 != 0x60 && rx[len(rx)-2]&0xF0 != 0x90: // ISO/IEC 7816-3:2006 §10.3.3
		s.trouble = max(s.trouble, late)
		return fmt.Errorf("an answer that does not end with SW1 SW2: %w", reader.ErrProtocol)
	case len(rx) == mostData && most > mostData:
		return fmt.Errorf("the answer was cut: one of this reader's has %d bytes at most, with SW1 SW2; ask for less at once: %w", mostData, reader.ErrProtocol)
	}
	return nil
}

// identification is the text of the answer to cmdStart, as far as it can be shown.
func identification(data []byte) string {
	return words.Printable(strings.TrimSpace(string(data)), words.MaxValue)
}
