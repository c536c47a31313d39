// Package cardman is a lead, and not yet a driver: no OMNIKEY CardMan 2020 or 6020, nor Fujitsu Siemens' reader of the
// same kind, is known to have exchanged a command this way. The makers published nothing, and OpenCT 0.6.20, where the
// wire format was observed, had an ATR from the reader, and its authors had switched the driver off.
//
// Requests go by the control endpoint, answers come as packets of the interrupt endpoint. That is known for the
// status and the ATR. Of a command OpenCT assumed that its characters go by a request, and the card's come as they
// are; its driver kept the first packet of them alone. Perhaps a packet only says that there is an answer, as that
// to a PPS does, and another request fetches it. This driver does as OpenCT did, takes further packets where more
// characters are due, and says so if nothing comes. T=1 OpenCT never had.
//
// OpenCT asked for each interrupt packet before the request that it answers. A device keeps its packet until it is
// asked for, so here the request comes first.
package cardman

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

var models = []reader.ID{
	{Vendor: 0x076B, Product: 0x0596, Model: "OMNIKEY CardMan 2020"},
	{Vendor: 0x076B, Product: 0x1784, Model: "OMNIKEY CardMan 6020"},
	{Vendor: 0x08D4, Product: 0x0009, Model: "Fujitsu Siemens SCR USB Reader"},
}

// unproven is what `status`, the log and errors say.
const unproven = "no CardMan 2020 or 6020 is known to have answered a command"

// Driver is the driver. The zero value is ready.
type Driver struct {
	Log *slog.Logger // nil: none
}

// Name is "cardman".
func (Driver) Name() string { return "cardman" }

// IDs lists the models.
func (Driver) IDs() []reader.ID { return models }

// Open claims interface 0, sets the line to the card, and tells the log what to expect.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	s := &slot{wire: wire{name: dev.Name()}, model: dev.ID.Model}
	s.slots[0] = s
	conn, err := usb.Open(ctx, dev, 0)
	if err != nil {
		return nil, s.fail("claim interface 0", err)
	}
	s.conn = conn
	// A power-up sets the line again. The core has patience with that, as with a device that needs time.
	if err := s.setLine(ctx); errors.Is(err, reader.ErrGone) || ctx.Err() != nil {
		_ = conn.Close()
		return nil, err
	}
	if d.Log != nil {
		d.Log.Warn("this driver is unproven: "+unproven, "reader", dev.Name())
	}
	return s, nil
}

// slot is a Reader and its only Slot.
type slot struct {
	wire
	model    string
	slots    [1]reader.Slot
	powered  bool
	answered bool // the card sent something since Open
}

var (
	_ reader.Reader         = (*slot)(nil)
	_ reader.Slot           = (*slot)(nil)
	_ reader.Identifier     = (*slot)(nil)
	_ reader.Describer      = (*slot)(nil)
	_ reader.ProtocolLister = (*slot)(nil)
	_ reader.RateLimiter    = (*slot)(nil)
)

func (s *slot) Slots() []reader.Slot  { return s.slots[:] }
func (s *slot) Gone() <-chan struct{} { return s.conn.Gone() }
func (s *slot) Close() error          { return s.conn.Close() }

// Identify returns the model, and bcdDevice as the version (USB 2.0 table 9-8).
func (s *slot) Identify() (string, map[string]string) {
	d := s.conn.Descriptors()
	if len(d) < 14 {
		return s.model, nil
	}
	return s.model, map[string]string{"version": fmt.Sprintf("%x.%02x", d[13], d[12])}
}

// Describe says that the driver is unproven.
func (s *slot) Describe() map[string]string { return map[string]string{"unproven": unproven} }

// Traits: the core does T=0, character by character. The PPS is a request of the reader, and part of PowerOn.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.Character, AutoPPS: true, ClockHz: clockHz, Slack: time.Second}
}

// Protocols is T=0 alone.
func (s *slot) Protocols() []int { return []int{0} }

// Supports reports whether the driver uses a rate: it has the default one alone.
func (s *slot) Supports(ta1 byte) bool { return ta1 == defaultTA1 }

// Status asks the reader.
func (s *slot) Status(ctx context.Context) (reader.Status, error) {
	return s.status(ctx, "status")
}

func (s *slot) status(ctx context.Context, what string) (reader.Status, error) {
	if err := s.ready(ctx, what); err != nil {
		return reader.Absent, err
	}
	p, err := s.ask(ctx, what, setupStatus, nil, 1)
	if err != nil {
		return reader.Absent, err
	}
	in, off := parseStatus(p[0])
	alone := padding(p[1:])
	s.forget()
	if !alone {
		s.lost(late)
		return reader.Absent, s.fail(what, fmt.Errorf("it is followed by other bytes: %w", reader.ErrProtocol))
	}
	s.powered = s.powered && in && !off
	switch {
	case !in:
		return reader.Absent, nil
	case s.powered:
		return reader.Powered, nil
	}
	return reader.Present, nil
}

