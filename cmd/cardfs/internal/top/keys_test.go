package top

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

func TestChoosing(t *testing.T) {
	m := testModel(many(100)...)
	if m.page() != 20 {
		t.Fatalf("%d rows of 80x24", m.page())
	}
	at := func(what string, selected, top int) {
		t.Helper()
		if m.selected != selected || m.top != top || !slices.Contains(m.inSight(), selected) {
			t.Errorf("%s: %d of %v", what, m.selected, m.inSight())
		}
	}
	at("at the start", 0, 0)
	for _, s := range []struct {
		key           string
		selected, top int
	}{
		{"down", 1, 0}, {"j", 2, 0}, {"up", 1, 0}, {"k", 0, 0}, {"k", 0, 0}, {"pgdn", 20, 1}, {"ctrl-f", 40, 21}, {" ", 60, 41}, {"pgup", 40, 40},
		{"ctrl-b", 20, 20}, {"end", 99, 80}, {"j", 99, 80}, {"home", 0, 0}, {"G", 99, 80}, {"g", 0, 0},
	} {
		press(m, s.key)
		at(s.key, s.selected, s.top)
	}
	// The chosen row stays chosen, whatever happens to the rows above.
	press(m, "G", "k")
	for i := range 50 {
		m.event(i, true, false)
	}
	at("those above left", 98, 30)
	m.event(98, true, false)
	at("it left", 99, 29)
	m.event(99, true, false)
	at("the last one left", 97, 28)
	m.resized(80, 100)
	at("a higher screen", 97, 0)
	m.resized(80, 10)
	at("a lower one", 97, 42)
	for i := range 100 {
		m.event(i, true, false)
	}
	if len(m.inSight()) != 0 {
		t.Errorf("in sight: %v", m.inSight())
	}
	press(m, "j", "r", "t", "p")
	wantScreen(t, m, "no reader; attach one")
}

func TestSorts(t *testing.T) {
	m := testModel(
		slot(0, "state powered", "reader B", "atr 3B 02", "sessions 1", "errors=5"),
		slot(1, "state empty", "reader C", "errors=7"),
		slot(2, "state failed", "reader A", "atr 3B 01", "sessions 4"),
		slot(3, "state powered", "reader A", "atr 3B 00", "sessions 2", "errors=5"),
	)
	for n, r := range map[int][2]float64{0: {1, 9}, 1: {2, 0}, 2: {7, 3}, 3: {1, 1}} {
		m.rows[n].rate, m.rows[n].latency = r[0], time.Duration(r[1])
	}
	want := map[string][]int{
		"number": {0, 1, 2, 3}, "rate": {2, 1, 0, 3}, "latency": {0, 2, 3, 1}, "errors": {1, 0, 3, 2},
		"sessions": {2, 3, 0, 1}, "state": {1, 2, 0, 3}, "reader": {2, 3, 0, 1}, "card": {1, 2, 0, 3},
	}
	for i, name := range Sorts() {
		if m.sort != i || !slices.Equal(m.order, want[name]) {
			t.Errorf("by %s: %v, want %v", name, m.order, want[name])
		}
		if i > 0 {
			wantScreen(t, m, "  by "+name+"  /mnt/cards\n")
		}
		press(m, "S")
		back := slices.Clone(m.order)
		slices.Reverse(back)
		if !slices.Equal(back, want[name]) {
			t.Errorf("by %s, reversed: %v", name, m.order)
		}
		wantScreen(t, m, "  by "+name+", reversed  /mnt")
		if m.selected != m.order[0] {
			t.Errorf("nothing was chosen, and not the first row is: %d of %v", m.selected, m.order)
		}
		press(m, "s")
	}
	if m.sort != 0 || m.reverse {
		t.Errorf("the last order is not followed by the first")
	}
}

