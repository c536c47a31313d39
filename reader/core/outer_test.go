package core

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// sharedSlot is a fake whose card others use elsewhere.
type sharedSlot struct {
	*fakeSlot
	mu     sync.Mutex
	locked bool
	locks  int
	busy   chan struct{} // not nil: others have the card until it is closed
}

func (s *sharedSlot) Unwrap() reader.Slot { return s.fakeSlot }

func (s *sharedSlot) Lock(ctx context.Context, wait bool) error {
	s.mu.Lock()
	busy := s.busy
	s.mu.Unlock()
	if busy != nil {
		if !wait {
			return reader.ErrLocked
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locked = true
	s.locks++
	return nil
}

func (s *sharedSlot) Unlock(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locked = false
	return nil
}

func (s *sharedSlot) isLocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked
}

// hubLink is the link of a hub, and of whatever can be away.
type hubLink struct {
	gone chan struct{}
	open func(context.Context, reader.Device) (reader.Reader, error)
}

func (l hubLink) Gone() <-chan struct{} { return l.gone }

type hubDriver struct{ fakeDriver }

func (d *hubDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	return dev.Link.(hubLink).open(ctx, dev)
}

// shared announces a reader with that one slot.
func shared(t *testing.T, do func(*testing.T, *Manager, *Slot, *sharedSlot)) {
	synctest.Test(t, func(t *testing.T) {
		s := &sharedSlot{fakeSlot: newFakeSlot(t)}
		r := newFakeReader(s.fakeSlot)
		r.slots[0] = s
		d := &hubDriver{fakeDriver{name: "far"}}
		m := NewManager(Options{Drivers: []reader.Driver{d}})
		defer m.Close(context.Background())
		link := hubLink{make(chan struct{}), func(context.Context, reader.Device) (reader.Reader, error) { return r, nil }}
		if err := m.Announce(reader.Device{Driver: "far", Address: "a", Link: link}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		do(t, m, m.Slot(0), s)
	})
}

// "A card that is used by other ways is kept from those as well while there is a transaction
// here": from Lock's return until Unlock.
func TestLockOut(t *testing.T) {
	shared(t, func(t *testing.T, m *Manager, b *Slot, s *sharedSlot) {
		me := someone()
		if err := b.Lock(t.Context(), me, nil); err != nil || !s.isLocked() {
			t.Fatalf("locked: %v, %v", s.isLocked(), err)
		}
		b.Unlock(me.Owner)
		synctest.Wait()
		if s.isLocked() {
			t.Error("others are locked out after Unlock")
		}
		// An exclusive connection is a transaction, too.
		c := b.NewConnection(me)
		if _, err := c.Share(t.Context(), ShareExclusive, 0, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.isLocked() {
			t.Error("an exclusive connection does not lock others out")
		}
		c.Close()
		synctest.Wait()
		if s.isLocked() {
			t.Error("others are locked out after the connection")
		}
	})
}

// While others have the card, Lock waits, and TryLock does not. Who gives up has no transaction.
// Where TryLock could not ask, because of an exchange under way, the first command waits.
func TestLockOutWaits(t *testing.T) {
	shared(t, func(t *testing.T, m *Manager, b *Slot, s *sharedSlot) {
		s.busy = make(chan struct{})
		ctx, giveUp := context.WithCancel(t.Context())
		done := make(chan error, 1)
		me := someone()
		go func() { done <- b.Lock(ctx, me, nil) }()
		synctest.Wait()
		giveUp()
		if err := <-done; !errors.Is(err, reader.ErrInterrupted) || b.Info().Locked {
			t.Errorf("%v; locked: %v", err, b.Info().Locked)
		}
		if err := b.TryLock(t.Context(), me, lag, nil); !errors.Is(err, reader.ErrLocked) || b.Info().Locked {
			t.Errorf("%v; locked: %v", err, b.Info().Locked)
		}
		session, err := b.Open(t.Context(), me)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		working, ends := make(chan struct{}), make(chan struct{})
		s.set(func(f *fakeSlot) {
			f.exchange = func(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
				close(working)
				<-ends
				return append(dst, 0x90, 0), nil
			}
		})
		transmit := func() {
			_, err := session.Transmit(t.Context(), hexb("00A40000"), nil)
			done <- err
		}
		go transmit()
		<-working
		if err := b.TryLock(t.Context(), me, lag, nil); err != nil {
			t.Fatal(err)
		}
		s.set(func(f *fakeSlot) { f.exchange = nil })
		close(ends)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		go transmit()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("a command did not wait for the others: %v", err)
		default:
		}
		close(s.busy)
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.Unlock(me.Owner)
	})
}

// A transaction that ends before the others have given the card up holds up nobody any more.
func TestLockOutEndsWithTransaction(t *testing.T) {
	shared(t, func(t *testing.T, m *Manager, b *Slot, s *sharedSlot) {
		s.busy = make(chan struct{})
		c := b.NewConnection(someone())
		if _, err := c.Share(t.Context(), ShareExclusive, 0, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it waits for the others
		c.Close()
		synctest.Wait()
		session, err := b.Open(t.Context(), someone())
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		if _, err := session.Transmit(t.Context(), hexb("00A40000"), nil); err != nil {
			t.Error(err)
		}
		if s.isLocked() {
			t.Error("the others are locked out")
		}
	})
}

// awayReader is gone because the way to it is lost.
type awayReader struct{ *fakeReader }

func (awayReader) Err() error { return reader.ErrAway }

// A hub has no slot. While the way to it is interrupted, it is opened again and again; that is
// no death.
func TestHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // of these three
		var tries int
		var r awayReader
		away := true
		d := &hubDriver{fakeDriver{name: "far"}}
		m := NewManager(Options{Drivers: []reader.Driver{d}})
		defer m.Close(context.Background())
		link := hubLink{make(chan struct{}), func(context.Context, reader.Device) (reader.Reader, error) {
			mu.Lock()
			defer mu.Unlock()
			if tries++; away {
				return nil, reader.ErrAway
			}
			r = awayReader{newFakeReader()}
			return r, nil
		}}
		if err := m.Announce(reader.Device{Driver: "far", Address: "a", Slots: reader.NoSlots, Link: link}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if h := m.Hubs(); len(h) != 1 || h[0].State != StateStarting || !errors.Is(h[0].Err, reader.ErrAway) || len(m.Slots()) != 0 || tries < 10 {
			t.Fatalf("%+v, %d slots, %d tries", h, len(m.Slots()), tries)
		}
		mu.Lock()
		away = false
		mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		for range 2 * deathsMost {
			if h := m.Hubs(); len(h) != 1 || h[0].State != StateReady || h[0].Err != nil {
				t.Fatalf("%+v", h)
			}
			mu.Lock()
			before := tries
			close(r.gone)
			mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
			if tries != before+1 {
				t.Fatalf("%d tries after the way was lost", tries-before)
			}
		}
		if err := m.DetachDevice("far", "a"); err != nil || len(m.Hubs()) != 0 {
			t.Errorf("%v, %+v", err, m.Hubs())
		}
		if err := m.DetachDevice("far", "a"); !errors.Is(err, reader.ErrInvalid) {
			t.Errorf("detached twice: %v", err)
		}
	})
}

// Whoever notices first that the way is lost, the reader or a slot of it: it is no death.
func TestAwayBySlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &hubDriver{fakeDriver{name: "far"}}
		m := NewManager(Options{Drivers: []reader.Driver{d}})
		defer m.Close(context.Background())
		link := hubLink{make(chan struct{}), func(context.Context, reader.Device) (reader.Reader, error) {
			s := newFakeSlot(t)
			return awayReader{newFakeReader(s)}, nil
		}}
		if err := m.Announce(reader.Device{Driver: "far", Address: "a", Link: link}); err != nil {
			t.Fatal(err)
		}
		for range 2 * deathsMost {
			time.Sleep(time.Minute / 2)
			synctest.Wait()
			b := m.Slot(0)
			if now := b.Info(); now.State != StatePresent {
				t.Fatalf("the reader is not back, but %s, %v", now.State, now.Err)
			}
			b.opening.lost(fmt.Errorf("status: %w", reader.ErrGone))
		}
	})
}
