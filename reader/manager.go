package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
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
type Manager struct {
	options Options
	log     *slog.Logger
	events  eventLog

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
	names   map[string]*Bay  // by lasting name
	homes   map[string][]int // numbers that an identity had
	last    map[int]Device   // the device that has, or last had, a number
	onLeave func(*Bay)
}

// unit is one reader: an announced device, then what its driver made of it.
type unit struct {
	manager  *Manager
	dev      Device
	driver   Driver
	ctx      context.Context
	cancel   context.CancelFunc
	gone     chan struct{}   // closed when the device left or is being detached
	linkGone <-chan struct{} // closed when the device left, where its link tells; else nil
	once     sync.Once
	closed   chan struct{} // closed when nothing holds the device any more

	// The rest is under the manager's mu.
	bays   []*Bay
	reader Reader
	model  string
	more   map[string]string
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
		options: o, log: o.Log,
		units: make(map[string]*unit), bays: make(map[int]*Bay), names: make(map[string]*Bay),
		homes: make(map[string][]int), last: make(map[int]Device),
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
	dev.Host = m
	id := dev.identity()

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrGone
	}
	if other := m.units[id]; other != nil && other.present() {
		if other.dev.Address == dev.Address {
			return fmt.Errorf("%s %s is already attached as %d: %w", dev.Driver, dev.Address, other.bays[0].number, ErrInvalid)
		}
		id += " @" + dev.Port + dev.Address
		if other := m.units[id]; other != nil && other.present() {
			return fmt.Errorf("%s %s is already attached as %d: %w", dev.Driver, dev.Address, other.bays[0].number, ErrInvalid)
		}
	}
	u := &unit{
		manager: m, dev: dev, driver: driver, model: dev.ID.Model,
		gone: make(chan struct{}), closed: make(chan struct{}),
	}
	if l, ok := dev.Link.(interface{ Gone() <-chan struct{} }); ok {
		u.linkGone = l.Gone()
	}
	u.ctx, u.cancel = context.WithCancel(m.ctx)
	before := m.units[id] // may still be closing its device
	if before != nil {
		if bays := before.takeBays(); len(bays) > 0 {
			m.spawn(func() { m.tellLeft(bays) })
		}
	}
	m.units[id] = u
	for range max(1, dev.Slots) {
		m.addBay(u, id)
	}
	m.spawn(func() { u.run(id, before) })
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

// addBay gives u one more slot, with the number it had before if that is
// free, else the lowest free one. m.mu is held.
func (m *Manager) addBay(u *unit, id string) {
	index, home := len(u.bays), m.homes[id]
	number := 0
	if index < len(home) && m.bays[home[index]] == nil {
		number = home[index]
	} else {
		// A number that another slot of this reader had is left for that one.
		for m.bays[number] != nil || slices.Contains(home[min(index, len(home)):], number) {
			number++
		}
	}
	if index < len(home) {
		home[index] = number
	} else {
		m.homes[id] = append(home, number)
	}
	b := newBay(m, u, number, index)
	m.serial++
	b.serial = m.serial
	u.bays = append(u.bays, b)
	m.bays[number] = b
	if m.names[b.name] != nil {
		// Clones that share a serial number: the later has its number behind the name.
		b.name = fmt.Sprintf("%s-%d", b.name, number)
	}
	m.names[b.name] = b
	last := u.dev
	last.Slot = index
	m.last[number] = last
	b.mu.Lock()
	b.publish(Arrived, "driver", u.dev.Driver, "device", u.dev.Address, "reader", u.model)
	b.mu.Unlock()
}

// present tells whether the unit has not begun to leave. What its device says of
// that counts before the unit has noticed it: the same device may be announced
// anew at once. The manager's mu is held, or the turn of a bay that was started.
func (u *unit) present() bool {
	if !closed(u.gone) && !closed(u.linkGone) && (u.reader == nil || !closed(u.reader.Gone())) {
		return true
	}
	u.left()
	return false
}

// closed tells whether c, on which nothing is sent, is closed; nil never is.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// left makes the unit leave; it only gives the signal.
func (u *unit) left() { u.once.Do(func() { close(u.gone) }) }

