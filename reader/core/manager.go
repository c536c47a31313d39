// Package core serves card readers to programs: a Manager knows every reader there is
// and gives each of its slots a number, a Slot keeps the power and the protocol of its
// card, a Session is one program's hold on a powered card.
//
// An ifd is a device from its announcement until it leaves. Its driver opens it, and opens
// it again if the reader died while its device stayed. Each opening has Slots of its own.
// One context for each of these carries the departure of the device. The ifd's ends with
// reader.Link.Gone or Detach. The opening's is derived from it, and also ends with
// reader.Reader.Gone. A Slot's ends when its directory is taken away.
//
// One caller at a time calls a Slot's driver: the one that has the slot's turn. The
// transmission protocols that the reader leaves to the host run in a link. Feeds report
// what happens. A transaction is the exclusive right to a slot. An epoch is the time
// between two resets of a card; its end ends the sessions that began in it.
//
// Lock order, the outer first: a slot's turn, Manager.mu, Slot.mu, the log of events, a
// feed. Drivers and OnLeave's function are called with no lock but the turn.
package core

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/limitlog"
	"github.com/cardfs/cardfs/reader/words"
)

// Options of a Manager. The zero value is usable.
type Options struct {
	Drivers []reader.Driver
	Log     *slog.Logger
	// Poll is the interval at which a slot is asked for its card if its reader sends
	// no notification; 0 means 400 ms, as in pcscd.
	Poll time.Duration
	// IdleOff is the time after which an unused card is powered off; 0: never.
	IdleOff time.Duration
	// ExchangeLimit bounds an exchange in which the card or the reader keeps asking
	// for time; 0 means an hour. Some tokens take 16 minutes to generate a key.
	ExchangeLimit time.Duration
	// Buses find devices. WatchBuses starts them; Close ends them.
	Buses []reader.Bus
}

// Manager owns all readers. It assigns numbers, lets readers arrive and leave, and informs
// the file system of both.
type Manager struct {
	options Options
	log     *slog.Logger
	limited *slog.Logger // for what devices and programs can cause as often as they like
	events  eventLog
	moments atomic.Uint64 // the newest Moment at which a card changed

	attachments atomic.Uint64 // how many Prepare made
	instance    string

	ctx     context.Context // ends when Close has finished with the devices
	cancel  context.CancelFunc
	leaving context.Context // ends when Close begins: nobody waits any more
	leave   context.CancelFunc
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	serial  uint64          // of the newest slot
	ifds    map[string]*ifd // present readers by identity
	slots   map[int]*Slot
	lowest  int                // no number below it is free
	names   map[string]*Slot   // by lasting name
	homes   map[string]home    // numbers that an identity had
	last    map[int]lastDevice // the device that has, or last had, a number
	onLeave func(*Slot)
	watched []reader.Bus

	pcsc       map[int]*ifd // readers by their numbers in PC/SC
	lowestPCSC int          // no number below it is free

	heldNumbers map[int]*ifd // of readers that are being revived
	heldNames   map[string]*ifd
}

// NewManager starts with no reader.
func NewManager(o Options) *Manager {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll == 0 {
		o.Poll = 400 * time.Millisecond
	}
	m := &Manager{
		instance: newInstance(),
		options:  o, log: o.Log, limited: limitlog.WithBurst(o.Log, logBurstOfAll),
		ifds: make(map[string]*ifd), slots: make(map[int]*Slot), names: make(map[string]*Slot),
		homes: make(map[string]home), last: make(map[int]lastDevice), pcsc: make(map[int]*ifd),
		heldNumbers: make(map[int]*ifd), heldNames: make(map[string]*ifd),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.leaving, m.leave = context.WithCancel(context.Background())
	return m
}

// OnLeave sets what is called, with no lock held, after a slot has left.
func (m *Manager) OnLeave(f func(*Slot)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onLeave = f
}

// Follow subscribes to the events of every slot; the present state comes first.
func (m *Manager) Follow() *Feed[Event] { return m.events.follow(nil) }

// Slot is the slot with that number, nil if there is none.
func (m *Manager) Slot(number int) *Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slots[number]
}

// Slots lists the slots by number.
func (m *Manager) Slots() []*Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Slot, 0, len(m.slots))
	for _, n := range slices.Sorted(maps.Keys(m.slots)) {
		list = append(list, m.slots[n])
	}
	return list
}

// Drivers lists the drivers.
func (m *Manager) Drivers() []reader.Driver { return m.options.Drivers }

