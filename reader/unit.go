package reader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// unit is one device from its announcement until it left or was detached. Its driver
// opens it once, and again when the reader died although the device is still there:
//
//	         Open                 reader died, device still there
//	announced ─────▶ serving ──────────────────────────────────────▶ reviving
//	    │               │ panic                 │ too often             │ pause
//	    │ Open failed   ▼                       ▼                       ▼
//	    └───────────▶ failed ◀──────────────────┘                 announced again
//	                    │ rescan: announced again
//	any state ── device left, detached ──▶ gone
type unit struct {
	manager  *Manager
	id       string // see Device.identity
	dev      Device
	driver   Driver
	gone     chan struct{}   // closed when the device left or is being detached
	linkGone <-chan struct{} // closed when the device left, where its link tells; else nil
	once     sync.Once
	retry    chan struct{} // carries a value when a unit that failed is to be opened again
	closed   chan struct{} // closed when nothing holds the device any more

	// The rest is under the manager's mu.
	life  *life
	bays  []*Bay
	model string
	more  map[string]string
	slots int    // how many bays it has, while they are away too
	note  string // why some of its slots are not served, for `status`
}

// life is one opening of the device: its bays are of this life and no other.
type life struct {
	unit   *unit
	ctx    context.Context // ends when the bays leave
	cancel context.CancelFunc
	over   chan struct{} // closed by end
	once   sync.Once
	why    error // why it is over; set before over is closed

	died atomic.Pointer[<-chan struct{}] // the reader's own Gone, once it is open
}

func newLife(u *unit) *life {
	l := &life{unit: u, over: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(u.manager.ctx)
	return l
}

// end gives the signal that l is over; the first reason counts.
func (l *life) end(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.over)
	})
}

// dead reports whether l's reader says that it is gone.
func (l *life) dead() bool {
	died := l.died.Load()
	return died != nil && closed(*died)
}

// present reports whether l goes on. What its device says of that counts before
// anybody has noticed it.
func (l *life) present() bool {
	switch u := l.unit; {
	case closed(l.over):
	case closed(u.gone), closed(u.linkGone):
		u.left()
		l.end(ErrGone)
	case l.dead():
		l.lost(ErrGone)
	default:
		return true
	}
	return false
}

// lost ends l when its reader says that it is gone. Where the device's link does not
// tell death from departure the device counts as gone. A reader that failed before, and
// was closed, says so too, and that means nothing.
func (l *life) lost(err error) {
	l.once.Do(func() {
		if l.unit.linkGone == nil {
			l.unit.left()
		}
		l.why = err
		close(l.over)
	})
}

// err is what those hear who come when l is over.
func (l *life) err() error {
	if closed(l.over) && errors.Is(l.why, ErrFailed) {
		return l.why
	}
	return ErrGone
}

// recovered is deferred around every call of l's driver.
func (l *life) recovered(what string, err *error) {
	if v := recover(); v != nil {
		*err = l.crash(what, v)
	}
}

// crash fails the reader because of a panic.
func (l *life) crash(what string, v any) error {
	u := l.unit
	err := panicked(u.manager.log, u.name()+": "+what, v)
	l.end(err)
	for _, b := range u.list() {
		if b.life == l {
			b.fail(err)
		}
	}
	return err
}

func (u *unit) name() string { return u.dev.Driver + " " + printable(u.dev.Address, maxValue) }

// Announce makes unit a Host: what a driver announces is a reader of its own.
func (u *unit) Announce(dev Device) error { return u.manager.Announce(dev) }

// Go is the function Go, for the unit's driver.
func (u *unit) Go(f func()) {
	u.manager.mu.Lock()
	l := u.life
	u.manager.mu.Unlock()
	go func() {
		var err error
		defer l.recovered("a goroutine of the driver", &err)
		f()
	}()
}

// present reports whether the device is there as far as it says itself. The
// manager's mu is held.
func (u *unit) present() bool {
	// A reader that was closed says what it likes; see life.lost for the others.
	died := u.linkGone == nil && !closed(u.life.over) && u.life.dead()
	if !closed(u.gone) && !closed(u.linkGone) && !died {
		return true
	}
	u.left()
	return false
}

// closed reports whether c, on which nothing is sent, is closed; nil never is.
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

const (
	// deathsMost is how often in a row a reader is revived; a life of longLife
	// begins the count anew.
	deathsMost = 3
	longLife   = time.Minute
	// deathPause is how long a dead reader's directories are away: mostly the device
	// was unplugged, and the news of that is on its way.
	deathPause = 100 * time.Millisecond
)

