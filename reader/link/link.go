// Package link exchanges C-APDUs with the card in a driver's Slot.
//
// Programs write C-APDUs, the commands of ISO/IEC 7816-4. A card takes them by a
// transmission protocol of ISO/IEC 7816-3, in messages called TPDUs:
//
//	T=1  blocks of NAD, PCB, LEN, up to 254 bytes and EDC, which are numbered and
//	     repeated where they are damaged; a long C-APDU is a chain of them
//	T=0  a header CLA INS P1 P2 P3, then data in one direction, which the card asks for
//	     by procedure bytes; a C-APDU may take several
//
// Who makes TPDUs of C-APDUs depends on the reader (reader.Level). One that works with
// APDUs does so itself. For the others the host does: a machine of package iso7816 says
// what to send, the slot carries it, and run is the loop around both. C-APDUs go through
// it, and so do the PIN commands that a PIN pad completes.
//
// After each reset the ATR says which protocols and rates the card has. It begins with
// its first protocol at the rate 372/1. Another is asked for by a PPS (protocol and
// parameters selection), which the card confirms by an echo. PowerUp does all of that:
// it reads the ATR, chooses, does the PPS unless the reader has, tells the reader what
// was agreed on, and falls back to a slower rate where nothing gets through.
//
// A Link also decides what a trace may show: PINs and keys are masked.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/memcard"
)

// PowerLimit bounds one activation with everything that belongs to it: three
// voltages with an ATR of 33 characters at 9600 etu each, PPS and S(IFS).
const PowerLimit = 30 * time.Second

// Config is what a Link works with. Only Slot is required.
type Config struct {
	Slot     reader.Slot
	Features reader.Features // the slot's
	T0Plain  bool            // see iso7816.T0Config
	// Limit is how long one exchange may take in which the card or the reader keeps
	// asking for time; 0 means an hour.
	Limit time.Duration
	// Extended, if not nil, is called each time they ask. It does not block.
	Extended func()
	Log      *slog.Logger // nil: none
	Trace    Trace        // nil: none
}

// Trace takes the decoded log of what crosses the slot, one line a call.
type Trace interface {
	// On reports whether anybody reads the trace.
	On() bool
	Printf(format string, args ...any)
}

// Link is a slot with the protocol that was agreed on with its card, and the machine that
// runs it. It has one user at a time.
type Link struct {
	Config
	active bool // the card has power, as far as we know
	dead   bool // the protocol broke down; only a reset helps
	traits reader.Traits

	// What was found out at power-up, see PowerUp.
	atr      *iso7816.ATR
	params   iso7816.Params
	fallback string            // in words: the rate in force in place of one that failed
	specific *iso7816.ATR      // the ATR before the warm reset that ended specific mode; nil: there was none
	chose    bool              // the reader took another protocol than it was asked for
	asked    byte              // TA1 of the rate that the card or the reader was asked for
	heard    bool              // the card sent something at that rate
	slowed   bool              // it sent nothing, and the next activation tries a slower rate
	known    map[string]*rates // by ATR

	card     *memcard.Card   // a memory card that its reader reads and writes; else nil
	machine  iso7816.Machine // nil: C-APDUs go to the reader as they are
	t1       *iso7816.T1     // machine, if that is T=1
	charWait time.Duration   // between two characters of the card, with the reader's slack
	rx       []byte          // receive buffer; empty between two exchanges

	secrecy    iso7816.Secrecy // of the last command
	masked     bool            // the command under way is secret, and so is its answer
	wireMasked bool            // what crosses the contacts now is secret
	late       bool            // it failed: the card may still send what belongs to it
}