func TestFilter(t *testing.T) {
	m := testModel(
		slot(0, "state powered", "reader Token A", "atr 3B 00", "driver ikey"), slot(1, "state empty", "reader Token B", "device 1-2", "driver ccid"),
		slot(21, "state failed", "reader Other", "by-id usb-other", "host lab"),
	)
	press(m, "/")
	for _, tt := range []struct {
		typed string
		want  []int
	}{
		{"", []int{0, 1, 21}}, {"token", []int{0, 1}}, {"TOKEN ccid", []int{1}}, {"ccid token", []int{1}}, {"known", []int{0}}, {"3b 00", []int{0}},
		{"usb-", []int{21}}, {"1-2", []int{1}}, {"ccid", []int{1}}, {"2", []int{1, 21}}, {"failed", []int{21}}, {"lab", []int{21}}, {"nothing", nil},
	} {
		press(m, "ctrl-u")
		for _, k := range tt.typed {
			press(m, string(k))
		}
		if !slices.Equal(m.order, tt.want) {
			t.Errorf("%q: %v, want %v", tt.typed, m.order, tt.want)
		}
		wantScreen(t, m, fmt.Sprintf("\n/%s_  %d match\n", tt.typed, len(tt.want)))
	}
	wantScreen(t, m, "no reader matches nothing")
	press(m, "ctrl-u", "ö", "q", "backspace", "backspace", "backspace", "t", "up")
	if m.filter != "t" {
		t.Errorf("filter %q", m.filter)
	}
	press(m, "enter")
	if m.mode != browsing || m.filter != "t" {
		t.Errorf("enter: mode %d, filter %q", m.mode, m.filter)
	}
	wantScreen(t, m, "  /t: 3  /mnt")
	press(m, "/", "o", "esc")
	if m.mode != browsing || m.filter != "" || len(m.order) != 3 {
		t.Errorf("escape: mode %d, filter %q", m.mode, m.filter)
	}
	press(m, "/", "t", "o", "enter", "esc")
	if m.filter != "" || len(m.order) != 3 {
		t.Errorf("escape after enter: filter %q, %v", m.filter, m.order)
	}
	m.filter = "zzz"
	m.arrange()
	if a := press(m, "r"); a.what != "" || m.mode != browsing {
		t.Errorf("r without a row: %+v", a)
	}
}

// Reset, power off and eject need a confirmation, because they disturb others.
func TestActions(t *testing.T) {
	slots := []survey.Slot{
		slot(0, "state powered", "sessions 1", "reader A"), slot(1, "state present"), slot(2, "state empty"), slot(3, "state starting"),
		slot(4, "state powered", "sessions 3", "reader B"), slot(5, "state powered"),
	}
	for _, tt := range []struct {
		slot     int
		key      string
		question string // "": none
		done     action
		message  string
	}{
		{0, "r", "Reset slot 0, A? 1 session loses its card. (y/n)", action{"power", 0, "reset"}, "slot 0: reset …"},
		{4, "p", "Power off slot 4, B? 3 sessions lose their card. (y/n)", action{"power", 4, "off"}, "slot 4: power off …"},
		{5, "e", "Eject slot 5, Reader? (y/n)", action{"power", 5, "eject"}, "slot 5: eject …"},
		{1, "p", "", action{"power", 1, "on"}, "slot 1: power on …"},
		{1, "e", "Eject slot 1, Reader? (y/n)", action{"power", 1, "eject"}, "slot 1: eject …"},
		{2, "r", "", action{}, "no card in slot 2"}, {2, "p", "", action{}, "no card in slot 2"}, {3, "e", "", action{}, "no card in slot 3"},
	} {
		m := testModel(slots...)
		m.resized(120, 24)
		for range tt.slot {
			press(m, "j")
		}
		a := press(m, tt.key)
		if tt.question != "" {
			if a.what != "" {
				t.Errorf("%+v was done without asking", a)
			}
			wantScreen(t, m, tt.question)
			for _, no := range []string{"n", "esc", "enter", "q", " ", tt.key} {
				if a := press(m, no); a.what != "" || m.mode != browsing {
					t.Errorf("%s is no yes, and did %+v", no, a)
				}
				press(m, tt.key)
			}
			a = press(m, "y")
		}
		if a != tt.done {
			t.Errorf("%d %s: %+v, want %+v", tt.slot, tt.key, a, tt.done)
		}
		wantScreen(t, m, tt.message)
		if a.what == "" {
			continue
		}
		m.did(a, nil)
		wantScreen(t, m, strings.TrimSuffix(tt.message, "…")+"done")
		m.did(a, errors.New("it failed"))
		wantScreen(t, m, "it failed")
		press(m, "k")
		if strings.Contains(screenText(m), "it failed") {
			t.Error("a message stays")
		}
	}

	// The reader in question left, and perhaps another has its number.
	for _, comes := range []bool{false, true} {
		m := testModel(slots...)
		press(m, "r")
		m.event(0, true, false)
		if comes {
			other := slots[0]
			other.ID.Inode = 1000
			m.looked([]int{0}, false, []survey.Slot{other}, begin)
		}
		if a := press(m, "y"); a.what != "" {
			t.Errorf("%+v: another reader's card", a)
		}
		wantScreen(t, m, "slot 0: the reader left meanwhile")
	}
}

