package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
)

// model is one kind of simulated reader.
type model struct {
	name  string // DEVICE in attach
	about string // description for help
	id    reader.ID
	cards []string // the card in each slot at the start
	fixed bool     // cards cannot be taken out
	// params are those of the device's own driver, with their values.
	params map[string][]string
	// make builds the hardware, which outlives being unplugged.
	make func(serial string) hardware
}

// models are the emulated devices of other drivers, and readers of this one.
var models = append(emulated(),
	plain("t1", "Simulated T=1 reader", "T=1 at TPDU level, card can be taken out", "token", reader.TPDU),
	plain("t0", "Simulated T=0 reader", "T=0 at TPDU level", "t0", reader.TPDU),
	plain("apdu", "Simulated APDU reader", "extended APDU level; answers at once", "token", reader.ExtendedAPDU),
	plain("char-t1", "Simulated T=1 character reader", "T=1 at character level", "token", reader.Character),
	plain("char-t0", "Simulated T=0 character reader", "T=0 at character level", "t0", reader.Character),
	plain("memory", "Simulated memory card reader", "T=1 at TPDU level, with a memory card", "sle4442", reader.TPDU),
	plain("piv", "Simulated PIV card", "extended APDU level, with a PIV card", "piv", reader.ExtendedAPDU),
	plain("openpgp", "Simulated OpenPGP card", "extended APDU level, with an OpenPGP card", "openpgp", reader.ExtendedAPDU),
)

func emulated() (all []model) {
	for _, e := range emulators.All() {
		all = append(all, emulator(e))
	}
	return all
}

func emulator(e emulators.Emulator) model {
	return model{name: e.Name, about: e.About, id: e.ID, cards: e.Cards, fixed: e.Fixed, params: e.Params,
		make: func(serial string) hardware {
			return &busHardware{driver: e.Driver, params: e.Params, device: e.New(serial)}
		}}
}

// plain is a reader without a bus of its own: one slot, one level.
func plain(name, title, about, card string, level reader.Level) model {
	return model{
		name: name, about: about, id: reader.ID{Model: title}, cards: []string{card},
		make: func(string) hardware { return &plainHardware{level: level, memory: icc.NewMemory(card) != nil} },
	}
}

// hardware is the emulated reader itself. It keeps its cards while it is unplugged.
type hardware interface {
	contacts() []*icc.Contact
	// plug plugs the reader in, and returns what opens it through its driver, which logs to
	// log. Opening may take long; unplug ends it.
	plug(dev reader.Device, log *slog.Logger) (open func(context.Context) (reader.Reader, error))
	// unplug ends what plug began, if anything.
	unplug()
}

// busHardware is an emulated device on a bus, served by its own driver.
type busHardware struct {
	driver func(*slog.Logger) reader.Driver
	params map[string][]string // that the driver takes
	device emulators.Device
	link   emulators.Plugged // where it is plugged in; nil: nowhere
}

var _ keyboard = (*busHardware)(nil)

func (h *busHardware) contacts() []*icc.Contact { return h.device.Contacts() }

func (h *busHardware) plug(dev reader.Device, log *slog.Logger) func(context.Context) (reader.Reader, error) {
	driver := h.driver(log)
	h.link = emulators.Plug(h.device)
	dev.Link = h.link
	dev.Params = maps.Clone(dev.Params)
	maps.DeleteFunc(dev.Params, func(key, _ string) bool { // the others are for this package
		_, takes := h.params[key]
		return !takes && key != memcard.Param
	})
	return func(ctx context.Context) (reader.Reader, error) {
		r, err := driver.Open(ctx, dev)
		if err != nil {
			return nil, err
		}
		if k, ok := h.keys(); ok {
			return newPadReader(r, k), nil
		}
		return r, nil
	}
}

func (h *busHardware) unplug() {
	if h.link != nil {
		h.link.Unplug()
		h.link = nil
	}
}

// keys returns the device as a PIN pad, if it is one.
func (h *busHardware) keys() (keys, bool) {
	k, ok := h.device.(keys)
	return k, ok && k.HasKeys()
}

func (h *busHardware) press(slot int, pressed string) bool {
	k, ok := h.keys()
	if ok {
		k.Press(slot, pressed)
	}
	return ok
}

// plainHardware is a reader that needs no driver but this one.
type plainHardware struct {
	level   reader.Level
	memory  bool // it takes memory cards whatever is in it
	contact icc.Contact
	open    *plainReader
}

func (h *plainHardware) contacts() []*icc.Contact { return []*icc.Contact{&h.contact} }

func (h *plainHardware) plug(dev reader.Device, _ *slog.Logger) func(context.Context) (reader.Reader, error) {
	r := &plainReader{name: "sim " + dev.Address, level: h.level, contact: &h.contact,
		gone: make(chan struct{}), changes: make(chan struct{}, 1)}
	r.slots[0] = r
	say := dev.Params[memcard.Param]
	if _, synchronous := h.contact.Card().(*icc.Memory); synchronous || h.memory || say != "" {
		r.memory = newMemorySlot(r, say)
		r.slots[0] = r.memory
	}
	h.contact.OnChange(func() {
		select {
		case r.changes <- struct{}{}:
		default:
		}
	})
	h.open = r
	return func(context.Context) (reader.Reader, error) { return r, nil }
}

