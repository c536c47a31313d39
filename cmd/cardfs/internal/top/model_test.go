package top

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rivo/uniseg"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// begin is the time of the tests' first look. Further looks are a second apart.
var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// slot returns a slot with the given lines: "key value" of status, and "key=N" of stats.
func slot(n int, lines ...string) survey.Slot {
	s := survey.Slot{Number: n, ID: survey.ID{Inode: uint64(n + 1)}, Status: map[string]string{"reader": "Reader"}, Stats: map[string]int64{}}
	for _, l := range lines {
		if key, value, ok := strings.Cut(l, " "); ok {
			s.Status[key] = value
			continue
		}
		key, value, _ := strings.Cut(l, "=")
		var number int64
		fmt.Sscan(value, &number)
		s.Stats[key] = number
	}
	return s
}

func testModel(slots ...survey.Slot) *model {
	m := newModel("/mnt/cards", time.Second, func(atr string) string {
		if atr == "3B 00" {
			return "Known card"
		}
		return ""
	})
	m.looked(nil, true, slots, begin)
	return m
}

// many returns n empty slots.
func many(n int) (list []survey.Slot) {
	for i := range n {
		list = append(list, slot(i, "state empty", fmt.Sprintf("reader Reader %d", i)))
	}
	return list
}

// screenText returns the screen's text, without blanks at the ends of lines.
func screenText(m *model) string {
	var out strings.Builder
	for _, l := range m.view(false) {
		var text strings.Builder
		for _, p := range l.pieces {
			text.WriteString(p.fit(false))
		}
		out.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
	return out.String()
}

func wantScreen(t *testing.T, m *model, want ...string) {
	t.Helper()
	got := screenText(m)
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("the screen does not show %q:\n%s", w, got)
		}
	}
}

func press(m *model, keys ...string) (last action) {
	for _, k := range keys {
		last = m.key(k)
	}
	return last
}

func TestScreen(t *testing.T) {
	m := testModel(
		slot(0, "state powered", "atr 3B 00", "protocol T=1", "sessions 2", "exchanges=10", "exchange-us=1000", "errors=1", "siblings 0 1", "transaction held", "by-id sim-a", "host lab"),
		slot(1, "state empty", "siblings 0 1"),
		slot(2, "state failed", "error no answer from the reader"),
		slot(3, "state powered", "atr 3B 01 02", "protocol T=0"),
		slot(4, "state powered", "atr 82 A2 10 84", "protocol memory", "memory 256 I2C"),
		slot(7, "state starting"),
	)
	m.resized(100, 12)
	m.looked([]int{0}, false, []survey.Slot{slot(0, "state powered", "atr 3B 00", "protocol T=1", "sessions 2",
		"exchanges=15", "exchange-us=21000", "errors=4", "siblings 0 1", "transaction held", "by-id sim-a", "host lab")}, begin.Add(time.Second))
	want := `cardfs  5 readers, 3 cards, 3 powered, 1 failed  5 exch/s  /mnt/cards
    N STATE    READER              CARD                     SES EXCH/S   TIME                ERRORS
    0 powered  Reader              Known card                 2    5.0  4.0ms              ▅      4
    1 empty    Reader                                                -      -                     0
    2 failed   Reader                                                -      -                     0
    3 powered  Reader              T=0 3B0102                        -      -                     0
    4 powered  Reader              memory card, 256 I2C              -      -                     0
    7 starting Reader                                                -      -                     0


0: Reader at lab, Known card, sim-a, transaction held
? help  / filter  s sort  r reset  p power  e eject  t trace  q quit
`
	if got := screenText(m); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	press(m, "j", "j")
	wantScreen(t, m, "2: no answer from the reader\n")
}

// looks maps the text of each piece of a screen's line to the way it is drawn.
func looks(l line) map[string]look {
	all := make(map[string]look)
	for _, p := range l.pieces {
		all[p.text] = p.look
	}
	return all
}

