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
	// powerLimit is below the core's limit for a whole activation.
	powerLimit  = 20 * time.Second
	escapeLimit = 30 * time.Second
	ejectLimit  = 15 * time.Second // a motor

	// A reader that activates the card by itself is busy for some time after insertion
	// (bError F2).
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
	hidden atomic.Bool  // "present" is wrong, see effects.phantom

	active  bool         // we activated the card, and it has kept its power
	voltage int          // bPowerSelect that worked last; -1: none yet
	atr     *iso7816.ATR // of the last PowerOn; nil: it cannot be read
	pace    iso7816.Timing

	// From the features of a Gemalto reader, see effects.conditionMask.
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

// do calls lane.do with the time factor of the quirks, and notes the card's state.
func (s *slot) do(ctx context.Context, c command, data []byte, limit time.Duration) (answer, error) {
	a, err := s.lane.do(ctx, c, data, times(limit, s.factor))
	if a.kind != 0 {
		was := s.active
		if s.note(a.icc()); was && !s.active && needsPower(c.kind) && s.notifies != nil {
			s.notify(int(s.lane.slot)) // make the core look at the card
		}
	}
	return a, err
}

// patient is do for commands that may find the reader busy with an automatic sequence.
// That answer means that the command was not executed, so it is sent again.
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

// note records the card's state from an answer.
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

// Status sends GetSlotStatus.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	a, err := s.do(ctx, command{kind: cmdSlotStatus}, nil, statusLimit)
	var failed *Error
	if errors.As(err, &failed) && failed.Code != codeBadSlot {
		// bStatus is valid in a failure too: many readers report an empty slot as
		// "failed, no ICC present" here.
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

// Changes returns nil without an interrupt endpoint.
func (s *slot) Changes() <-chan struct{} {
	if s.notifies == nil {
		return nil
	}
	return s.notifies[s.lane.slot]
}

// voltages returns the values of bPowerSelect in the order to try them. If the reader
// chooses the voltage, that is automatic alone. Otherwise the one that worked last comes
// first, then 5 V, 1.8 V and 3 V, as far as bVoltageSupport has them. ISO/IEC 7816-3:2006
// §6.2.4: if the card does not answer, another class is tried after deactivation.
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

// PowerOn sends IccPowerOn. An active card keeps its power and gets a warm reset, so a
// cold reset begins with IccPowerOff.
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

// activate sends IccPowerOn once.
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

// selectFunction switches the reader to this interface if a quirk says that an Escape
// selects it.
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

// PowerOff sends IccPowerOff. A missing card is not an error.
func (s *slot) PowerOff(ctx context.Context) error {
	s.active = false
	_, err := s.patient(ctx, command{kind: cmdPowerOff}, nil, statusLimit)
	if errors.Is(err, reader.ErrNoCard) {
		return nil
	}
	return err
}

// traits returns the traits of the reader and its card.
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

// Escape sends an Escape message. Its meaning is defined by the maker of the reader.
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

// fits returns an error if n bytes do not fit into a message.
func (f *function) fits(what string, n int) error {
	if room := int(f.MaxMessage) - headerLen; n > room && !f.long {
		return fmt.Errorf("ccid: %s of %d bytes: this reader takes %d at most: %w", what, n, room, reader.ErrUnsupported)
	}
	return nil
}

// ejecting is a slot that can eject the card (dwMechanical 02). It is a separate type:
// the core powers a card off before an ejection, and must not do so in a reader without
// one.
type ejecting struct{ *slot }

const canEject = 0x02

// Eject sends Mechanical with function 02.
func (s ejecting) Eject(ctx context.Context) error {
	const eject = 0x02
	s.active = false
	_, err := s.do(ctx, command{kind: cmdMechanical, param: [3]byte{eject}}, nil, ejectLimit)
	if errors.Is(err, reader.ErrNoCard) {
		return nil
	}
	return err
}