// setLine sets the line to the card as it is after a reset.
func (s *slot) setLine(ctx context.Context) error {
	return s.request(ctx, "set the line", setupLine, nil, plainWait)
}

// PowerOn resets the card. OpenCT has one request for all resets; by its header file it is that of a warm one. So for
// a cold one the power is switched off first.
func (s *slot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	const what = "power up"
	switch in, err := s.status(ctx, what); {
	case err != nil:
		return nil, err
	case in == reader.Absent:
		return nil, s.fail(what, reader.ErrNoCard)
	}
	had := s.powered
	s.powered = false
	if err := s.setLine(ctx); err != nil {
		return nil, err
	}
	if how == reader.Cold && had {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	atr, err := s.atr(ctx)
	if err != nil {
		return nil, err
	}
	if negotiates(atr) {
		if err := s.negotiate(ctx); err != nil {
			return nil, err
		}
	}
	s.powered = true
	return atr, nil
}

// atr resets the card and reads its ATR. Behind it the last packet may be padded: nobody knows.
func (s *slot) atr(ctx context.Context) ([]byte, error) {
	const what = "power up"
	p, err := s.ask(ctx, what, setupReset, nil, 1)
	n := 0
	for err == nil {
		if n, err = atrLength(p); err != nil {
			err = s.fail(what, err)
			break
		}
		if len(p) >= n {
			break
		}
		p, err = s.collect(ctx, what, n, answerWait)
	}
	if err != nil {
		if errors.Is(err, reader.ErrTimeout) {
			err = fmt.Errorf("%w: %w", err, reader.ErrMute)
		}
		s.lost(late)
		return nil, err
	}
	defer s.forget()
	return append([]byte(nil), p[:n]...), nil
}

// negotiate has the reader do a PPS for T=0 at the default rate, and sets its line to that. OpenCT does so with
// every card, whatever the ATR offers. A card in specific mode takes no PPS (ISO/IEC 7816-3:2006 §6.3.1), and gets
// none here.
func (s *slot) negotiate(ctx context.Context) error {
	p, err := s.ask(ctx, "PPS", setupPPS, ppsT0, ppsAnswer)
	if err != nil {
		return err
	}
	ready := p[0] == ppsReady
	s.forget()
	if !ready {
		return s.fail("PPS", fmt.Errorf("the reader has no answer of the card: %w", reader.ErrProtocol))
	}
	return s.setLine(ctx)
}

// PowerOff switches the card off.
func (s *slot) PowerOff(ctx context.Context) error {
	s.powered = false
	return s.request(ctx, "power off", setupOff, nil, plainWait)
}

// Exchange sends characters to the card and receives some. Those that came and were not asked for are kept until
// something is sent.
func (s *slot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	const what = "exchange"
	if err := s.awake(ctx, what); err != nil {
		if ctx.Err() != nil { // perhaps in the middle of a command
			s.lost(power)
		}
		return dst, err
	}
	wait := min(max(answerWait, x.Wait), silentWait)
	if len(x.Out) > 0 {
		if err := s.clean(ctx, what); err != nil {
			return dst, s.doubt(err)
		}
		if err := s.request(ctx, what, setupChars, x.Out, answerWait); err != nil {
			return dst, s.doubt(err)
		}
	}
	p, err := s.collect(ctx, what, x.Want, wait)
	if err != nil && (len(p) == 0 || !errors.Is(err, reader.ErrTimeout)) {
		return dst, s.doubt(s.left(ctx, what, err))
	}
	s.answered = true
	dst = append(dst, p[:min(len(p), x.Want)]...)
	s.take(min(len(p), x.Want))
	return dst, nil
}

// left is the error of an exchange: that the card was taken out, if it was.
func (s *slot) left(ctx context.Context, what string, err error) error {
	if !errors.Is(err, reader.ErrTimeout) {
		return err
	}
	if in, e := s.status(ctx, what); e == nil && in == reader.Absent {
		return s.fail(what, reader.ErrNoCard)
	}
	return err
}

// doubt marks the card's state as unknown after an exchange failed, and says why that may be.
func (s *slot) doubt(err error) error {
	s.lost(power)
	if !s.answered && (errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrProtocol)) {
		err = fmt.Errorf("%w (%s)", err, unproven)
	}
	return err
}

// awake checks that there is a card with power.
func (s *slot) awake(ctx context.Context, what string) error {
	if err := s.ready(ctx, what); err != nil {
		return err
	}
	if s.powered {
		return nil
	}
	switch in, err := s.status(ctx, what); {
	case err != nil:
		return err
	case in == reader.Absent:
		return s.fail(what, reader.ErrNoCard)
	}
	return s.fail(what, reader.ErrStale)
}
