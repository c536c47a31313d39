package core

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/link"
)

// The fakes of these tests: a driver whose Open, a reader whose Close and a slot
// whose calls do what the test says. All waiting is on channels, so that in a
// synctest bubble "everybody waits" can be seen, and time is the bubble's.

// Limits of package link: how often it activates a card that does not answer properly, and how
// many resets one power-up may take in all.
const (
	attempts  = 3
	maxResets = 16
)

// hexb reads spaced hex.
func hexb(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// fakeDriver opens a device by its Link, a function.
type fakeDriver struct {
	name string
	open func(context.Context, reader.Device) (reader.Reader, error) // for the next that is announced

	mu    sync.Mutex
	opens int
}

func (d *fakeDriver) Name() string     { return d.name }
func (d *fakeDriver) IDs() []reader.ID { return nil }

func (d *fakeDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	d.mu.Lock()
	d.opens++
	d.mu.Unlock()
	return dev.Link.(opener)(ctx, dev)
}

// opener is a Link that opens the reader, and cannot tell when the device leaves.
type opener func(context.Context, reader.Device) (reader.Reader, error)

func (opener) Gone() <-chan struct{} { return nil }

type fakeReader struct {
	slots  []reader.Slot
	gone   chan struct{}
	once   sync.Once
	close  func() error
	closes atomic.Int32
}

func newFakeReader(slots ...*fakeSlot) *fakeReader {
	r := &fakeReader{gone: make(chan struct{})}
	for _, s := range slots {
		s.gone = r.gone
		r.slots = append(r.slots, s)
	}
	return r
}

func (r *fakeReader) Slots() []reader.Slot  { return r.slots }
func (r *fakeReader) Gone() <-chan struct{} { return r.gone }
func (r *fakeReader) unplug()               { r.once.Do(func() { close(r.gone) }) }

func (r *fakeReader) Close() error {
	r.closes.Add(1)
	if r.close != nil {
		return r.close()
	}
	return nil
}

// fakeSlot is a slot with a card that echoes each C-APDU and appends 9000, unless the hooks do
// something else. It fails the test when two calls overlap: a Slot's methods are called one
// at a time.
type fakeSlot struct {
	t       testing.TB
	gone    <-chan struct{}
	changes chan struct{}

	mu       sync.Mutex
	status   reader.Status
	atr      []byte
	traits   reader.Traits
	power    func(ctx context.Context, how reader.Reset) ([]byte, error) // nil: atr
	exchange func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error)
	state    func(ctx context.Context) (reader.Status, error)
	off      func(ctx context.Context) error
	wire     []string // what was called, in order
	sent     [][]byte // what was exchanged

	inside atomic.Int32
}

// atrT1 is the shortest ATR of a card that speaks T=1; atrT0 of one that speaks T=0.
var (
	atrT1   = hexb("3B 80 01 81")
	atrT0   = hexb("3B 00")
	atrBoth = hexb("3B 80 80 01 01") // T=0 first, T=1 too
	atrFast = hexb("3B 90 95 01 04") // T=1, TA1=95
)

func newFakeSlot(t testing.TB) *fakeSlot {
	return &fakeSlot{
		t: t, status: reader.Present, atr: atrT1,
		traits:  reader.Traits{Level: reader.ExtendedAPDU, AutoPPS: true},
		changes: make(chan struct{}, 1),
	}
}

func (s *fakeSlot) Changes() <-chan struct{} { return s.changes }

func (s *fakeSlot) enter(format string, args ...any) func() {
	if s.inside.Add(1) != 1 {
		s.t.Errorf("%s while another call is in the slot", fmt.Sprintf(format, args...))
	}
	s.mu.Lock()
	s.wire = append(s.wire, fmt.Sprintf(format, args...))
	s.mu.Unlock()
	return func() { s.inside.Add(-1) }
}

func (s *fakeSlot) left() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

func (s *fakeSlot) Status(ctx context.Context) (reader.Status, error) {
	defer s.enter("status")()
	s.mu.Lock()
	state, status := s.state, s.status
	s.mu.Unlock()
	if state != nil {
		return state(ctx)
	}
	if s.left() {
		return reader.Absent, reader.ErrGone
	}
	return status, nil
}

func (s *fakeSlot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	defer s.enter("power on %v", how)()
	s.mu.Lock()
	power, atr, status := s.power, s.atr, s.status
	s.mu.Unlock()
	if s.left() {
		return nil, reader.ErrGone
	}
	if power != nil {
		var err error
		if atr, err = power(ctx, how); err != nil {
			return nil, err
		}
	} else if status == reader.Absent {
		return nil, reader.ErrNoCard
	}
	s.mu.Lock()
	s.status = reader.Powered
	s.mu.Unlock()
	return atr, nil
}

func (s *fakeSlot) PowerOff(ctx context.Context) error {
	defer s.enter("power off")()
	s.mu.Lock()
	off := s.off
	if s.status == reader.Powered {
		s.status = reader.Present
	}
	s.mu.Unlock()
	if off != nil {
		return off(ctx)
	}
	return nil
}

