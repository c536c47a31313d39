package reader

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// eventLog gives events their order and keeps, for every slot that is there,
// the events that made its present state: a new follower reads these first and
// then what comes, without a gap between.
type eventLog struct {
	mu    sync.Mutex
	seq   uint64
	state map[*Bay][]Event
	all   source[Event]
}

// publish records an event of b. The caller holds b.mu, so that the order of
// events is the order of states.
func (l *eventLog) publish(b *Bay, what What, pairs ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e := Event{Seq: l.seq, Slot: b.number, What: what, More: renderPairs(pairs)}
	if l.state == nil {
		l.state = make(map[*Bay][]Event)
	}
	if what == Left {
		delete(l.state, b)
	} else {
		l.state[b] = append(supersede(l.state[b], what), e)
	}
	b.events.put(e)
	if what == Left {
		b.events.end(ErrGone)
	}
	l.all.put(e)
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

// follow subscribes to all slots, or to b alone.
func (l *eventLog) follow(b *Bay) *Feed[Event] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b != nil {
		return b.events.add(func() []Event { return slices.Clone(l.state[b]) })
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
		s.WriteString(word(pairs[i+1], maxWords))
	}
	return s.String()
}
