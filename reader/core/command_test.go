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

func TestCommands(t *testing.T) {
	d := &commandDriver{}
	bus, broken := &fakeBus{}, &fakeBus{broken: true}
	m := NewManager(Options{Drivers: []reader.Driver{d, &fakeDriver{name: "fake"}}, Buses: []reader.Bus{broken, bus}})
	if err := m.Command("rescan"); err != nil || bus.rescans != 0 {
		t.Errorf("rescan of buses that nobody watches: %v, %d rescans", err, bus.rescans)
	}
	m.WatchBuses()
	defer m.Close(context.Background())
	for _, tt := range []struct {
		line string
		err  string // "" done
	}{
		{"", ""},
		{"   ", ""},
		{"attach box a", ""},
		{"attach box b slots=2", ""},
		{"attach box a", "already attached as 0"},
		{"attach box c no=key", "no such key"},
		{"attach box c slots", "not key=value"},
		{"attach box c =2", "not key=value"},
		{"attach", "attach DRIVER DEVICE"},
		{"attach fake", "attach DRIVER DEVICE"},
		{"attach nothing c", `no driver "nothing"; there are box, fake`},
		{"box 0 shake it", ""},
		{"box 2 shake", ""},
		{"box 7 shake", "not and was not"},
		{"box x shake", "number"},
		{"box", "box N"},
		{"fake 0 shake", "no command"},
		{"box 0", ""},
		{"detach 1", ""},
		{"detach 9", "no reader 9"},
		{"detach -1", "number"},
		{"detach", "detach N"},
		{"detach 1 2", "detach N"},
		{"detach 99999999999999999999", "number"},
		{"rescan", ""},
		{"rescan now", "no argument"},
		{"dance", "no command"},
	} {
		err := m.Command(tt.line)
		switch {
		case tt.err == "" && err != nil:
			t.Errorf("%q: %v", tt.line, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%q: %v, want … %s …", tt.line, err, tt.err)
		}
	}
	if want := []string{"a shake it", "b shake", "a "}; !slices.Equal(d.said, want) {
		t.Errorf("the driver was told %q, want %q", d.said, want)
	}
	m.Close(context.Background())
	if bus.rescans != 1 || bus.watches != 1 || bus.closes != 1 || bus.ctx.Err() == nil {
		t.Errorf("bus: %+v", bus)
	}
	if broken.rescans != 0 || broken.watches != 1 || broken.closes != 0 {
		t.Errorf("a bus that cannot be watched: %+v", broken)
	}
}

// What ctl does in words, a program does by calls.
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

// Whatever is written to ctl, it neither breaks anything nor gets into what ctl
// and status show as a line of its own.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"attach box a", "attach box a slots=2", "detach 0", "rescan", "box 0 shake", "attach box \x00\r=",
		"attach fake a b=c d=e", "detach 18446744073709551616", "box -1", "attach", "\xff\xfe 0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		m := NewManager(Options{Drivers: []reader.Driver{&commandDriver{}}})
		defer m.Close(context.Background())
		events := m.Follow()
		m.Command("attach box first")
		err := m.Command(line)
		if err != nil && !errors.Is(err, reader.ErrInvalid) && !strings.Contains(err.Error(), "no such key") {
			t.Errorf("%q: %v is no ErrInvalid", line, err)
		}
		bays := m.Slots()
		// Four commands, one of the driver, the driver, the readers.
		if got, want := strings.Count(string(m.Describe()), "\n"), 6+len(bays); got != want {
			t.Errorf("%q: ctl has %d lines, want %d:\n%s", line, got, want, m.Describe())
		}
		for _, b := range bays {
			for l := range strings.Lines(string(b.Info().Lines())) {
				if !strings.Contains(l, " ") || strings.ContainsAny(strings.TrimSuffix(l, "\n"), "\r\n\x00") {
					t.Errorf("%q: status has the line %q", line, l)
				}
			}
			if strings.ContainsAny(b.Info().ByID, "/ \n") {
				t.Errorf("%q: by-id name %q", line, b.Info().ByID)
			}
		}
		for l := range strings.Lines(lines(events)) {
			if n := len(strings.Fields(l)); n < 3 {
				t.Errorf("%q: event %q", line, l)
			}
		}
	})
}