// revivalPause is how long after that the driver is called again, so that a device
// has time to start anew: after the first death at once.
func revivalPause(deaths int) time.Duration {
	if deaths < 2 {
		return 0
	}
	return time.Second << (2 * (deaths - 2))
}

// run is the whole way of a unit.
func (u *unit) run(l *life, before *unit) {
	defer u.depart()
	if before != nil && !u.await(before.closed) { // whoever had the device must let go first
		return
	}
	for deaths := 0; ; {
		began := time.Now()
		served, err := u.serve(l)
		switch {
		case closed(u.gone):
			return
		case errors.Is(err, ErrGone) && u.linkGone == nil:
			return // nothing tells death from departure
		}
		var panicked *panicError
		fatal := errors.As(err, &panicked) || !served && deaths == 0 && !errors.Is(err, ErrGone)
		if !fatal {
			if served && time.Since(began) >= longLife {
				deaths = 0
			}
			deaths++
			err = fmt.Errorf("the reader died (%v)", err) // not an ErrGone: it is there
			if fatal = deaths > deathsMost; fatal {
				err = fmt.Errorf("%w, %d times in a row; plug it in anew, or write rescan to ctl", err, deaths)
			}
			u.manager.log.Warn("reader died", "driver", u.dev.Driver, "device", u.dev.Address, "times", deaths, "given up", fatal, "error", err)
			if served {
				if !u.pause(deathPause) {
					return
				}
				if l = u.renew(); l == nil {
					return
				}
			}
		}
		if fatal {
			u.failed(err)
			select {
			case <-u.retry:
			case <-u.gone:
				return
			}
			if l = u.renew(); l == nil {
				return
			}
			deaths = 0
			continue
		}
		u.noteError(err)
		pause := revivalPause(deaths)
		if !served {
			pause = max(pause, deathPause)
		}
		if !u.pause(pause) {
			return
		}
	}
}

// pause waits for d; it is false if the device left meanwhile.
func (u *unit) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-u.gone:
		return false
	}
}

// await waits for done, which others may wait for too; it is false if the device left
// meanwhile. Its directories do not wait for done.
func (u *unit) await(done <-chan struct{}) bool {
	select {
	case <-done:
		return !closed(u.gone)
	case <-u.gone:
		u.dropBays()
		<-done
		return false
	}
}

// serve is one life: the driver opens the device and serves it until that is over.
// served is false where it never began.
func (u *unit) serve(l *life) (served bool, err error) {
	r, died, slots, err := u.open(l)
	if err != nil {
		return false, err
	}
	if u.begin(l, r, died, slots) {
		select {
		case <-died:
			l.lost(ErrGone)
		case <-l.over:
		case <-u.gone:
			l.end(ErrGone)
		}
	} else {
		l.end(ErrGone)
	}
	err = l.why
	if err == ErrGone {
		err = l.reason(r)
	}
	if !errors.Is(err, ErrFailed) {
		u.holdBays()
	}
	u.close(l, r)
	return true, err
}

// reason is why r says that it is gone.
func (l *life) reason(r Reader) (err error) {
	defer l.recovered("Err", &err)
	if e, ok := r.(interface{ Err() error }); ok {
		if err := e.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
	}
	return fmt.Errorf("it answers nothing any more: %w", ErrGone)
}

// open has the driver open the device.
func (u *unit) open(l *life) (r Reader, died <-chan struct{}, slots []Slot, err error) {
	opened := make(chan struct{})
	u.manager.spawn(func() {
		defer close(opened)
		defer l.recovered("Open", &err)
		if r, err = u.driver.Open(l.ctx, u.dev); err == nil && r == nil {
			err = errors.New("the driver made no reader")
		}
		if err == nil {
			died, slots = r.Gone(), r.Slots()
		}
	})
	select {
	case <-opened:
	case <-l.over: // one of the driver's own goroutines crashed
		l.cancel()
	case <-u.gone:
		l.cancel()
	}
	u.await(opened)
	switch {
	case closed(u.gone):
		err = ErrGone
	case closed(l.over):
		err = l.why
	case err != nil:
	case len(slots) == 0:
		err = errors.New("the driver found no slot")
	}
	if err != nil && r != nil {
		u.close(l, r)
	}
	return r, died, slots, err
}

