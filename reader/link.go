package reader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// link is what stands between C-APDUs and a driver's Slot: the protocol that
// was agreed with the card and the machine that runs it. Whoever holds the
// bay's turn owns it.
type link struct {
	bay      *Bay
	slot     Slot
	ctx      context.Context // ends what is under way; see Bay.begin
	extended func()          // Bay.extended
	active   bool            // the card has power, as far as we know
	dead     bool            // the protocol broke down; only a reset helps
	traits   Traits
	params   iso7816.Params

	machine iso7816.Machine // nil: C-APDUs go to the reader as they are
	t1      *iso7816.T1     // machine, if that is T=1
	rx      []byte          // receive buffer

	masked     bool // what is exchanged now is secret
	wireMasked bool // and so is what the card says now
	fetched    bool // the last command was, and so is what GET RESPONSE fetches
	late       bool // it failed: the card may not have said everything
}

// powerUp activates or resets the card, agrees on protocol want (-1: the
// card's first offer) and its parameters, and returns the ATR.
func (l *link) powerUp(ctx context.Context, how Reset, want int) (atr []byte, p iso7816.Params, offered []int, err error) {
	l.machine, l.t1, l.dead = nil, nil, false
	// ISO/IEC 7816-3:2006 §6.2.3 allows up to three attempts before the card is
	// rejected: a cold one as the second is what revives most.
	negotiate, retries := true, 2
	for {
		atr, p, offered, err = l.activate(ctx, how, want, negotiate)
		var refused *negotiationError
		switch {
		case errors.As(err, &refused):
			// §9: after a failed PPS the card is reset; it then speaks its first
			// protocol at the default rate.
			how, negotiate = Cold, false
			continue
		case retries > 0 && (errors.Is(err, ErrMute) || errors.Is(err, ErrStale) || errors.Is(err, ErrProtocol) || errors.Is(err, ErrTimeout)):
			how = Cold
			retries--
			continue
		}
		break
	}
	if err != nil {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("power up: %w", ErrTimeout)
		case errors.Is(err, ErrStale): // nobody's session yet
			err = fmt.Errorf("power up: the card lost its power again: %w", ErrMute)
		}
		l.active = false
		if !errors.Is(err, ErrGone) && !errors.Is(err, ErrNoCard) {
			l.slot.PowerOff(l.bay.ctx)
		}
		return nil, p, nil, err
	}
	return atr, p, offered, nil
}

// negotiationError is a PPS, or a setting that follows it, that did not work.
type negotiationError struct{ err error }

func (e *negotiationError) Error() string { return e.err.Error() }
func (e *negotiationError) Unwrap() error { return e.err }

// activate is one attempt of powerUp. With negotiate false it sends no PPS.
func (l *link) activate(ctx context.Context, how Reset, want int, negotiate bool) ([]byte, iso7816.Params, []int, error) {
	l.tracef("%v reset", how)
	raw, err := l.slot.PowerOn(ctx, how)
	if err != nil {
		return nil, l.params, nil, fmt.Errorf("power up: %w", err)
	}
	l.active = true
	l.tracef("ATR % X", raw)
	l.traits = l.slot.Traits()
	atr, err := iso7816.ParseATR(raw)
	if err != nil {
		if l.traits.Level >= ShortAPDU && want < 0 && plausible(raw) {
			// The reader speaks with the card whatever its ATR says, and so
			// pass on a memory card's or a virtual card's ATR that no rule fits.
			l.bay.log.Info("ATR accepted although it is malformed", "atr", fmt.Sprintf("%X", raw), "error", err)
			l.params = iso7816.DefaultParams(1)
			return raw, l.params, nil, nil
		}
		return nil, l.params, nil, fmt.Errorf("ATR % X: %w: %w", raw, err, ErrProtocol)
	}
	offered := atr.Protocols()
	p, pps, err := l.choose(atr, want)
	if err != nil {
		return nil, p, nil, err
	}
	if pps && !negotiate {
		if p.T != atr.Default() {
			return nil, p, nil, fmt.Errorf("protocol T=%d: the card refused the PPS: %w", p.T, ErrProtocol)
		}
		p.TA1, pps = iso7816.DefaultTA1, false
	}
	if err := l.agree(ctx, &p, pps, atr.Default()); err != nil {
		return nil, p, nil, err
	}
	l.params = p
	return raw, p, offered, l.setUp(ctx)
}

