package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Bay is one card slot as programs know it: a number, a card or none, its
// power and protocol, the transaction that somebody may hold.
//
//	          driver opened           card put in            first open
//	starting ───────────────▶ empty ◀────────────▶ present ◀────────────▶ powered
//	    │                                card out     │  off, idle, dead     │
//	    ▼ driver failed                               └── each change of the │
//	  failed                                              card's state is a  ▼
//	any state ── the reader left ──▶ gone                 new epoch        reset
//
// The driver's Slot belongs to whoever holds the bay's turn. A goroutine of its
// own for each slot would be the other way to have one owner; handing a command
// to it and waking its caller again costs an eighth of a FUSE round trip, so the
// caller that has the turn runs its exchange itself.
type Bay struct {
	manager *Manager
	unit    *unit
	life    *life
	number  int    // of the directory
	serial  uint64 // no two bays of a Manager share it, as they may share a number
	index   int    // of the slot in its reader
	name    string // below by-id
	since   time.Time
	log     *slog.Logger // limited
	every   *slog.Logger // not limited, for what only -v shows

	ctx    context.Context // ends when the reader left
	cancel context.CancelFunc
	turn   chan struct{} // holds a token while somebody uses link
	link   link          // owned by the holder of the turn
	under  atomic.Bool   // something that Abort may end is under way

	stats  stats
	events source[Event]
	traces source[string]
	traced atomic.Int32 // followers of traces

	waiting atomic.Int64 // since when the card has asked for more time, in Unix nanoseconds; 0: it did not

	mu       sync.Mutex
	phase    phase
	card     Status
	epoch    Moment                // at which the card's security state began
	inserted Moment                // at which the card was put in
	sessions map[*Session]struct{} // open, of this epoch
	changed  chan struct{}         // closed and replaced at every change of the fields above and lock
	powering *attempt
	raising  bool                    // the card is being powered up or reset
	cut      context.CancelCauseFunc // ends what is under way: link.ctx
	atr      []byte                  // nil unless powered
	answer   *iso7816.ATR            // atr, taken apart
	params   iso7816.Params
	fallback string // what is in force in place of a rate that failed, in words
	level    Level  // of the slot, as it was when the card was powered
	lastErr  error
	failure  error // why the phase is failed
	lock     *transaction
	watchers map[*func()]struct{}
	used     time.Time // end of the last exchange, for IdleOff
}

type phase int

const (
	starting phase = iota
	ready
	failed
	gone
)

// attempt is one power-up under way; those who wait for it share its outcome.
type attempt struct {
	done chan struct{}
	err  error
}

