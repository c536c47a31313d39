// Package cyberjack drives the REINER SCT cyberJack of the first generation, pinpad and e-com
// (0c4b:0100), a card terminal with CT-BCS on USB. The host speaks T=1 with the reader, by one
// connection for it and its card; the reader speaks T=0 or T=1 with the card by itself.
//
// Nothing of this was tried with a reader. It is what OpenCT 0.6.20 was observed to send and to
// accept. The kernel's module cyberjack has the same frames, and the maker's old CT-API library
// for Linux, of 2001 to 2013, more of what the reader may send. The values of the card's status,
// 03 without power and 05 with it, are from the manual page of libtowitoko: with a reader that
// says 03 for a card with power, that card would look as if it had none.
//
//	frame.go   frames and blocks
//	pipe.go    USB, and what the reader says beside T=1
//	driver.go  the reader and its slot
package cyberjack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/ctbcs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Driver drives the one model.
type Driver struct{}

// Name is "cyberjack".
func (Driver) Name() string { return "cyberjack" }

var ids = []reader.ID{{Vendor: 0x0C4B, Product: 0x0100, Model: "REINER SCT cyberJack"}}

// IDs returns the one model's. Later ones have CCID, or another protocol.
func (Driver) IDs() []reader.ID { return ids }

// Pauses of OpenCT.
const (
	settleTime   = 200 * time.Millisecond // before the reset of the device
	activateTime = 100 * time.Millisecond // before the first answer
	keysTime     = 500 * time.Millisecond // after a PIN was entered
)

// Waits for answers, the maker's: answerWait, and wtxWait more for each unit of S(WTX request).
// powerLimit is for a card's ATR: with a reader that stays silent it leaves time for S(RESYNCH)
// within that of a power-up.
const (
	answerWait = 8 * time.Second
	wtxWait    = 8 * time.Second
	powerLimit = 2 * answerWait
)

// Open resets the device, without which it was seen not to power all cards, and activates the
// reader.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	s := &slot{name: dev.Name()}
	p, err := openPipe(ctx, dev)
	if err != nil {
		return nil, s.fail("open", err)
	}
	s.pipe = p
	// OpenCT sends blocks of 254 bytes once a card was reset, and shorter ones before; the
	// maker's library sends long ones from the start.
	s.conn = ctbcs.New(p, iso7816.T1Config{Params: params(), NAD: control, Long: true}, wtxWait)
	if err := sleep(ctx, p, settleTime); err != nil {
		_ = p.Close()
		return nil, s.fail("open", err)
	}
	if err := s.restart(ctx); err != nil {
		_ = p.Close()
		return nil, s.fail("activate", err)
	}
	s.slots[0] = s
	return s, nil
}

func params() iso7816.Params {
	p := iso7816.DefaultParams(1)
	p.IFSC = 254
	return p
}

// slot is a Reader and its only Slot.
type slot struct {
	name  string
	slots [1]reader.Slot
	pipe  *pipe
	conn  *ctbcs.Connection

	seen    bool // the last status was that there is a card
	powered bool // by us, and perhaps not since taken away
}

var (
	_ reader.Reader     = (*slot)(nil)
	_ reader.Slot       = (*slot)(nil)
	_ reader.Identifier = (*slot)(nil)
	_ reader.PINPad     = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot  { return s.slots[:] }
func (s *slot) Gone() <-chan struct{} { return s.pipe.Gone() }
func (s *slot) Close() error          { return s.pipe.Close() }

// Identify returns the model.
func (*slot) Identify() (string, map[string]string) { return ids[0].Model, nil }

// fail wraps err with the reader and what was tried.
func (s *slot) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", s.name, what, err)
}

// resetTerminal is RESET CT.
var resetTerminal = []byte{0x20, 0x11, 0x00, 0x00}

// restart resets the device and activates the reader: S(IFS request) without a value, to which
// there is no answer, S(RESYNCH), RESET CT, and S(RESYNCH) again.
func (s *slot) restart(ctx context.Context) error {
	s.powered, s.pipe.stuck = false, false
	if err := s.pipe.Reset(ctx); ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return err
	}
	// Whether this one arrived is seen by the next.
	if err := s.pipe.say(ctx, ifsRequest); ctx.Err() != nil || errors.Is(err, reader.ErrGone) {
		return err
	}
	s.pipe.pause = activateTime
	if err := s.conn.Resync(ctx); err != nil {
		return err
	}
	answer, err := s.conn.Do(ctx, ctbcs.Terminal, resetTerminal, terminalTimes(powerLimit), nil)
	var sw uint16
	if err == nil {
		_, sw, err = ctbcs.Split(answer)
	}
	if err == nil && sw != ctbcs.Done {
		err = ctbcs.Error(sw)
	}
	if err != nil {
		return fmt.Errorf("reset of the terminal: %w", err)
	}
	return s.conn.Resync(ctx)
}

