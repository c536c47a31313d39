package readertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// fixedFirst is a reader whose first card is fixed, and whose second is there when it is out.
const fixedFirst = "an absent card is there beside a fixed one"

// fake is a driver and its only device, a reader of two slots at TPDU level, which breaks
// one rule.
type fake struct {
	fault    string
	contacts [2]icc.Contact
	gone     chan struct{}
	over     func() // closes it
	closed   chan struct{}
}

func newFake(fault string) *fake {
	f := &fake{fault: fault, gone: make(chan struct{}), closed: make(chan struct{})}
	f.over = sync.OnceFunc(func() { close(f.gone) })
	for i := range f.contacts {
		f.contacts[i].Insert(card{})
	}
	return f
}

func (f *fake) Name() string     { return "fake" }
func (f *fake) IDs() []reader.ID { return nil }

func (f *fake) Open(ctx context.Context, _ reader.Device) (reader.Reader, error) {
	r := &fakeReader{fake: f}
	for i := range f.contacts {
		s := &fakeSlot{r: r, n: i, changes: make(chan struct{}, 1)}
		r.slots = append(r.slots, s)
		if f.fault != "nobody is told" {
			f.contacts[i].OnChange(func() {
				select {
				case s.changes <- struct{}{}:
				default:
				}
			})
		}
	}
	if f.fault == "one slot" {
		r.slots = r.slots[:1]
	}
	switch err := ctx.Err(); {
	case f.fault == "Open fails":
		return nil, reader.ErrProtocol
	case f.fault == "Open hangs":
		select {}
	case f.fault == "gone at once":
		f.over()
	case f.fault == "Open leaves a goroutine":
		go func() { select {} }()
	case err != nil && f.fault == "Open hides why it ended":
		return nil, reader.ErrProtocol
	case err != nil && f.fault == "Open fails and gives a reader":
		return r, err
	case err != nil && f.fault == "Open ended early has no slots":
		r.slots = nil
	case err != nil && f.fault == "Open ended early is of no use":
		f.contacts[0].SetFaults(icc.Faults{Mute: true})
	case err != nil && f.fault != "Open does not look at ctx":
		return nil, err
	}
	return r, nil
}

func (f *fake) unplug() {
	if f.fault != "Gone stays open" {
		f.over()
	}
	for i := range f.contacts {
		f.contacts[i].Deactivate()
	}
}

type fakeReader struct {
	*fake
	slots []reader.Slot
}

func (r *fakeReader) Slots() []reader.Slot {
	if r.fault != "Slots changes" {
		return r.slots
	}
	var slots []reader.Slot
	for _, s := range r.slots {
		c := *s.(*fakeSlot)
		slots = append(slots, &c)
	}
	return slots
}

func (r *fakeReader) Gone() <-chan struct{} { return r.gone }

func (r *fakeReader) Close() error {
	if r.fault == "Close hangs" {
		select {}
	}
	if r.fault != "Close ends nothing" {
		for i := range r.contacts {
			r.contacts[i].Deactivate()
		}
	}
	close(r.closed)
	return nil
}

type fakeSlot struct {
	r         *fakeReader
	n         int
	changes   chan struct{}
	exchanges int
	offs      int // in a row
}

func (s *fakeSlot) Changes() <-chan struct{} { return s.changes }
func (s *fakeSlot) Traits() reader.Traits    { return reader.Traits{Level: reader.TPDU} }
func (s *fakeSlot) contact() *icc.Contact    { return &s.r.contacts[s.n] }

// has reports whether the slot has this fault.
func (s *fakeSlot) has(fault string) bool { return s.r.fault == fault }

// left is ErrGone, or what a driver takes for it, once the device left.
func (s *fakeSlot) left() error {
	select {
	case <-s.r.gone:
	default:
		return nil
	}
	if s.has("a device that left has no card") {
		return reader.ErrNoCard
	}
	return reader.ErrGone
}