func TestOtherKeys(t *testing.T) {
	m := testModel(many(3)...)
	for key, want := range map[string]string{"q": "quit", "ctrl-c": "quit", "ctrl-l": "redraw", "ctrl-z": "suspend", "x": ""} {
		if a := press(m, key); a.what != want {
			t.Errorf("%s: %+v", key, a)
		}
	}
	m.resized(80, 40)
	for _, key := range []string{"?", "h", "f1"} {
		press(m, key)
		for l := range strings.SplitSeq(Help, "\n") {
			wantScreen(t, m, strings.TrimRight(l, " ")+"\n")
		}
		if press(m, "q").what != "" || m.mode != browsing {
			t.Error("any key returns from help")
		}
	}
	for _, mode := range []mode{filtering, confirming, helping, tracing} {
		if m.mode = mode; press(m, "ctrl-c").what != "quit" {
			t.Errorf("ctrl-C does not quit in mode %d", mode)
		}
	}
}

// Visible rows are read at each interval, and the others in turn. Rows with an event are read
// at once, and all rows if events were lost. A row that is not found has left.
func TestWanted(t *testing.T) {
	m := testModel(many(1000)...)
	if got, all := m.wanted(false); len(got) != 0 || all {
		t.Errorf("nothing happened: %v, %v", got, all)
	}
	seen := make(map[int]int)
	for range 1000/sweep + 1 {
		got, all := m.wanted(true)
		if all || len(got) > m.page()+sweep || !slices.IsSorted(got) {
			t.Fatalf("%v, %v", got, all)
		}
		for _, n := range m.inSight() {
			if !slices.Contains(got, n) {
				t.Errorf("%d is in sight", n)
			}
		}
		for _, n := range got {
			seen[n]++
		}
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 were looked at", len(seen))
	}

	m.event(700, false, false)
	m.event(2000, false, false)
	if got, all := m.wanted(false); !slices.Equal(got, []int{700, 2000}) || all {
		t.Errorf("events: %v, %v", got, all)
	}
	if got, _ := m.wanted(false); len(got) != 0 {
		t.Errorf("again: %v", got)
	}
	m.looked([]int{700, 2000}, false, []survey.Slot{slot(2000, "state empty")}, begin)
	if m.rows[700] != nil || m.rows[2000] == nil || len(m.rows) != 1000 || m.order[999] != 2000 {
		t.Errorf("%d rows", len(m.rows))
	}

	// A look that began before an event does not bring back a reader that left.
	m.event(5, true, false)
	m.looked([]int{5}, false, []survey.Slot{slot(5, "state empty")}, begin)
	if got, _ := m.wanted(false); !slices.Equal(got, []int{5}) {
		t.Errorf("after the reader left: %v", got)
	}
	m.looked([]int{5}, false, nil, begin)
	if m.rows[5] != nil {
		t.Error("it is shown though it left")
	}

	for n := range 1000 {
		m.event(n, false, false)
	}
	total := make(map[int]bool)
	for range 4 {
		got, _ := m.wanted(false)
		if len(got) > burst {
			t.Errorf("%d at once", len(got))
		}
		for _, n := range got {
			total[n] = true
		}
	}
	if len(total) != 1000 {
		t.Errorf("events told of 1000, %d were looked at", len(total))
	}

	m.event(3, false, true)
	if got, all := m.wanted(false); got != nil || !all {
		t.Errorf("after lost events: %v, %v", got, all)
	}
	if got, all := m.wanted(false); len(got) != 0 || all {
		t.Errorf("again: %v, %v", got, all)
	}
	m.looked(nil, true, many(3), begin)
	if !slices.Equal(slices.Sorted(maps.Keys(m.rows)), []int{0, 1, 2}) {
		t.Errorf("rows %v", m.order)
	}
	m.mode = tracing
	if got, _ := m.wanted(true); len(got) != 0 {
		t.Errorf("behind a trace: %v", got)
	}
}
