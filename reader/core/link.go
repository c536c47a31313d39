package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// link is what stands between C-APDUs and a driver's Slot: the protocol that
// was agreed with the card and the machine that runs it. Whoever holds the
// slot's turn owns it.
type link struct {
	owner    *Slot
	slot     reader.Slot
	ctx      context.Context // ends what is under way; see Slot.begin
	extended func()          // Slot.extended
	active   bool            // the card has power, as far as we know
	dead     bool            // the protocol broke down; only a reset helps
	traits   reader.Traits

	// What was found out at power-up, see powerUp.
	atr      *iso7816.ATR
	params   iso7816.Params
	fallback string            // what is in force in place of a rate that failed, in words
	specific *iso7816.ATR      // the ATR in specific mode that a warm reset changed; nil: there was none
	chose    bool              // the reader took another protocol than the one it was asked for
	asked    byte              // TA1 of the rate that the card or the reader was asked for
	heard    bool              // something came from the card at that rate
	slowed   bool              // nothing did, and there is a slower one
	known    map[string]*rates // by ATR

	machine iso7816.Machine // nil: C-APDUs go to the reader as they are
	t1      *iso7816.T1     // machine, if that is T=1
	rx      []byte          // receive buffer; holds nothing between two messages

	masked     bool // what is exchanged now is secret
	wireMasked bool // and so is what the card says now
	fetched    bool // the last command was, and so is what GET RESPONSE fetches
	late       bool // it failed: the card may not have said everything
}

// setUp makes the machine for what was agreed on.
func (l *link) setUp(ctx context.Context) error {
	l.fetched, l.late = false, false
	if l.params.T == 0 {
		c := iso7816.T0Config{Params: l.params, ClockHz: l.traits.ClockHz, Plain: l.owner.ifd.dev.T0Plain}
		switch l.traits.Level {
		case reader.Character:
			c.Mode = iso7816.T0Character
		case reader.TPDU:
			c.Mode = iso7816.T0TPDU
		case reader.ShortAPDU, reader.ExtendedAPDU:
			c.Mode, c.Extended = iso7816.T0APDU, l.traits.Level == reader.ExtendedAPDU
		}
		l.machine = iso7816.NewT0(c)
		return nil
	}
	if l.traits.Level >= reader.ShortAPDU {
		return nil
	}
	l.t1 = iso7816.NewT1(iso7816.T1Config{
		Params: l.params, IFSD: l.traits.IFSD, AutoIFSD: l.traits.AutoIFSD, IFSCMax: l.traits.IFSC,
		Character: l.traits.Level == reader.Character, ClockHz: l.traits.ClockHz,
	})
	l.machine = l.t1
	if err := l.run(ctx, l.t1.Setup(), nil); err != nil {
		return fmt.Errorf("S(IFS request): %w", err)
	}
	return nil
}

// sender sends one step's block or TPDU: Slot.Exchange, or what stands for it.
type sender func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error)

// unsent is a sender's error where nothing reached the card.
type unsent struct{ error }

// run carries a machine's steps out until it is done, or the exchange limit is
// over. send, if not nil, stands for the slot's Exchange.
func (l *link) run(ctx context.Context, step iso7816.Step, send sender) error {
	until, expired := l.limit(ctx), false
	if l.rx == nil {
		l.rx = make([]byte, 0, 512) // more than a block
	}
	for sent := 0; !step.Done; sent++ {
		x := reader.Transfer{
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
		var rx []byte
		var err error
		if send == nil {
			rx, err = l.slot.Exchange(ctx, x, l.rx[:0])
		} else if rx, err = send(ctx, x, l.rx[:0]); err != nil {
			if none, ok := err.(unsent); ok {
				l.t1.Withdraw()
				l.owner.answered()
				return none.error
			}
		}
		if cap(rx) > cap(l.rx) {
			l.rx = rx[:0]
		}
		if l.traced() {
			l.traceWire('<', rx)
		}
		if err != nil && (errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrStale) || errors.Is(err, errPINAgain) || ctx.Err() != nil) {
			l.dead = true
			l.owner.answered()
			if sent > 0 && errors.Is(err, reader.ErrStale) {
				// The card has seen something before it lost its power.
				return fmt.Errorf("the card lost its power during the exchange (%v): %w", err, reader.ErrTimeout)
			}
			return err
		}
		if !expired && errors.Is(err, reader.ErrTimeout) && !time.Now().Before(until) {
			step, expired, until = l.expire()
			continue
		}
		step = l.machine.Next(rx, err)
		clear(l.rx[:min(len(rx), cap(l.rx))])
	}
	l.dead = l.machine.Dead()
	l.judge()
	l.owner.answered()
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
	began := time.Now()
	answer, err := l.exchange(capdu, dst)
	took := time.Since(began)
	l.owner.logExchange("exchange", took, err)
	if err == nil || !unheard(err) {
		l.owner.stats.exchanged(took, len(capdu), max(0, len(answer)-len(dst)), l.masked)
	}
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

// logExchange logs what became of a command, and nothing of the command or its answer.
func (s *Slot) logExchange(what string, took time.Duration, err error) {
	if !s.every.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	outcome := "answered"
	if err != nil {
		outcome = kind(err)
	}
	s.every.Debug(what, "took", took.Round(time.Microsecond), "outcome", outcome)
}

// unheard reports whether err says that no card saw the command.
func unheard(err error) bool {
	return errors.Is(err, reader.ErrInvalid) || errors.Is(err, reader.ErrUnsupported) || errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrStale)
}

func (l *link) exchange(capdu, dst []byte) ([]byte, error) {
	if l.machine != nil {
		if err := l.run(l.ctx, l.machine.Start(capdu, dst), nil); err != nil {
			if l.dead && !l.heard && !l.slowed {
				l.forget()
			}
			return nil, err
		}
		return l.machine.Response(), nil
	}
	if err := iso7816.Carries(capdu, l.traits.Level == reader.ExtendedAPDU); err != nil {
		return nil, err
	}
	answer, err := l.slot.Exchange(l.ctx, reader.Transfer{Out: capdu, Until: l.limit(l.ctx), Extended: l.extended}, dst)
	l.owner.answered()
	if err == nil && len(answer) < len(dst)+2 {
		return nil, fmt.Errorf("R-APDU of %d bytes, at least SW1 SW2 must come: %w", len(answer)-len(dst), reader.ErrProtocol)
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
