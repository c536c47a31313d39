package link

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// attempts is how many activations a card gets before it is rejected
// (ISO/IEC 7816-3:2006 §6.2.3).
const attempts = 3

// rates is what is known about the rates of one card, told by its ATR, in this slot.
type rates struct {
	failed []byte // TA1 of the rates that could not be set, or at which nothing came
	noPPS  bool   // the card refused a PPS, and is sent none that it can do without
	proven bool   // the card sent something at a rate that had not failed
	known  int    // len(failed) at that time
}

// prove notes that the card sent something.
func (r *rates) prove() { r.proven, r.known = true, len(r.failed) }

func (r *rates) fail(ta1 byte) {
	if !slices.Contains(r.failed, ta1) {
		r.failed = append(r.failed, ta1)
	}
}

const (
	maxCards  = 64 // cards whose rates a slot remembers
	maxResets = 16 // resets in one power-up: nine values of D, and some for other reasons
)

// rates finds what is known of the card with this ATR.
func (l *Link) rates(atr *iso7816.ATR) *rates {
	key := string(atr.Bytes())
	r := l.known[key]
	if r == nil {
		if l.known == nil || len(l.known) >= maxCards {
			l.known = make(map[string]*rates)
		}
		r = &rates{}
		l.known[key] = r
	}
	return r
}

// again is the error of an activation that is to be tried once more: with the reset how,
// and by what l.rates says now.
type again struct {
	how reader.Reset
	err error
}

func (e *again) Error() string { return e.err.Error() }
func (e *again) Unwrap() error { return e.err }

// errRefused: the card refused the PPS without which it does not change its protocol.
var errRefused = fmt.Errorf("the card refused the PPS: %w", reader.ErrProtocol)

// hopeless reports whether err ends everything under way in the slot.
func hopeless(err error) bool {
	return errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrNoCard) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// maybeRate reports whether the rate may be the reason for err.
func maybeRate(err error) bool { return !hopeless(err) && !errors.Is(err, reader.ErrStale) }

// PowerUp activates or resets the card and agrees on a protocol and its parameters:
// want, or -1 for the first that card and reader have in common. Rates are tried
// from the fastest down; what worked is remembered for the card.
//
//	      ┌── mute or damaged: cold, three times in all ──┐
//	      ▼                                               │
//	── reset ──▶ ATR ──▶ choose ──▶ PPS ──▶ reader set ──▶ S(IFS) ──▶ done
//	      ▲               │          │          │            │
//	      ├─ warm: TA2 ───┘          │          └── rate ────┴─ cold: the next
//	      └──────── cold: no PPS ────┘                          slower rate
func (l *Link) PowerUp(ctx context.Context, how reader.Reset, want int) error {
	var err error
	l.atr, l.fallback, l.specific = nil, "", nil
	lost := false
	for left, resets := attempts, 1; ; resets++ {
		err = l.activate(ctx, how, want)
		if errors.Is(err, reader.ErrStale) {
			// The first time it may be somebody's reset. A reader may also take the
			// power from a card at a rate that does not work.
			if lost && l.slower(l.asked) {
				err = l.next(err)
			}
			lost = true
		}
		var next *again
		if errors.As(err, &next) && resets < maxResets {
			l.Log.Info("card is reset to agree on something else", "reset", next.how, "error", err)
			l.Trace.Printf("! %v", err)
			how = next.how
			continue
		}
		if left--; left > 0 && err != nil && !hopeless(err) && !errors.Is(err, errRefused) &&
			(errors.Is(err, reader.ErrMute) || errors.Is(err, reader.ErrStale) || errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout)) {
			// A cold reset revives most.
			how = reader.Cold
			continue
		}
		break
	}
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("power up: %w", reader.ErrTimeout)
	case errors.Is(err, reader.ErrStale): // nobody's session yet
		err = fmt.Errorf("power up: the card lost its power again: %w", reader.ErrMute)
	}
	l.forget()
	l.active = !errors.Is(err, reader.ErrGone) && !errors.Is(err, reader.ErrNoCard)
	return err
}

