package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// ifd is one device from its announcement until it left or was detached. Its driver
// opens it once, or a few times if it seems to need time, and again if the reader died while
// the device is still there:
//
//	         Open                 reader died, device still there
//	announced ─────▶ serving ──────────────────────────────────────▶ reviving
//	    │               │ panic                 │ too often             │ pause
//	    │ Open failed   ▼                       ▼                       ▼
//	    └───────────▶ failed ◀──────────────────┘                 announced again
//	                    │ rescan: announced again
//	any state ── device left, detached ──▶ gone
type ifd struct {
	manager  *Manager
	id       string // see identity
	dev      reader.Device
	driver   reader.Driver
	log      *slog.Logger    // limited; its lines name the reader
	ctx      context.Context // ends, with ErrGone as its cause, when the device left or is being detached
	cancel   context.CancelCauseFunc
	linkGone <-chan struct{} // reader.Link.Gone; nil: the link cannot tell
	retry    chan struct{}   // carries a value when an ifd that failed is to be opened again
	closed   chan struct{}   // closed when nothing holds the device any more

	// The rest is under the manager's mu.
	opening  *opening
	slots    []*Slot
	pcsc     int // what tells the reader from others in PC/SC
	model    string
	more     map[string]string
	found    int   // number of slots that the device reports
	count    int   // number of them that are served, also while they are away
	hubState State // of a hub, which has no slot to show it
	hubErr   error // as a slot's last error
}

func (d *ifd) name() string { return d.dev.Name() }

// Instance makes the ifd's driver know the daemon, see reader.InstanceOf.
func (d *ifd) Instance() string { return d.manager.instance }

// Announce makes an ifd a Host: what a driver announces is a reader of its own.
func (d *ifd) Announce(dev reader.Device) error { return d.manager.Announce(dev) }

// Go is the function Go, for the ifd's driver.
func (d *ifd) Go(f func()) {
	d.manager.mu.Lock()
	o := d.opening
	d.manager.mu.Unlock()
	go func() {
		var err error
		defer o.recovered("a goroutine of the driver", &err)
		f()
	}()
}

// gone reports whether the device left or is being detached. It asks the link, so that a
// departure counts before anybody has reacted to it.
func (d *ifd) gone() bool {
	if closed(d.linkGone) {
		d.leave()
	}
	return closed(d.ctx.Done())
}

// present reports whether the device is there, as far as its link and its reader say.
// The manager's mu is held.
func (d *ifd) present() bool {
	d.opening.present() // the reader may be the only one to report a departure
	return !d.gone()
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

// leave signals the ifd and its opening to end. It does not wait for them.
func (d *ifd) leave() { d.cancel(reader.ErrGone) }

const (
	// deathsMost is how often in a row a reader is revived. An opening that lasted
	// longOpening restarts the count.
	deathsMost  = 3
	longOpening = time.Minute
	// deathPause is how long a dead reader's directories are away. In most cases the
	// device was unplugged, and its departure will be reported within this time.
	deathPause = 100 * time.Millisecond
)

// revivalPause is the further wait before the driver is called again. It gives the device
// time to restart. After the first death there is none.
func revivalPause(deaths int) time.Duration {
	if deaths < 2 {
		return 0
	}
	return time.Second << (2 * (deaths - 2))
}

// awayPause is the wait before another look whether the way to the reader is back. The tries
// are those in a row. There is no end to them: it is not the reader that fails.
func awayPause(tries int) time.Duration {
	return min(100*time.Millisecond<<min(tries, 10), 5*time.Second)
}

// run is the life of an ifd.
func (d *ifd) run(o *opening, before *ifd) {
	defer d.depart()
	if before != nil && !d.await(before.closed) { // the previous ifd must let go of the device first
		return
	}
	patience := newPatience() // with a device that was not opened yet
	away := 0                 // how often Open found the way to it interrupted, in a row
	for deaths := 0; ; {
		began := time.Now()
		served, err := d.serve(o)
		switch {
		case d.gone():
			return
		case errors.Is(err, reader.ErrGone) && d.linkGone == nil:
			return // without a link, death and departure look the same
		}
		if errors.Is(err, reader.ErrAway) {
			if served {
				if time.Since(began) >= awayPause(0)*10 {
					away = 0
				}
				if o = d.renew(); o == nil {
					return
				}
			}
			d.noteError(err)
			if !d.pause(awayPause(away)) {
				return
			}
			away++
			continue
		}
		var panicked *reader.PanicError
		fatal := errors.As(err, &panicked)
		if !fatal && !served && deaths == 0 && !errors.Is(err, reader.ErrGone) {
			pause, ok := patience.next()
			if once := patience.tries == 1; (ok || once) && unsettled(err) { // the first may have waited long
				d.log.Info("the reader does not start and is tried again", "in", pause, "error", words.Printable(err.Error(), words.MaxWords))
				d.noteError(err)
				if !d.pause(pause) {
					return
				}
				continue
			}
			fatal = true
		}
		if !fatal {
			if served && time.Since(began) >= longOpening {
				deaths = 0
			}
			deaths++
			err = fmt.Errorf("the reader died (%v)", err) // not an ErrGone: it is there
			if fatal = deaths > deathsMost; fatal {
				err = fmt.Errorf("%w, %d times in a row; plug it in anew, or write rescan to ctl", err, deaths)
			}
			d.log.Warn("reader died", "times", deaths, "given up", fatal, "error", err)
			if served {
				if !d.pause(deathPause) {
					return
				}
				if o = d.renew(); o == nil {
					return
				}
			}
		}
		if fatal {
			d.failed(err)
			select {
			case <-d.retry:
			case <-d.ctx.Done():
				return
			}
			if o = d.renew(); o == nil {
				return
			}
			deaths, patience = 0, newPatience()
			continue
		}
		d.noteError(err)
		pause := revivalPause(deaths)
		if !served {
			pause = max(pause, deathPause)
		}
		if !d.pause(pause) {
			return
		}
	}
}

// pause waits for d and reports whether the device is still there.
func (u *ifd) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-u.ctx.Done():
		return false
	}
}