func newBay(m *Manager, u *unit, number, index int) *Bay {
	b := &Bay{
		manager: m, unit: u, life: u.life, number: number, index: index,
		name:    lastingName(u.dev, index),
		since:   time.Now(),
		log:     LimitLog(m.limited).With("slot", number, "driver", u.dev.Driver),
		every:   m.log.With("slot", number, "driver", u.dev.Driver),
		turn:    make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	b.traces.weigh = func(line string) int { return len(line) }
	b.ctx, b.cancel = context.WithCancel(u.life.ctx)
	return b
}

// Siblings are all slots of the same reader, by their place in it.
func (b *Bay) Siblings() []*Bay { return b.unit.list() }

// Number is the name of the slot's directory.
func (b *Bay) Number() int { return b.number }

// Serial is different for every bay that there ever was, from 1 on.
func (b *Bay) Serial() uint64 { return b.serial }

// Since is when the device was announced.
func (b *Bay) Since() time.Time { return b.since }

// Done is closed when the reader left.
func (b *Bay) Done() <-chan struct{} { return b.ctx.Done() }

// Log is the log for what a program does with the slot. Who writes to it cannot flood it.
func (b *Bay) Log() *slog.Logger { return b.log }

// Gone tells whether the reader left. No reader (nil) never does.
func (b *Bay) Gone() bool { return b != nil && b.ctx.Err() != nil }

// touch tells everybody who waits that something changed. b.mu is held.
func (b *Bay) touch() {
	close(b.changed)
	b.changed = make(chan struct{})
	b.tell()
}

// acquire takes the turn. ctx ends only the waiting for it. Once the reader
// left or failed, or the manager is closing, nobody gets it any more.
func (b *Bay) acquire(ctx context.Context) error {
	if !b.tryAcquire() {
		select {
		case b.turn <- struct{}{}:
		case <-ctx.Done():
			return b.interrupted()
		case <-b.unit.gone:
			return ErrGone
		case <-b.life.over:
			return b.life.err()
		case <-b.manager.leaving.Done():
			return ErrGone
		}
	}
	return b.acquired()
}

func (b *Bay) tryAcquire() bool {
	select {
	case b.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

// acquired gives the turn back where nobody can use it any more.
func (b *Bay) acquired() error {
	if err := b.over(); err != nil {
		b.release()
		return err
	}
	return nil
}

func (b *Bay) release() { <-b.turn }

// inTurn runs do with the turn, which is given back whatever happens in do: a panic
// fails the reader.
func (b *Bay) inTurn(ctx context.Context, do func() error) (err error) {
	if err := b.acquire(ctx); err != nil {
		return err
	}
	return b.holding(do)
}

// holding is inTurn for who has the turn already.
func (b *Bay) holding(do func() error) (err error) {
	defer b.release()
	defer b.life.recovered("slot", &err)
	return do()
}

// over says why nobody can use the slot any more; nil while it can be used.
func (b *Bay) over() error {
	switch {
	case b.manager.leaving.Err() != nil:
		return ErrGone
	case !b.life.present():
		return b.life.err()
	}
	return nil
}

// interrupted is what a caller hears whose ctx ended while it waited. That the reader
// left comes first: select has no order.
func (b *Bay) interrupted() error {
	if err := b.over(); err != nil {
		return err
	}
	return ErrInterrupted
}

// wait waits for the next change; the caller passes the channel it saw.
func (b *Bay) wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		if closed(changed) {
			return nil // the caller looks at what changed first
		}
		return b.interrupted()
	case <-b.unit.gone:
		return ErrGone
	case <-b.life.over:
		return b.life.err()
	case <-b.manager.leaving.Done():
		return ErrGone
	}
}

// begin marks that something is under way which Abort may end: what holds to
// b.link.ctx. b.mu is held, and the turn; who holds it clears under.
func (b *Bay) begin() {
	if b.link.ctx == nil || b.link.ctx.Err() != nil {
		b.link.ctx, b.cut = context.WithCancelCause(b.ctx)
	}
	b.under.Store(true)
}

// Abort ends what is under way in the slot: its caller gets ErrAborted, and the card
// is powered off. Where nothing is, it says ErrInvalid.
func (b *Bay) Abort() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase == gone {
		return ErrGone
	}
	if !b.under.Load() {
		return fmt.Errorf("nothing is under way in slot %d: %w", b.number, ErrInvalid)
	}
	b.log.Info("ended by abort")
	b.cut(ErrAborted)
	return nil
}