// Titles and the chosen row are in reverse. Faults and new errors stand out.
func TestLooks(t *testing.T) {
	m := testModel(slot(0, "state powered", "errors=7"), slot(1, "state failed", "error broken", "errors=1"), slot(2, "state starting"), slot(3, "state empty"))
	m.looked([]int{0, 1}, false, []survey.Slot{slot(0, "state powered", "errors=9"), slot(1, "state failed", "error broken", "errors=1")}, begin.Add(time.Second))
	v := m.view(false)
	for i, reversed := range []bool{false, true, true, false, false} {
		if v[i].reverse != reversed {
			t.Errorf("line %d in reverse: %v", i, v[i].reverse)
		}
	}
	for i, want := range []map[string]look{
		0: {"cardfs": strong, ", 1 failed": wrong},
		2: {"powered": good, "9": wrong}, 3: {"failed": wrong, "1": plain}, 4: {"starting": warning, "0": plain}, 5: {"empty": dim},
	} {
		got := looks(v[i])
		for text, l := range want {
			if have, ok := got[text]; !ok || have != l {
				t.Errorf("line %d: %q is drawn as %d (%v), want %d", i, text, have, ok, l)
			}
		}
	}
	last := func(what string, want look) {
		t.Helper()
		v := m.view(false)
		if got := v[len(v)-1].pieces[0].look; got != want {
			t.Errorf("%s is drawn as %d, want %d: %v", what, got, want, v[len(v)-1])
		}
	}
	last("help", dim)
	press(m, "r")
	last("a question", warning)
	press(m, "y")
	last("what is done", plain)
	m.did(action{"power", 0, "reset"}, errors.New("no"))
	last("a failure", wrong)
	m.did(action{"power", 0, "reset"}, nil)
	last("success", plain)
	press(m, "j", "r")
	last("what cannot be done", wrong)
	press(m, "k")
	last("the next key", dim)
	m = testModel(slot(0, "state empty"))
	if got := looks(m.view(false)[0]); len(got) != 4 {
		t.Errorf("nothing failed: %v", got)
	}
}

// Without UTF-8 the screen has only ASCII.
func TestASCII(t *testing.T) {
	m := testModel(slot(0, "state powered", "reader "+strings.Repeat("long ", 10), "exchanges=0"))
	m.looked([]int{0}, false, []survey.Slot{slot(0, "state powered", "reader "+strings.Repeat("long ", 10), "exchanges=2", "exchange-us=84")}, begin.Add(time.Second))
	var row strings.Builder
	for _, p := range m.view(true)[2].pieces {
		row.WriteString(p.fit(true))
	}
	if got := row.String(); !strings.Contains(got, " 42us ") || !strings.Contains(got, "_ ") || strings.ContainsFunc(got, func(r rune) bool { return r > '~' }) {
		t.Errorf("%q", got)
	}
}

func TestBegin(t *testing.T) {
	m := newModel("/mnt/cards", time.Second, nil)
	if strings.Contains(screenText(m), "no reader") {
		t.Error("it says that there is no reader before it looked")
	}
	m.looked(nil, true, nil, begin)
	wantScreen(t, m, "no reader; attach one")
}

// The screen fits into 80x24 and any other size, in width and height.
func TestSizes(t *testing.T) {
	m := testModel(many(100)...)
	long := strings.Repeat("读卡器 ", 30)
	m.looked([]int{0}, false, []survey.Slot{slot(0, "state powered", "reader "+long, "atr 3B 01", "by-id "+long)}, begin)
	for width := range 200 {
		for _, height := range []int{0, 1, 2, 3, 4, 5, 24, 60} {
			m.resized(width, height)
			for _, mode := range []mode{browsing, filtering, confirming, helping, tracing} {
				m.mode = mode
				m.trace = trace{lines: []string{strings.Repeat("x", 300), "", "y"}}
				v := m.view(false)
				if len(v) > height {
					t.Fatalf("%d lines on a screen of %d", len(v), height)
				}
				if mode != browsing || height < 6 || width < 80 {
					continue
				}
				for i, l := range v[1 : len(v)-2] {
					n := 0
					for _, p := range l.pieces {
						n += uniseg.StringWidth(p.fit(false))
					}
					if n != width && len(l.pieces) > 0 {
						t.Fatalf("line %d is %d wide on a screen of %d", i+1, n, width)
					}
				}
			}
		}
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		p     piece
		ascii bool
		want  string
	}{
		{piece{text: "abc"}, false, "abc"}, {piece{text: "abc", width: 5}, false, "abc  "}, {piece{text: "abc", width: 5, right: true}, false, "  abc"},
		{piece{text: "abc", width: 3}, false, "abc"}, {piece{text: "abcd", width: 3}, false, "ab…"}, {piece{text: "abcd", width: 3}, true, "ab~"},
		{piece{text: "读卡器", width: 6}, false, "读卡器"}, {piece{text: "读卡器", width: 5}, false, "读卡…"}, {piece{text: "读卡器", width: 4}, false, "读… "},
		{piece{text: "abc", width: 1}, false, "…"},
	} {
		if got := tt.p.fit(tt.ascii); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.p, got, tt.want)
		}
	}
}