// unplug ends the exchange under way: a loss of power ends the wait for the card.
func (h *plainHardware) unplug() {
	if h.open != nil {
		close(h.open.gone)
		h.open = nil
		h.contact.OnChange(nil)
		h.contact.Deactivate()
	}
}

// plainReader is a Reader and its only Slot, together with memory. It uses the contacts directly.
type plainReader struct {
	name    string
	level   reader.Level
	memory  *memorySlot // nil: it does not take memory cards
	clocked bool        // the card was reset as a memory card
	contact *icc.Contact
	slots   [1]reader.Slot
	gone    chan struct{} // unplugged or closed
	changes chan struct{}
	limited limited // of the exchange under way
}

// limited is a context with a Deadline but without a timer. The contacts look at the
// Deadline while a card is slow, so a quick exchange needs no timer.
type limited struct {
	context.Context
	until time.Time
}

func (l *limited) Deadline() (time.Time, bool) { return l.until, true }

var (
	_ reader.Slot     = (*plainReader)(nil)
	_ reader.Notifier = (*plainReader)(nil)
)

func (r *plainReader) Slots() []reader.Slot     { return r.slots[:] }
func (r *plainReader) Gone() <-chan struct{}    { return r.gone }
func (r *plainReader) Close() error             { return nil } // see session.Close
func (r *plainReader) Changes() <-chan struct{} { return r.changes }

func (r *plainReader) Traits() reader.Traits {
	if r.clocked {
		return reader.Traits{Level: reader.Synchronous}
	}
	// Where whole APDUs come, nobody else could make the PPS.
	return reader.Traits{Level: r.level, AutoPPS: r.level >= reader.ShortAPDU}
}

func (r *plainReader) Status(ctx context.Context) (reader.Status, error) {
	switch {
	case r.left():
		return reader.Absent, r.fail("status", reader.ErrGone)
	case ctx.Err() != nil:
		return reader.Absent, r.fail("status", ctx.Err())
	case !r.contact.Present():
		return reader.Absent, nil
	case !r.contact.Powered():
		return reader.Present, nil
	}
	return reader.Powered, nil
}

func (r *plainReader) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	if r.left() {
		return nil, r.fail("power on", reader.ErrGone)
	}
	r.clocked = false
	atr, err := r.contact.Activate(ctx, how == reader.Warm)
	if errors.Is(err, icc.ErrMute) && r.memory != nil {
		if atr, err = r.memory.activate(ctx); err == nil {
			r.clocked = true
		}
	}
	switch {
	case errors.Is(err, icc.ErrNoCard):
		err = reader.ErrNoCard
	case errors.Is(err, icc.ErrMute):
		err = reader.ErrMute
	}
	if err != nil {
		return nil, r.fail("power on", err)
	}
	return atr, nil
}

func (r *plainReader) PowerOff(ctx context.Context) error {
	if r.left() {
		return r.fail("power off", reader.ErrGone)
	}
	r.contact.Deactivate()
	return nil
}

func (r *plainReader) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return dst, r.fail("exchange", err)
	}
	if r.left() {
		return dst, r.fail("exchange", reader.ErrGone)
	}
	if !t.Until.IsZero() {
		r.limited = limited{ctx, t.Until}
		ctx = &r.limited
	}
	var rx []byte
	switch r.level {
	case reader.Character:
		rx = r.contact.Chars(ctx, t.Out, t.Want)
		if len(rx) == t.Want {
			return append(dst, rx...), nil
		}
		dst = append(dst, rx...)
	case reader.TPDU:
		rx = r.contact.TPDU(ctx, t.Out)
	default:
		rx = r.contact.APDU(ctx, t.Out)
	}
	if rx != nil && r.level != reader.Character {
		return append(dst, rx...), nil
	}
	return dst, r.silence(ctx, t, len(rx))
}

// silence waits for the rest of an answer until the waiting time is over.
func (r *plainReader) silence(ctx context.Context, t reader.Transfer, got int) error {
	wait := t.Wait
	if wait <= 0 {
		wait = defaultWait
	}
	if !t.Until.IsZero() {
		wait = min(wait, time.Until(t.Until))
	}
	over := r.contact.Hold(ctx, wait)
	switch {
	case r.left():
		return r.fail("exchange", reader.ErrGone)
	case !r.contact.Present():
		return r.fail("exchange", reader.ErrNoCard)
	case ctx.Err() != nil:
		return r.fail("exchange", ctx.Err())
	case !over:
		return r.fail("exchange", fmt.Errorf("the card lost its power: %w", reader.ErrProtocol))
	case t.Want > 0:
		return r.fail("exchange", fmt.Errorf("%d of %d characters came: %w", got, t.Want, reader.ErrTimeout))
	}
	return r.fail("exchange", fmt.Errorf("no answer within %v: %w", wait, reader.ErrTimeout))
}

// defaultWait is the waiting time of a reader that keeps it itself.
const defaultWait = 10 * time.Second

func (r *plainReader) left() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

func (r *plainReader) fail(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", r.name, what, err)
}
