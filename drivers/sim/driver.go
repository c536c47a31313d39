package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Driver is the driver and the owner of all its devices.
type Driver struct {
	mu      sync.Mutex
	devices map[string]*device // by address, unplugged ones included
}

var (
	_ reader.Driver    = (*Driver)(nil)
	_ reader.Attacher  = (*Driver)(nil)
	_ reader.Commander = (*Driver)(nil)
)

// New makes a driver without devices.
func New() *Driver { return &Driver{devices: make(map[string]*device)} }

// Name is "sim".
func (d *Driver) Name() string { return "sim" }

// IDs is empty: nothing announces these devices but attach.
func (d *Driver) IDs() []reader.ID { return nil }

// Devices lists the words that attach takes as DEVICE.
func Devices() []string {
	var names []string
	for _, m := range models {
		names = append(names, m.name)
	}
	return names
}

// device is one emulated reader, plugged in or not.
//
//	attached --Open--> open --unplug--> unplugged --plug--> attached
//	   open --detach: Close--> forgotten
type device struct {
	model model
	start time.Duration
	hw    hardware
	dev   reader.Device

	mu        sync.Mutex
	plugged   bool
	announced bool          // the core has a reader for it, open or not yet
	session   *session      // the newest that Open gave out; nil once closed
	replug    bool          // plug came while the core had not let go yet
	gone      chan struct{} // closed by unplug
	kept      []icc.Card    // what remove took out, by slot
	faults    []icc.Faults
}

// Attach checks DEVICE and the keys and gives the device its identity. The
// first ikey3k is ikey3k-1, the next ikey3k-2, and so on.
func (d *Driver) Attach(dev reader.Device) (reader.Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := dev.Address
	for n := 1; ; n++ {
		dev.Address = name + "-" + strconv.Itoa(n)
		if _, taken := d.devices[dev.Address]; !taken {
			break
		}
	}
	made, err := newDevice(name, dev)
	if err != nil {
		return dev, err
	}
	d.devices[made.dev.Address] = made
	return made.dev, nil
}

func newDevice(name string, dev reader.Device) (*device, error) {
	i := slices.IndexFunc(models, func(m model) bool { return m.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no simulated reader %q; there are %s: %w", name, strings.Join(Devices(), ", "), reader.ErrInvalid)
	}
	m := models[i]
	d := &device{model: m, plugged: true, announced: true, gone: make(chan struct{}),
		kept: make([]icc.Card, len(m.cards)), faults: make([]icc.Faults, len(m.cards))}
	words := slices.Clone(m.cards)
	var slow time.Duration
	for _, key := range slices.Sorted(maps.Keys(dev.Params)) {
		value := dev.Params[key]
		var err error
		switch key {
		case "card":
			for i := range words {
				words[i] = value
			}
		case "start":
			d.start, err = duration(value)
		case "slow":
			slow, err = duration(value)
		case "serial":
			if value == "" {
				err = errors.New("is empty")
			}
			dev.Serial = value
		default:
			err = errors.New("is not known; there are card, start, slow, serial")
		}
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w: %w", key, value, err, reader.ErrInvalid)
		}
	}
	if dev.Serial == "" {
		dev.Serial = strings.ToUpper(dev.Address)
	}
	dev.Driver, dev.Bus, dev.ID, dev.Slots = "sim", "sim", m.id, len(m.cards)
	d.dev = dev
	d.hw = m.make(dev.Serial)
	for i, c := range d.hw.contacts() {
		d.faults[i].Slow = slow
		c.SetFaults(d.faults[i])
		if words[i] == noCard {
			continue
		}
		kind, ok := findCard(words[i])
		if !ok {
			return nil, fmt.Errorf("no card %q; there are %s: %w", words[i], cardNames(), reader.ErrInvalid)
		}
		c.Insert(kind.make(dev.Serial))
	}
	return d, nil
}

func duration(s string) (time.Duration, error) {
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		return 0, errors.New("is no duration such as 300ms or 2s")
	}
	return t, nil
}