// plausible tells whether raw can be an ATR at all: TS and T0, 33 characters
// at most (ISO/IEC 7816-3:2006 §8.2.1).
func plausible(raw []byte) bool {
	return len(raw) >= 2 && len(raw) <= 33 && (raw[0] == 0x3B || raw[0] == 0x3F)
}

// choose picks the protocol and the parameters to ask for, and says whether
// that takes a PPS.
func (l *link) choose(atr *iso7816.ATR, want int) (p iso7816.Params, pps bool, err error) {
	t := atr.Default()
	if want >= 0 {
		t = want
	}
	var usable func(ta1 byte) bool
	if r, ok := l.slot.(RateLimiter); ok {
		usable = r.Supports
	}
	if p, err = atr.Best(t, usable); err != nil {
		return p, false, fmt.Errorf("protocol T=%d: %w", t, err)
	}
	return p, atr.NeedsPPS(p), nil
}

// selectable tells whether another protocol than the card's first can be had.
func (l *link) selectable() bool {
	_, selects := l.slot.(ProtocolSelector)
	return selects || !l.traits.AutoPPS
}

// agree brings p into force on both sides: by the reader itself, or by PPS and
// then telling the reader.
func (l *link) agree(ctx context.Context, p *iso7816.Params, pps bool, first int) (err error) {
	if l.traits.AutoPPS {
		if s, ok := l.slot.(ProtocolSelector); ok {
			*p, err = s.SelectProtocol(ctx, *p)
			return err
		}
		if p.T != first {
			return fmt.Errorf("protocol T=%d: this reader uses the card's first protocol, T=%d: %w", p.T, first, ErrUnsupported)
		}
		return nil
	}
	if pps {
		if p.TA1, err = l.pps(ctx, p.T, p.TA1); err != nil {
			return err
		}
	}
	if s, ok := l.slot.(ParamSetter); ok {
		if err := s.SetParams(ctx, *p); err != nil {
			err = fmt.Errorf("set parameters T=%d TA1=%02X: %w", p.T, p.TA1, err)
			if pps && !errors.Is(err, ErrGone) && !errors.Is(err, ErrNoCard) {
				return &negotiationError{err}
			}
			return err
		}
	}
	return nil
}

// pps asks for protocol t at the rate ta1 (§9) and returns the rate agreed on.
func (l *link) pps(ctx context.Context, t int, ta1 byte) (byte, error) {
	request := iso7816.PPSRequest(t, ta1)
	// The initial waiting time, 9600 etu, holds for the response too (§9.2).
	x := Transfer{Out: request, Wait: iso7816.DefaultParams(0).WWT(l.traits.ClockHz) + l.traits.Slack}
	if l.traits.Level == Character {
		x.Want = 2 // PPSS and PPS0 say how many follow
	}
	response, err := l.slot.Exchange(ctx, x, l.rx[:0])
	if err == nil && l.traits.Level == Character && len(response) == 2 {
		x.Out, x.Want = nil, iso7816.PPSLength(response)-2
		response, err = l.slot.Exchange(ctx, x, response)
	}
	l.tracef("PPS > % X < % X", request, response)
	switch {
	case errors.Is(err, ErrGone), errors.Is(err, ErrNoCard):
		return 0, err
	case err != nil:
		return 0, &negotiationError{fmt.Errorf("PPS % X: %w", request, err)}
	}
	agreed, err := iso7816.CheckPPS(request, response)
	if err != nil {
		return 0, &negotiationError{fmt.Errorf("PPS % X, answer % X: %w: %w", request, response, err, ErrProtocol)}
	}
	return agreed, nil
}

// setUp makes the machine for what was agreed on.
func (l *link) setUp(ctx context.Context) error {
	l.fetched, l.late = false, false
	if l.params.T == 0 {
		c := iso7816.T0Config{Params: l.params, ClockHz: l.traits.ClockHz}
		switch l.traits.Level {
		case Character:
			c.Mode = iso7816.T0Character
		case TPDU:
			c.Mode = iso7816.T0TPDU
		case ShortAPDU, ExtendedAPDU:
			c.Mode, c.Extended = iso7816.T0APDU, l.traits.Level == ExtendedAPDU
		}
		l.machine = iso7816.NewT0(c)
		return nil
	}
	if l.traits.Level >= ShortAPDU {
		return nil
	}
	l.t1 = iso7816.NewT1(iso7816.T1Config{
		Params: l.params, IFSD: l.traits.IFSD, AutoIFSD: l.traits.AutoIFSD, IFSCMax: l.traits.IFSC,
		Character: l.traits.Level == Character, ClockHz: l.traits.ClockHz,
	})
	l.machine = l.t1
	if err := l.run(ctx, l.t1.Setup()); err != nil {
		return fmt.Errorf("S(IFS request): %w", err)
	}
	return nil
}