func (s *fakeSlot) Status(ctx context.Context) (reader.Status, error) {
	switch err := s.left(); {
	case err != nil:
		return reader.Absent, err
	case ctx.Err() != nil && s.has("Status hangs"):
		select {}
	case !s.contact().Present() && !s.has("an absent card is there") && !s.has(fixedFirst):
		return reader.Absent, nil
	case s.contact().Powered() && !s.has("power is not seen"):
		return reader.Powered, nil
	case !s.contact().Powered() && s.offs > 0 && s.has("power stays"):
		return reader.Powered, nil
	}
	return reader.Present, nil
}

func (s *fakeSlot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	s.offs = 0
	if err := s.left(); err != nil {
		return nil, err
	}
	if s.has("PowerOn does not look at ctx") {
		ctx = context.WithoutCancel(ctx)
	}
	atr, err := s.contact().Activate(ctx, how == reader.Warm)
	switch {
	case errors.Is(err, icc.ErrNoCard) && !s.has("an absent card is mute"):
		return nil, reader.ErrNoCard
	case errors.Is(err, icc.ErrMute) && s.has("a mute card has time"):
		return nil, reader.ErrTimeout
	case errors.Is(err, icc.ErrNoCard), errors.Is(err, icc.ErrMute):
		return nil, reader.ErrMute
	case err == nil && how == reader.Warm && s.has("a warm reset has another ATR"):
		return []byte{0x3B, 0x01, 0x00}, nil
	}
	return atr, err
}

func (s *fakeSlot) PowerOff(ctx context.Context) error {
	if err := s.left(); err != nil {
		return err
	}
	s.contact().Deactivate()
	if s.offs++; s.offs > 1 && s.has("off twice is an error") || s.has("PowerOff fails") {
		return reader.ErrProtocol
	}
	return nil
}

func (s *fakeSlot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if s.has("Exchange does not look at ctx") {
		ctx = context.WithoutCancel(ctx)
	}
	if err := ctx.Err(); err != nil {
		return dst, err
	}
	if err := s.left(); err != nil {
		return dst, err
	}
	rx := s.contact().TPDU(ctx, x.Out)
	if rx != nil {
		switch s.exchanges++; {
		case s.has("the answer takes the place of dst"):
			return append(dst[:0], rx...), nil
		case s.has("there is no answer"):
			return dst, nil
		case s.has("the 30th answer is another") && s.exchanges == 30,
			s.has("the second slot answers otherwise") && s.n == 1:
			return append(dst, 0x6F, 0x00), nil
		}
		return append(dst, rx...), nil
	}
	wait := x.Wait
	if s.has("a silent card has half of its time") {
		wait /= 2
	}
	over := s.contact().Hold(ctx, wait)
	if s.has("Exchange goes on for ever") {
		select {}
	}
	select {
	case <-s.r.closed:
		if s.has("an exchange that Close ended succeeded") {
			return dst, nil
		}
	default:
	}
	err := s.left()
	switch {
	case err != nil:
	case !s.contact().Present():
		if err = reader.ErrNoCard; s.has("a card that was taken out has time") {
			err = reader.ErrTimeout
		}
		if s.has("an error takes dst away") {
			return []byte("else"), err
		}
	case ctx.Err() != nil:
		if err = ctx.Err(); s.has("a ctx that ended is a time-out") {
			err = reader.ErrTimeout
		}
	case over && s.has("a time-out is damage"), !over:
		err = reader.ErrProtocol
	default:
		err = reader.ErrTimeout
	}
	return dst, fmt.Errorf("exchange: %w", err)
}

// fixture makes a device of the fault's kind.
func fixture(fault string) func(*testing.T) *Fixture {
	return func(t *testing.T) *Fixture {
		f := newFake(fault)
		fx := &Fixture{
			Driver: f, Command: []byte{0, 0xA4, 0, 0}, Answer: []byte{0x90, 0x00}, Unplug: f.unplug,
			Close: func() {
				for i := range f.contacts {
					f.contacts[i].OnChange(nil)
				}
			},
		}
		for i := range f.contacts {
			fx.Slots = append(fx.Slots, Contact(&f.contacts[i], fault == "fixed" || fault == fixedFirst && i == 0))
			switch fault {
			case "never silent":
				fx.Slots[i].Silent, fx.Slots[i].NeverSilent = nil, "it talks"
			case "forgotten":
				fx.Slots[i].Remove = nil
			}
		}
		return fx
	}
}