// do sends a command to a node and appends the answer to dst. If the connection is lost, and
// S(RESYNCH) does not or did not help, the device is reset.
func (s *slot) do(ctx context.Context, nad byte, command []byte, x ctbcs.Times, dst []byte) ([]byte, error) {
	if s.conn.Lost() {
		err := errHopeless
		if !s.conn.Dead() && !s.pipe.stuck {
			err = s.conn.Resync(ctx)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, reader.ErrGone) {
			err = s.restart(ctx)
		}
		if err != nil {
			return dst, err
		}
	}
	dst, err := s.conn.Do(ctx, nad, command, x, dst)
	if errors.Is(err, ctbcs.ErrBroken) || s.conn.Dead() {
		s.powered = false // what the reader did meanwhile is not known
	}
	return dst, err
}

var errHopeless = errors.New("S(RESYNCH) was not answered")

func terminalTimes(limit time.Duration) ctbcs.Times {
	return ctbcs.Times{Wait: answerWait, Until: time.Now().Add(limit)}
}

// ask sends the terminal a command.
func (s *slot) ask(ctx context.Context, command []byte, limit time.Duration) (data []byte, sw uint16, err error) {
	answer, err := s.do(ctx, ctbcs.Terminal, command, terminalTimes(limit), nil)
	if err != nil {
		return nil, 0, err
	}
	return ctbcs.Split(answer)
}

// Traits: the reader does the PPS, and T=0 but for what follows 61xx and 6Cxx.
func (*slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.ShortAPDU, AutoPPS: true}
}

// The card's slot is unit 1. Its status is asked of unit 0, which has one byte for each slot.
const (
	unitTerminal = 0
	unitCard     = 1
)

// status asks the terminal for the card's.
func (s *slot) status(ctx context.Context) (byte, error) {
	data, sw, err := s.ask(ctx, ctbcs.Status(unitTerminal), answerWait)
	if err != nil {
		return 0, err
	}
	value, err := ctbcs.StatusOf(data, sw)
	if err != nil {
		return 0, err
	}
	s.seen = value != 0
	if s.pipe.moved || !s.seen || value&ctbcs.CardOff != 0 {
		s.powered = false // it may be another card
	}
	s.pipe.moved = false
	return value, nil
}

// Status asks the terminal.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	value, err := s.status(ctx)
	switch {
	case err != nil:
		return reader.Absent, s.fail("status", err)
	case value == 0:
		return reader.Absent, nil
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// requestCard is REQUEST ICC, with the whole ATR for an answer. Without a card the reader waits
// 20 s for one, as OpenCT has it do; so this is sent where there is a card.
var requestCard = []byte{0x20, 0x12, unitCard, 0x01, 1, 20, 0x00}

// Status words of REQUEST ICC, as libtowitoko's manual page has them.
const (
	swNoCard  = 0x6200
	swAlready = 0x6201 // the card has power
)

// PowerOn requests the card, which gives it power and resets it. Nothing is known that resets a
// card with power, so it is ejected first. Where there is no card the reader would wait for
// one.
func (s *slot) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if !s.seen {
		value, err := s.status(ctx)
		if err == nil && value == 0 {
			err = reader.ErrNoCard
		}
		if err != nil {
			return nil, s.fail("status", err)
		}
	}
	if s.powered {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	atr, sw, err := s.ask(ctx, requestCard, powerLimit)
	if err == nil && sw == swAlready { // by another program, before
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
		atr, sw, err = s.ask(ctx, requestCard, powerLimit)
	}
	switch {
	case err == nil:
		err = s.accept(ctx, atr, sw)
	case errors.Is(err, reader.ErrTimeout): // perhaps it waits for a card
		if why := s.lost(ctx, false); why != nil {
			err = why
		}
	}
	if err != nil {
		s.seen = false // whether there is a card is asked first
		return nil, s.fail("request of the card", err)
	}
	s.powered, s.pipe.moved = true, false
	return atr, nil
}

// accept tells the card that was requested from none, and from a memory card.
func (s *slot) accept(ctx context.Context, atr []byte, sw uint16) error {
	switch {
	case sw == swNoCard:
		return reader.ErrNoCard
	case sw == ctbcs.Done && (len(atr) == 0 || atr[0] != 0x3B && atr[0] != 0x3F):
		return fmt.Errorf("a memory card: %w", reader.ErrUnsupported)
	case sw == ctbcs.Processor && len(atr) == 0:
		return fmt.Errorf("an empty ATR: %w", reader.ErrMute)
	case sw == ctbcs.Processor || sw == ctbcs.Done:
		return nil
	}
	value, err := s.status(ctx)
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, reader.ErrGone)):
		return err
	case err == nil && value == 0:
		return reader.ErrNoCard
	}
	return fmt.Errorf("%w: %w", ctbcs.Error(sw), reader.ErrMute)
}

