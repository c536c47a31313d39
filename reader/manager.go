package reader

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a Manager. The zero value is usable.
type Options struct {
	Drivers []Driver
	Log     *slog.Logger
	// Poll is how often a slot is asked for its card whose reader does not
	// tell by itself; 0 means 400 ms, which is pcscd's.
	Poll time.Duration
	// IdleOff takes the power off a card that was not used for so long; 0: never.
	IdleOff time.Duration
	// ExchangeLimit is how long one exchange may take in which the card or the
	// reader keeps asking for time; 0 means an hour. Tokens make keys for 16 minutes.
	ExchangeLimit time.Duration
	// Rescan looks for devices that no event announced; nil if nothing can.
	Rescan func()
}

// Manager knows every reader there is. It alone gives numbers, lets readers
// arrive and leave, and tells whoever shows them as files.
//
// Locks, the outer first: a bay's turn, Manager.mu, Bay.mu, the log of events, a feed.
// Drivers are called, and OnLeave's function is, with no lock but the turn.
type Manager struct {
	options Options
	log     *slog.Logger
	limited *slog.Logger // for what devices and programs can cause as often as they like
	events  eventLog
	moments atomic.Uint64 // the newest Moment at which a card changed

	ctx     context.Context // ends when Close has finished with the devices
	cancel  context.CancelFunc
	leaving context.Context // ends when Close begins: nobody waits any more
	leave   context.CancelFunc
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	serial  uint64           // of the newest bay
	units   map[string]*unit // present readers by identity
	bays    map[int]*Bay
	lowest  int                // no number below it is free
	names   map[string]*Bay    // by lasting name
	homes   map[string]home    // numbers that an identity had
	last    map[int]lastDevice // the device that has, or last had, a number
	onLeave func(*Bay)

	heldNumbers map[int]*unit // of readers that are being revived
	heldNames   map[string]*unit
}

// NewManager starts with no reader.
func NewManager(o Options) *Manager {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll == 0 {
		o.Poll = 400 * time.Millisecond
	}
	if o.ExchangeLimit == 0 {
		o.ExchangeLimit = time.Hour
	}
	m := &Manager{
		options: o, log: o.Log, limited: limitLog(o.Log, logBurstOfAll),
		units: make(map[string]*unit), bays: make(map[int]*Bay), names: make(map[string]*Bay),
		homes: make(map[string]home), last: make(map[int]lastDevice),
		heldNumbers: make(map[int]*unit), heldNames: make(map[string]*unit),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.leaving, m.leave = context.WithCancel(context.Background())
	return m
}

// OnLeave sets what is called, with no lock held, after a bay has left.
func (m *Manager) OnLeave(f func(*Bay)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onLeave = f
}

// Follow subscribes to the events of every slot; the present state comes first.
func (m *Manager) Follow() *Feed[Event] { return m.events.follow(nil) }

// Bay is the slot with that number, nil if there is none.
func (m *Manager) Bay(number int) *Bay {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bays[number]
}

// Bays lists the slots by number.
func (m *Manager) Bays() []*Bay {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Bay, 0, len(m.bays))
	for _, n := range slices.Sorted(maps.Keys(m.bays)) {
		list = append(list, m.bays[n])
	}
	return list
}

// Drivers lists the drivers.
func (m *Manager) Drivers() []Driver { return m.options.Drivers }