func (m *Manager) driver(name string) reader.Driver {
	for _, d := range m.options.Drivers {
		if d.Name() == name {
			return d
		}
	}
	return nil
}

func (m *Manager) spawn(f func()) {
	m.work.Add(1)
	go func() {
		defer m.work.Done()
		f()
	}()
}

// identity is what stays the same when a device is unplugged and comes back:
// driver, IDs, and the serial number, or the port where there is none.
func identity(d reader.Device) string {
	where := d.Serial
	if where == "" {
		where = "@" + d.Port
	}
	if where == "@" {
		where = "@" + d.Address
	}
	return fmt.Sprintf("%s %04x:%04x %s", d.Driver, d.ID.Vendor, d.ID.Product, where)
}

// Announce makes dev a reader: its directories are there when Announce returns,
// and its driver opens it meanwhile. It never waits for the device. Two devices
// of one identity (clones with the same serial number) are told apart by port.
func (m *Manager) Announce(dev reader.Device) error {
	driver := m.driver(dev.Driver)
	if driver == nil {
		return fmt.Errorf("no driver %q: %w", dev.Driver, reader.ErrInvalid)
	}
	dev.ID.Model = words.Printable(dev.ID.Model, words.MaxValue)
	id := identity(dev)
	var linkGone <-chan struct{}
	if dev.Link != nil {
		if err := reader.Guard(m.log, dev.Driver+" link: Gone", func() { linkGone = dev.Link.Gone() }); err != nil {
			return err
		}
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return reader.ErrGone
	}
	if other := m.ifds[id]; other != nil && other.present() {
		if other.dev.Address == dev.Address {
			return other.isThere()
		}
		id += " @" + dev.Port + dev.Address
		if other := m.ifds[id]; other != nil && other.present() {
			return other.isThere()
		}
	}
	d := &ifd{
		manager: m, id: id, dev: dev, driver: driver, model: dev.ID.Model, linkGone: linkGone,
		retry: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	d.log = m.limited.With("reader", d.name())
	d.ctx, d.cancel = context.WithCancelCause(m.ctx)
	d.dev.Host = d
	d.opening = newOpening(d)
	before := m.ifds[id] // may still be closing its device
	if before != nil {
		m.unhold(before)
		m.freePCSC(before)
		if slots := before.takeSlots(); len(slots) > 0 {
			m.spawn(func() { m.tellLeft(slots) })
		}
	}
	m.ifds[id] = d
	if !d.hub() {
		m.takePCSC(d)
		d.count = d.allow(max(1, dev.Slots))
	}
	for range d.count {
		m.addSlot(d)
	}
	o := d.opening
	m.spawn(func() { d.run(o, before) })
	if d.linkGone != nil {
		m.spawn(func() {
			select {
			case <-d.linkGone:
				d.leave()
			case <-d.ctx.Done():
			}
		})
	}
	return nil
}

// hasFailed reports whether the reader is out of order until somebody does something about it.
// m.mu is held.
func (d *ifd) hasFailed() bool {
	return d.hubState == StateFailed || len(d.slots) > 0 && d.slots[0].isFailed()
}

// isThere returns an error for a device that is there already. m.mu is held.
func (d *ifd) isThere() error {
	at := ""
	if len(d.slots) > 0 {
		at = fmt.Sprintf(" as %d", d.slots[0].number)
	}
	return fmt.Errorf("%s is already attached%s: %w", d.name(), at, reader.ErrInvalid)
}

// remove is called with mu held, and tellLeft after it.
func (m *Manager) remove(slots []*Slot) {
	for _, s := range slots {
		if m.slots[s.number] == s {
			delete(m.slots, s.number)
			m.lowest = min(m.lowest, s.number)
		}
		if m.names[s.name] == s {
			delete(m.names, s.name)
		}
		s.leave()
	}
}

func (m *Manager) tellLeft(slots []*Slot) {
	m.mu.Lock()
	onLeave := m.onLeave
	m.mu.Unlock()
	if onLeave == nil {
		return
	}
	for _, s := range slots {
		onLeave(s)
	}
}

// Detach removes the reader with that slot: its directories and names are free when Detach
// returns. It does not wait for the device.
func (m *Manager) Detach(number int) error {
	s := m.Slot(number)
	if s == nil {
		return fmt.Errorf("no reader %d: %w", number, reader.ErrInvalid)
	}
	return m.detach(s.ifd)
}

func (m *Manager) detach(d *ifd) error {
	d.leave()
	d.dropSlots()
	return m.detached(d.dev)
}

// detached informs a device that a user detached it.
func (m *Manager) detached(dev reader.Device) error {
	if l, ok := dev.Link.(reader.Detacher); ok {
		return reader.Guard(m.log, dev.Name()+": Detached", l.Detached)
	}
	return nil
}

// WatchBuses makes the buses announce all present and future devices. A bus that fails is
// left out, because the other readers work without it.
func (m *Manager) WatchBuses() {
	for _, bus := range m.options.Buses {
		if err := bus.Watch(m.leaving, m, m.options.Drivers); err != nil {
			m.log.Warn("no "+bus.Name()+" readers", "error", err)
			continue
		}
		m.mu.Lock()
		m.watched = append(m.watched, bus)
		m.mu.Unlock()
	}
}

// buses returns the watched buses.
func (m *Manager) buses() []reader.Bus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.watched)
}