// ejectHow is the maker's, when its library closes the reader.
const ejectHow = 0x07

// PowerOff ejects the card, as far as the reader can: its power goes. OpenCT sends nothing.
func (s *slot) PowerOff(ctx context.Context) error {
	s.powered = false
	_, _, err := s.ask(ctx, ctbcs.Eject(unitCard, ejectHow), answerWait)
	return s.fail("eject", err)
}

// Exchange sends a short C-APDU of any case as it is.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if err := iso7816.Carries(x.Out, false); err != nil {
		return dst, s.fail("exchange", err)
	}
	if !s.powered { // the reader was reset, or the exchange before broke off
		why := s.lost(ctx, true)
		if why == nil {
			why = reader.ErrStale
		}
		return dst, s.fail("exchange", why)
	}
	// The reader keeps the card's times, and asks for more.
	t := ctbcs.Times{Wait: answerWait, Until: x.Until, Extended: x.Extended}
	if t.Until.IsZero() {
		t.Until = time.Now().Add(exchangeLimit)
	}
	start := len(dst)
	dst, err := s.do(ctx, ctbcs.Card, x.Out, t, dst)
	if err == nil && ctbcs.Doubtful(dst[start:]) || errors.Is(err, reader.ErrTimeout) {
		if why := s.lost(ctx, err == nil); why != nil {
			clear(dst[start:])
			return dst[:start], s.fail("exchange", why)
		}
	}
	if err == nil && len(dst) < start+2 {
		err = fmt.Errorf("an answer of %d bytes: %w", len(dst)-start, reader.ErrProtocol)
		clear(dst[start:])
		dst = dst[:start]
	}
	return dst, s.fail("exchange", err)
}

// lost says why an exchange failed, if the card is not there, or has no power and so did not
// execute what the reader answered.
func (s *slot) lost(ctx context.Context, answered bool) error {
	value, err := s.status(ctx)
	switch {
	case errors.Is(err, reader.ErrGone) || ctx.Err() != nil:
		return err
	case err != nil:
		return nil // what the exchange had says more
	case value == 0:
		return reader.ErrNoCard
	case answered && !s.powered:
		return reader.ErrStale
	}
	return nil
}

// exchangeLimit is for a card that asks for time without end, if nobody else has a limit.
const exchangeLimit = 10 * time.Minute

// PINSupport: the keys verify a PIN. CT-BCS has a change too, of which nothing was observed,
// and not every model has a display.
func (*slot) PINSupport() reader.PINSupport { return reader.PINSupport{Verify: true} }

// prompt is what the reader asks with: OpenCT sends none of its own, but does not send a
// command without one.
const prompt = "PIN"

// VerifyPIN is PERFORM VERIFICATION.
func (s *slot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	command, err := ctbcs.Verification(unitCard, prompt, v)
	if err != nil {
		return dst, s.fail("PIN", err)
	}
	dst, err = s.do(ctx, ctbcs.Terminal, command, ctbcs.EntryTimes(v), dst)
	s.pipe.rest = time.Now().Add(keysTime)
	return dst, s.fail("PIN", err)
}

// ModifyPIN is not known to work.
func (s *slot) ModifyPIN(_ context.Context, _ *reader.PINModify, dst []byte) ([]byte, error) {
	return dst, s.fail("PIN", fmt.Errorf("the change of a PIN at the reader: %w", reader.ErrUnsupported))
}
