package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/limitlog"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/words"
)

// Slot is one card slot as programs know it: a number, a card or none, its
// power and protocol, the transaction that somebody may hold.
//
//	          driver opened           card put in            first open
//	starting ───────────────▶ empty ◀────────────▶ present ◀────────────▶ powered
//	    │                                card out     │  off, idle, dead     │
//	    ▼ driver failed                               └── each change of the │
//	  failed                                              card's state is a  ▼
//	any state ── the reader left ──▶ gone                 new epoch        reset
//
// The driver's Slot belongs to the holder of the slot's turn, who runs its exchange itself.
// The alternative is a goroutine for each slot. Handing a command to it and waking the caller
// again would cost an eighth of a FUSE round trip.
type Slot struct {
	manager *Manager
	ifd     *ifd
	opening *opening
	number  int    // of the directory
	serial  uint64 // no two slots of a Manager share it, as they may share a number
	index   int    // of the slot in its reader
	name    string // below by-id
	since   time.Time
	log     *slog.Logger // limited
	every   *slog.Logger // not limited, for what only -v shows

	ctx       context.Context // ends with leave
	cancel    context.CancelFunc
	turn      chan struct{} // holds a token while somebody uses link
	looks     chan struct{} // see look
	link      *link.Link    // owned by the holder of the turn; nil before the reader is ready
	lockedOut bool          // others are, see lockOut; as link
	inVain    time.Time     // when further tries of a power-up were given up; as link

	underWay context.Context // ends what is under way, see begin; the holder of the turn uses it
	under    atomic.Bool     // something that Abort may end is under way

	stats  stats
	events source[Event]
	trace  trace

	waiting atomic.Int64 // when the card began to ask for more time, in Unix nanoseconds; 0: it did not ask

	mu          sync.Mutex
	phase       phase
	card        reader.Status
	epoch       Moment                // at which the card's security state began
	inserted    Moment                // at which the card was put in
	unknown     bool                  // the reader could not be asked for the card
	sessions    map[*Session]struct{} // open, of this epoch
	changed     chan struct{}         // closed and replaced at every change of the fields above and lock
	powering    *attempt
	raising     bool                    // the card is being powered up or reset
	cut         context.CancelCauseFunc // ends what is under way: underWay
	atr         []byte                  // nil unless powered
	answer      *iso7816.ATR            // atr, parsed
	params      iso7816.Params
	fallback    string // what replaced a rate that failed, in words
	memory      memoryCard
	level       reader.Level // of the slot, as it was when the card was powered
	lastErr     error
	failure     error // why the phase is failed
	lock        *transaction
	offered     uint32 // protocols that the card, while powered, and the reader both have: ProtocolT0 …
	pcsc        string // the reader's name for PC/SC
	lastEvent   uint64 // its sequence number
	swaps       uint64 // how often a card was put in or taken out
	connections map[*Connection]struct{}
	exclusive   atomic.Pointer[transaction] // of one of them; changed under mu
	watchers    map[*func()]struct{}
	changes     atomic.Uint64 // number of events so far
	used        time.Time     // end of the last exchange, for IdleOff
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

func newSlot(m *Manager, d *ifd, number, index int) *Slot {
	s := &Slot{
		manager: m, ifd: d, opening: d.opening, number: number, index: index,
		name:    lastingName(d.dev, index),
		since:   time.Now(),
		log:     limitlog.New(d.log).With("slot", number),
		every:   m.log.With("reader", d.name(), "slot", number),
		turn:    make(chan struct{}, 1),
		looks:   make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	s.trace.weigh = func(line string) int { return len(line) }
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Siblings returns all slots of the same reader, by index.
func (s *Slot) Siblings() []*Slot { return s.ifd.list() }

// Number returns the number that names the slot's directory.
func (s *Slot) Number() int { return s.number }

// Serial returns a number, from 1 on, that no other slot of the Manager ever had.
func (s *Slot) Serial() uint64 { return s.serial }

// Since returns the time at which the device was announced.
func (s *Slot) Since() time.Time { return s.since }

// Done is closed when the reader left.
func (s *Slot) Done() <-chan struct{} { return s.ctx.Done() }

// Log returns the log for actions of programs on the slot. It is limited, so that they cannot
// flood it.
func (s *Slot) Log() *slog.Logger { return s.log }

// Gone reports whether the reader left; a nil Slot never does.
func (s *Slot) Gone() bool { return s != nil && s.ctx.Err() != nil }

// touch wakes all waiting goroutines after a change. s.mu is held.
func (s *Slot) touch() {
	close(s.changed)
	s.changed = make(chan struct{})
	s.tell()
}

// WaitReady waits until the driver has initialised the reader. If wait is false it returns
// ErrNotReady instead of waiting.
func (s *Slot) WaitReady(ctx context.Context, wait bool) error {
	for waited := false; ; {
		s.mu.Lock()
		err, changed := s.readyErr(), s.changed
		s.mu.Unlock()
		if !errors.Is(err, reader.ErrNotReady) || !wait {
			return err
		}
		s.noteWait(&waited)
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// newEpoch makes all sessions stale. s.mu is held.
func (s *Slot) newEpoch() {
	s.epoch = Moment(s.manager.moments.Add(1))
	clear(s.sessions)
}

// Moment is a point in the order of all changes of cards' states. The zero value means
// none.
type Moment uint64

// Now returns the moment after all changes so far.
func (s *Slot) Now() Moment { return Moment(s.manager.moments.Load() + 1) }

// before reports whether a state that began then was in force at m. It is true for the zero
// m.
func (began Moment) before(m Moment) bool { return m == 0 || began < m }

// readyErr returns nil once the reader can be given commands. s.mu is held.
func (s *Slot) readyErr() error {
	switch s.phase {
	case starting:
		return reader.ErrNotReady
	case failed:
		return fmt.Errorf("%w: %w", reader.ErrFailed, s.failure)
	case gone:
		return reader.ErrGone
	}
	return nil
}

// start connects the slot to the driver's slot, once the driver has opened the reader.
func (slot *Slot) start(s reader.Slot) {
	var status reader.Status
	var failure error
	if slot.inTurn(slot.ctx, func() error {
		slot.link = link.New(link.Config{
			Slot: s, Features: reader.FeaturesOf(s), T0Plain: slot.ifd.dev.T0Plain, Limit: slot.manager.options.ExchangeLimit,
			Extended: slot.extended, Log: slot.log, Trace: &slot.trace,
		})
		status, failure = s.Status(slot.ctx)
		return nil
	}) != nil {
		return
	}
	if errors.Is(failure, reader.ErrGone) {
		slot.opening.lost(failure)
		return
	}
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.phase != starting {
		return
	}
	slot.phase, slot.lastErr = ready, nil
	slot.publish(Ready)
	if slot.unknown = failure != nil; failure != nil {
		slot.noteError(fmt.Errorf("first status: %w", failure))
	}
	slot.setCard(status)
	slot.swaps = 0 // as pcscd counts: not the card that was there before
	slot.touch()
}

// fail puts the slot out of order for good, with this error.
func (s *Slot) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == gone || s.phase == failed {
		return
	}
	if s.card != reader.Absent {
		s.swaps++
		s.publish(Removed)
	}
	s.card, s.atr = reader.Absent, nil
	s.newEpoch()
	s.phase, s.failure = failed, err
	s.keepError(err)
	s.publish(Failed, "error", err.Error())
	s.touch()
}

func (s *Slot) isFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase == failed
}

// leave makes the slot gone for good.
func (s *Slot) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == gone {
		return
	}
	s.phase = gone
	s.card, s.atr, s.lock = reader.Absent, nil, nil
	s.disconnectAll()
	s.newEpoch()
	// Before anybody is told: who looks then must not find a slot without a reader.
	s.cancel()
	s.publish(Left)
	s.trace.end(reader.ErrGone)
	s.touch()
}

// publish reports an event to the feeds and the log. s.mu is held.
func (s *Slot) publish(what What, pairs ...string) {
	s.stats.event(what, pairs)
	level := slog.LevelInfo
	if what == Failed {
		level = slog.LevelWarn
	}
	args := make([]any, 0, len(pairs))
	for i := 0; i+1 < len(pairs); i += 2 {
		key, value := pairs[i], words.Printable(pairs[i+1], words.MaxWords)
		switch {
		case value == "", key == "driver", key == "device", key == "by-id", key == "via": // the reader's name has what matters
			continue
		case key == "reader":
			key = "model"
		}
		args = append(args, key, value)
	}
	s.log.Log(context.Background(), level, string(what), args...)
	s.changes.Add(1)
	s.lastEvent = s.manager.events.publish(s, what, pairs...)
}

// noteError keeps err for `status`. s.mu is held.
func (s *Slot) noteError(err error) {
	s.keepError(err)
	if err != nil && !errors.Is(err, reader.ErrGone) {
		s.log.Warn("slot error", "error", words.Printable(err.Error(), words.MaxWords))
	}
}

// keepError is noteError for an error that is already in the log. s.mu is held.
func (s *Slot) keepError(err error) {
	s.lastErr = err
	s.tell()
}

// Follow subscribes to the slot's events; its present state comes first.
func (s *Slot) Follow() *Feed[Event] { return s.manager.events.follow(s) }
