package remote

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/drivers/remote/sshfs"
	"github.com/cardfs/cardfs/reader"
)

const (
	// Of a lane sshfs serves so many calls at once, each with a connection of its own, and those
	// that wait count. The first has the read of the events, which waits, text files, which do
	// not, and cards. Each card may wait. The others have cards alone. Something is spare for
	// files that close, whose connection counts them a moment longer.
	textsMost  = 4
	firstCards = sshfs.Calls - 1 - textsMost - 1
	cardsMost  = sshfs.Calls - 2
	// lanesMost is how many lanes a line has. Each sshfs makes its connections one after the
	// other: so no more than nine log in at once. With ten an sshd begins to turn some away
	// (MaxStartups).
	lanesMost = 9
	// laneRest is how long a further lane without cards is kept for the next one. A lane costs
	// a start, and processes here and there. It is also how long none is started after one
	// failed.
	laneRest = time.Minute
)

// lane is a mount of a machine's files.
type lane struct {
	dir   string
	files *files.Group
	room  int             // for cards
	gone  <-chan struct{} // closed when it has ended; nil: its files tell
	err   func() error    // once gone is closed: why
	close func()          // may be called more than once

	// The rest is under lanes.mu.
	cards int
	rest  *time.Timer // nil: it was never without cards
}

// ended reports whether nothing gets through any more.
func (n *lane) ended() bool {
	select {
	case <-n.gone:
		return true
	default:
		return false
	}
}

// lanes are the mounts of a line. The first carries the events, the text files, and cards as
// far as it has room. Further ones are started when cards need them. A card's place is kept as
// long as its file is open, and any call waits there, be it one that was given up here.
//
// A further lane that ends by itself ends the sessions that it carries, not the line: they are
// stale, a command under way is in doubt, and the next session is in another lane. A server that
// lets in fewer connections than there are cards would end the line again and again, and with
// it everybody's commands. The end of the first lane is the line's: the events are lost.
//
// A directory that somebody else mounted is one lane for all.
type lanes struct {
	log   *slog.Logger
	host  reader.Host
	first *lane
	start func(context.Context) (*lane, error) // nil: the first is for all
	lost  func(*lane)                          // called for one that ended by itself
	texts chan struct{}                        // text files that are open

	// Nothing is waited for, and no other package called, while mu is held.
	mu       sync.Mutex
	all      []*lane        // the first, and further ones
	starting chan struct{}  // closed at the end of the start under way; nil: there is none
	notYet   time.Time      // none is started before
	over     bool           // close was called
	closing  sync.WaitGroup // lanes that close, and are not in all any more
}

func newLanes(first *lane, log *slog.Logger, host reader.Host) *lanes {
	return &lanes{log: log, host: host, first: first, all: []*lane{first}, texts: make(chan struct{}, textsMost)}
}

// openCard opens a file whose calls may wait, in a lane with a place for it.
func (ls *lanes) openCard(ctx context.Context, path string) (*files.File, *lane, error) {
	n, err := ls.take(ctx)
	if err != nil {
		return nil, nil, err
	}
	open := n.files.OpenAlone
	if ls.start == nil {
		open = n.files.OpenUntil
	}
	f, err := open(ctx, path, os.O_RDWR, func() { ls.leave(n) })
	return f, n, err
}

// openText opens a file whose calls do not wait.
func (ls *lanes) openText(ctx context.Context, path string, flags int) (*files.File, error) {
	if ls.start == nil {
		return ls.first.files.Open(ctx, path, flags)
	}
	select {
	case ls.texts <- struct{}{}:
		return ls.first.files.OpenUntil(ctx, path, flags, func() { <-ls.texts })
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readText reads a text file.
func (ls *lanes) readText(ctx context.Context, path string) ([]byte, error) {
	f, err := ls.openText(ctx, path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Read(ctx, maxText+1)
}

// take gives a card a place. It may have to wait for the start of a lane: one at a time is
// started. Where that fails, cards share lanes without room. leave gives the place back.
func (ls *lanes) take(ctx context.Context) (*lane, error) {
	for {
		n, starting, err := ls.find(ctx)
		switch {
		case n != nil || err != nil:
			return n, err
		case starting == nil:
			ls.begin(ctx)
		default:
			select {
			case <-starting:
			case <-ctx.Done():
			}
		}
	}
}

// find gives a card a place, or returns what to wait for first. If it returns nothing, it is
// up to the caller to begin another lane.
func (ls *lanes) find(ctx context.Context) (n *lane, starting <-chan struct{}, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case ls.over:
		return nil, nil, reader.ErrAway
	}
	settled := ls.start == nil || len(ls.all) >= lanesMost || time.Now().Before(ls.notYet)
	for _, other := range ls.all {
		if other.ended() { // watch follows
			settled = true
			continue
		}
		if other.cards < other.room { // the first with room: so the last become empty
			n = other
			break
		}
		if n == nil || other.cards-other.room < n.cards-n.room {
			n = other
		}
	}
	if settled || n.cards < n.room {
		n.cards++
		return n, nil, nil
	}
	if ls.starting == nil {
		ls.starting = make(chan struct{})
		return nil, nil, nil
	}
	return nil, ls.starting, nil
}

// begin starts a lane, for whom find told to.
func (ls *lanes) begin(ctx context.Context) {
	n, err := ls.start(ctx)
	failed := err != nil && ctx.Err() == nil // nobody gave up
	ls.mu.Lock()
	over, starting := ls.over, ls.starting
	ls.starting = nil
	switch {
	case failed:
		ls.notYet = time.Now().Add(laneRest)
	case err == nil && !over:
		ls.all = append(ls.all, n)
	}
	ls.mu.Unlock()
	switch {
	case failed:
		ls.log.Warn("another sshfs for the machine cannot be started: cards beyond those there is room for wait for each other", "error", err)
	case err != nil:
	case over:
		n.close()
	default:
		reader.Go(ls.host, func() { ls.watch(n) })
	}
	close(starting)
}

// watch waits for the end of a further lane.
func (ls *lanes) watch(n *lane) {
	<-n.gone
	if ls.remove(n, false) {
		ls.log.Warn("an sshfs for the machine ended, and with it the sessions of its cards", "error", n.err())
		ls.lost(n)
		n.close()
		ls.closing.Done()
	}
}

// leave gives a place back.
func (ls *lanes) leave(n *lane) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	n.cards--
	switch {
	case n.cards > 0 || slices.Index(ls.all, n) < 1:
	case n.rest == nil:
		n.rest = time.AfterFunc(laneRest, func() {
			if ls.remove(n, true) {
				n.close()
				ls.closing.Done()
			}
		})
	default:
		n.rest.Reset(laneRest)
	}
}

// remove takes out a further lane that has ended, or if idle one that carries no card. It
// reports whether the caller is to close it, which ls.closing counts.
func (ls *lanes) remove(n *lane, idle bool) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	i := slices.Index(ls.all, n)
	if i < 1 || idle && n.cards > 0 {
		return false
	}
	if !idle {
		ls.notYet = time.Now().Add(laneRest)
	}
	ls.all = slices.Delete(ls.all, i, i+1)
	ls.closing.Add(1)
	return true
}

// close closes all lanes. A start under way ends with its context.
func (ls *lanes) close() {
	ls.mu.Lock()
	all, starting := ls.all, ls.starting
	ls.over, ls.all = true, nil
	ls.mu.Unlock()
	for _, n := range all {
		ls.closing.Go(n.close)
	}
	if starting != nil {
		<-starting
	}
	ls.closing.Wait()
}
