package vpcd

import (
	"context"
	"fmt"
	"sync"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// The one-byte messages. A card cannot mistake them for commands, which are longer.
const (
	ctlOff   = 0x00
	ctlOn    = 0x01
	ctlReset = 0x02
	ctlATR   = 0x04
)

// slot is an ICC position that a connection fills.
//
//	empty --connection--> occupied --its end--> left --Status says Absent--> empty
//
// In state "left" a new connection may already wait (next). The slot must report the
// absence once: otherwise the exchange of a card for another would go unnoticed.
type slot struct {
	changes chan struct{}
	fixed   bool // a guest's: the card cannot leave without the reader

	mu      sync.Mutex
	card    *conn
	left    bool
	next    *conn
	powered bool
	gone    bool // the reader has left
}

var (
	_ reader.Slot             = (*slot)(nil)
	_ reader.Notifier         = (*slot)(nil)
	_ reader.ProtocolSelector = (*slot)(nil)
)

func newSlot(fixed bool) *slot {
	return &slot{changes: make(chan struct{}, 1), fixed: fixed}
}

// offer puts a new connection into the slot. It returns false if the slot is occupied.
func (s *slot) offer(c *conn) bool {
	s.mu.Lock()
	switch {
	case s.card != nil || s.next != nil:
		s.mu.Unlock()
		return false
	case s.left:
		s.next = c
	default:
		s.card, s.powered = c, false
	}
	s.mu.Unlock()
	s.changed()
	c.whenEnded(func() { s.remove(c) })
	return true
}

func (s *slot) remove(c *conn) {
	s.mu.Lock()
	switch c {
	case s.card:
		s.card, s.left, s.powered = nil, true, false
	case s.next:
		s.next = nil
	}
	s.mu.Unlock()
	s.changed()
}

func (s *slot) changed() {
	select {
	case s.changes <- struct{}{}:
	default:
	}
}

// Changes gets a value after each insertion and removal.
func (s *slot) Changes() <-chan struct{} { return s.changes }

// Status sends no message: a card is present as long as it is connected.
func (s *slot) Status(context.Context) (reader.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		s.left = false
		if s.next != nil {
			s.card, s.next = s.next, nil
			s.changed()
		}
		return reader.Absent, nil
	}
	switch {
	case s.card == nil:
		return reader.Absent, nil
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// Traits returns the extended APDU level: a message is a whole C-APDU of any case. There
// are no protocols and parameters below that.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.ExtendedAPDU, AutoPPS: true, AutoIFSD: true, Fixed: s.fixed}
}

// SelectProtocol agrees to any protocol that the ATR offers, as libifdvpcd does: nothing
// is transmitted below the APDU, so every protocol works.
func (s *slot) SelectProtocol(_ context.Context, want iso7816.Params) (iso7816.Params, error) {
	if _, _, err := s.get(); err != nil {
		return iso7816.Params{}, err
	}
	return want, nil
}

// PowerOn sends "power on" or "reset" and asks for the ATR. A cold reset of a powered card
// begins with "power off".
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	c, powered, err := s.get()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	cmds := []byte{ctlOn}
	switch {
	case powered && how == reader.Warm:
		cmds = []byte{ctlReset}
	case powered:
		cmds = []byte{ctlOff, ctlOn}
	}
	s.setPowered(c, false)
	for _, b := range cmds {
		if err := c.tell(ctx, b); err != nil {
			return nil, err
		}
	}
	atr, err := c.ask(ctx, []byte{ctlATR}, nil)
	switch {
	case err != nil:
		return nil, fmt.Errorf("get ATR: %w", err)
	case len(atr) == 0:
		return nil, fmt.Errorf("vpcd: card at %s: its ATR is empty: %w: %w", c.peer, reader.ErrProtocol, reader.ErrMute)
	case len(atr) > maxATR:
		return nil, fmt.Errorf("vpcd: card at %s: its ATR has %d bytes, more than the %d that are allowed: %w: %w", c.peer, len(atr), maxATR, reader.ErrProtocol, reader.ErrMute)
	}
	s.setPowered(c, true)
	return atr, nil
}

// PowerOff sends "power off" to a card that has power.
func (s *slot) PowerOff(ctx context.Context) error {
	c, powered, err := s.get()
	if err != nil || !powered {
		return err
	}
	if err := c.tell(ctx, ctlOff); err != nil {
		return err
	}
	s.setPowered(c, false)
	return nil
}

// Exchange sends a C-APDU and appends the R-APDU. It uses the connection's own timeout:
// t.Wait is computed for real cards.
func (s *slot) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	c, powered, err := s.get()
	switch {
	case err != nil:
		return dst, err
	case !powered:
		return dst, fmt.Errorf("vpcd: card at %s: no power: %w", c.peer, reader.ErrMute)
	case len(t.Out) < 4:
		// The card would take one byte for "power off" and the like.
		return dst, fmt.Errorf("vpcd: a command of %d bytes, shorter than its header of 4: %w", len(t.Out), reader.ErrInvalid)
	case len(t.Out) > maxMessage:
		return dst, fmt.Errorf("vpcd: a command of %d bytes; the vpcd protocol ends at %d: %w", len(t.Out), maxMessage, reader.ErrUnsupported)
	}
	start := len(dst)
	answer, err := c.ask(ctx, t.Out, dst)
	if err != nil {
		return dst, err
	}
	if n := len(answer) - start; n < 2 {
		return dst, fmt.Errorf("vpcd: card at %s: an answer of %d bytes, without SW1 SW2: %w", c.peer, n, reader.ErrProtocol)
	}
	return answer, nil
}

func (s *slot) get() (*conn, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.card != nil && !s.gone:
		return s.card, s.powered, nil
	case s.fixed || s.gone:
		return nil, false, fmt.Errorf("vpcd: the connection or its port has ended: %w", reader.ErrGone)
	}
	return nil, false, fmt.Errorf("vpcd: no virtual card is connected: %w", reader.ErrNoCard)
}

// leave makes every later call fail with ErrGone.
func (s *slot) leave() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
}

func (s *slot) setPowered(c *conn, on bool) {
	s.mu.Lock()
	if s.card == c {
		s.powered = on
	}
	s.mu.Unlock()
}
