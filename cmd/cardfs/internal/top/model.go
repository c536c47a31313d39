package top

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// sweep is how many rows out of sight are looked at with each look at those in sight.
const sweep = 64

// burst is how many slots are looked at at most when events tell of them.
const burst = 256

// mode is what keys mean and what the screen shows.
type mode int

const (
	browsing mode = iota
	filtering
	confirming
	helping
	tracing
)

// model is what there is to show. It does nothing itself: its methods take what happened, and
// return what is to be done.
type model struct {
	name  func(atr string) string
	while time.Duration // half of the interval between looks
	dir   string

	rows   map[int]*row
	order  []int        // the rows that are shown, by the filter, sorted
	dirty  map[int]bool // slots of which an event told since they were looked at
	behind bool         // events were lost: all has to be looked at anew
	begun  bool         // there was a look
	next   int          // where the sweep goes on

	mode     mode
	sort     int // of sorts
	reverse  bool
	filter   string
	selected int  // a slot's number
	moved    bool // the user chose a row; before, it is the first one, whichever that is
	top      int  // index in order of the first row in sight
	width    int
	height   int

	question string
	answer   action    // done if the question is answered with y
	about    survey.ID // of the reader that the question is about
	message  string
	bad      bool // the message is of a failure

	traced int // the slot whose trace is followed
	trace  trace
}

// action is something to be done outside of the model.
type action struct {
	what string // "", quit, power, trace, untrace, suspend, redraw
	slot int
	word string // what is written to power
}

func newModel(dir string, interval time.Duration, name func(atr string) string) *model {
	return &model{
		dir: dir, while: interval / 2, name: name,
		rows: make(map[int]*row), dirty: make(map[int]bool), width: 80, height: 24,
	}
}

// sorts are the orders of rows, the first one first.
var sorts = []struct {
	name string
	less func(a, b *row) int
}{
	{"number", func(a, b *row) int { return 0 }},
	{"rate", func(a, b *row) int { return cmp.Compare(b.rate, a.rate) }},
	{"latency", func(a, b *row) int { return cmp.Compare(b.latency, a.latency) }},
	{"errors", func(a, b *row) int { return cmp.Compare(b.errors, a.errors) }},
	{"sessions", func(a, b *row) int { return cmp.Compare(b.sessions, a.sessions) }},
	{"state", func(a, b *row) int { return strings.Compare(a.state, b.state) }},
	{"reader", func(a, b *row) int { return strings.Compare(a.reader, b.reader) }},
	{"card", func(a, b *row) int { return strings.Compare(a.card, b.card) }},
}

// Sorts are the names of the orders.
func Sorts() (names []string) {
	for _, s := range sorts {
		names = append(names, s.name)
	}
	return names
}

// arrange finds the rows to show, and keeps the selected one in sight.
func (m *model) arrange() {
	at := max(0, slices.Index(m.order, m.selected))
	words := strings.Fields(strings.ToLower(m.filter))
	m.order = m.order[:0]
	for n, r := range m.rows {
		if r.matches(words) {
			m.order = append(m.order, n)
		}
	}
	less := sorts[m.sort].less
	slices.SortFunc(m.order, func(a, b int) int {
		c := cmp.Or(less(m.rows[a], m.rows[b]), a-b)
		if m.reverse {
			return -c
		}
		return c
	})
	m.keep(at)
}

// keep selects a row that is there, by its number or at its place, and scrolls to it.
func (m *model) keep(place int) {
	if len(m.order) == 0 {
		m.top = 0
		return
	}
	at := slices.Index(m.order, m.selected)
	switch {
	case !m.moved:
		at = 0
	case at < 0:
		at = min(place, len(m.order)-1)
	}
	m.selected = m.order[at]
	page := m.page()
	m.top = min(m.top, at, max(0, len(m.order)-page))
	m.top = max(m.top, at-page+1)
}

// page is how many rows fit.
func (m *model) page() int { return max(1, m.height-4) }

// inSight are the rows that are shown now.
func (m *model) inSight() []int {
	return m.order[m.top:min(m.top+m.page(), len(m.order))]
}

// wanted are the slots to look at now; nil and true: all. At an interval's end those are the
// rows in sight and some others, between them only those of which events told.
func (m *model) wanted(tick bool) (numbers []int, all bool) {
	if m.behind {
		m.behind = false
		clear(m.dirty)
		return nil, true
	}
	want := make(map[int]bool)
	for n := range m.dirty {
		if len(want) == burst {
			break
		}
		want[n] = true
		delete(m.dirty, n)
	}
	if tick && m.mode != tracing {
		for _, n := range m.inSight() {
			want[n] = true
		}
		every := slices.Sorted(maps.Keys(m.rows))
		for range min(sweep, len(every)) {
			at, _ := slices.BinarySearch(every, m.next)
			if at == len(every) {
				at = 0
			}
			want[every[at]] = true
			m.next = every[at] + 1
		}
	}
	return slices.Sorted(maps.Keys(want)), false
}

// looked takes what was found of the slots that were wanted. Those not found have left.
func (m *model) looked(asked []int, all bool, found []survey.Slot, at time.Time) {
	if all {
		asked = slices.Collect(maps.Keys(m.rows))
	}
	m.begun = true
	there := make(map[int]bool)
	for i := range found {
		s := &found[i]
		there[s.Number] = true
		r := m.rows[s.Number]
		if r == nil {
			r = new(row)
			m.rows[s.Number] = r
		}
		r.look(s, at, m.while, m.name)
	}
	for _, n := range asked {
		if !there[n] {
			delete(m.rows, n)
		}
	}
	m.arrange()
}

// event takes an event of the slot. A look that is under way may have seen it before.
func (m *model) event(slot int, left, lost bool) {
	m.dirty[slot] = true
	m.behind = m.behind || lost
	if left {
		delete(m.rows, slot)
		m.arrange()
	}
}

// resized takes the screen's size.
func (m *model) resized(width, height int) {
	m.width, m.height = width, height
	m.keep(0)
}

// did takes the outcome of what was done.
func (m *model) did(a action, err error) {
	m.bad = err != nil
	switch {
	case err != nil:
		m.message = err.Error()
	case a.what == "power":
		m.message = fmt.Sprintf("slot %d: %s done", a.slot, powerNames[a.word])
	}
}

var powerNames = map[string]string{"reset": "reset", "on": "power on", "off": "power off", "eject": "eject"}
