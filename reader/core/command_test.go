package core

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// commandDriver is a driver with an Attach and commands of its own.
type commandDriver struct {
	mu   sync.Mutex
	said []string
}

func (*commandDriver) Name() string     { return "box" }
func (*commandDriver) IDs() []reader.ID { return nil }

func (d *commandDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (d *commandDriver) Attach(dev reader.Device) (reader.Device, error) {
	if dev.Params["slots"] == "2" {
		dev.Slots = 2
	}
	for key := range dev.Params {
		if key != "slots" {
			return dev, errors.New("no such key")
		}
	}
	return dev, nil
}

func (d *commandDriver) Command(_ context.Context, dev reader.Device, words []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, dev.Address+" "+strings.Join(words, " "))
	return nil
}

func (d *commandDriver) Usage() []string { return []string{"box N shake"} }

// fakeBus has no devices.
type fakeBus struct {
	broken                   bool
	ctx                      context.Context
	watches, rescans, closes int
}

func (b *fakeBus) Name() string { return "fake" }
func (b *fakeBus) Rescan()      { b.rescans++ }
func (b *fakeBus) Close() error { b.closes++; return nil }
func (b *fakeBus) Watch(ctx context.Context, host reader.Host, drivers []reader.Driver) error {
	b.watches++
	if b.ctx = ctx; b.broken {
		return errors.New("no such bus")
	}
	return nil
}

// Rescan rescans the watched buses, and Close closes them.
func TestBuses(t *testing.T) {
	bus, broken := &fakeBus{}, &fakeBus{broken: true}
	m := NewManager(Options{Buses: []reader.Bus{broken, bus}})
	defer m.Close(context.Background())
	if m.Rescan(); bus.rescans != 0 {
		t.Errorf("%d rescans of a bus that nobody watches", bus.rescans)
	}
	m.WatchBuses()
	m.Rescan()
	m.Close(context.Background())
	if bus.rescans != 1 || bus.watches != 1 || bus.closes != 1 || bus.ctx.Err() == nil {
		t.Errorf("bus: %+v", bus)
	}
	if broken.rescans != 0 || broken.watches != 1 || broken.closes != 0 {
		t.Errorf("a bus that cannot be watched: %+v", broken)
	}
}

// Every command of ctl has a function that programs can call.
func TestCalls(t *testing.T) {
	d := &commandDriver{}
	m := NewManager(Options{Drivers: []reader.Driver{d, &fakeDriver{name: "fake"}}})
	defer m.Close(context.Background())
	params := map[string]string{"slots": "2", "t0": "plain"}
	if err := m.Attach("box", "a", params); err != nil || len(m.Slots()) != 2 {
		t.Fatalf("attach: %v, %d slots", err, len(m.Slots()))
	}
	if dev := m.Slot(0).Info().Device; !dev.T0Plain || len(dev.Params) != 1 || len(params) != 2 {
		t.Errorf("device %+v, parameters %v", dev, params)
	}
	wantErr(t, "attach with no driver", m.Attach("nothing", "a", nil), reader.ErrInvalid)
	wantErr(t, "attach with no device", m.Attach("fake", "", nil), reader.ErrInvalid)
	wantErr(t, "attach of t0=odd", m.Attach("box", "b", map[string]string{"t0": "odd"}), reader.ErrInvalid)
	if err := m.CommandDriver("box", 1, []string{"shake"}); err != nil || !slices.Equal(d.said, []string{"a shake"}) {
		t.Errorf("command: %v, %q", err, d.said)
	}
	wantErr(t, "command of a driver that has none", m.CommandDriver("fake", 0, nil), reader.ErrInvalid)
	wantErr(t, "command for nobody", m.CommandDriver("box", 7, nil), reader.ErrInvalid)
	wantErr(t, "abort of nothing", m.Abort(0), reader.ErrInvalid)
	wantErr(t, "abort nowhere", m.Abort(7), reader.ErrInvalid)
	wantErr(t, "detach nowhere", m.Detach(7), reader.ErrInvalid)
}
