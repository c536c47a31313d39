// Package readertest is the suite that every driver passes: what the core
// relies on at the Driver, Reader and Slot interfaces, whatever the device.
//
// A driver's test gives Suite a function that makes a Fixture: an emulated device, plugged
// in, with a card in each slot, and what a test may do to them. Suite opens the device
// with the driver, exchanges commands through package link as the core does, takes cards
// out, unplugs the device and cancels calls, and checks what the driver reports and how
// soon. Goroutines that are left over fail a test.
//
// Use is for fuzzers: it does what programs do with a reader, in an order that the caller
// chooses.
package readertest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
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
	// Unplug makes the device leave.
	Unplug func()
	// Close releases what the device holds, after the Reader was closed; may be nil.
	Close func()
	// Wait is how long a silent card is waited for by a call that a test ends before; 0: a
	// minute. It is for a way to the device on which such a call may go on for this time.
	Wait time.Duration
}

// Slot is what a test can do to the card in one slot.
type Slot struct {
	// Remove takes the card out and Insert puts it back.
	Remove, Insert func()
	// Fixed: the card cannot be taken out; there is no Remove and no Insert.
	Fixed bool
	// Silent stops the card from answering anything, including a reset.
	Silent func(on bool)
	// NeverSilent is the reason why Silent is missing. Tests that need it are skipped.
	NeverSilent string
}

// check finds forgotten hooks, without which tests would be skipped.
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

// Emulated makes the Fixture of an emulated device with a Card in each slot. unplug has the
// device leave, and may be called again.
func Emulated(d reader.Driver, dev reader.Device, unplug func(), slots ...Slot) *Fixture {
	return &Fixture{Driver: d, Device: dev, Slots: slots, Command: Challenge, Answer: Response, Unplug: unplug, Close: unplug}
}

// deadline is how long a call that must end may take. The suite's own tests change it.
var deadline = 20 * time.Second

// Result is how one test of a suite ended.
type Result struct {
	Test            string
	Failed, Skipped bool
}

// Suite runs all tests, each against a device that make builds.
func Suite(t *testing.T, make func(t *testing.T) *Fixture) []Result {
	return suite(t, make, setting{delays: 8, leaks: true})
}

// PausingSuite is Suite in bubbles with a clock of their own, for drivers that have to make
// long pauses between their transfers.
func PausingSuite(t *testing.T, make func(t *testing.T) *Fixture) []Result {
	return suite(t, make, setting{delays: 8, leaks: true, bubbles: true})
}

// BusSuite is Suite for devices that are plugged into a bus of the system, which takes its
// time, and whose time is not a test's. It ends each call at one moment. make may return a
// device that a test before had, if it is still plugged in. The caller has to look for
// goroutines that are left.
func BusSuite(t *testing.T, make func(t *testing.T) *Fixture) []Result {
	return suite(t, make, setting{delays: 1, real: true})
}

// setting is what suites differ in.
type setting struct {
	delays  int  // of a sweep
	bubbles bool // a clock of its own for each test
	real    bool // for none
	leaks   bool // goroutines that are left fail a test
}

func suite(t *testing.T, make func(t *testing.T) *Fixture, in setting) (results []Result) {
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
		result := Result{Test: x.name}
		passed := t.Run(x.name, func(t *testing.T) {
			// Goroutines that run already are not the driver's.
			before := goleak.IgnoreCurrent()
			bubble := (x.clock || in.bubbles) && !in.real
			run := func(t *testing.T) {
				defer func() { result.Skipped = t.Skipped() }()
				b := &bench{T: t, make: make, delays: in.delays, bubble: bubble, real: in.real}
				defer b.end()
				x.test(t, b)
			}
			if bubble {
				synctest.Test(t, run)
			} else {
				run(t)
			}
			if in.leaks {
				goleak.VerifyNone(t, before)
			}
		})
		result.Failed = !passed
		results = append(results, result)
	}
	return results
}

// bench is one test's devices.
type bench struct {
	*testing.T
	make   func(t *testing.T) *Fixture
	delays int  // of a sweep
	bubble bool // it has a clock of its own
	real   bool // on a bus of the system
	ends   []func()
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
	if err := within(b, "Open", func() (err error) {
		r, err = f.Driver.Open(context.Background(), f.Device)
		for b.real && errors.Is(err, reader.ErrClaimed) {
			// The one that the test before gave up may still have it for a moment.
			time.Sleep(time.Millisecond)
			r, err = f.Driver.Open(context.Background(), f.Device)
		}
		return err
	}); err != nil {
		b.Fatalf("Open: %v", err)
	}
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

// within runs f, which must end before deadline, and returns its error. f calls no Fatal:
// it has a goroutine of its own.
func within(t testing.TB, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(deadline):
		t.Fatalf("%s hangs", what)
		return nil
	}
}

// sweep calls f with delays from none to 5 ms, so that what f does hits another goroutine's
// call at different moments.
func (b *bench) sweep(f func(delay time.Duration)) {
	for i := 0; i < 8; i += 8 / b.delays {
		f(time.Duration(i*i) * 100 * time.Microsecond)
	}
}

// connection is a slot with its protocol, as the core runs it.
type connection struct {
	*link.Link
	tap *tap
	atr []byte
}

func connect(ctx context.Context, s reader.Slot, how reader.Reset) (*connection, error) {
	c := &connection{tap: &tap{Slot: s}}
	c.Link = link.New(link.Config{Slot: c.tap, Features: reader.FeaturesOf(c.tap)})
	if err := c.PowerUp(ctx, how, -1); err != nil {
		return nil, err
	}
	c.atr = c.ATR().Bytes()
	return c, nil
}

// tap is a slot that, once closed, keeps what would be sent.
type tap struct {
	reader.Slot
	closed bool
	kept   reader.Transfer
}

func (t *tap) Unwrap() reader.Slot { return t.Slot }

func (t *tap) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if !t.closed {
		return t.Slot.Exchange(ctx, x, dst)
	}
	t.kept = reader.Transfer{Out: bytes.Clone(x.Out), Want: x.Want}
	return nil, reader.ErrGone
}

// first is the first message of a command, for a test to send by itself. The connection
// cannot be used from then on.
func (c *connection) first(capdu []byte, wait time.Duration) reader.Transfer {
	c.tap.closed = true
	c.Transmit(context.Background(), capdu, nil)
	x := c.tap.kept
	x.Wait = wait
	return x
}

// check does one exchange that must succeed.
func (b *bench) check(f *Fixture, c *connection) {
	b.Helper()
	var rx []byte
	err := within(b, "Exchange", func() (err error) {
		rx, err = c.Transmit(context.Background(), f.Command, nil)
		return err
	})
	if err != nil || !bytes.Equal(rx, f.Answer) {
		b.Fatalf("% X: answer % X, %v; want % X", f.Command, rx, err, f.Answer)
	}
}

func (b *bench) connect(s reader.Slot, how reader.Reset) *connection {
	b.Helper()
	var c *connection
	err := within(b, "PowerOn", func() (err error) {
		c, err = connect(context.Background(), s, how)
		return err
	})
	if err != nil {
		b.Fatalf("power on, %v: %v", how, err)
	}
	return c
}

// removable skips the test if the first card is fixed.
func (b *bench) removable(f *Fixture) {
	b.Helper()
	if f.Slots[0].Fixed {
		b.Skip("the card is fixed")
	}
}

// silenceable skips the test if the first card cannot be made silent.
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

// tells calls f, a change of the card that a Notifier has to announce.
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