// forget drops the rates that failed since one was proven. Nothing comes at any rate now,
// so the rate is not the reason.
func (l *Link) forget() {
	for _, atr := range []*iso7816.ATR{l.atr, l.specific} {
		if atr == nil {
			continue
		}
		if r := l.rates(atr); r.proven {
			r.failed = r.failed[:r.known]
		} else {
			delete(l.known, string(atr.Bytes()))
		}
	}
}

// judge draws the conclusions from a machine's exchange. The first thing that the
// card says proves its rate. If it said nothing, the next slower one is tried, now
// or at the next reset.
func (l *Link) judge() {
	switch {
	case l.heard:
	case l.machine.Heard():
		l.heard = true
		l.rates(l.atr).prove()
		if l.specific != nil {
			l.rates(l.specific).prove()
		}
	case l.dead && l.traits.Level <= reader.TPDU:
		l.slowed = l.slower(l.asked)
	}
}

// activate is one attempt of PowerUp.
func (l *Link) activate(parent context.Context, how reader.Reset, want int) error {
	ctx, cancel := context.WithTimeout(parent, PowerLimit)
	defer cancel()
	l.machine, l.t1, l.card = nil, nil, nil
	l.dead, l.heard, l.slowed, l.chose = false, false, false, false
	l.asked = iso7816.DefaultTA1
	l.Trace.Printf("%v reset", how)
	raw, err := l.Slot.PowerOn(ctx, how)
	if err != nil {
		return fmt.Errorf("power up: %w", err)
	}
	l.active = true
	l.Trace.Printf("ATR % X", raw)
	l.traits = l.Slot.Traits()
	if l.traits.Level == reader.Synchronous {
		return l.synchronous(ctx, raw, want)
	}
	if l.atr, err = iso7816.ParseATR(raw); err != nil {
		return fmt.Errorf("ATR % X: %w", raw, err)
	}
	r := l.rates(l.atr)
	p, err := l.choose(want, r)
	if err != nil {
		return err
	}
	l.asked = p.TA1
	if err := l.agree(ctx, &p, r); err != nil {
		return err
	}
	if want >= 0 && p.T != want {
		return fmt.Errorf("protocol T=%d: this reader chooses the protocol by itself, and chose T=%d: %w", want, p.T, reader.ErrUnsupported)
	}
	l.params = p
	if err := l.setUp(ctx); err != nil {
		if ctx.Err() != nil && parent.Err() == nil {
			// With BWI above 6 three block waiting times are longer than PowerLimit.
			l.slowed = l.slower(l.asked)
		}
		if err = fmt.Errorf("parameters T=%d TA1=%02X: %w", p.T, p.TA1, err); l.slowed {
			return l.next(err)
		}
		return err
	}
	l.noteFallback(p)
	return nil
}

// slower notes that nothing gets through at the rate ta1, and reports whether there
// is another to try.
func (l *Link) slower(ta1 byte) bool {
	selects := l.Features.ProtocolSelector != nil
	switch {
	case ta1 == iso7816.DefaultTA1, l.traits.AutoPPS && !selects:
		return false
	case l.inSpecificMode() && !l.changeable():
		return false
	}
	l.rates(l.atr).fail(ta1)
	return true
}

// next is the reset after which a slower rate is tried.
func (l *Link) next(err error) error {
	if l.inSpecificMode() {
		return l.toNegotiable(err)
	}
	return &again{reader.Cold, err}
}

// inSpecificMode reports whether TA2 says what holds, instead of a PPS.
func (l *Link) inSpecificMode() bool {
	_, _, specific := l.atr.Specific()
	return specific
}

// changeable reports whether the card is in specific mode, and a warm reset that
// was not tried yet may change that.
func (l *Link) changeable() bool { return l.atr.Changeable() && l.specific == nil }

