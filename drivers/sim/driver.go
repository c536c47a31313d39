package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
)

// Driver is the driver and the owner of all its devices.
// The zero value is ready.
type Driver struct {
	// Log, if not nil, receives messages of the drivers of emulated readers.
	Log *slog.Logger

	mu      sync.Mutex
	devices map[string]*device // by address, unplugged ones included
}

var (
	_ reader.Driver    = (*Driver)(nil)
	_ reader.Attacher  = (*Driver)(nil)
	_ reader.Commander = (*Driver)(nil)
)

// New makes a driver without devices.
func New() *Driver { return new(Driver) }

// Name is "sim".
func (d *Driver) Name() string { return "sim" }

// IDs is empty: only attach announces these devices.
func (d *Driver) IDs() []reader.ID { return nil }

// Devices lists the words that attach takes as DEVICE.
func Devices() []string {
	var names []string
	for _, m := range models {
		names = append(names, m.name)
	}
	return names
}

// Table lists the words of Devices with their descriptions.
func Table() [][2]string {
	var all [][2]string
	for _, m := range models {
		all = append(all, [2]string{m.name, m.about})
	}
	return all
}

// device is one emulated reader, plugged in or not. It keeps its state until a user
// detaches it.
//
//	attached: plugged in --unplug--> unplugged --plug--> plugged in, announced again
//	    any --detach--> forgotten
type device struct {
	driver *Driver
	model  model
	start  time.Duration
	hw     hardware
	dev    reader.Device

	applications atomic.Int32 // how many of the cards in it have an application

	mu     sync.Mutex
	plug   *plug      // where it is plugged in; nil: unplugged
	kept   []icc.Card // removed cards, by slot
	faults []icc.Faults
}

// plug is one period of being plugged in. It is the reader.Device.Link.
type plug struct {
	device *device
	gone   chan struct{}
}

// Gone is closed by unplug.
func (p *plug) Gone() <-chan struct{} { return p.gone }

// Detached forgets the device.
func (p *plug) Detached() { p.device.forget() }

// Describe returns `warning` while a card with an application is in the reader. It takes no
// lock: a card that computes holds that of its contacts.
func (p *plug) Describe() map[string]string {
	if p.device.applications.Load() == 0 {
		return nil
	}
	return map[string]string{"warning": applet.Warning}
}

var _ reader.Describer = (*plug)(nil)

// put puts a card into a slot.
func (dv *device) put(slot *icc.Contact, card icc.Card) error {
	if err := slot.Insert(card); err != nil {
		return err
	}
	dv.count(card, +1)
	return nil
}

// take takes the card out of a slot; nil: there is none.
func (dv *device) take(slot *icc.Contact) icc.Card {
	card := slot.Remove()
	dv.count(card, -1)
	return card
}

func (dv *device) count(card icc.Card, n int32) {
	if _, ok := card.(*applet.Card); ok {
		dv.applications.Add(n)
	}
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
	made, err := d.newDevice(name, dev)
	if err != nil {
		return dev, err
	}
	return made.dev, nil
}

// newDevice makes a device that is plugged in. d.mu is held.
func (d *Driver) newDevice(name string, dev reader.Device) (*device, error) {
	i := slices.IndexFunc(models, func(m model) bool { return m.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no simulated reader %q; there are %s: %w", name, strings.Join(Devices(), ", "), reader.ErrInvalid)
	}
	m := models[i]
	if m.name == "piv" && strings.HasPrefix(dev.Params["model"], "yubikey") {
		m.id.Model = "Simulated YubiKey" // Yubico's tools look for the word in readers' names
	}
	dv := &device{driver: d, model: m, kept: make([]icc.Card, len(m.cards)), faults: make([]icc.Faults, len(m.cards))}
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
			dv.start, err = duration(value)
		case "slow":
			if value != slowReal {
				slow, err = duration(value)
			}
		case "serial":
			if value == "" {
				err = errors.New("is empty")
			}
			dev.Serial = value
		case memcard.Param:
			_, err = memcard.Told(value)
		default:
			if !slices.Contains(applet.Keys, key) {
				err = m.checkParam(key, value)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w: %w", key, value, err, reader.ErrInvalid)
		}
	}
	if dev.Serial == "" {
		dev.Serial = strings.ToUpper(dev.Address)
	}
	dev.Driver, dev.Bus, dev.ID, dev.Slots = "sim", "sim", m.id, len(m.cards)
	dv.plug = &plug{dv, make(chan struct{})}
	dev.Link = dv.plug
	dv.dev = dev
	dv.hw = m.make(dev.Serial)
	if err := checkSettings(dev.Params, words); err != nil {
		return nil, err
	}
	for i, c := range dv.hw.contacts() {
		dv.faults[i].Slow = slow
		c.SetFaults(dv.faults[i])
		if words[i] == noCard {
			continue
		}
		card, err := newCardOf(words[i], applet.NewSettings(dev.Serial, dev.Params))
		if err != nil {
			dv.closeCards()
			return nil, err
		}
		if say := sizeOf(card); say != "" && dv.dev.Params[memcard.Param] == "" {
			dv.dev.Params = maps.Clone(dev.Params) // the user said it with card=
			dv.dev.Params[memcard.Param] = say
		}
		dv.put(c, card)
	}
	if d.devices == nil {
		d.devices = make(map[string]*device)
	}
	d.devices[dev.Address] = dv
	return dv, nil
}