func (s *fakeSlot) Traits() reader.Traits {
	defer s.enter("traits")()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.traits
}

func (s *fakeSlot) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	defer s.enter("exchange % X", x.Out)()
	s.mu.Lock()
	exchange, status := s.exchange, s.status
	s.sent = append(s.sent, bytes.Clone(x.Out))
	s.mu.Unlock()
	if s.left() {
		return dst, reader.ErrGone
	}
	if exchange != nil {
		return exchange(ctx, x, dst)
	}
	if status != reader.Powered {
		return dst, reader.ErrNoCard
	}
	return append(append(dst, x.Out...), 0x90, 0x00), nil
}

// set changes what the slot says and does.
func (s *fakeSlot) set(f func(*fakeSlot)) {
	s.mu.Lock()
	f(s)
	s.mu.Unlock()
}

// card puts a card in or takes it out, and lets the slot notice.
func (s *fakeSlot) card(now reader.Status) {
	s.set(func(s *fakeSlot) { s.status = now })
	select {
	case s.changes <- struct{}{}:
	default:
	}
}

// calls lists the calls, except those of the monitor.
func (s *fakeSlot) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, w := range s.wire {
		if w != "status" && w != "traits" {
			list = append(list, w)
		}
	}
	return list
}

func (s *fakeSlot) count(call string) int {
	n := 0
	for _, w := range s.calls() {
		if w == call {
			n++
		}
	}
	return n
}

// rig is a manager with one fake driver.
type rig struct {
	t testing.TB
	*Manager
	driver *fakeDriver
}

func newRig(t testing.TB, o Options) *rig {
	d := &fakeDriver{name: "fake"}
	o.Drivers = append(o.Drivers, d)
	return &rig{t: t, Manager: NewManager(o), driver: d}
}

// bubble runs f in a synctest bubble with a manager, and then closes the manager. The bubble
// makes sure that no goroutine is left.
func bubble(t *testing.T, o Options, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, o)
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), link.PowerLimit)
			defer cancel()
			r.Close(ctx)
		}()
		f(t, r)
	})
}

// plug announces a reader with these slots and waits until it is ready.
func (r *rig) plug(dev reader.Device, slots ...*fakeSlot) (*fakeReader, *Slot) {
	r.t.Helper()
	fake := newFakeReader(slots...)
	b := r.plugReader(dev, fake)
	synctest.Wait() // so that it is not by chance whether WaitReady waits, which is counted
	if err := b.WaitReady(context.Background(), true); err != nil {
		r.t.Fatalf("plug: %v", err)
	}
	synctest.Wait()
	return fake, b
}

// plugReader announces dev, which the driver will open as fake.
func (r *rig) plugReader(dev reader.Device, fake *fakeReader) *Slot {
	r.t.Helper()
	r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { return fake, nil }
	return r.announce(dev)
}

func (r *rig) announce(dev reader.Device) *Slot {
	r.t.Helper()
	before := make(map[*Slot]bool)
	for _, b := range r.Slots() {
		before[b] = true
	}
	dev.Driver, dev.Link = "fake", opener(r.driver.open)
	if dev.Address == "" {
		dev.Address = "a"
	}
	if err := r.Announce(dev); err != nil {
		r.t.Fatalf("announce: %v", err)
	}
	for _, b := range r.Slots() {
		if !before[b] {
			return b
		}
	}
	r.t.Fatal("Announce returned and no directory is there")
	return nil
}

// outcome is the result of a call in a goroutine.
type outcome[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func async[T any](f func() (T, error)) *outcome[T] {
	o := &outcome[T]{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.value, o.err = f()
	}()
	return o
}

func (o *outcome[T]) pending() bool {
	select {
	case <-o.done:
		return false
	default:
		return true
	}
}

func (o *outcome[T]) get() (T, error) {
	<-o.done
	return o.value, o.err
}

func asyncOpen(b *Slot, ctx context.Context, by Caller) *outcome[*Session] {
	return async(func() (*Session, error) { return b.Open(ctx, by) })
}

func asyncTransmit(s *Session, ctx context.Context, capdu string) *outcome[[]byte] {
	return async(func() ([]byte, error) { return s.Transmit(ctx, hexb(capdu), nil) })
}

// someone returns a new caller that waits.
func someone() Caller { return Caller{Owner: new(int), Wait: true, Pass: new(Pass), Escape: true} }

// hasty returns a new caller that does not wait.
func hasty() Caller { return Caller{Owner: new(int), Pass: new(Pass)} }

func mustOpen(t testing.TB, b *Slot, by Caller) *Session {
	t.Helper()
	if b == nil {
		t.Fatal("open: no such slot")
	}
	s, err := b.Open(context.Background(), by)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func wantAnswer(t testing.TB, s *Session, capdu, want string) {
	t.Helper()
	got, err := s.Transmit(context.Background(), hexb(capdu), nil)
	if err != nil {
		t.Errorf("transmit %s: %v", capdu, err)
		return
	}
	if !bytes.Equal(got, hexb(want)) {
		t.Errorf("transmit %s: % X, want %s", capdu, got, want)
	}
}

// newTextLog is the log as the command writes it.
func newTextLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