func (m *Manager) driver(name string) Driver {
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
func (d Device) identity() string {
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
func (m *Manager) Announce(dev Device) error {
	driver := m.driver(dev.Driver)
	if driver == nil {
		return fmt.Errorf("no driver %q: %w", dev.Driver, ErrInvalid)
	}
	dev.ID.Model = printable(dev.ID.Model, maxValue)
	id := dev.identity()
	var linkGone <-chan struct{}
	if l, ok := dev.Link.(interface{ Gone() <-chan struct{} }); ok {
		if err := Guard(m.log, dev.Driver+" link: Gone", func() { linkGone = l.Gone() }); err != nil {
			return err
		}
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrGone
	}
	if other := m.units[id]; other != nil && other.present() {
		if other.dev.Address == dev.Address {
			return other.isThere()
		}
		id += " @" + dev.Port + dev.Address
		if other := m.units[id]; other != nil && other.present() {
			return other.isThere()
		}
	}
	u := &unit{
		manager: m, id: id, dev: dev, driver: driver, model: dev.ID.Model, linkGone: linkGone,
		gone: make(chan struct{}), retry: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	u.dev.Host = u
	u.life = newLife(u)
	before := m.units[id] // may still be closing its device
	if before != nil {
		m.unhold(before)
		if bays := before.takeBays(); len(bays) > 0 {
			m.spawn(func() { m.tellLeft(bays) })
		}
	}
	m.units[id] = u
	u.slots = u.allow(max(1, dev.Slots))
	for range u.slots {
		m.addBay(u)
	}
	l := u.life
	m.spawn(func() { u.run(l, before) })
	if u.linkGone != nil {
		m.spawn(func() {
			select {
			case <-u.linkGone:
				u.left()
			case <-u.gone:
			}
		})
	}
	return nil
}

// isThere refuses a device that is there already. The manager's mu is held.
func (u *unit) isThere() error {
	at := ""
	if len(u.bays) > 0 {
		at = fmt.Sprintf(" as %d", u.bays[0].number)
	}
	return fmt.Errorf("%s is already attached%s: %w", u.name(), at, ErrInvalid)
}

// remove is called with mu held, and tellLeft after it.
func (m *Manager) remove(bays []*Bay) {
	for _, b := range bays {
		if m.bays[b.number] == b {
			delete(m.bays, b.number)
			m.lowest = min(m.lowest, b.number)
		}
		if m.names[b.name] == b {
			delete(m.names, b.name)
		}
		b.leave()
	}
}

func (m *Manager) tellLeft(bays []*Bay) {
	m.mu.Lock()
	onLeave := m.onLeave
	m.mu.Unlock()
	if onLeave == nil {
		return
	}
	for _, b := range bays {
		onLeave(b)
	}
}

// Detach makes the reader that has slot number leave: its directories and names
// are free when Detach returns. It does not wait for the device.
func (m *Manager) Detach(number int) error {
	b := m.Bay(number)
	if b == nil {
		return fmt.Errorf("no reader %d: %w", number, ErrInvalid)
	}
	b.unit.left()
	b.unit.dropBays()
	if l, ok := b.unit.dev.Link.(interface{ Detached() }); ok {
		return Guard(m.log, b.unit.name()+": Detached", l.Detached)
	}
	return nil
}

// rescan looks for devices that no event announced, and opens those again that failed.
func (m *Manager) rescan() {
	if m.options.Rescan != nil {
		m.options.Rescan()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.units {
		if len(u.bays) == 0 || !u.bays[0].isFailed() {
			continue
		}
		select {
		case u.retry <- struct{}{}:
		default:
		}
	}
}

const (
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
	bays := slices.Collect(maps.Values(m.bays))
	units := slices.Collect(maps.Values(m.units))
	m.mu.Unlock()
	m.leave()
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		var all sync.WaitGroup
		for _, b := range bays {
			all.Go(func() { b.quiesce(grace) })
		}
		all.Wait()
	}()
	select {
	case <-quiet:
	case <-grace.Done():
		select {
		case <-quiet:
		case <-time.After(letGoLimit):
			m.log.Warn("a driver does not end what is under way; leaving without it")
		}
	}
	for _, u := range units {
		u.left()
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
		m.log.Warn("a driver does not let go of its device; leaving without it")
	}
	m.events.all.end(ErrGone)
}

// quiesce waits for the exchange under way and takes the power off.
func (b *Bay) quiesce(grace context.Context) {
	b.mu.Lock()
	if b.raising { // powerUp looks at leaving under the same lock
		b.cut(ErrGone)
	}
	b.mu.Unlock()
	select {
	case b.turn <- struct{}{}:
	default:
		select {
		case b.turn <- struct{}{}:
		case <-b.life.over:
			return
		case <-grace.Done():
			b.mu.Lock()
			if b.cut != nil {
				b.cut(ErrGone)
			}
			b.mu.Unlock()
			select {
			case b.turn <- struct{}{}:
			case <-b.life.over:
				return
			case <-time.After(powerOffLimit):
				return
			}
		}
	}
	defer b.release()
	var err error
	defer b.life.recovered("PowerOff", &err)
	if b.link.slot == nil || !b.link.active {
		return
	}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	stop := context.AfterFunc(grace, func() {
		t := time.AfterFunc(powerOffLimit, cancel)
		context.AfterFunc(ctx, func() { t.Stop() })
	})
	defer stop()
	b.powerOffIf(ctx, nil)
}
