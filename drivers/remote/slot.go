package remote

import (
	"context"
	"fmt"
	"sync"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

type phase int

const (
	starting phase = iota
	ready
	failed
)

// note is a change that the core has not been told of.
type note struct {
	what change
	seq  uint64 // of the event
}

type change int

const (
	cardOut   change = iota
	cardIn           // without power, as far as we know
	cardReset        // by somebody there
	cardOff          // so, too
)

// notesMost is how many changes wait to be told. Of more the last count.
const notesMost = 64

// slot is a far slot from its arrival in one line until it leaves or the line ends.
type slot struct {
	line    *line
	number  int    // there
	reader  string // place.reader
	changes chan struct{}
	of      *far // the reader whose slot it is; nil: refused. The reading goroutine's

	mu      sync.Mutex
	phase   phase
	why     string // it failed
	card    bool
	notes   []note
	gone    bool          // it has left
	removed chan struct{} // closed when the card is taken out
	stale   uint64        // the last event by which the card lost its state
	early   bool          // the card is known to be out, but not from its event, which follows
	session *session      // nil: the card has not been opened
	pending *opening      // an open of apdu under way
	want    bool          // others are to be locked out

	features features
}

var (
	_ reader.Slot             = (*slot)(nil)
	_ reader.Notifier         = (*slot)(nil)
	_ reader.ProtocolSelector = (*slot)(nil)
	_ reader.Ejector          = (*slot)(nil)
	_ reader.Locker           = (*slot)(nil)
)

func newSlot(l *line, number int) *slot {
	return &slot{line: l, number: number, changes: make(chan struct{}, 1), removed: make(chan struct{})}
}

func (s *slot) path(name string) string { return s.line.path(s.number, name) }

// name is for errors.
func (s *slot) name() string { return fmt.Sprintf("slot %d of %s", s.number, s.line.machine.address) }

// began returns whether the slot has been initialised there, and why not.
func (s *slot) began() (phase, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase, s.why
}

// happened takes an event of the slot.
func (s *slot) happened(e event) {
	s.mu.Lock()
	was := s.phase
	switch e.what {
	case "ready":
		s.phase = ready
	case "failed":
		if !s.card { // else the card could not be powered, and whoever tried has the error
			s.phase, s.why = failed, words.Printable(e.more["error"], words.MaxValue)
		}
	case "inserted":
		if !s.card {
			s.card = true
			s.note(cardIn, e.seq)
		}
		s.early = false
	case "removed":
		if s.card {
			s.takeOut()
			s.note(cardOut, e.seq)
		} else if !s.early {
			s.note(cardOut, e.seq)
		}
		s.early = false
	case "reset":
		s.lose(cardReset, e.seq)
	case "powered":
		if e.more["power"] == "off" {
			s.lose(cardOff, e.seq)
		}
	}
	began := was != s.phase
	s.mu.Unlock()
	if began && s.of != nil {
		s.of.began(was)
	}
}

// began wakes who waits for a slot of the reader. A reader that had failed, and has been
// revived, is another.
func (f *far) began(was phase) {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	if was == failed {
		f.leave()
		return
	}
	f.touch()
}

// takeOut notes that the card is out. s.mu is held.
func (s *slot) takeOut() {
	s.card = false
	if s.session != nil {
		s.session.over = true
	}
	close(s.removed)
	s.removed = make(chan struct{})
}

// lose notes that the card has lost its state. s.mu is held.
func (s *slot) lose(what change, seq uint64) {
	s.stale = max(s.stale, seq)
	if s.session != nil && seq > s.session.since {
		s.session.over = true
		s.note(what, seq)
	}
}

// lostLane ends the session if it was in a lane that has ended.
func (s *slot) lostLane(n *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.session; c != nil && !c.over && c.lane == n {
		c.over = true
		s.note(cardOff, c.since) // as far as we know
	}
}

// note queues a change for the core. s.mu is held.
func (s *slot) note(what change, seq uint64) {
	if len(s.notes) >= notesMost {
		s.notes = append(s.notes[:0], s.notes[len(s.notes)/2:]...)
	}
	s.notes = append(s.notes, note{what, seq})
	s.changed()
}

// next takes the first change that the core does not know. s.mu is held.
func (s *slot) next() (what change, ok bool) {
	for len(s.notes) > 0 {
		n := s.notes[0]
		s.notes = s.notes[1:]
		// A loss before the session began: an open or a reset from here was faster.
		known := (n.what == cardReset || n.what == cardOff) && s.session != nil && !s.session.over && n.seq <= s.session.since
		undone := n.what == cardReset && len(s.notes) > 0 && s.notes[0].what == cardOff
		if !known && !undone {
			return n.what, true
		}
	}
	return 0, false
}

func (s *slot) changed() {
	select {
	case s.changes <- struct{}{}:
	default:
	}
}

// leave makes every later call fail with ErrGone.
func (s *slot) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.session != nil {
		s.session.over = true
	}
	s.changed()
}

