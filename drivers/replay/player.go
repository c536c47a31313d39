package replay

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// player is a Reader and its only Slot, with a position in a recording.
type player struct {
	*recording
	slots [1]reader.Slot
	gone  chan struct{}
	once  sync.Once // closes gone

	powered bool
	place   int // in steps
}

var (
	_ reader.Reader           = (*player)(nil)
	_ reader.Identifier       = (*player)(nil)
	_ reader.Slot             = (*player)(nil)
	_ reader.ProtocolSelector = (*player)(nil)
)

func newPlayer(rec *recording) *player {
	p := &player{recording: rec, gone: make(chan struct{})}
	p.slots[0] = p
	return p
}

func (p *player) Slots() []reader.Slot  { return p.slots[:] }
func (p *player) Gone() <-chan struct{} { return p.gone }

// Close has nothing to end, as no call waits. Later calls fail with ErrGone.
func (p *player) Close() error {
	p.once.Do(func() { close(p.gone) })
	return nil
}

// Identify returns the model of the recorded reader and the path of the recording.
func (p *player) Identify() (string, map[string]string) {
	return p.model, map[string]string{"session": p.path}
}

// Traits returns an APDU level: a session has C-APDUs and nothing below them.
func (p *player) Traits() reader.Traits {
	return reader.Traits{Level: p.level, AutoPPS: true, AutoIFSD: true, Fixed: true}
}

// check returns an error if the reader is closed or ctx has ended.
func (p *player) check(ctx context.Context) error {
	select {
	case <-p.gone:
		return reader.ErrGone
	default:
		return ctx.Err()
	}
}

func (p *player) fail(what string, err error) error {
	return fmt.Errorf("replay %s: %s: %w", p.path, what, err)
}

func (p *player) Status(ctx context.Context) (reader.Status, error) {
	switch err := p.check(ctx); {
	case err != nil:
		return reader.Absent, p.fail("status", err)
	case p.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// SelectProtocol agrees to any protocol that the ATR offers: nothing is transmitted below
// the APDU, so every protocol works.
func (p *player) SelectProtocol(ctx context.Context, want iso7816.Params) (iso7816.Params, error) {
	if err := p.check(ctx); err != nil {
		return iso7816.Params{}, p.fail("select protocol", err)
	}
	return want, nil
}

// PowerOn returns the next ATR. There is at least one, see recording.take.
func (p *player) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if err := p.check(ctx); err != nil {
		return nil, p.fail("power on", err)
	}
	p.powered = true
	s := p.next(func(s *step) bool { return s.atr != nil })
	return bytes.Clone(s.atr), nil
}

func (p *player) PowerOff(ctx context.Context) error {
	if err := p.check(ctx); err != nil {
		return p.fail("power off", err)
	}
	p.powered = false
	return nil
}

// Exchange returns the answer of the next pair with the command t.Out.
func (p *player) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	if err := p.check(ctx); err != nil {
		return dst, p.fail("exchange", err)
	}
	if !p.powered {
		return dst, p.fail("exchange", reader.ErrStale)
	}
	s := p.next(func(s *step) bool { return s.matches(t.Out) })
	switch {
	case s == nil && p.unknown == nil:
		return dst, p.fail("exchange", fmt.Errorf("the session does not have this command: %w", reader.ErrProtocol))
	case s == nil:
		return append(dst, p.unknown...), nil
	case s.err != nil:
		return dst, p.fail("exchange", fmt.Errorf("as recorded at line %d: %w", s.line, s.err))
	}
	return append(dst, s.answer...), nil
}

func (s *step) matches(command []byte) bool {
	if s.more {
		return len(command) > len(s.command) && bytes.HasPrefix(command, s.command)
	}
	return s.command != nil && bytes.Equal(command, s.command)
}

// next returns the next step that fits, searching from the position on with wrap-around,
// and moves the position behind it. It returns nil if there is none.
func (p *player) next(fits func(*step) bool) *step {
	for i := range p.steps {
		at := (p.place + i) % len(p.steps)
		if s := &p.steps[at]; fits(s) {
			p.place = at + 1
			return s
		}
	}
	return nil
}