// New makes the link of a slot whose card has no power.
func New(c Config) *Link {
	if c.Limit == 0 {
		c.Limit = time.Hour
	}
	if c.Extended == nil {
		c.Extended = func() {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Trace == nil {
		c.Trace = noTrace{}
	}
	return &Link{Config: c}
}

type noTrace struct{}

func (noTrace) On() bool              { return false }
func (noTrace) Printf(string, ...any) {}

// ATR is the card's answer to the reset, taken apart; nil where there was none.
func (l *Link) ATR() *iso7816.ATR { return l.atr }

// Params are the transmission parameters in force.
func (l *Link) Params() iso7816.Params { return l.params }

// Fallback is, in words, the rate in force in place of one that failed; "" if none did.
func (l *Link) Fallback() string { return l.fallback }

// Traits are the slot's after the last activation.
func (l *Link) Traits() reader.Traits { return l.traits }

// Active reports whether the card has power, as far as we know.
func (l *Link) Active() bool { return l.active }

// Dead reports whether only a reset helps.
func (l *Link) Dead() bool { return l.dead }

// Secret reports whether the last command had a PIN or a key, whose length nobody may learn.
func (l *Link) Secret() bool { return bool(l.secrecy) }

// Abandon notes that an exchange was ended in the middle: only a reset helps.
func (l *Link) Abandon() { l.dead = true }

// setUp makes the machine for the protocol that was agreed on.
func (l *Link) setUp(ctx context.Context) error {
	l.secrecy, l.late = false, false
	l.charWait = l.params.CharWait(l.traits.ClockHz) + l.traits.Slack
	if l.traits.Shared {
		return nil
	}
	if l.params.T == 0 {
		c := iso7816.T0Config{Params: l.params, ClockHz: l.traits.ClockHz, Plain: l.T0Plain || l.traits.AutoT0}
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

// sender sends the block or TPDU of one step and returns the card's answer, as
// Slot.Exchange does.
type sender func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error)

// unsent is a sender's error that says that nothing reached the card.
type unsent struct{ error }

// run carries out a machine's steps until it is done or the exchange limit is
// over. send, if not nil, is called in place of the slot's Exchange.
func (l *Link) run(ctx context.Context, step iso7816.Step, send sender) error {
	until, expired := l.limit(ctx), false
	if l.rx == nil {
		l.rx = make([]byte, 0, 512) // more than a block
	}
	// The driver's error, or its panic, may end the exchange in the middle.
	defer l.wipe()
	for sent := 0; !step.Done; sent++ {
		x := reader.Transfer{
			Out: step.Send, Want: step.Want, Wait: step.Wait, CharWait: l.charWait, WTX: step.WTX,
			Until: until, Extended: l.Extended,
		}
		if step.Extended && !expired {
			l.Extended()
			if x.Wait = min(x.Wait, time.Until(until)); x.Wait <= 0 {
				step, expired, until = l.expire()
				continue
			}
		}
		x.Wait += l.traits.Slack
		if l.Trace.On() {
			l.traceWire('>', step.Send)
		}
		var rx []byte
		var err error
		if send == nil {
			rx, err = l.Slot.Exchange(ctx, x, l.rx[:0])
		} else if rx, err = send(ctx, x, l.rx[:0]); err != nil {
			if none, ok := err.(unsent); ok {
				l.t1.Withdraw()
				return none.error
			}
		}
		if cap(rx) > cap(l.rx) {
			clear(l.rx[:cap(l.rx)]) // the answer outgrew it
			l.rx = rx[:0]
		}
		if l.Trace.On() {
			l.traceWire('<', rx)
		}
		if err != nil && (errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrNoCard) || errors.Is(err, reader.ErrStale) || errors.Is(err, errPINAgain) || ctx.Err() != nil) {
			l.dead = true
			if sent > 0 && errors.Is(err, reader.ErrStale) {
				// The card saw a part of the exchange before it lost its power.
				return fmt.Errorf("the card lost its power during the exchange (%v): %w", err, reader.ErrTimeout)
			}
			return err
		}
		if !expired && errors.Is(err, reader.ErrTimeout) && !time.Now().Before(until) {
			step, expired, until = l.expire()
			continue
		}
		step = l.machine.Next(rx, err)
	}
	l.dead = l.machine.Dead()
	l.judge()
	return step.Err
}

// wipe leaves nothing of a command or an answer, which may be a PIN or a key, in what
// outlives the exchange.
func (l *Link) wipe() {
	l.machine.Wipe()
	clear(l.rx[:cap(l.rx)])
}

// limit is when an exchange that begins now must be over. It goes by the clock, not by the
// sum of what the card was granted: a card may ask for time long before it needs it.
func (l *Link) limit(ctx context.Context) time.Time {
	until := time.Now().Add(l.Limit)
	if end, ok := ctx.Deadline(); ok && end.Before(until) {
		return end
	}
	return until
}

// expire gives up waiting. For what the machine still has to tell the card there is as
// much time as for an activation.
func (l *Link) expire() (step iso7816.Step, expired bool, until time.Time) {
	return l.machine.Expire(), true, time.Now().Add(PowerLimit)
}

// Transmit exchanges a C-APDU for an R-APDU, which it appends to dst.
func (l *Link) Transmit(ctx context.Context, capdu, dst []byte) ([]byte, error) {
	l.conceal(capdu)
	if l.Trace.On() {
		l.traceAPDU('>', capdu)
	}
	answer, err := l.exchange(ctx, capdu, dst)
	if l.Trace.On() {
		if err != nil {
			l.traceError(err)
		} else {
			l.traceAPDU('<', answer[len(dst):])
		}
	}
	l.reveal(err)
	return answer, err
}

func (l *Link) exchange(ctx context.Context, capdu, dst []byte) ([]byte, error) {
	if l.machine != nil {
		if err := l.run(ctx, l.machine.Start(capdu, dst), nil); err != nil {
			if l.dead && !l.heard && !l.slowed {
				l.forget()
			}
			return nil, err
		}
		return l.machine.Response(), nil
	}
	if l.card != nil {
		return l.card.Transmit(ctx, capdu, dst)
	}
	if l.traits.Level == reader.Synchronous {
		return nil, errSynchronous
	}
	if err := iso7816.Carries(capdu, l.traits.Level == reader.ExtendedAPDU); err != nil {
		return nil, err
	}
	answer, err := l.Slot.Exchange(ctx, reader.Transfer{Out: capdu, Until: l.limit(ctx), Extended: l.Extended}, dst)
	if err == nil && len(answer) < len(dst)+2 {
		return nil, fmt.Errorf("R-APDU of %d bytes, at least SW1 SW2 must come: %w", len(answer)-len(dst), reader.ErrProtocol)
	}
	return answer, err
}

// PowerOff deactivates the card, unless it is known to have no power.
func (l *Link) PowerOff(ctx context.Context) error {
	l.machine, l.t1, l.card, l.dead = nil, nil, nil, false
	if !l.active {
		return nil
	}
	l.active = false
	return l.Slot.PowerOff(ctx)
}