// noteFallback sets Fallback, if p has not the rate that card and reader could have.
func (l *Link) noteFallback(p iso7816.Params) {
	offer := l.atr
	if l.specific != nil {
		offer = l.specific
	}
	first, err := offer.Best(p.T, l.supports)
	if err != nil || first.TA1 == p.TA1 || len(l.rates(offer).failed) == 0 && !l.rates(l.atr).noPPS {
		return
	}
	f, d, _, _ := p.FD()
	f0, d0, _, _ := first.FD()
	l.fallback = fmt.Sprintf("F=%d D=%d instead of F=%d D=%d", f, d, f0, d0)
}

func (l *Link) supports(ta1 byte) bool {
	return l.Features.RateLimiter == nil || l.Features.RateLimiter.Supports(ta1)
}

// Speaks reports whether the reader has protocol t. No reader has any but T=0 and T=1.
func (l *Link) Speaks(t int) bool {
	if t != 0 && t != 1 {
		return false
	}
	if l.Features.ProtocolLister == nil {
		return true
	}
	ts := l.Features.ProtocolLister.Protocols()
	return ts == nil || slices.Contains(ts, t)
}

// first is the card's first protocol that the reader has too; ok is false if there is none.
func (l *Link) first() (t int, ok bool) {
	offered := l.atr.Protocols()
	if t, _, specific := l.atr.Specific(); specific {
		offered = []int{t}
	}
	for _, t := range offered {
		if l.Speaks(t) {
			return t, true
		}
	}
	return 0, false
}

// choose picks the protocol and the parameters to ask for.
func (l *Link) choose(want int, r *rates) (p iso7816.Params, err error) {
	t, ok := l.first()
	if want >= 0 {
		t, ok = want, l.Speaks(want)
	}
	st, _, specific := l.atr.Specific()
	switch {
	case !ok && want >= 0:
		return p, fmt.Errorf("protocol T=%d: the reader does not have it: %w", want, reader.ErrUnsupported)
	case (!ok || st != t) && l.changeable():
		return p, l.toNegotiable(fmt.Errorf("the card is in specific mode with T=%d: %w", st, reader.ErrUnsupported))
	case !ok:
		return p, fmt.Errorf("the card offers T=%v, of which this reader has none: %w", l.atr.Protocols(), reader.ErrUnsupported)
	}
	p, err = l.atr.Best(t, func(ta1 byte) bool { return !slices.Contains(r.failed, ta1) && l.supports(ta1) })
	switch {
	case err != nil:
		return p, fmt.Errorf("protocol T=%d: %w", t, err)
	case specific:
		if l.changeable() && (slices.Contains(r.failed, p.TA1) || !l.supports(p.TA1)) {
			return p, l.toNegotiable(fmt.Errorf("TA1=%02X in specific mode: the reader cannot do that: %w", p.TA1, reader.ErrUnsupported))
		}
	case r.noPPS:
		p.TA1 = iso7816.DefaultTA1
	}
	return p, nil
}

// toNegotiable asks for the warm reset by which a card in specific mode changes to
// negotiable mode (ISO/IEC 7816-3:2006 §6.3.1).
func (l *Link) toNegotiable(err error) error {
	l.specific = l.atr
	return &again{reader.Warm, err}
}

// Selectable returns why protocol t cannot be selected, or nil if it can. The card has
// power.
func (l *Link) Selectable(t int) error {
	selects := l.Features.ProtocolSelector != nil
	if l.traits.Level == reader.Synchronous {
		return fmt.Errorf("protocol T=%d: %w", t, errSynchronous)
	}
	first, _ := l.first()
	st, _, specific := l.atr.Specific()
	switch {
	case !slices.Contains(l.atr.Protocols(), t) && !(specific && st == t):
		return fmt.Errorf("protocol T=%d: the card's ATR does not offer it: %w", t, reader.ErrUnsupported)
	case specific && st != t && !l.atr.Changeable():
		return fmt.Errorf("protocol T=%d: the card is in specific mode with T=%d: %w", t, st, reader.ErrUnsupported)
	case l.traits.AutoPPS && !selects && t != first, l.chose && t != l.params.T:
		return fmt.Errorf("protocol T=%d: this reader chooses the protocol by itself: %w", t, reader.ErrUnsupported)
	}
	return nil
}

