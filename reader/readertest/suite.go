// Package readertest is the suite that every driver passes: what the core
// relies on at the Driver, Reader and Slot interfaces, whatever the device.
package readertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Fixture is one emulated device, fresh for each test, plugged in, with a card
// in each slot.
type Fixture struct {
	Driver reader.Driver
	Device reader.Device
	Slots  []Slot
	// Command is a C-APDU that the cards answer at once with Answer, as often
	// as it is sent. Its data is not secret.
	Command, Answer []byte
	// Unplug has the device leave.
	Unplug func()
	// Close releases what the device holds, after the Reader was closed; may be nil.
	Close func()
}

// Slot is what a test can do to the card in one slot.
type Slot struct {
	// Remove takes the card out and Insert puts it back.
	Remove, Insert func()
	// Fixed: the card cannot be taken out; there is no Remove and no Insert.
	Fixed bool
	// Silent has the card answer nothing any more, a reset included.
	Silent func(on bool)
	// NeverSilent says why there is no Silent. Tests that need it are left out.
	NeverSilent string
}

// check sees to it that no test is left out because somebody forgot something.
func (s *Slot) check() error {
	switch {
	case s.Fixed != (s.Remove == nil), s.Fixed != (s.Insert == nil):
		return errors.New("a slot has Remove and Insert, or is Fixed")
	case (s.NeverSilent != "") != (s.Silent == nil):
		return errors.New("a slot has Silent, or NeverSilent says why not")
	}
	return nil
}

// Contact makes the Slot of an emulator that stands on package icc.
func Contact(c *icc.Contact, fixed bool) Slot {
	s := Slot{Fixed: fixed, Silent: func(on bool) { c.SetFaults(icc.Faults{Mute: on}) }}
	if !fixed {
		card := c.Card()
		s.Remove = func() { c.Remove() }
		s.Insert = func() { c.Insert(card) }
	}
	return s
}

// deadline is when a call that must end counts as hung.
const deadline = 20 * time.Second

// Suite runs all tests against devices that make builds.
func Suite(t *testing.T, make func(t *testing.T) *Fixture) {
	for _, x := range []struct {
		name  string
		test  func(*testing.T, *bench)
		clock bool // it waits: in a bubble with a clock of its own
	}{
		{"Open", testOpen, false},
		{"OpenCancelled", testOpenCancelled, false},
		{"Status", testStatus, false},
		{"PowerOnOff", testPower, false},
		{"Exchange", testExchange, false},
		{"ExchangeKeepsDst", testDst, false},
		{"SlotsApart", testSlotsApart, false},
		{"NoCard", testNoCard, false},
		{"RemovedDuringExchange", testRemoved, false},
		{"Mute", testMute, true},
		{"Timeout", testTimeout, true},
		{"CancelledBefore", testCancelledBefore, false},
		{"CancelledDuring", testCancelledDuring, false},
		{"GoneBefore", testGoneBefore, false},
		{"GoneDuring", testGoneDuring, false},
		{"CloseDuring", testCloseDuring, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			// What was running before is not the driver's.
			before := goleak.IgnoreCurrent()
			run := func(t *testing.T) {
				b := &bench{T: t, make: make}
				defer b.end()
				x.test(t, b)
			}
			if x.clock {
				synctest.Test(t, run)
			} else {
				run(t)
			}
			goleak.VerifyNone(t, before)
		})
	}
}

// bench is one test's devices.
type bench struct {
	*testing.T
	make func(t *testing.T) *Fixture
	ends []func()
}

func (b *bench) end() {
	for i := len(b.ends) - 1; i >= 0; i-- {
		b.ends[i]()
	}
	b.ends = nil
}

// device makes a device and opens it.
func (b *bench) device() (*Fixture, reader.Reader) {
	b.Helper()
	f := b.make(b.T)
	if f.Close != nil {
		b.ends = append(b.ends, f.Close)
	}
	var r reader.Reader
	within(b, "Open", func() (err error) {
		r, err = f.Driver.Open(context.Background(), f.Device)
		if err != nil {
			b.Fatalf("Open: %v", err)
		}
		return err
	})
	r = &once{Reader: r}
	b.ends = append(b.ends, func() { within(b, "Close", r.Close) })
	if got := len(r.Slots()); got != len(f.Slots) {
		b.Fatalf("%d slots, the device has %d", got, len(f.Slots))
	}
	for i := range f.Slots {
		if err := f.Slots[i].check(); err != nil {
			b.Fatalf("slot %d: %v", i, err)
		}
	}
	return f, r
}

// once closes a Reader once, as the core does.
type once struct {
	reader.Reader
	sync.Once
}

func (o *once) Close() (err error) {
	o.Do(func() { err = o.Reader.Close() })
	return err
}

// within runs f, which must end, and returns its error.
func within(t testing.TB, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done) // also when f calls Fatal
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(deadline):
		t.Fatalf("%s hangs", what)
		return nil
	}
}

// sweep calls f with delays that try the moments at which another goroutine may
// have come to in its call.
func sweep(f func(delay time.Duration)) {
	for i := range 8 {
		f(time.Duration(i*i) * 100 * time.Microsecond)
	}
}

// link is a slot with its protocol, as the core runs it.
type link struct {
	slot    reader.Slot
	atr     []byte
	machine iso7816.Machine
	slack   time.Duration
}

