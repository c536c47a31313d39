package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// plotLength is how many looks a row remembers.
const plotLength = 40

// row is a slot, as it was when it was last looked at.
type row struct {
	number   int
	id       survey.ID
	first    bool // of its reader's slots
	state    string
	reader   string
	driver   string
	byID     string
	device   string
	host     string // the machine that has the reader; "": this one
	protocol string
	atr      string
	card     string // its name, or what is known of it
	err      string
	sessions int
	held     bool // somebody holds the transaction
	waiting  string

	counted   map[string]int64
	at        time.Time       // when it was counted
	known     bool            // there was a look before, so that there is a rate
	rate      float64         // exchanges a second
	latency   time.Duration   // of an exchange, 0 without one
	errors    int64           // see troubles
	newErrors int64           // since the look before
	plot      []time.Duration // latencies, the last one last
}

// look takes what the slot's files say. What passed since the look before is reckoned if
// that is at least a while ago: a rate over a moment says nothing.
func (r *row) look(s *survey.Slot, at time.Time, while time.Duration, name func(atr string) string) {
	if r.counted == nil || r.id != s.ID {
		*r = row{number: s.Number, id: s.ID, counted: s.Stats, at: at}
	}
	say := s.Status
	r.first = s.First()
	r.state, r.reader, r.driver = say["state"], say["reader"], say["driver"]
	r.byID, r.device, r.host, r.err = say["by-id"], say["device"], say["host"], say["error"]
	r.held, r.waiting = say["transaction"] == "held", say["waiting"]
	r.sessions, _ = strconv.Atoi(say["sessions"])
	if atr := say["atr"]; atr != r.atr || say["protocol"] != r.protocol {
		r.atr, r.protocol = atr, say["protocol"]
		r.card = cardName(say, name)
	}
	r.errors = troubles(s.Stats)

	passed := at.Sub(r.at)
	if passed < while {
		return
	}
	n := s.Stats["exchanges"] - r.counted["exchanges"]
	r.known, r.rate, r.latency = true, float64(n)/passed.Seconds(), 0
	if n > 0 {
		r.latency = time.Duration(s.Stats["exchange-us"]-r.counted["exchange-us"]) * time.Microsecond / time.Duration(n)
		r.latency = max(r.latency, time.Microsecond)
	}
	r.newErrors = r.errors - troubles(r.counted)
	if len(r.plot) == plotLength {
		r.plot = append(r.plot[:0], r.plot[1:]...)
	}
	r.plot = append(r.plot, r.latency)
	r.counted, r.at = s.Stats, at
}

// troubles are the errors, without the EAGAIN by which a program that polls learns that it is
// too early.
func troubles(counted map[string]int64) int64 { return counted["errors"] - counted["error-EAGAIN"] }

// cardName is what a powered card is called: its name if it is known, else its protocol and
// its ATR.
func cardName(say map[string]string, name func(atr string) string) string {
	atr := say["atr"]
	if atr == "" {
		return ""
	}
	if known := name(atr); known != "" {
		return known
	}
	if say["memory"] != "" {
		return "memory card, " + say["memory"]
	}
	return say["protocol"] + " " + strings.ReplaceAll(atr, " ", "")
}

// matches reports whether each word is found in what the row shows, or in what the slot is
// called elsewhere.
func (r *row) matches(words []string) bool {
	text := strings.ToLower(fmt.Sprintf("%d %s\n%s\n%s\n%s\n%s\n%s\n%s\n%s", r.number, r.state, r.reader, r.card, r.driver, r.byID, r.device, r.host, r.atr))
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// rateText is a rate in five characters.
func (r *row) rateText() string {
	switch {
	case !r.known:
		return "-"
	case r.rate == 0:
		return "0"
	case r.rate < 99.95:
		return fmt.Sprintf("%.1f", r.rate)
	case r.rate < 99_999.5:
		return fmt.Sprintf("%.0f", r.rate)
	}
	return fmt.Sprintf("%.0fk", r.rate/1000)
}

// latencyText is a duration in six characters.
func latencyText(d time.Duration) string {
	in := func(unit time.Duration, name string) string {
		if n := float64(d) / float64(unit); n < 9.95 {
			return fmt.Sprintf("%.1f%s", n, name)
		}
		return fmt.Sprintf("%.0f%s", float64(d)/float64(unit), name)
	}
	switch {
	case d <= 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < 999500*time.Microsecond:
		return in(time.Millisecond, "ms")
	case d < 600*time.Second:
		return in(time.Second, "s")
	}
	return in(time.Minute, "m")
}

// A bar is the higher the longer the latency: each of eight steps is about three times the
// one before, from less than 100 µs to more than 100 ms.
var bars = [2][]string{{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}, {"_", ".", ":", "-", "=", "+", "*", "#"}}

func bar(d time.Duration) int {
	step := 0
	for limit := 100 * time.Microsecond; step < 7 && d >= limit; step++ {
		if step%2 == 0 {
			limit *= 3
		} else {
			limit = limit / 3 * 10
		}
	}
	return step
}

// plotText is the latest part of the plot, as wide as that; a look without an exchange is a
// blank.
func (r *row) plotText(width int, ascii bool) string {
	set := bars[0]
	if ascii {
		set = bars[1]
	}
	plot := r.plot[max(0, len(r.plot)-width):]
	var out strings.Builder
	out.WriteString(strings.Repeat(" ", width-len(plot)))
	for _, d := range plot {
		if d == 0 {
			out.WriteByte(' ')
		} else {
			out.WriteString(set[bar(d)])
		}
	}
	return out.String()
}