// agree brings p into force on both sides: by the reader itself, or by PPS and
// then telling the reader.
func (l *Link) agree(ctx context.Context, p *iso7816.Params, r *rates) (err error) {
	if l.traits.AutoPPS {
		return l.agreed(ctx, p)
	}
	asked := p.TA1
	pps := l.atr.NeedsPPS(*p) || l.traits.AlwaysPPS && !r.noPPS && !l.inSpecificMode()
	if pps {
		if p.TA1, err = l.pps(ctx, p.T, asked); err != nil {
			switch {
			case !maybeRate(err):
				return err
			case asked == iso7816.DefaultTA1 && p.T != l.atr.Default():
				return fmt.Errorf("protocol T=%d: %w (%v)", p.T, errRefused, err)
			}
			// ISO/IEC 7816-3:2006 §9: after a failed PPS the card is reset. From now
			// on it is asked for no rate, so that its first protocol needs no PPS.
			r.noPPS = true
			return &again{reader.Cold, err}
		}
	}
	if l.Features.ParamSetter == nil {
		return nil
	}
	if err = l.Features.ParamSetter.SetParams(ctx, *p); err == nil {
		return nil
	}
	err = fmt.Errorf("set parameters T=%d TA1=%02X: %w", p.T, p.TA1, err)
	switch {
	case !maybeRate(err):
		return err
	case l.slower(p.TA1):
		return l.next(err)
	case pps || p.TA1 != iso7816.DefaultTA1:
		return err
	}
	// The defaults hold anyway. A reader may refuse them for a card without a
	// transmission protocol, such as a memory card, with which it has its own way.
	if now, e := l.Slot.Status(ctx); e != nil || now != reader.Powered {
		return err
	}
	l.Log.Info("the reader refused the default parameters", "error", err)
	return nil
}

// agreed is agree for a reader that does the PPS itself.
func (l *Link) agreed(ctx context.Context, p *iso7816.Params) error {
	first, _ := l.first()
	if l.Features.ProtocolSelector == nil {
		if p.T != first {
			return fmt.Errorf("protocol T=%d: this reader uses the card's first protocol, T=%d: %w", p.T, first, reader.ErrUnsupported)
		}
		return nil
	}
	asked := *p
	var err error
	if *p, err = l.Features.ProtocolSelector.SelectProtocol(ctx, asked); err == nil {
		l.chose = p.T != asked.T
		return nil
	}
	err = fmt.Errorf("select T=%d TA1=%02X: %w", asked.T, asked.TA1, err)
	switch {
	case errors.Is(err, reader.ErrUnsupported) && asked.T != first: // it is the protocol, not the rate
	case maybeRate(err) && l.slower(asked.TA1):
		return l.next(err)
	}
	return err
}

// pps asks for protocol t at the rate ta1 and returns the rate that the card agreed to
// (ISO/IEC 7816-3:2006 §9).
func (l *Link) pps(ctx context.Context, t int, ta1 byte) (byte, error) {
	request := iso7816.PPSRequest(t, ta1)
	// The initial waiting time, 9600 etu, holds for the response, too (ibid. §9.2).
	wait := iso7816.DefaultParams(0).WWT(l.traits.ClockHz) + l.traits.Slack
	x := reader.Transfer{Out: request, Wait: wait, CharWait: wait, Until: l.limit(ctx)}
	if l.traits.Level == reader.Character {
		x.Want = 2 // PPSS and PPS0, which says how many follow
	}
	response, err := l.Slot.Exchange(ctx, x, l.rx[:0])
	if err == nil && l.traits.Level == reader.Character && len(response) == 2 {
		x.Out, x.Want = nil, iso7816.PPSLength(response)-2
		response, err = l.Slot.Exchange(ctx, x, response)
	}
	l.Trace.Printf("PPS > % X < % X", request, response)
	if err != nil {
		return 0, fmt.Errorf("PPS for T=%d TA1=%02X: %w", t, ta1, err)
	}
	agreed, err := iso7816.CheckPPS(request, response)
	if err != nil {
		return 0, fmt.Errorf("PPS for T=%d TA1=%02X: %w", t, ta1, err)
	}
	return agreed, nil
}