// await waits for done and reports whether the device is still there. If it
// left meanwhile, its directories go at once, before done.
func (d *ifd) await(done <-chan struct{}) bool {
	select {
	case <-done:
		return !d.gone()
	case <-d.ctx.Done():
		d.dropSlots()
		<-done
		return false
	}
}

// serve is one opening: the driver opens the device, and its slots are served until the
// opening is over. served is false if serving never began.
func (d *ifd) serve(o *opening) (served bool, err error) {
	r, died, slots, err := d.open(o)
	if err != nil {
		return false, err
	}
	if d.begin(o, r, died, slots) {
		select {
		case <-died:
			o.lost(reader.ErrGone)
		case <-o.over():
		}
	}
	if err = context.Cause(o.ctx); err == reader.ErrGone {
		err = o.reason(r)
	} else if errors.Is(err, reader.ErrGone) { // a slot was the first to say so
		if why := o.reason(r); errors.Is(why, reader.ErrAway) {
			err = why
		}
	}
	if !errors.Is(err, reader.ErrFailed) {
		d.holdSlots()
	}
	d.close(o, r)
	return true, err
}

// open has the driver open the device.
func (d *ifd) open(o *opening) (r reader.Reader, died <-chan struct{}, slots []reader.Slot, err error) {
	opened := make(chan struct{})
	d.manager.spawn(func() {
		defer close(opened)
		defer o.recovered("Open", &err)
		if r, err = d.driver.Open(o.ctx, d.dev); err == nil && r == nil {
			err = errors.New("the driver made no reader")
		}
		if err == nil {
			died, slots = r.Gone(), r.Slots()
		}
	})
	select {
	case <-opened:
	case <-o.over(): // the device left, or one of the driver's own goroutines crashed
	}
	d.await(opened)
	switch {
	case closed(o.over()):
		err = context.Cause(o.ctx)
	case err != nil:
	case len(slots) == 0 && !d.hub():
		err = errors.New("the driver found no slot")
	}
	if err != nil && r != nil {
		d.close(o, r)
	}
	return r, died, slots, err
}

// close closes r. It may take its time; the directories do not wait for it.
func (d *ifd) close(o *opening, r reader.Reader) {
	done := make(chan struct{})
	d.manager.spawn(func() {
		defer close(done)
		err := func() (err error) {
			defer o.recovered("Close", &err)
			return r.Close()
		}()
		if err != nil {
			d.log.Warn("the reader could not be closed", "error", err)
		}
	})
	if !errors.Is(o.err(), reader.ErrFailed) {
		d.await(done)
		return
	}
	// The panic may have left a lock of the driver held; Close would wait for it for ever.
	t := time.NewTimer(letGoLimit)
	defer t.Stop()
	gone := d.ctx.Done()
	for {
		select {
		case <-done:
		case <-gone:
			d.dropSlots()
			gone = nil
			continue
		case <-t.C:
			d.log.Warn("the driver does not let go of the device after a panic; going on without it")
		}
		return
	}
}