// WaitReady waits until the driver initialised the reader. With wait false
// it says ErrNotReady instead.
func (b *Bay) WaitReady(ctx context.Context, wait bool) error {
	for waited := false; ; {
		b.mu.Lock()
		err, changed := b.readyErr(), b.changed
		b.mu.Unlock()
		if !errors.Is(err, ErrNotReady) || !wait {
			return err
		}
		b.noteWait(&waited)
		if err := b.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// newEpoch makes all sessions stale. b.mu is held.
func (b *Bay) newEpoch() {
	b.epoch = Moment(b.manager.moments.Add(1))
	clear(b.sessions)
}

// Moment is a point in the order of all that changed a card's state. The zero value is
// none.
type Moment uint64

// Now is the moment behind all that changed a card's state so far.
func (b *Bay) Now() Moment { return Moment(b.manager.moments.Load() + 1) }

// before reports whether what began then was there at m; where m is none, it was.
func (began Moment) before(m Moment) bool { return m == 0 || began < m }

// readyErr is nil once commands to the reader make sense. b.mu is held.
func (b *Bay) readyErr() error {
	switch b.phase {
	case starting:
		return ErrNotReady
	case failed:
		return fmt.Errorf("%w: %w", ErrFailed, b.failure)
	case gone:
		return ErrGone
	}
	return nil
}

// start gives the bay its slot once the driver has opened the reader.
func (b *Bay) start(s Slot) {
	var status Status
	var failure error
	if b.inTurn(b.ctx, func() error {
		b.link = link{bay: b, slot: s, extended: b.extended}
		status, failure = s.Status(b.ctx)
		return nil
	}) != nil {
		return
	}
	if errors.Is(failure, ErrGone) {
		b.life.lost(failure)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase != starting {
		return
	}
	b.phase, b.lastErr = ready, nil
	b.publish(Ready)
	if failure != nil {
		b.noteError(fmt.Errorf("first status: %w", failure))
	}
	b.setCard(status)
	b.touch()
}

// fail makes the slot one that works no more, with an error that stays.
func (b *Bay) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase == gone || b.phase == failed {
		return
	}
	if b.card != Absent {
		b.publish(Removed)
	}
	b.card, b.atr = Absent, nil
	b.newEpoch()
	b.phase, b.failure = failed, err
	b.keepError(err)
	b.publish(Failed, "error", err.Error())
	b.touch()
}

func (b *Bay) isFailed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.phase == failed
}

// leave makes the bay gone for ever.
func (b *Bay) leave() {
	b.mu.Lock()
	if b.phase != gone {
		b.phase = gone
		b.card, b.atr, b.lock = Absent, nil, nil
		b.newEpoch()
		b.publish(Left)
		b.touch()
	}
	b.mu.Unlock()
	b.traces.end(ErrGone)
	b.cancel()
}

// publish tells of an event, the log too. b.mu is held.
func (b *Bay) publish(what What, pairs ...string) {
	b.stats.event(what, pairs)
	level := slog.LevelInfo
	if what == Failed {
		level = slog.LevelWarn
	}
	args := make([]any, 0, len(pairs))
	for i := 0; i+1 < len(pairs); i += 2 {
		if key, value := pairs[i], printable(pairs[i+1], maxWords); key != "driver" && value != "" { // every line has the driver
			args = append(args, key, value)
		}
	}
	b.log.Log(context.Background(), level, string(what), args...)
	b.manager.events.publish(b, what, pairs...)
}

// noteError keeps err for `status`. b.mu is held.
func (b *Bay) noteError(err error) {
	b.keepError(err)
	if err != nil && !errors.Is(err, ErrGone) {
		b.log.Warn("slot error", "error", printable(err.Error(), maxWords))
	}
}

// keepError is noteError for what the log has already. b.mu is held.
func (b *Bay) keepError(err error) {
	b.lastErr = err
	b.tell()
}

// setCard takes what the reader says of its contacts. b.mu is held.
func (b *Bay) setCard(now Status) {
	if b.phase != ready {
		return
	}
	switch {
	case now == Absent && b.card != Absent:
		b.card, b.atr, b.lastErr = Absent, nil, nil
		b.newEpoch()
		b.publish(Removed)
	case now != Absent && b.card == Absent:
		// A reader that activates on insertion says Powered here; its ATR is
		// still to be fetched, so that to us the card is not powered yet.
		b.card, b.lastErr = Present, nil
		b.newEpoch()
		b.inserted = b.epoch
		b.publish(Inserted)
	case now == Present && b.card == Powered:
		// It was powered and is not: it was out and in again between two
		// looks, or the reader took the power away.
		b.card, b.atr = Present, nil
		b.newEpoch()
		b.inserted = b.epoch
		b.publish(Removed)
		b.publish(Inserted)
	default:
		return
	}
	b.touch()
}

// setUnpowered records that the card has no power any more. b.mu is held.
func (b *Bay) setUnpowered() {
	if b.card == Powered {
		b.card, b.atr = Present, nil
		b.newEpoch()
		b.publish(PowerSet, "power", "off")
		b.touch()
	}
}

// refresh asks the reader for the card. The caller holds the turn.
func (b *Bay) refresh() {
	if b.link.slot == nil {
		return
	}
	now, err := b.link.slot.Status(b.ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ctx.Err() != nil:
	case errors.Is(err, ErrGone):
		b.life.lost(err)
	case err != nil:
		err = fmt.Errorf("status: %w", err)
		if b.lastErr == nil || b.lastErr.Error() != err.Error() { // it may be asked for ever
			b.noteError(err)
		}
	default:
		b.setCard(now)
	}
}

// monitor follows the contacts: by the reader's own notification, or by polling
// where it has none. It also takes the power off an idle card.
func (b *Bay) monitor() {
	var changes <-chan struct{}
	var fixed bool
	if b.inTurn(b.ctx, func() error {
		if n, ok := b.link.slot.(Notifier); ok {
			changes = n.Changes()
		}
		fixed = b.link.slot.Traits().Fixed
		return nil
	}) != nil {
		return
	}
	idleOff := b.manager.options.IdleOff
	if fixed && idleOff == 0 {
		return
	}
	var poll, idle <-chan time.Time
	if changes == nil && !fixed {
		t := time.NewTicker(b.manager.options.Poll)
		defer t.Stop()
		poll = t.C
	}
	if idleOff > 0 {
		t := time.NewTicker(max(idleOff/4, 10*time.Millisecond))
		defer t.Stop()
		idle = t.C
	}
	for {
		select {
		case _, open := <-changes:
			if !open { // nil: it never will tell again
				changes = nil
				continue
			}
		case <-poll:
		case <-idle:
			b.powerOffIdle(idleOff)
			continue
		case <-b.life.over:
			return
		case <-b.ctx.Done():
			return
		}
		if b.inTurn(b.ctx, func() error { b.refresh(); return nil }) != nil {
			return
		}
	}
}

// Follow subscribes to the slot's events; its present state comes first.
func (b *Bay) Follow() *Feed[Event] { return b.manager.events.follow(b) }