// run is the life of a reader: open, serve until it is gone, clean up.
func (u *unit) run(id string, before *unit) {
	defer u.depart(id)
	if before != nil {
		// The same device is there again; whoever had it must let go first.
		select {
		case <-before.closed:
		case <-u.gone:
			u.dropBays()
			<-before.closed // whoever comes after this one waits for it alone
			return
		}
	}
	opened := make(chan struct{})
	var r Reader
	var err error
	u.manager.spawn(func() {
		defer close(opened)
		r, err = u.driver.Open(u.ctx, u.dev)
	})
	select {
	case <-opened:
	case <-u.gone:
		u.cancel()
		u.dropBays()
		<-opened
		if err == nil {
			r.Close()
		}
		return
	}
	if err == nil && len(r.Slots()) == 0 {
		r.Close()
		err = errors.New("the driver found no slot")
	}
	if err != nil {
		u.failed(err)
		<-u.gone
		return
	}
	u.begin(id, r)
	select {
	case <-r.Gone():
		u.left()
	case <-u.gone:
	}
	u.dropBays()
	if err := r.Close(); err != nil {
		u.manager.log.Warn("close", "driver", u.dev.Driver, "device", u.dev.Address, "error", err)
	}
}

// failed keeps the reader's directories, with the reason, until it is
// unplugged or detached.
func (u *unit) failed(err error) {
	if errors.Is(err, ErrGone) {
		u.left()
		return
	}
	err = fmt.Errorf("%s %s: %w", u.dev.Driver, u.dev.Address, err)
	for _, b := range u.list() {
		b.fail(err)
	}
}

// begin gives the bays their slots; a reader with more than were announced
// gets more bays, one with fewer loses some.
func (u *unit) begin(id string, r Reader) {
	m, slots := u.manager, r.Slots()
	var model string
	var more map[string]string
	if i, ok := r.(Identifier); ok {
		model, more = i.Identify() // may ask the device: not while holding mu
	}
	m.mu.Lock()
	if closed(u.gone) { // and another may have its numbers
		m.mu.Unlock()
		return
	}
	u.reader = r
	if u.more = more; model != "" {
		u.model = model
	}
	for len(u.bays) < len(slots) {
		m.addBay(u, id)
	}
	surplus := u.bays[len(slots):]
	u.bays = u.bays[:len(slots):len(slots)]
	m.remove(surplus)
	m.mu.Unlock()
	m.tellLeft(surplus)
	for i, b := range u.list() {
		// Apart, as a slot may take its time: its siblings work meanwhile, and
		// the reader may leave.
		m.spawn(func() {
			b.start(slots[i])
			b.monitor()
		})
	}
}

// list is a copy of the unit's bays.
func (u *unit) list() []*Bay {
	u.manager.mu.Lock()
	defer u.manager.mu.Unlock()
	return slices.Clone(u.bays)
}

// dropBays takes the directories away; who waits in them gets ErrGone at once.
func (u *unit) dropBays() {
	u.manager.mu.Lock()
	bays := u.takeBays()
	u.manager.mu.Unlock()
	u.manager.tellLeft(bays)
	u.cancel()
}

// takeBays takes the bays out of the tree, with the manager's mu held: before
// another reader can have their numbers, the events say that these have left.
func (u *unit) takeBays() []*Bay {
	bays := u.bays
	u.bays = nil
	u.manager.remove(bays)
	return bays
}

// remove is called with mu held, and tellLeft after it.
func (m *Manager) remove(bays []*Bay) {
	for _, b := range bays {
		if m.bays[b.number] == b {
			delete(m.bays, b.number)
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

// depart ends what is left of the unit.
func (u *unit) depart(id string) {
	u.left()
	u.dropBays()
	u.manager.mu.Lock()
	if u.manager.units[id] == u {
		delete(u.manager.units, id)
	}
	u.manager.mu.Unlock()
	close(u.closed)
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
	return nil
}

// letGoLimit is how long Close waits for drivers that close their devices.
const letGoLimit = 5 * time.Second

// Close lets everybody who waits go, lets the commands on the wire finish until
// grace ends, powers the cards off and closes the readers.
func (m *Manager) Close(grace context.Context) {
	m.mu.Lock()
	m.closed = true
	bays := slices.Collect(maps.Values(m.bays))
	units := slices.Collect(maps.Values(m.units))
	m.mu.Unlock()
	m.leave()
	var quiet sync.WaitGroup
	for _, b := range bays {
		quiet.Go(func() { b.quiesce(grace) })
	}
	quiet.Wait()
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
	select {
	case b.turn <- struct{}{}:
	case <-grace.Done():
		return
	case <-b.ctx.Done():
		return
	}
	defer b.release()
	if b.link.slot != nil && b.link.active {
		stop := context.AfterFunc(grace, b.cancel)
		b.powerOff()
		stop()
	}
}
