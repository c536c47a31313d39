// Package metrics makes Prometheus metrics of the status and stats files of a mount.
package metrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// labels are those of every metric of one slot.
var labels = []string{"slot", "reader", "by_id", "driver", "host"}

func desc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("cardfs_"+name, help, slices.Concat(labels, more), nil)
}

func whole(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cardfs_"+name, help, labels, nil)
}

var (
	up      = whole("up", "Whether the files of the mount could be read.")
	readers = whole("readers", "Readers, which may have several slots, by the driver that serves them.", "driver")
	slots   = whole("slots", "Slots by the state that status shows.", "state")
	cards   = whole("cards", "Slots with a card in them, powered or not.")
	took    = whole("scrape_duration_seconds", "How long it took to read the files of all slots.")
)

// gauges are of how a slot stands now.
var gauges = []struct {
	desc  *prometheus.Desc
	value func(s *survey.Slot) float64
}{
	{desc("reader_ready", "1 if the driver has initialised the reader, 0 if it starts or failed."), func(s *survey.Slot) float64 {
		state := s.Status["state"]
		return truth(state != "starting" && state != "failed")
	}},
	{desc("card_present", "1 if a card is in the slot."), func(s *survey.Slot) float64 { return truth(s.HasCard()) }},
	{desc("card_powered", "1 if the card has power."), func(s *survey.Slot) float64 { return truth(s.Status["state"] == "powered") }},
	{desc("sessions", "Opens that use the card."), number("sessions")},
	{desc("transaction_held", "1 if somebody holds the transaction."), func(s *survey.Slot) float64 {
		return truth(s.Status["transaction"] == "held")
	}},
	{desc("waiting_seconds", "For how long the present command has asked for more time, 0 if none does."), number("waiting")},
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// number is a number that status has at times.
func number(key string) func(*survey.Slot) float64 {
	return func(s *survey.Slot) float64 {
		n, _ := strconv.ParseFloat(s.Status[key], 64)
		return n
	}
}

// counters are the lines of stats that are one counter each.
var counters = []struct {
	key   string // of stats
	desc  *prometheus.Desc
	label []string // the values of the metric's own labels
	unit  float64
}{
	{"exchanges", desc("exchanges_total", "Commands that the card saw."), nil, 1},
	{"control", desc("control_commands_total", "Commands to the reader itself."), nil, 1},
	{"bytes-to-card", octets, []string{"to_card"}, 1},
	{"bytes-from-card", octets, []string{"from_card"}, 1},
	{"opens-waited", desc("opens_waited_total", "Opens that had to wait for a reader or a card."), nil, 1},
	{"resets-warm", resets, []string{"warm"}, 1},
	{"resets-cold", resets, []string{"cold"}, 1},
	{"insertions", desc("card_insertions_total", "Cards inserted."), nil, 1},
	{"removals", desc("card_removals_total", "Cards removed."), nil, 1},
	{"power-ups", desc("card_power_ups_total", "How often a card was given power."), nil, 1},
	{"rate-fallbacks", desc("rate_fallbacks_total", "How often an agreed rate did not work and the next slower one was taken."), nil, 1},
	{"time-extensions", desc("time_extensions_total", "How often a card or reader asked for more time."), nil, 1},
	{"waits", desc("waits_total", "Commands and resets that waited for the slot's turn or another's transaction."), nil, 1},
	{"wait-us", desc("wait_seconds_total", "How long they waited."), nil, 1e-6},
}

var (
	octets = desc("bytes_total", "Bytes to and from the card; of what may hold a PIN or a key the header and SW1 SW2 alone.", "direction")
	resets = desc("resets_total", "Resets that somebody asked for and got.", "kind")
	failed = desc("errors_total", "Errors that opens, reads, writes and ioctls got.", "errno")
)

// histograms are the lines KEY-us, KEY-us-le-LIMIT and, for the count, KEYs of stats.
var histograms = []struct {
	key  string
	desc *prometheus.Desc
}{
	{"exchange", desc("exchange_duration_seconds", "How long commands took until the card's answer.")},
	{"open", desc("open_duration_seconds", "How long opens took that need a reader or a card, failed ones included.")},
}

// Collector reads the files when it is asked, and remembers only what readers had counted
// before they left: counters go on where a reader comes back.
type Collector struct {
	dir string

	mu   sync.Mutex
	past map[series]*past
	err  error            // of the last look
	now  func() time.Time // a test's clock
}

// series is what tells the metrics of one slot from those of another: the labels' values.
type series [5]string

// past is what a slot has counted.
type past struct {
	id   survey.ID        // of the reader that was there last
	last map[string]int64 // what it had counted
	gone map[string]int64 // what those before it had counted
	seen time.Time
}

// memory is how long the counters of a reader that left are kept.
const memory = 24 * time.Hour

// New makes the collector of the mount at dir.
func New(dir string) *Collector {
	return &Collector{dir: dir, past: make(map[series]*past), now: time.Now}
}

// Describe is a prometheus.Collector's.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{up, readers, slots, cards, took, failed} {
		out <- d
	}
	for _, g := range gauges {
		out <- g.desc
	}
	for _, k := range counters {
		out <- k.desc
	}
	for _, h := range histograms {
		out <- h.desc
	}
}

