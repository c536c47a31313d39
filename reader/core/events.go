package core

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// eventLog gives events their order and keeps, for every slot that is there,
// the events that made its present state: a new follower reads these first and
// then what comes, without a gap between.
type eventLog struct {
	mu    sync.Mutex
	seq   uint64
	state map[*Slot][]Event
	all   source[Event]
}

// publish records an event of s and returns its sequence number. The caller holds s.mu, so
// that the order of events is the order of states.
func (l *eventLog) publish(s *Slot, what What, pairs ...string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e := Event{Seq: l.seq, Slot: s.number, What: what, More: renderPairs(pairs)}
	if l.state == nil {
		l.state = make(map[*Slot][]Event)
	}
	if what == Left {
		delete(l.state, s)
	} else {
		l.state[s] = append(supersede(l.state[s], what), e)
	}
	s.events.put(e)
	if what == Left {
		s.events.end(reader.ErrGone)
	}
	l.all.put(e)
	return e.Seq
}

// supersede drops from a slot's state what the event makes untrue.
func supersede(state []Event, what What) []Event {
	undone := map[What][]What{
		Ready:    {Failed},
		Failed:   {Failed},
		Inserted: {Failed, Inserted, PowerSet, WasReset, Removed},
		PowerSet: {Failed, PowerSet, WasReset},
		WasReset: {Failed, WasReset},
		Removed:  {Failed, Inserted, PowerSet, WasReset, Removed},
	}[what]
	return slices.DeleteFunc(state, func(e Event) bool { return slices.Contains(undone, e.What) })
}

// follow subscribes to all slots, or to s alone.
func (l *eventLog) follow(slot *Slot) *Feed[Event] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slot != nil {
		return slot.events.add(func() []Event { return slices.Clone(l.state[slot]) })
	}
	return l.all.add(func() []Event {
		var now []Event
		for _, s := range l.state {
			now = append(now, s...)
		}
		slices.SortFunc(now, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) })
		return now
	})
}

// renderPairs writes key, value, key, value … as " key=value". What would
// break a line apart becomes an underscore, as in udev's names.
func renderPairs(pairs []string) string {
	var s strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		s.WriteByte(' ')
		s.WriteString(pairs[i])
		s.WriteByte('=')
		s.WriteString(words.Word(pairs[i+1], words.MaxWords))
	}
	return s.String()
}