// close closes r. It may take its time; the directories do not wait for it.
func (u *unit) close(l *life, r Reader) {
	done := make(chan struct{})
	u.manager.spawn(func() {
		defer close(done)
		err := func() (err error) {
			defer l.recovered("Close", &err)
			return r.Close()
		}()
		if err != nil {
			u.manager.log.Warn("close", "driver", u.dev.Driver, "device", u.dev.Address, "error", err)
		}
	})
	if !errors.Is(l.err(), ErrFailed) {
		u.await(done)
		return
	}
	// The panic may have left a lock of the driver's behind, for which Close waits for ever.
	t := time.NewTimer(letGoLimit)
	defer t.Stop()
	gone := u.gone
	for {
		select {
		case <-done:
		case <-gone:
			u.dropBays()
			gone = nil
			continue
		case <-t.C:
			u.manager.log.Warn("a driver does not let go of its device after a panic; going on without it", "driver", u.dev.Driver, "device", u.dev.Address)
		}
		return
	}
}

// failed keeps the reader's directories, with the reason, until it is unplugged or
// detached, or opened again.
func (u *unit) failed(err error) {
	var panicked *panicError
	if !errors.As(err, &panicked) {
		err = fmt.Errorf("%s: %w", u.name(), err)
	}
	for _, b := range u.list() {
		b.fail(err)
	}
}

// noteError says in `status` why the reader is not ready yet.
func (u *unit) noteError(err error) {
	for _, b := range u.list() {
		b.mu.Lock()
		b.lastErr = err
		b.mu.Unlock()
	}
}

// begin gives the bays their slots; a reader with more than were announced gets more
// bays, one with fewer loses some. It is false if the device left meanwhile.
func (u *unit) begin(l *life, r Reader, died <-chan struct{}, slots []Slot) bool {
	m := u.manager
	model, more := u.identify(l, r)
	m.mu.Lock()
	if closed(u.gone) { // and another may have its numbers
		m.mu.Unlock()
		return false
	}
	l.died.Store(&died)
	slots = slots[:u.allow(len(slots))]
	if u.more = more; model != "" {
		u.model = model
	}
	for len(u.bays) < len(slots) {
		m.addBay(u)
	}
	surplus := u.bays[len(slots):]
	u.bays = u.bays[:len(slots):len(slots)]
	m.remove(surplus)
	u.slots = len(u.bays)
	bays := slices.Clone(u.bays)
	m.mu.Unlock()
	m.tellLeft(surplus)
	for i, b := range bays {
		// Apart, as a slot may take its time: its siblings work meanwhile, and
		// the reader may leave.
		m.spawn(func() {
			b.start(slots[i])
			b.monitor()
		})
	}
	return true
}

// allow is how many of n slots the unit may have. The manager's mu is held.
func (u *unit) allow(n int) int {
	u.note = ""
	if n > maxSlots {
		u.note = fmt.Sprintf("%d, of which %d are served", n, maxSlots)
	}
	return min(n, maxSlots)
}

// identify may ask the device.
func (u *unit) identify(l *life, r Reader) (model string, more map[string]string) {
	var err error
	defer l.recovered("Identify", &err)
	if i, ok := r.(Identifier); ok {
		model, more = i.Identify()
	}
	return printable(model, maxValue), tidy(more)
}

// renew makes a life and its bays, with the numbers that the unit had; nil if the
// device left.
func (u *unit) renew() *life {
	m := u.manager
	m.mu.Lock()
	if !u.present() || m.closed {
		m.mu.Unlock()
		return nil
	}
	old := u.takeBays()
	u.life, u.more = newLife(u), nil
	for range u.slots {
		m.addBay(u)
	}
	m.unhold(u)
	l := u.life
	m.mu.Unlock()
	m.tellLeft(old)
	return l
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
}

// holdBays is dropBays for a reader that may be revived: nobody else gets its
// numbers and names meanwhile.
func (u *unit) holdBays() {
	u.manager.mu.Lock()
	if u.present() {
		u.manager.hold(u)
	}
	bays := u.takeBays()
	u.manager.mu.Unlock()
	u.manager.tellLeft(bays)
}

// takeBays takes the bays out of the tree, with the manager's mu held: before
// another reader can have their numbers, the events say that these have left.
func (u *unit) takeBays() []*Bay {
	bays := u.bays
	u.bays = nil
	u.life.end(ErrGone)
	u.manager.remove(bays)
	u.life.cancel()
	return bays
}

// depart ends what is left of the unit.
func (u *unit) depart() {
	u.left()
	u.dropBays()
	u.manager.mu.Lock()
	if u.manager.units[u.id] == u {
		delete(u.manager.units, u.id)
	}
	u.manager.unhold(u)
	u.manager.mu.Unlock()
	close(u.closed)
}