// Collect is a prometheus.Collector's. A mount that cannot be read is down, which is no
// error: it may come back.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := time.Now()
	list, err := survey.All(c.dir)
	c.err = err
	gauge(out, took, time.Since(begin).Seconds())
	gauge(out, up, truth(err == nil))
	if err != nil {
		return
	}
	c.totals(out, list)
	for i := range list {
		c.slot(out, &list[i])
	}
	maps.DeleteFunc(c.past, func(_ series, p *past) bool { return c.now().Sub(p.seen) > memory })
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (c *Collector) totals(out chan<- prometheus.Metric, list []survey.Slot) {
	byDriver, byState, withCard := make(map[string]int), make(map[string]int), 0
	for _, state := range survey.States {
		byState[state] = 0
	}
	for i := range list {
		s := &list[i]
		byState[s.Status["state"]]++
		if s.First() {
			byDriver[valid(s.Status["driver"])]++
		}
		if s.HasCard() {
			withCard++
		}
	}
	for driver, n := range byDriver {
		gauge(out, readers, float64(n), driver)
	}
	for state, n := range byState {
		gauge(out, slots, float64(n), valid(state))
	}
	gauge(out, cards, float64(withCard))
}

// valid is text as Prometheus takes it.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

func (c *Collector) slot(out chan<- prometheus.Metric, s *survey.Slot) {
	key := series{strconv.Itoa(s.Number), valid(s.Status["reader"]), valid(s.Status["by-id"]), valid(s.Status["driver"]), valid(s.Status["host"])}
	counted := c.counted(key, s)
	for _, g := range gauges {
		gauge(out, g.desc, g.value(s), key[:]...)
	}
	counter := func(d *prometheus.Desc, value float64, more ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, slices.Concat(key[:], more)...)
	}
	for _, k := range counters {
		counter(k.desc, float64(counted[k.key])*k.unit, k.label...)
	}
	for name, n := range counted {
		if errno, ok := strings.CutPrefix(name, "error-"); ok {
			counter(failed, float64(n), valid(errno))
		}
	}
	for _, h := range histograms {
		classes := make(map[float64]uint64)
		for name, n := range counted {
			if limit, ok := strings.CutPrefix(name, h.key+"-us-le-"); ok {
				if us, err := strconv.ParseFloat(limit, 64); err == nil {
					classes[us/1e6] = uint64(n)
				}
			}
		}
		out <- prometheus.MustNewConstHistogram(h.desc, uint64(counted[h.key+"s"]), float64(counted[h.key+"-us"])/1e6, classes, key[:]...)
	}
}

// counted is what the slot has counted, together with what it had when the reader was there
// before. What was counted between the last look and its leaving is not known.
func (c *Collector) counted(key series, s *survey.Slot) map[string]int64 {
	p := c.past[key]
	if p == nil {
		p = &past{id: s.ID}
		c.past[key] = p
	}
	if p.id != s.ID || behind(s.Stats, p.last) {
		p.gone = sum(p.gone, p.last)
		p.id = s.ID
	}
	p.last, p.seen = s.Stats, c.now()
	return sum(p.gone, p.last)
}

// behind reports whether a counter went back: over sshfs and the like a directory tells nothing.
func behind(now, before map[string]int64) bool {
	for key, n := range before {
		if now[key] < n {
			return true
		}
	}
	return false
}

func sum(a, b map[string]int64) map[string]int64 {
	if len(a) == 0 {
		return b
	}
	both := maps.Clone(a)
	for key, n := range b {
		both[key] += n
	}
	return both
}