// Rescan looks for devices that no event announced, and reopens those that failed.
func (m *Manager) Rescan() {
	for _, bus := range m.buses() {
		bus.Rescan()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.ifds {
		if !d.hasFailed() {
			continue
		}
		select {
		case d.retry <- struct{}{}:
		default:
		}
	}
}

const (
	// logBurstOfAll is for all slots together: devices can come and go, each with its own.
	logBurstOfAll = 100
	// letGoLimit is how long Close waits for drivers that close their devices.
	letGoLimit = 5 * time.Second
	// powerOffLimit is how long a card's power-off may take after grace ended.
	powerOffLimit = 2 * time.Second
)

// Close lets everybody who waits go, lets the commands on the wire finish until
// grace ends, powers the cards off and closes the readers. The order matters:
//
//   - leave first: from here on nobody gets a turn, so that no card gets power;
//   - a power-up under way is cut short, a command is not, until grace ends;
//   - with the turn, each card's power is taken off: the last thing that goes to it;
//   - only then do the readers leave, for a driver that closes cannot power off.
func (m *Manager) Close(grace context.Context) {
	m.mu.Lock()
	m.closed = true
	slots := slices.Collect(maps.Values(m.slots))
	ifds := slices.Collect(maps.Values(m.ifds))
	m.mu.Unlock()
	m.leave()
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		var all sync.WaitGroup
		for _, s := range slots {
			all.Go(func() { s.quiesce(grace) })
		}
		all.Wait()
	}()
	select {
	case <-quiet:
	case <-grace.Done():
		select {
		case <-quiet:
		case <-time.After(letGoLimit):
			for _, s := range slots {
				if len(s.turn) > 0 {
					s.log.Warn("the driver does not end what is under way; leaving without it")
				}
			}
		}
	}
	for _, bus := range m.buses() {
		if err := bus.Close(); err != nil {
			m.log.Warn("close a bus", "bus", bus.Name(), "error", err)
		}
	}
	for _, d := range ifds {
		d.leave()
	}
	m.cancel()
	over := make(chan struct{})
	go func() {
		m.work.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(letGoLimit):
		for _, d := range ifds {
			if !closed(d.closed) {
				d.log.Warn("the driver does not let go of the device; leaving without it")
			}
		}
	}
	m.events.all.end(reader.ErrGone)
}

// quiesce waits for the exchange under way and takes the power off.
func (s *Slot) quiesce(grace context.Context) {
	s.mu.Lock()
	if s.raising { // powerUp looks at leaving under the same lock
		s.cut(reader.ErrGone)
	}
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
	default:
		select {
		case s.turn <- struct{}{}:
		case <-s.opening.over():
			return
		case <-grace.Done():
			s.mu.Lock()
			if s.cut != nil {
				s.cut(reader.ErrGone)
			}
			s.mu.Unlock()
			select {
			case s.turn <- struct{}{}:
			case <-s.opening.over():
				return
			case <-time.After(powerOffLimit):
				return
			}
		}
	}
	defer s.release()
	var err error
	defer s.opening.recovered("PowerOff", &err)
	if s.link == nil || !s.link.Active() || s.link.Traits().Shared {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stop := context.AfterFunc(grace, func() {
		t := time.AfterFunc(powerOffLimit, cancel)
		context.AfterFunc(ctx, func() { t.Stop() })
	})
	defer stop()
	s.powerOffIf(ctx, nil)
}
