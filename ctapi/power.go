package ctapi

import (
	"context"
	"errors"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// reset is RESET CT, and with INS 10 its older form on B1 terminals.
func (t *Terminal) reset(ctx context.Context, c command) ([]byte, sw, error) {
	if c.p1 == 0 {
		switch {
		case c.p2 != 0:
			return nil, swP1P2, nil
		case len(c.data) > 0 || c.le > 0:
			return nil, swLength, nil
		}
		// The terminal's software reset switches the cards off (REINER SCT).
		for _, s := range t.home.Siblings() {
			if err := s.Power(ctx, core.PowerDown, t.by); err != nil {
				code, err := failure(err, swOK)
				if code != swOK {
					return nil, code, err
				}
			}
			ctx = context.WithoutCancel(ctx)
		}
		t.file = nil
		clear(t.want)
		t.forget()
		return nil, swOK, nil
	}
	s := t.slot(c.p1)
	if s == nil || c.p2 > 2 {
		return nil, swP1P2, nil
	}
	if c.p2 == 0 && c.le > 0 || c.p2 != 0 && c.le != 0 {
		return nil, swLength, nil
	}
	want := t.preference(int(c.p1))
	if len(c.data) > 1 { // libtowitoko: a PPS request to use instead of the default
		if c.data[0] != 0xFF || c.data[1]&0x0F > 1 {
			return nil, swUnsupported, nil
		}
		want = int(c.data[1] & 0x0F)
	}
	absent := swFailed
	if c.ins == 0x10 {
		absent = swNoCard
	}
	if err := s.Power(ctx, core.ResetCold, t.by); err != nil {
		code, err := failure(err, absent)
		return nil, code, err
	}
	return t.activated(context.WithoutCancel(ctx), s, c, want, absent)
}

// activated brings a card that has power into the protocol wanted, begins a
// session with it and answers what P2 asks for.
func (t *Terminal) activated(ctx context.Context, slot *core.Slot, c command, want int, absent sw) ([]byte, sw, error) {
	if want >= 0 {
		if code, err := t.protocol(ctx, slot, want, absent); code != swOK {
			return nil, code, err
		}
	}
	s, err := t.begin(ctx, slot, int(c.p1), true)
	if err != nil {
		code, err := failure(err, absent)
		return nil, code, err
	}
	i := slot.Info()
	code := swAsync
	if i.Synchronous() {
		code = swOK
	}
	switch c.p2 & 0x0F {
	case 1:
		return s.ATR(), code, nil
	case 2:
		return i.Historical(), code, nil
	}
	return nil, code, nil
}

// protocol switches the card to T=want.
func (t *Terminal) protocol(ctx context.Context, s *core.Slot, want int, absent sw) (sw, error) {
	err := s.SelectProtocol(ctx, want, t.by)
	if err == nil {
		return swOK, nil
	}
	code, err := failure(err, absent)
	if code == swFailed {
		code = swNoProtocol
	}
	return code, err
}

func (t *Terminal) preference(slot int) int {
	if want, ok := t.want[slot]; ok {
		return want
	}
	return -1
}

// request is REQUEST ICC: wait for a card and activate it. 62 01, after which
// programs must reset the card to learn its ATR, is for a card that this program
// activated before. One that another program, or an earlier run of this one, left
// with power is as good as just activated: OpenSC takes 62 01 for a failure and
// never ejects, and would work once.
func (t *Terminal) request(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2&0x0F > 2 {
		return nil, swP1P2, nil
	}
	if c.le > 0 {
		return nil, swLength, nil
	}
	o, code := parseObjects(c.data, tagTimeout, tagText)
	if code != swOK {
		return nil, code, nil
	}
	switch state := s.Info().State; {
	case t.card(int(c.p1)).ours:
		return nil, swActive, nil
	case state == core.StateEmpty && o.timeout > 0:
		var done func()
		ctx, done = t.prompt(ctx, s, c.p2, o)
		defer done()
		arrived, err := waitFor(ctx, s, o.timeout, func(state core.State) bool { return state != core.StateEmpty })
		if err != nil {
			return nil, 0, err
		}
		if !arrived {
			t.absent(int(c.p1))
			return nil, swNoCardYet, nil
		}
	}
	if err := s.Power(ctx, core.PowerUp, t.by); err != nil {
		code, err := failure(err, swNoCardYet)
		if code == swNoCardYet {
			t.absent(int(c.p1))
		}
		return nil, code, err
	}
	return t.activated(context.WithoutCancel(ctx), s, c, t.preference(int(c.p1)), swNoCardYet)
}

// absent records that there is no card. The first command for the next card opens a session.
func (t *Terminal) absent(slot int) {
	t.card(slot).end()
	delete(t.cards, slot)
}

// waitFor waits until the slot has the wanted state, or the time is over.
func waitFor(ctx context.Context, s *core.Slot, limit time.Duration, wanted func(core.State) bool) (bool, error) {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	events := s.Follow()
	defer events.Close()
	for !wanted(s.Info().State) {
		if _, _, err := events.Next(timed); err != nil {
			if errors.Is(err, reader.ErrInterrupted) && ctx.Err() == nil {
				return wanted(s.Info().State), nil
			}
			return false, err
		}
	}
	return true, nil
}

// deactivate executes DEACTIVATE ICC: it powers the card off.
func (t *Terminal) deactivate(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2 != 0 {
		return nil, swP1P2, nil
	}
	if len(c.data) > 0 || c.le > 0 {
		return nil, swLength, nil
	}
	if s.Info().State == core.StateEmpty {
		return nil, swNoCard, nil
	}
	if err := s.Power(ctx, core.PowerDown, t.by); err != nil {
		code, err := failure(err, swNoCard)
		return nil, code, err
	}
	t.card(int(c.p1)).end()
	return nil, swOK, nil
}

// ejectStay in P2 of EJECT ICC: do not wait for the card to be taken.
const ejectStay = 0x04

// eject is EJECT ICC: power off, throw out where the reader can, and, with a
// time, wait until the card was taken.
func (t *Terminal) eject(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2 > 0x0F {
		return nil, swP1P2, nil
	}
	if c.le > 0 {
		return nil, swLength, nil
	}
	o, code := parseObjects(c.data, tagTimeout, tagText)
	if code != swOK {
		return nil, code, nil
	}
	if s.Info().State == core.StateEmpty {
		t.card(int(c.p1)).end()
		return nil, swOK, nil
	}
	err := s.Power(ctx, core.Eject, t.by)
	if errors.Is(err, reader.ErrUnsupported) { // known only when it is tried
		err = s.Power(ctx, core.PowerDown, t.by)
	}
	if err != nil {
		code, err := failure(err, swOK)
		return nil, code, err
	}
	ctx = context.WithoutCancel(ctx)
	t.card(int(c.p1)).end()
	if o.timeout == 0 || c.p2&ejectStay != 0 {
		return nil, swOK, nil
	}
	_, done := t.prompt(ctx, s, c.p2, o)
	defer done()
	taken, err := waitFor(ctx, s, o.timeout, func(state core.State) bool { return state == core.StateEmpty })
	switch {
	case err != nil:
		return nil, 0, err
	case taken:
		return nil, swAsync, nil
	}
	return nil, swNoCardYet, nil
}
