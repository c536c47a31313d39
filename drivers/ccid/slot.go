package ccid

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const (
	// powerLimit is below what the core gives a whole activation.
	powerLimit  = 20 * time.Second
	escapeLimit = 30 * time.Second
	ejectLimit  = 15 * time.Second // a motor

	// A reader that activates the card by itself is busy with that for some
	// time after insertion (bError F2).
	busyLimit = 5 * time.Second
	busyPause = 50 * time.Millisecond
)

// slot is one slot of a CCID.
//
//	            Status, PowerOff            PowerOn
//	absent <------------------> inactive ---------------> active
//	   ^                           ^ ^---- PowerOff ------'  | SetParams, SelectProtocol,
//	   '------ card out -----------'------ out and in -------' Exchange, VerifyPIN, ModifyPIN
type slot struct {
	*function
	lane *lane

	seen   atomic.Int32 // reader.Status as last reported
	hidden atomic.Bool  // "present" is a lie, see effects.phantom

	active  bool         // the card was activated by us and has kept its power
	voltage int          // bPowerSelect that worked last; -1: none yet
	atr     *iso7816.ATR // of the last PowerOn; nil: it cannot be read
	pace    iso7816.Timing

	// Of a Gemalto reader's features, see effects.conditionMask.
	pinMask     byte // bEntryValidationCondition bits that it knows; 0: not asked yet
	pinVariable bool // modify takes as many message indexes as bNumberMessage says
}

var (
	_ reader.Slot             = (*slot)(nil)
	_ reader.Notifier         = (*slot)(nil)
	_ reader.ParamSetter      = (*slot)(nil)
	_ reader.ProtocolSelector = (*slot)(nil)
	_ reader.ProtocolLister   = (*slot)(nil)
	_ reader.RateLimiter      = (*slot)(nil)
	_ reader.Ejector          = ejecting{}
	_ reader.Escaper          = (*slot)(nil)
	_ reader.PINPad           = (*slot)(nil)
)

// do is lane.do with what a quirk adds to limits.
func (s *slot) do(ctx context.Context, c command, data []byte, limit time.Duration) (answer, error) {
	a, err := s.lane.do(ctx, c, data, times(limit, s.factor))
	if a.kind != 0 {
		was := s.active
		if s.note(a.icc()); was && !s.active && needsPower(c.kind) && s.notifies != nil {
			s.notify(int(s.lane.slot)) // the core looks what became of the card
		}
	}
	return a, err
}

// patient is do for a command that may find the reader busy with itself. Such
// an answer says that the command was not executed, so it is sent again.
func (s *slot) patient(ctx context.Context, c command, data []byte, limit time.Duration) (answer, error) {
	for until := time.Now().Add(busyLimit); ; {
		a, err := s.do(ctx, c, data, limit)
		var failed *Error
		if !errors.As(err, &failed) || failed.Code != codeBusyAuto && failed.Code != codeSlotBusy || time.Now().After(until) {
			return a, err
		}
		if err := sleep(ctx, busyPause); err != nil {
			return a, err
		}
	}
}

// note keeps what an answer says of the card.
func (s *slot) note(icc byte) reader.Status {
	now := reader.Absent
	switch icc {
	case iccActive:
		now = reader.Powered
	case iccInactive:
		now = reader.Present
	}
	s.seen.Store(int32(now))
	if now != reader.Powered {
		s.active = false
	}
	return now
}

// Status is GetSlotStatus.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	a, err := s.do(ctx, command{kind: cmdSlotStatus}, nil, statusLimit)
	var failed *Error
	if errors.As(err, &failed) && failed.Code != codeBadSlot {
		// bStatus holds in a failure too: "failed, card absent or mute" is how many
		// readers say that there is no card.
		err = nil
	}
	if err != nil {
		return reader.Absent, err
	}
	now := s.note(a.icc())
	switch {
	case s.hidden.Load():
		now = reader.Absent
	case s.mirror && len(s.functions) > 1 && s.function != s.functions[0] && len(s.functions[0].own) > 0:
		if reader.Status(s.functions[0].own[0].seen.Load()) == reader.Absent {
			now = reader.Absent
		}
	}
	return now, nil
}

// Changes is nil for a reader without an interrupt endpoint.
func (s *slot) Changes() <-chan struct{} {
	if s.notifies == nil {
		return nil
	}
	return s.notifies[s.lane.slot]
}

// voltages is the order of bPowerSelect to try: automatic where the reader can,
// else what worked before, then 5 V, 1.8 V, 3 V, as far as bVoltageSupport has
// them (ISO/IEC 7816-3:2006 §6.2.4: another class after deactivation, when the
// card does not answer).
func (s *slot) voltages() []byte {
	if s.Features&(AutoVoltage|AutoActivate) != 0 {
		return []byte{0}
	}
	var order []byte
	if s.voltage > 0 {
		order = append(order, byte(s.voltage))
	}
	for _, v := range []byte{1, 3, 2} { // 5 V, 1.8 V, 3 V
		if s.VoltageSupport&(1<<(v-1)) != 0 && int(v) != s.voltage {
			order = append(order, v)
		}
	}
	return order
}