// run carries a machine's steps out until it is done, or the exchange limit is
// over.
func (l *link) run(ctx context.Context, step iso7816.Step) error {
	until, expired := l.limit(ctx), false
	for sent := 0; !step.Done; sent++ {
		x := Transfer{
			Out: step.Send, Want: step.Want, Wait: step.Wait, WTX: step.WTX,
			Until: until, Extended: l.extended,
		}
		if step.Extended && !expired {
			l.extended()
			if x.Wait = min(x.Wait, time.Until(until)); x.Wait <= 0 {
				step, expired, until = l.expire()
				continue
			}
		}
		x.Wait += l.traits.Slack
		if l.traced() {
			l.traceWire('>', step.Send)
		}
		rx, err := l.slot.Exchange(ctx, x, l.rx[:0])
		if cap(rx) > cap(l.rx) {
			l.rx = rx[:0]
		}
		if l.traced() {
			l.traceWire('<', rx)
		}
		if err != nil && (errors.Is(err, ErrGone) || errors.Is(err, ErrNoCard) || errors.Is(err, ErrStale) || ctx.Err() != nil) {
			l.dead = true
			l.bay.answered()
			if sent > 0 && errors.Is(err, ErrStale) {
				// The card has seen something before it lost its power.
				return fmt.Errorf("the card lost its power during the exchange (%v): %w", err, ErrTimeout)
			}
			return err
		}
		if !expired && errors.Is(err, ErrTimeout) && !time.Now().Before(until) {
			step, expired, until = l.expire()
			continue
		}
		step = l.machine.Next(rx, err)
	}
	if m, ok := l.machine.(interface{ Dead() bool }); ok {
		l.dead = m.Dead()
	}
	l.bay.answered()
	return step.Err
}

// expire gives up waiting. What the machine still has to say to the card gets as
// long as an activation.
func (l *link) expire() (step iso7816.Step, expired bool, until time.Time) {
	return l.machine.Expire(), true, time.Now().Add(powerLimit)
}

// transmit exchanges a C-APDU for an R-APDU, which it appends to dst.
func (l *link) transmit(capdu, dst []byte) ([]byte, error) {
	l.conceal(capdu)
	if l.traced() {
		l.traceAPDU('>', capdu)
	}
	answer, err := l.exchange(capdu, dst)
	if l.traced() {
		if err != nil {
			l.traceError(err)
		} else {
			l.traceAPDU('<', answer[len(dst):])
		}
	}
	l.reveal(err)
	return answer, err
}

func (l *link) exchange(capdu, dst []byte) ([]byte, error) {
	if l.machine != nil {
		if err := l.run(l.ctx, l.machine.Start(capdu, dst)); err != nil {
			return nil, err
		}
		return l.machine.Response(), nil
	}
	cmd, err := iso7816.ParseCommand(capdu)
	if err != nil {
		return nil, err
	}
	if l.traits.Level == ShortAPDU && cmd.Extended {
		return nil, fmt.Errorf("a C-APDU of extended length: this reader takes short ones: %w", ErrUnsupported)
	}
	answer, err := l.slot.Exchange(l.ctx, Transfer{Out: capdu, Until: l.limit(l.ctx), Extended: l.extended}, dst)
	l.bay.answered()
	if err == nil && len(answer) < len(dst)+2 {
		return nil, fmt.Errorf("R-APDU of %d bytes, at least SW1 SW2 must come: %w", len(answer)-len(dst), ErrProtocol)
	}
	return answer, err
}

// powerOff deactivates the card, if it has power as far as we know.
func (l *link) powerOff(ctx context.Context) error {
	l.machine, l.t1, l.dead = nil, nil, false
	if !l.active || l.slot == nil {
		return nil
	}
	l.active = false
	return l.slot.PowerOff(ctx)
}
