package core

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// stats has the counters of a slot since its directory exists; the file stats shows them.
// Counting costs an atomic addition: it takes no lock, and wakes nobody unless somebody
// polls the file.
type stats struct {
	exchanges histogram // commands that the card saw
	opens     histogram // that wait for a reader or a card, failed ones included
	control   atomic.Int64
	toCard    atomic.Int64 // bytes
	fromCard  atomic.Int64
	waits     atomic.Int64 // for the turn or another's transaction
	waitTime  atomic.Int64 // ns

	opensWaited atomic.Int64
	resets      [2]atomic.Int64 // that somebody asked for, by Reset
	extensions  atomic.Int64
	fallbacks   atomic.Int64
	happened    [len(countedEvents)]atomic.Int64
	errors      [maxErrno + 1]atomic.Int64 // what programs got

	watching atomic.Int32 // len(watchers)
	mu       sync.Mutex   // a leaf
	watchers map[*func()]struct{}
}

// countedEvents maps the counted events to their keys.
var countedEvents = [...]struct {
	what What
	key  string
}{{Inserted, "insertions"}, {Removed, "removals"}, {PowerSet, "power-ups"}}

// maxErrno is greater than all error numbers of Linux. Greater numbers are counted as it.
const maxErrno = 160

// limits are the upper bounds of a histogram's classes. The last class has no bound.
var limits = [...]time.Duration{
	100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond,
	time.Second, 10 * time.Second, 100 * time.Second,
}

type histogram struct {
	classes [len(limits) + 1]atomic.Int64
	total   atomic.Int64 // ns
}

func (h *histogram) add(d time.Duration) {
	i := 0
	for i < len(limits) && d > limits[i] {
		i++
	}
	h.classes[i].Add(1)
	h.total.Add(int64(d))
}

// counts returns the cumulative counts of the classes; the last is the total.
func (h *histogram) counts() (up [len(limits) + 1]int64) {
	var n int64
	for i := range h.classes {
		n += h.classes[i].Load()
		up[i] = n
	}
	return up
}

// exchanged counts a command that the card saw, and its answer. If they may be secret only
// the header and SW1 SW2 count: the length of VERIFY would reveal the PIN's.
func (s *stats) exchanged(took time.Duration, sent, got int, secret bool) {
	if secret {
		sent, got = min(sent, 4), min(got, 2)
	}
	s.toCard.Add(int64(sent))
	s.fromCard.Add(int64(got))
	s.exchanges.add(took)
	s.tell()
}

func (s *stats) count(n *atomic.Int64) {
	n.Add(1)
	s.tell()
}

// waited counts a wait that began then.
func (s *stats) waited(began time.Time) {
	s.waits.Add(1)
	s.waitTime.Add(int64(time.Since(began)))
	s.tell()
}

func (s *stats) event(what What, pairs []string) {
	for i, c := range countedEvents {
		if c.what == what && (what != PowerSet || pairs[0] != "power") {
			s.count(&s.happened[i])
		}
	}
}

// tell wakes the pollers.
func (s *stats) tell() {
	if s.watching.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for wake := range s.watchers {
		(*wake)()
	}
}

// WatchStats is Watch for Stats.
func (slot *Slot) WatchStats(wake func()) (stop func()) {
	s, key := &slot.stats, &wake
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		s.watchers = make(map[*func()]struct{})
	}
	s.watchers[key] = struct{}{}
	s.watching.Store(int32(len(s.watchers)))
	stopLeft := slot.AfterLeft(wake)
	return func() {
		stopLeft()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, key)
		s.watching.Store(int32(len(s.watchers)))
	}
}

// CountOpen counts an open of that duration, whatever its result.
func (s *Slot) CountOpen(took time.Duration) {
	s.stats.opens.add(took)
	s.stats.tell()
}

// CountError counts an error that a program got.
func (s *Slot) CountError(e syscall.Errno) {
	s.stats.count(&s.stats.errors[min(e, maxErrno)])
}

// Stats renders the counters as "key value" lines. Names of errors are the caller's
// matter, who also says which are shown that nobody got yet: name is "" for the others.
func (slot *Slot) Stats(name func(e syscall.Errno, got bool) string) []byte {
	var out []byte
	s := &slot.stats
	line := func(key string, n int64) { out = fmt.Appendf(out, "%s %d\n", key, n) }
	us := func(n *atomic.Int64) int64 { return n.Load() / int64(time.Microsecond) }

	exchanges, opens := s.exchanges.counts(), s.opens.counts()
	line("exchanges", exchanges[len(limits)])
	line("control", s.control.Load())
	line("bytes-to-card", s.toCard.Load())
	line("bytes-from-card", s.fromCard.Load())
	line("opens", opens[len(limits)])
	line("opens-waited", s.opensWaited.Load())
	line("resets-warm", s.resets[reader.Warm].Load())
	line("resets-cold", s.resets[reader.Cold].Load())
	for i, c := range countedEvents {
		line(c.key, s.happened[i].Load())
	}
	line("rate-fallbacks", s.fallbacks.Load())
	line("time-extensions", s.extensions.Load())
	var errors int64
	head := len(out)
	for i := range s.errors {
		n := s.errors[i].Load()
		errors += n
		if name := name(syscall.Errno(i), n > 0); name != "" {
			line("error-"+name, n)
		}
	}
	tail := append([]byte(nil), out[head:]...)
	out = out[:head]
	line("errors", errors)
	out = append(out, tail...)
	line("waits", s.waits.Load())
	line("wait-us", us(&s.waitTime))
	classes := func(key string, counts [len(limits) + 1]int64, total *atomic.Int64) {
		line(key+"-us", us(total))
		for i, limit := range limits {
			line(fmt.Sprintf("%s-us-le-%d", key, limit.Microseconds()), counts[i])
		}
	}
	classes("exchange", exchanges, &s.exchanges.total)
	classes("open", opens, &s.opens.total)
	return out
}