// PowerOn is IccPowerOn. A reader whose card is active resets it without taking
// the power away; for a cold reset the power is taken away before.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if err := s.selectFunction(ctx); err != nil {
		return nil, err
	}
	if s.offFirst || s.active && how == reader.Cold {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	s.atr, s.pace = nil, iso7816.Timing{}
	order := s.voltages()
	if s.active && s.voltage >= 0 {
		order = []byte{byte(s.voltage)}
	}
	var last error
	for n, v := range order {
		if n > 0 {
			if err := s.PowerOff(ctx); err != nil {
				return nil, err
			}
		}
		atr, err := s.activate(ctx, v)
		if err == nil {
			s.voltage, s.active = int(v), true
			s.atr, _ = iso7816.ParseATR(atr)
			s.seen.Store(int32(reader.Powered))
			s.pace = s.timingOf(s.atr)
			return atr, nil
		}
		s.active = false
		last = err
		var failed *Error
		if !errors.As(err, &failed) || errors.Is(err, reader.ErrNoCard) {
			break
		}
	}
	if s.phantom && errors.Is(last, reader.ErrMute) {
		s.hidden.Store(true)
		return nil, fmt.Errorf("%w: %w", last, reader.ErrNoCard)
	}
	return nil, last
}

// activate is one IccPowerOn.
func (s *slot) activate(ctx context.Context, voltage byte) ([]byte, error) {
	c := command{kind: cmdPowerOn, param: [3]byte{voltage}}
	a, err := s.patient(ctx, c, nil, powerLimit)
	var failed *Error
	if errors.As(err, &failed) && failed.Code == codeEMV && s.isoMode != nil {
		if _, err := s.Escape(ctx, s.isoMode); err != nil {
			return nil, fmt.Errorf("leave EMV mode: %w", err)
		}
		a, err = s.patient(ctx, c, nil, powerLimit)
	}
	if err != nil {
		return nil, err
	}
	if len(a.data) == 0 {
		return nil, fmt.Errorf("ccid: IccPowerOn: an ATR of no bytes: %w: %w", reader.ErrProtocol, reader.ErrMute)
	}
	return append([]byte(nil), a.data...), nil
}

// selectFunction moves a reader with several interfaces to this one, where a
// quirk says that only one can be in use.
func (s *slot) selectFunction(ctx context.Context) error {
	if !s.escapes || s.selected.Swap(s.function) == s.function {
		return nil
	}
	_, err := s.Escape(ctx, []byte{0x52, 0xF8, 0x04, 0x01, 0x00, s.Number})
	if errors.Is(err, reader.ErrUnsupported) {
		return nil
	}
	return err
}

// PowerOff is IccPowerOff. No card is no error.
func (s *slot) PowerOff(ctx context.Context) error {
	s.active = false
	_, err := s.patient(ctx, command{kind: cmdPowerOff}, nil, statusLimit)
	if errors.Is(err, reader.ErrNoCard) {
		return nil
	}
	return err
}

// Traits of the reader and its card.
func (f *function) traits() reader.Traits {
	const overhead = headerLen + 3 + 2 // NAD PCB LEN, EDC of two bytes
	level := f.level()
	t := reader.Traits{
		Level:    level,
		AutoPPS:  f.Features&(AutoNegotiate|AutoPPS) != 0 || f.noPPS || level >= reader.ShortAPDU,
		AutoIFSD: f.Features&AutoIFSD != 0,
		IFSD:     int(f.MaxIFSD),
		ClockHz:  f.clockHz(),
		Fixed:    f.Features&Token != 0,
	}
	if room := int(f.MaxMessage) - overhead; level < reader.ShortAPDU && room < maxIFSD && !f.long {
		t.IFSD = max(1, min(t.IFSD, room))
		t.IFSC = max(1, room)
	}
	return t
}

func (s *slot) Traits() reader.Traits { return s.traits() }

// Escape is the Escape message; what it means is the maker's affair.
func (s *slot) Escape(ctx context.Context, p []byte) ([]byte, error) {
	if err := s.fits("Escape", len(p)); err != nil {
		return nil, err
	}
	a, err := s.do(ctx, command{kind: cmdEscape}, p, escapeLimit)
	if err != nil {
		return nil, err
	}
	return a.appendTo(nil, 0), nil
}

// fits refuses what does not fit a message.
func (f *function) fits(what string, n int) error {
	if room := int(f.MaxMessage) - headerLen; n > room && !f.long {
		return fmt.Errorf("ccid: %s of %d bytes: this reader takes %d at most: %w", what, n, room, reader.ErrUnsupported)
	}
	return nil
}

// ejecting is a slot that can throw the card out (dwMechanical 02). It is a type of
// its own, so that nobody takes the power off a card for an ejection that cannot be.
type ejecting struct{ *slot }

const canEject = 0x02

// Eject is Mechanical, function 02.
func (s ejecting) Eject(ctx context.Context) error {
	const eject = 0x02
	s.active = false
	_, err := s.do(ctx, command{kind: cmdMechanical, param: [3]byte{eject}}, nil, ejectLimit)
	if errors.Is(err, reader.ErrNoCard) {
		return nil
	}
	return err
}