// Open starts the emulated reader, which takes as long as start= says. A device
// that was not announced through Attach is made now, if its Address is a DEVICE.
func (d *Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	d.mu.Lock()
	dv := d.devices[dev.Address]
	if dv == nil {
		made, err := newDevice(dev.Address, dev)
		if err != nil {
			d.mu.Unlock()
			return nil, fmt.Errorf("sim: %w", err)
		}
		d.devices[dev.Address] = made
		dv = made
	}
	d.mu.Unlock()

	dv.mu.Lock()
	s := &session{driver: d, device: dv, gone: dv.gone}
	dv.session, dv.announced = s, true
	dv.replug = false // plug before this Open: the announcement served both
	dv.mu.Unlock()

	if dv.start > 0 {
		timer := time.NewTimer(dv.start)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.gone:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		s.Close()
		return nil, fmt.Errorf("sim %s: start: %w", dev.Address, err)
	}

	dv.mu.Lock()
	defer dv.mu.Unlock()
	if s.left() {
		// Unplugged while it started. A Reader that is gone, rather than an
		// error, because its Close tells when it may be plugged in again.
		s.slots = []reader.Slot{}
		for range dv.model.cards {
			s.slots = append(s.slots, goneSlot{"sim " + dev.Address})
		}
		return s, nil
	}
	r, err := dv.hw.plug(ctx, dv.dev)
	if err != nil {
		dv.session, dv.announced = nil, false
		return nil, fmt.Errorf("sim %s: %w", dev.Address, err)
	}
	s.inner, s.slots = r, r.Slots()
	return s, nil
}

// session is a device as Open gave it out: from being plugged in to unplugged.
type session struct {
	driver *Driver
	device *device
	inner  reader.Reader
	slots  []reader.Slot
	gone   chan struct{}
	once   sync.Once
}

var (
	_ reader.Reader     = (*session)(nil)
	_ reader.Identifier = (*session)(nil)
)

func (s *session) Slots() []reader.Slot  { return s.slots }
func (s *session) Gone() <-chan struct{} { return s.gone }

func (s *session) left() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// Identify passes on what the emulated reader's own driver says.
func (s *session) Identify() (string, map[string]string) {
	if i, ok := s.inner.(reader.Identifier); ok {
		return i.Identify()
	}
	return s.device.model.id.Model, nil
}

// Close ends what is under way. A device that is closed while it is plugged in
// was detached, and is forgotten.
func (s *session) Close() error {
	var err error
	s.once.Do(func() { err = s.close() })
	return err
}

func (s *session) close() error {
	dv := s.device
	dv.mu.Lock()
	detached := dv.session == s && !s.left()
	if detached {
		dv.plugged = false
		close(dv.gone)
		dv.hw.unplug()
	}
	replug := false
	if dv.session == s {
		dv.session = nil
		replug, dv.replug = dv.replug, false
		dv.announced = replug
	}
	dev := dv.dev
	dv.mu.Unlock()
	if detached {
		s.driver.forget(dv)
	}
	var err error
	if s.inner != nil {
		err = s.inner.Close()
	}
	if replug {
		if e := dev.Host.Announce(dev); !errors.Is(e, reader.ErrGone) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (d *Driver) forget(dv *device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.devices[dv.dev.Address] == dv {
		delete(d.devices, dv.dev.Address)
	}
}

// goneSlot is a slot of a reader that left before it was open.
type goneSlot struct{ name string }

func (g goneSlot) err() error { return fmt.Errorf("%s: %w", g.name, reader.ErrGone) }

func (g goneSlot) Status(context.Context) (reader.Status, error) { return reader.Absent, g.err() }

func (g goneSlot) PowerOn(context.Context, reader.Reset) ([]byte, error) { return nil, g.err() }

func (g goneSlot) PowerOff(context.Context) error { return g.err() }

func (g goneSlot) Traits() reader.Traits { return reader.Traits{Fixed: true} }

func (g goneSlot) Exchange(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
	return dst, g.err()
}