// failed keeps the reader's directories, with the reason, until it is unplugged or
// detached, or opened again.
func (d *ifd) failed(err error) {
	var panicked *reader.PanicError
	if !errors.As(err, &panicked) {
		err = fmt.Errorf("%s: %w", d.name(), err)
	}
	d.setHub(StateFailed, err)
	for _, s := range d.list() {
		s.fail(err)
	}
}

// noteError shows in `status` why the reader is not ready yet.
func (d *ifd) noteError(err error) {
	d.setHub(StateStarting, err)
	for _, s := range d.list() {
		s.mu.Lock()
		s.lastErr = err
		s.mu.Unlock()
	}
}

// begin assigns the driver's slots to the ifd's. The ifd gets more slots if the reader has
// more than were announced, and loses some if it has fewer. begin returns false if the device
// left meanwhile.
func (d *ifd) begin(o *opening, r reader.Reader, died <-chan struct{}, slots []reader.Slot) bool {
	m := d.manager
	model, more := d.identify(o, r)
	m.mu.Lock()
	if d.gone() { // and another may have its numbers
		m.mu.Unlock()
		return false
	}
	o.died.Store(&died)
	slots = slots[:d.allow(len(slots))]
	if d.more = more; model != "" {
		d.model = model
	}
	for i, s := range d.slots {
		s.mu.Lock()
		s.pcsc = pcscName(d.dev.Driver, d.model, d.pcsc, i)
		s.mu.Unlock()
	}
	for len(d.slots) < len(slots) {
		m.addSlot(d)
	}
	surplus := d.slots[len(slots):]
	d.slots = d.slots[:len(slots):len(slots)]
	m.remove(surplus)
	d.count = len(d.slots)
	if d.hub() {
		d.hubState, d.hubErr = StateReady, nil
	}
	all := slices.Clone(d.slots)
	m.mu.Unlock()
	m.tellLeft(surplus)
	for i, s := range all {
		// Each slot starts in a goroutine of its own: a slow one must not delay its
		// siblings or the departure of the reader.
		m.spawn(func() {
			s.start(slots[i])
			s.monitor()
		})
	}
	return true
}

// allow is how many of n slots the ifd may have. The manager's mu is held.
func (d *ifd) allow(n int) int {
	if d.found = n; n > maxSlots {
		d.log.Warn("not all slots are served", "slots", n, "served", maxSlots)
	}
	return min(n, maxSlots)
}

// identify may ask the device.
func (d *ifd) identify(o *opening, r reader.Reader) (model string, more map[string]string) {
	var err error
	defer o.recovered("Identify", &err)
	if i, ok := r.(reader.Identifier); ok {
		model, more = i.Identify()
	}
	return words.Printable(model, words.MaxValue), words.Tidy(more)
}

// renew begins another opening, whose slots have the numbers that the device had before. It
// returns nil if the device left.
func (d *ifd) renew() *opening {
	m := d.manager
	m.mu.Lock()
	if !d.present() || m.closed {
		m.mu.Unlock()
		return nil
	}
	old := d.takeSlots()
	d.opening, d.more = newOpening(d), nil
	for range d.count {
		m.addSlot(d)
	}
	m.unhold(d)
	o := d.opening
	m.mu.Unlock()
	m.tellLeft(old)
	return o
}

// list is a copy of the ifd's slots.
func (d *ifd) list() []*Slot {
	d.manager.mu.Lock()
	defer d.manager.mu.Unlock()
	return slices.Clone(d.slots)
}

// dropSlots takes the directories away. Callers that wait in them get ErrGone at once.
func (d *ifd) dropSlots() {
	d.manager.mu.Lock()
	slots := d.takeSlots()
	d.manager.freePCSC(d)
	d.manager.mu.Unlock()
	d.manager.tellLeft(slots)
}

// holdSlots is dropSlots for a reader that may be revived: nobody else gets its
// numbers and names meanwhile.
func (d *ifd) holdSlots() {
	d.manager.mu.Lock()
	if d.present() {
		d.manager.hold(d)
	}
	slots := d.takeSlots()
	d.manager.mu.Unlock()
	d.manager.tellLeft(slots)
}

// takeSlots takes the slots out of the tree, with the manager's mu held: before
// another reader can have their numbers, the events say that these have left.
func (d *ifd) takeSlots() []*Slot {
	slots := d.slots
	d.slots = nil
	d.opening.end(reader.ErrGone)
	d.manager.remove(slots)
	return slots
}

// depart ends what is left of the ifd.
func (d *ifd) depart() {
	d.leave()
	d.dropSlots()
	d.manager.mu.Lock()
	if d.manager.ifds[d.id] == d {
		delete(d.manager.ifds, d.id)
	}
	d.manager.unhold(d)
	d.manager.mu.Unlock()
	close(d.closed)
}