// over returns why the slot cannot be used any more.
func (s *slot) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.line.ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w: %w", s.name(), context.Cause(s.line.ctx), reader.ErrAway, reader.ErrGone)
	case s.gone:
		return fmt.Errorf("%s: %w", s.name(), reader.ErrGone)
	}
	return nil
}

// Changes gets a value after each change.
func (s *slot) Changes() <-chan struct{} { return s.changes }

// Status tells one change, in the order in which they happened, or how things are if there is
// none.
func (s *slot) Status(context.Context) (reader.Status, error) {
	if err := s.over(); err != nil {
		return reader.Absent, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	what, ok := s.next()
	if len(s.notes) > 0 {
		s.changed()
	}
	switch {
	case !ok && !s.card, ok && what == cardOut:
		return reader.Absent, nil
	case !ok && s.session != nil && !s.session.over:
		return reader.Powered, nil
	case ok && what == cardReset:
		return reader.Powered, fmt.Errorf("%s: reset there: %w", s.name(), reader.ErrStale)
	case ok && what == cardOff:
		return reader.Present, fmt.Errorf("%s: powered off there: %w", s.name(), reader.ErrStale)
	}
	return reader.Present, nil
}

// Traits says that the other side does everything.
func (s *slot) Traits() reader.Traits {
	return reader.Traits{Level: reader.ExtendedAPDU, AutoPPS: true, AutoT0: true, AutoIFSD: true, Shared: true}
}

// readStatus reads what the slot says there.
func (s *slot) readStatus(ctx context.Context) (status, error) {
	text, err := s.line.lanes.readText(ctx, s.path("status"))
	if err != nil {
		return status{}, err
	}
	return parseStatus(text)
}

// opening is an open of apdu. It waits there for a card and its power, and cannot be ended: so
// there is one at most, which the next power-up takes over.
type opening struct {
	done chan struct{}
	file *files.File
	lane *lane // in which it is
	err  error
}

// openCard opens apdu, or takes over the open under way. It returns the one that has ended, and
// its error.
func (s *slot) openCard(ctx context.Context) (*opening, error) {
	s.mu.Lock()
	if !s.card {
		s.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", s.name(), reader.ErrNoCard)
	}
	o := s.pending
	if o == nil {
		o = &opening{done: make(chan struct{})}
		s.pending = o
		reader.Go(s.line.host, func() {
			defer close(o.done)
			o.file, o.lane, o.err = s.line.lanes.openCard(s.line.ctx, s.path("apdu"))
		})
	}
	removed := s.removed
	s.mu.Unlock()
	select {
	case <-o.done:
	case <-removed:
		return nil, fmt.Errorf("%s: %w", s.name(), reader.ErrNoCard)
	case <-ctx.Done():
		return nil, s.line.explain("open the card there", ctx.Err())
	}
	s.mu.Lock()
	s.pending = nil
	s.mu.Unlock()
	return o, o.err
}