// Contacts are the card positions of an attached reader, for tests.
func (d *Driver) Contacts(dev reader.Device) []*icc.Contact {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dv := d.devices[dev.Address]; dv != nil {
		return dv.hw.contacts()
	}
	return nil
}

// slowReal has cards with an application take the time that real ones take.
const slowReal = "real"

// checkSettings refuses what only cards with an application take if none of the cards has
// one. An empty slot may get one later.
func checkSettings(params map[string]string, cards []string) error {
	takes := slices.ContainsFunc(cards, func(name string) bool {
		return name == noCard || slices.Contains(applicationCards(), name)
	})
	for _, key := range slices.Sorted(maps.Keys(params)) {
		if !takes && (slices.Contains(applet.Keys, key) || key == "slow" && params[key] == slowReal) {
			return fmt.Errorf("%s=%s: only cards with an application take that: %s: %w",
				key, params[key], strings.Join(applicationCards(), ", "), reader.ErrInvalid)
		}
	}
	return nil
}

// closeCards gives the state files of all cards free, those that were taken out included.
func (dv *device) closeCards() {
	for i, c := range dv.hw.contacts() {
		closeCard(dv.take(c))
		closeCard(dv.kept[i])
	}
}

// checkParam checks a parameter of the device's own driver.
func (m *model) checkParam(key, value string) error {
	values, known := m.params[key]
	switch {
	case !known:
		all := append(slices.Concat([]string{"card", "memory", "start", "slow", "serial"}, applet.Keys), slices.Sorted(maps.Keys(m.params))...)
		return errors.New("is not known; there are " + strings.Join(all, ", "))
	case !slices.Contains(values, value):
		return errors.New("is none of " + strings.Join(values, ", "))
	}
	return nil
}

// Params lists the parameters that a DEVICE has beside those of all, with their values.
func Params(device string) map[string][]string {
	for _, m := range models {
		if m.name == device {
			return m.params
		}
	}
	return nil
}

func duration(s string) (time.Duration, error) {
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		return 0, errors.New("is no duration such as 300ms or 2s")
	}
	return t, nil
}

// Open starts the emulated reader, which takes the time of start=. If the device did not
// come through Attach and its Address is a DEVICE, Open makes it.
func (d *Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	p, announced := dev.Link.(*plug)
	if !announced {
		d.mu.Lock()
		made, err := d.newDevice(dev.Address, dev)
		d.mu.Unlock()
		if err != nil {
			return nil, fmt.Errorf("sim: %w", err)
		}
		p = made.plug
	}
	dv := p.device
	if dv.start > 0 {
		timer := time.NewTimer(dv.start)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.gone:
		case <-ctx.Done():
			return nil, fmt.Errorf("sim %s: start: %w", dev.Address, ctx.Err())
		}
	}
	dv.mu.Lock()
	if dv.plug != p {
		dv.mu.Unlock()
		return nil, fmt.Errorf("sim %s: start: unplugged: %w", dev.Address, reader.ErrGone)
	}
	// The driver of the emulated device announces nothing, but the core guards its
	// goroutines.
	inner := dv.dev
	inner.Host = dev.Host
	open := dv.hw.plug(inner, d.Log)
	dv.mu.Unlock()
	// Without the lock: whoever opens a silent device waits, and it can be unplugged meanwhile.
	r, err := open(ctx)
	dv.mu.Lock()
	here := dv.plug == p
	if err != nil && here {
		dv.hw.unplug() // a device on a line works until then
	}
	dv.mu.Unlock()
	switch {
	case err != nil && !here:
		return nil, fmt.Errorf("sim %s: unplugged: %w (%v)", dev.Address, reader.ErrGone, err)
	case err != nil:
		return nil, fmt.Errorf("sim %s: %w", dev.Address, err)
	}
	return &session{plug: p, inner: r, announced: announced}, nil
}

// session is the Reader that Open returns.
type session struct {
	plug      *plug
	inner     reader.Reader
	announced bool
	once      sync.Once
}

var (
	_ reader.Reader     = (*session)(nil)
	_ reader.Identifier = (*session)(nil)
)

func (s *session) Slots() []reader.Slot  { return s.inner.Slots() }
func (s *session) Gone() <-chan struct{} { return s.plug.gone }

// Identify returns the answer of the emulated reader's own driver.
func (s *session) Identify() (string, map[string]string) {
	if i, ok := s.inner.(reader.Identifier); ok {
		return i.Identify()
	}
	return s.plug.device.model.id.Model, nil
}

// Close ends all calls under way.
func (s *session) Close() (err error) {
	s.once.Do(func() {
		dv := s.plug.device
		dv.mu.Lock()
		if dv.plug == s.plug {
			dv.hw.unplug()
		}
		dv.mu.Unlock()
		err = s.inner.Close()
		if !s.announced {
			dv.forget()
		}
	})
	return err
}

// forget frees the device's address.
func (dv *device) forget() {
	dv.mu.Lock()
	dv.pull()
	dv.closeCards()
	dv.mu.Unlock()
	dv.driver.mu.Lock()
	defer dv.driver.mu.Unlock()
	if dv.driver.devices[dv.dev.Address] == dv {
		delete(dv.driver.devices, dv.dev.Address)
	}
}

// pull unplugs the device if it is plugged in. dv.mu is held.
func (dv *device) pull() {
	if dv.plug != nil {
		close(dv.plug.gone)
		dv.plug = nil
		dv.hw.unplug()
	}
}