func connect(ctx context.Context, s reader.Slot, how reader.Reset) (*link, error) {
	raw, err := s.PowerOn(ctx, how)
	if err != nil {
		return nil, err
	}
	atr, err := iso7816.ParseATR(raw)
	if err != nil {
		return nil, err
	}
	traits := s.Traits()
	l := &link{slot: s, atr: bytes.Clone(raw), slack: traits.Slack}
	p, err := atr.Params(atr.Protocols()[0])
	if err != nil {
		return nil, err
	}
	if !traits.AutoPPS {
		p.TA1 = 0x11 // no PPS: default rate
	} else if sel, ok := s.(reader.ProtocolSelector); ok {
		if p, err = sel.SelectProtocol(ctx, p); err != nil {
			return nil, fmt.Errorf("SelectProtocol: %w", err)
		}
	}
	if set, ok := s.(reader.ParamSetter); ok {
		if err := set.SetParams(ctx, p); err != nil {
			return nil, fmt.Errorf("SetParams %+v: %w", p, err)
		}
	}
	chars := traits.Level == reader.Character
	switch {
	case p.T == 0:
		mode := map[reader.Level]iso7816.T0Mode{
			reader.Character: iso7816.T0Character, reader.TPDU: iso7816.T0TPDU,
			reader.ShortAPDU: iso7816.T0APDU, reader.ExtendedAPDU: iso7816.T0APDU,
		}[traits.Level]
		l.machine = iso7816.NewT0(iso7816.T0Config{Params: p, Mode: mode, ClockHz: traits.ClockHz,
			Extended: traits.Level == reader.ExtendedAPDU})
	case traits.Level >= reader.ShortAPDU:
	default:
		t1 := iso7816.NewT1(iso7816.T1Config{Params: p, IFSD: traits.IFSD, AutoIFSD: traits.AutoIFSD,
			IFSCMax: traits.IFSC, Character: chars, ClockHz: traits.ClockHz})
		l.machine = t1
		if err := l.run(ctx, t1.Setup()); err != nil {
			return nil, fmt.Errorf("S(IFS request): %w", err)
		}
	}
	return l, nil
}

func (l *link) run(ctx context.Context, step iso7816.Step) error {
	for !step.Done {
		rx, err := l.slot.Exchange(ctx, reader.Transfer{
			Out: step.Send, Want: step.Want, Wait: step.Wait + l.slack, WTX: step.WTX,
		}, nil)
		if err != nil && (ctx.Err() != nil || errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrNoCard)) {
			return err
		}
		step = l.machine.Next(rx, err)
	}
	return step.Err
}

func (l *link) transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if l.machine == nil {
		return l.slot.Exchange(ctx, reader.Transfer{Out: capdu, Wait: time.Minute}, nil)
	}
	if err := l.run(ctx, l.machine.Start(capdu, nil)); err != nil {
		return nil, err
	}
	return l.machine.Response(), nil
}

// first is the first message of a command, to be sent to a card that keeps silent.
func (l *link) first(capdu []byte, wait time.Duration) reader.Transfer {
	if l.machine == nil {
		return reader.Transfer{Out: capdu, Wait: wait}
	}
	step := l.machine.Start(capdu, nil)
	return reader.Transfer{Out: bytes.Clone(step.Send), Want: step.Want, Wait: wait}
}

// check does one exchange that must succeed.
func (b *bench) check(f *Fixture, l *link) {
	b.Helper()
	var rx []byte
	err := within(b, "Exchange", func() (err error) {
		rx, err = l.transmit(context.Background(), f.Command)
		return err
	})
	if err != nil || !bytes.Equal(rx, f.Answer) {
		b.Fatalf("% X: answer % X, %v; want % X", f.Command, rx, err, f.Answer)
	}
}

func (b *bench) connect(s reader.Slot, how reader.Reset) *link {
	b.Helper()
	var l *link
	err := within(b, "PowerOn", func() (err error) {
		l, err = connect(context.Background(), s, how)
		return err
	})
	if err != nil {
		b.Fatalf("power on, %v: %v", how, err)
	}
	return l
}

// removable leaves the test out where the first card is fixed.
func (b *bench) removable(f *Fixture) {
	b.Helper()
	if f.Slots[0].Fixed {
		b.Skip("the card is fixed")
	}
}

// silenceable leaves the test out where the first card cannot be made silent.
func (b *bench) silenceable(f *Fixture) {
	b.Helper()
	if why := f.Slots[0].NeverSilent; why != "" {
		b.Skip("no card can be silent: " + why)
	}
}

func (b *bench) status(s reader.Slot, want reader.Status) {
	b.Helper()
	if got, err := s.Status(context.Background()); err != nil || got != want {
		b.Errorf("status %v, %v; want %v", got, err, want)
	}
}

// tells does f, of which a Notifier has to tell.
func (b *bench) tells(s reader.Slot, what string, f func()) {
	b.Helper()
	var changes <-chan struct{}
	if n, ok := s.(reader.Notifier); ok {
		changes = n.Changes()
	}
	select {
	case <-changes: // of something before
	default:
	}
	f()
	if changes == nil {
		return
	}
	select {
	case <-changes:
	case <-time.After(deadline):
		b.Errorf("nobody is told that the card was %s", what)
	}
}

// becomes waits until the slot's status is want.
func (b *bench) becomes(s reader.Slot, want reader.Status) {
	b.Helper()
	var changes <-chan struct{}
	if n, ok := s.(reader.Notifier); ok {
		changes = n.Changes()
	}
	end := time.After(deadline)
	for {
		got, err := s.Status(context.Background())
		if err == nil && got == want {
			return
		}
		// A slot without a Notifier is polled.
		var poll <-chan time.Time
		if changes == nil {
			poll = time.After(time.Millisecond)
		}
		select {
		case <-changes:
		case <-poll:
		case <-end:
			b.Fatalf("status stays %v, %v; want %v", got, err, want)
		}
	}
}
