package core

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// The number of a reader's slots is capped, and `status` says so. Slots get the lowest free
// numbers.
func TestSlotsCapped(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		var slots []*fakeSlot
		for range maxSlots + 3 {
			slots = append(slots, newFakeSlot(t))
		}
		r.driver.open = func(ctx context.Context, _ reader.Device) (reader.Reader, error) { <-ctx.Done(); return nil, ctx.Err() }
		big := r.announce(reader.Device{Address: "big", Slots: 197120})
		if n := len(r.Slots()); n != maxSlots {
			t.Errorf("%d slots", n)
		}
		if i := big.Info(); i.Found != 197120 || i.Served != maxSlots {
			t.Errorf("%d slots, of which %d are served", i.Found, i.Served)
		}
		r.Detach(0)
		synctest.Wait()
		fake := newFakeReader(slots...)
		b := r.plugReader(reader.Device{Address: "other"}, fake)
		synctest.Wait()
		if i := b.Info(); len(i.Siblings) != maxSlots || i.Found != maxSlots+3 || i.Served != maxSlots {
			t.Errorf("%d slots, of which %d are served, %d siblings", i.Found, i.Served, len(i.Siblings))
		}
		_, next := r.plug(reader.Device{Address: "next"}, newFakeSlot(t))
		if next.Number() != maxSlots {
			t.Errorf("the next reader is number %d", next.Number())
		}
	})
}

// Ten thousand slots have a linear cost, and no lock is held for long.
func TestManySlots(t *testing.T) {
	hold := make(chan struct{})
	d := &fakeDriver{name: "fake"}
	m := NewManager(Options{Drivers: []reader.Driver{d}})
	defer m.Close(context.Background())
	defer close(hold)
	open := func(ctx context.Context, _ reader.Device) (reader.Reader, error) {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, reader.ErrGone
	}
	announce := func(from, to int) time.Duration {
		began := time.Now()
		for i := from; i < to; i++ {
			if err := m.Announce(reader.Device{Driver: "fake", Address: fmt.Sprint("r", i), Slots: maxSlots, Link: opener(open)}); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	announce(0, 40)
	if n := len(m.Slots()); n != 40*maxSlots {
		t.Fatalf("%d slots", n)
	}
	for i, b := range m.Slots() {
		if b.Number() != i {
			t.Fatalf("slot %d has number %d", i, b.Number())
		}
	}
	m.Detach(maxSlots)
	announce(40, 41)
	if n := m.Slots()[maxSlots].Number(); n != maxSlots {
		t.Errorf("the lowest free number was not taken: %d", n)
	}
}

// The memory of readers that left is bounded. Readers that are present are not forgotten.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		defer r.Close(context.Background())
		stay := newFakeReader(newFakeSlot(t))
		r.plugReader(reader.Device{Serial: "stays"}, stay)
		synctest.Wait()
		for i := range memoryMost + 50 {
			fake := newFakeReader(newFakeSlot(t))
			b := r.plugReader(reader.Device{Serial: fmt.Sprint(i), Address: fmt.Sprint(i)}, fake)
			r.Detach(b.Number())
			synctest.Wait()
		}
		r.mu.Lock()
		homes, last := len(r.homes), len(r.last)
		_, first := r.homes[identity(reader.Device{Driver: "fake", Serial: "0"})]
		_, newest := r.homes[identity(reader.Device{Driver: "fake", Serial: fmt.Sprint(memoryMost + 49)})]
		_, present := r.homes[identity(reader.Device{Driver: "fake", Serial: "stays"})]
		r.mu.Unlock()
		if homes > memoryMost+2 || last > memoryMost+2 {
			t.Errorf("%d homes, %d devices are remembered", homes, last)
		}
		if first || !newest || !present {
			t.Errorf("the first is remembered: %v, the newest: %v, the one that is there: %v", first, newest, present)
		}
		// A forgotten reader gets the lowest free number.
		b := r.plugReader(reader.Device{Serial: "0"}, newFakeReader(newFakeSlot(t)))
		if b.Number() != 1 {
			t.Errorf("number %d", b.Number())
		}
	})
}

// The same for numbers: the last devices of free numbers are forgotten, the oldest first.
func TestLastDevicesAreBounded(t *testing.T) {
	m := NewManager(Options{Drivers: []reader.Driver{&commandDriver{}}})
	defer m.Close(context.Background())
	for i := range 8 {
		if err := m.Announce(reader.Device{Driver: "box", Address: fmt.Sprint(i), Slots: maxSlots}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 7; i > 0; i-- {
		m.Detach(i * maxSlots)
	}
	for i := range 2000 {
		m.last[8*maxSlots+i] = lastDevice{used: 1}
	}
	m.mu.Lock()
	before := len(m.last)
	m.forgetLast()
	_, there := m.last[0]
	after := len(m.last)
	m.mu.Unlock()
	if after != before-1 || !there {
		t.Errorf("%d devices remembered, %d before", after, before)
	}
}

// An arriving reader makes room for the memory of its number.
func TestNewNumbersMakeRoom(t *testing.T) {
	m := NewManager(Options{Drivers: []reader.Driver{&commandDriver{}}})
	defer m.Close(context.Background())
	for i := range 2 * memoryMost {
		m.last[1000+i] = lastDevice{used: 1}
	}
	for i := range 3 {
		if err := m.Announce(reader.Device{Driver: "box", Address: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		n := len(m.last)
		m.mu.Unlock()
		if n != 2*memoryMost {
			t.Errorf("%d devices remembered after %d came", n, i+1)
		}
	}
}