// A rate is that since the previous look at the same reader.
func TestRates(t *testing.T) {
	m := testModel(slot(0, "state powered", "exchanges=100", "exchange-us=5000", "errors=2"))
	look := func(after time.Duration, s survey.Slot) *row {
		m.looked([]int{0}, false, []survey.Slot{s}, begin.Add(after))
		return m.rows[0]
	}
	check := func(what string, r *row, known bool, rate float64, latency time.Duration, newErrors int64, plot int) {
		t.Helper()
		if r.known != known || r.rate != rate || r.latency != latency || r.newErrors != newErrors || len(r.plot) != plot {
			t.Errorf("%s: %+v", what, r)
		}
	}
	check("the first look", m.rows[0], false, 0, 0, 0, 0)
	r := look(100*time.Millisecond, slot(0, "state empty", "exchanges=200", "errors=9"))
	check("a moment after", r, false, 0, 0, 0, 0)
	if r.state != "empty" || r.errors != 9 {
		t.Errorf("what an event told is not shown at once: %+v", r)
	}
	check("two seconds", look(2*time.Second, slot(0, "exchanges=110", "exchange-us=25000", "errors=8", "error-EAGAIN=3", "error-EIO=5")), true, 5, 2*time.Millisecond, 3, 1)
	check("half a second", look(2500*time.Millisecond, slot(0, "exchanges=111", "exchange-us=25000", "errors=5")), true, 2, time.Microsecond, 0, 2)
	check("nothing", look(4500*time.Millisecond, slot(0, "exchanges=111", "exchange-us=25000", "errors=5")), true, 0, 0, 0, 3)
	other := slot(0, "exchanges=5000", "exchange-us=1")
	other.ID.Inode = 99
	check("another reader", look(9*time.Second, other), false, 0, 0, 0, 0)
	for i := range 3 * plotLength {
		other.Stats = map[string]int64{"exchanges": 5000 + int64(i+1), "exchange-us": 1 + 1000*int64(i+1)*int64(i+2)/2}
		look(time.Duration(10+i)*time.Second, other)
	}
	if n := len(m.rows[0].plot); n != plotLength || m.rows[0].plot[n-1] != 3*plotLength*time.Millisecond || m.rows[0].plot[0] != (2*plotLength+1)*time.Millisecond {
		t.Errorf("the plot has %v", m.rows[0].plot)
	}
}

func TestTexts(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "-"}, {time.Microsecond, "1µs"}, {999 * time.Microsecond, "999µs"}, {time.Millisecond, "1.0ms"}, {9900 * time.Microsecond, "9.9ms"},
		{9960 * time.Microsecond, "10ms"}, {340 * time.Millisecond, "340ms"}, {999400 * time.Microsecond, "999ms"}, {999600 * time.Microsecond, "1.0s"},
		{42 * time.Second, "42s"}, {10 * time.Minute, "10m"}, {16*time.Minute + 20*time.Second, "16m"},
	} {
		if got := latencyText(tt.d); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.d, got, tt.want)
		}
	}
	for rate, want := range map[float64]string{0: "0", 0.25: "0.2", 99.9: "99.9", 99.96: "100", 12345: "12345", 99999.4: "99999", 123456: "123k"} {
		if got := (&row{known: true, rate: rate}).rateText(); got != want {
			t.Errorf("%v: %s, want %s", rate, got, want)
		}
	}
	for d, want := range map[time.Duration]int{
		1: 0, 99: 0, 100: 1, 299: 1, 300: 2, 999: 2, 1000: 3, 2999: 3, 3000: 4, 10_000: 5, 30_000: 6, 99_999: 6, 100_000: 7, 1e9: 7,
	} {
		if got := bar(d * time.Microsecond); got != want {
			t.Errorf("%d µs: bar %d, want %d", d, got, want)
		}
	}
	r := &row{plot: []time.Duration{1, 0, time.Second, 5 * time.Millisecond}}
	for _, tt := range []struct {
		width int
		ascii bool
		want  string
	}{{6, false, "  ▁ █▅"}, {2, false, "█▅"}, {4, true, "_ #="}} {
		if got := r.plotText(tt.width, tt.ascii); got != tt.want {
			t.Errorf("%d: %q, want %q", tt.width, got, tt.want)
		}
	}
}
