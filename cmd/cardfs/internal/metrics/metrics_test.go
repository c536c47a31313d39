package metrics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const status = "state powered\nreader A \"good\" reader\ndriver sim\nhost lab \"1\" \\\nby-id sim-A-slot0\nslot 0 of 1\nsiblings 4\nsessions 3\nwaiting 12\ntransaction held\n"

// stats has another number in each line.
const stats = `exchanges 7
control 1
bytes-to-card 2
bytes-from-card 3
opens 5
opens-waited 4
resets-warm 6
resets-cold 8
insertions 9
removals 10
power-ups 11
rate-fallbacks 12
time-extensions 13
errors 5
error-EIO 2
error-ESTALE 3
waits 14
wait-us 1500000
exchange-us 2500000
exchange-us-le-100 1
exchange-us-le-1000000 6
open-us 250
open-us-le-100 4
open-us-le-1000000 5
`

// put makes a slot's directory as a mount would show it. Each call makes a new one.
func put(t *testing.T, dir string, n int, status, stats string) {
	t.Helper()
	fresh, err := os.MkdirTemp(dir, "new")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"status": status, "stats": stats} {
		if err := os.WriteFile(filepath.Join(fresh, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(dir, fmt.Sprint(n))
	os.Rename(at, filepath.Join(dir, "was"+filepath.Base(fresh))) // kept, so that no inode is used again
	if err := os.Rename(fresh, at); err != nil {
		t.Fatal(err)
	}
}

// values are the lines of the text format, by the metric's name and its labels but those
// that every metric of the slot has.
func values(t *testing.T, text string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		name := line[:at]
		if _, rest, ok := strings.Cut(name, "{"); ok && !strings.HasPrefix(name, "cardfs_readers") && !strings.HasPrefix(name, "cardfs_slots") {
			for _, label := range []string{`by_id="sim-A-slot0"`, `driver="sim"`, `host="lab \"1\" \\"`, `reader="A \"good\" reader"`, `slot="4"`} {
				if !strings.Contains(rest, label) {
					t.Errorf("%s has no %s", line, label)
				}
				name = strings.Replace(name, label, "", 1)
			}
			name = strings.Trim(strings.ReplaceAll(strings.ReplaceAll(name, ",", ""), "}", ""), "{")
		}
		if _, twice := got[name]; twice {
			t.Errorf("%s twice", name)
		}
		got[name] = line[at+1:]
	}
	return got
}

// Each line of stats is a metric in base units. The values of status are gauges.
func TestValues(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 4, status, stats)
	var out bytes.Buffer
	if err := Write(&out, dir); err != nil {
		t.Fatal(err)
	}
	got := values(t, out.String())
	if got["cardfs_scrape_duration_seconds"] == "" {
		t.Error("no cardfs_scrape_duration_seconds")
	}
	delete(got, "cardfs_scrape_duration_seconds")
	want := map[string]string{
		"cardfs_up": "1", "cardfs_cards": "1", `cardfs_readers{driver="sim"}`: "1",
		`cardfs_slots{state="powered"}`: "1", `cardfs_slots{state="empty"}`: "0", `cardfs_slots{state="failed"}`: "0",
		`cardfs_slots{state="present"}`: "0", `cardfs_slots{state="starting"}`: "0",
		"cardfs_reader_ready": "1", "cardfs_card_present": "1", "cardfs_card_powered": "1", "cardfs_sessions": "3",
		"cardfs_transaction_held": "1", "cardfs_waiting_seconds": "12",
		"cardfs_exchanges_total": "7", "cardfs_control_commands_total": "1",
		`cardfs_bytes_total{direction="to_card"`: "2", `cardfs_bytes_total{direction="from_card"`: "3",
		"cardfs_opens_waited_total": "4", `cardfs_resets_total{kind="warm"`: "6", `cardfs_resets_total{kind="cold"`: "8",
		"cardfs_card_insertions_total": "9", "cardfs_card_removals_total": "10", "cardfs_card_power_ups_total": "11",
		"cardfs_rate_fallbacks_total": "12", "cardfs_time_extensions_total": "13",
		`cardfs_errors_total{errno="EIO"`: "2", `cardfs_errors_total{errno="ESTALE"`: "3",
		"cardfs_waits_total": "14", "cardfs_wait_seconds_total": "1.5",
		"cardfs_exchange_duration_seconds_sum": "2.5", "cardfs_exchange_duration_seconds_count": "7",
		`cardfs_exchange_duration_seconds_bucket{le="0.0001"`: "1", `cardfs_exchange_duration_seconds_bucket{le="1"`: "6",
		`cardfs_exchange_duration_seconds_bucket{le="+Inf"`: "7",
		"cardfs_open_duration_seconds_sum":                  "0.00025", "cardfs_open_duration_seconds_count": "5",
		`cardfs_open_duration_seconds_bucket{le="0.0001"`: "4", `cardfs_open_duration_seconds_bucket{le="1"`: "5",
		`cardfs_open_duration_seconds_bucket{le="+Inf"`: "5",
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %s", name, got[name], value)
		}
	}
	for name := range got {
		if _, known := want[name]; !known {
			t.Errorf("%s %s was not expected", name, got[name])
		}
	}
}

// What promtool check metrics has against names, units, help texts and types.
func TestLint(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 4, status, stats)
	put(t, dir, 5, "state starting\n", "")
	put(t, dir, 6, "state empty\nreader \xff\xfe\ndriver \xff\n", "error-\xff 1\n")
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(New(dir))
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A state is told of each slot, a reader counted once however many slots it has, and a card
// wherever one is, with power or without.
func TestTotals(t *testing.T) {
	dir := t.TempDir()
	for n, status := range map[int]string{
		0: "state starting\ndriver usb\nsiblings 0\n", 1: "state failed\ndriver usb\nsiblings 1\n",
		2: "state empty\ndriver sim\nsiblings 2 3\n", 3: "state present\ndriver sim\nsiblings 2 3\n",
		4: "state powered\ndriver sim\nsiblings 4\n",
	} {
		put(t, dir, n, status, "exchanges 0\n")
	}
	c := New(dir)
	want := `# HELP cardfs_cards Slots with a card in them, powered or not.
# TYPE cardfs_cards gauge
cardfs_cards 2
# HELP cardfs_readers Readers, which may have several slots, by the driver that serves them.
# TYPE cardfs_readers gauge
cardfs_readers{driver="sim"} 2
cardfs_readers{driver="usb"} 2
# HELP cardfs_reader_ready 1 if the driver has initialised the reader, 0 if it starts or failed.
# TYPE cardfs_reader_ready gauge
cardfs_reader_ready{by_id="",driver="sim",host="",reader="",slot="2"} 1
cardfs_reader_ready{by_id="",driver="sim",host="",reader="",slot="3"} 1
cardfs_reader_ready{by_id="",driver="sim",host="",reader="",slot="4"} 1
cardfs_reader_ready{by_id="",driver="usb",host="",reader="",slot="0"} 0
cardfs_reader_ready{by_id="",driver="usb",host="",reader="",slot="1"} 0
# HELP cardfs_card_powered 1 if the card has power.
# TYPE cardfs_card_powered gauge
cardfs_card_powered{by_id="",driver="sim",host="",reader="",slot="2"} 0
cardfs_card_powered{by_id="",driver="sim",host="",reader="",slot="3"} 0
cardfs_card_powered{by_id="",driver="sim",host="",reader="",slot="4"} 1
cardfs_card_powered{by_id="",driver="usb",host="",reader="",slot="0"} 0
cardfs_card_powered{by_id="",driver="usb",host="",reader="",slot="1"} 0
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "cardfs_cards", "cardfs_readers", "cardfs_reader_ready", "cardfs_card_powered"); err != nil {
		t.Error(err)
	}
}

// "Counters continue correctly when a reader leaves and comes back": what it had counted is
// added once, whatever else happens, and a reader of another name begins at nothing.
func TestContinue(t *testing.T) {
	dir := t.TempDir()
	c := New(dir)
	now := time.Now()
	c.now = func() time.Time { return now }
	slot := func(reader string, exchanges int) {
		put(t, dir, 0, "state empty\nreader "+reader+"\n", fmt.Sprintf("exchanges %d\nerror-EIO %d\nwait-us %d000000\n", exchanges, 2*exchanges, exchanges))
	}
	look := func(what, reader string, want int) {
		t.Helper()
		text := fmt.Sprintf(`# HELP cardfs_exchanges_total Commands that the card saw.
# TYPE cardfs_exchanges_total counter
cardfs_exchanges_total{by_id="",driver="",host="",reader=%[1]q,slot="0"} %[2]d
# HELP cardfs_errors_total Errors that opens, reads, writes and ioctls got.
# TYPE cardfs_errors_total counter
cardfs_errors_total{by_id="",driver="",errno="EIO",host="",reader=%[1]q,slot="0"} %[3]d
# HELP cardfs_wait_seconds_total How long they waited.
# TYPE cardfs_wait_seconds_total counter
cardfs_wait_seconds_total{by_id="",driver="",host="",reader=%[1]q,slot="0"} %[2]d
`, reader, want, 2*want)
		if err := testutil.CollectAndCompare(c, strings.NewReader(text), "cardfs_exchanges_total", "cardfs_errors_total", "cardfs_wait_seconds_total"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	slot("a", 10)
	look("the first look", "a", 10)
	look("nothing happened", "a", 10)
	slot("a", 0)
	look("it came back", "a", 10)
	slot("a", 15)
	look("it came back and counted more than before", "a", 25)
	look("nothing happened since", "a", 25)
	slot("b", 3)
	look("another reader", "b", 3)
	slot("a", 1)
	look("the first one again", "a", 26)

	// If the directories show nothing (sshfs), a counter that went back shows the change.
	in := filepath.Join(dir, "0/stats")
	if err := os.WriteFile(in, []byte("exchanges 0\nerror-EIO 2\nwait-us 1000000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	gone := maps.Clone(c.past[series{"0", "a", "", "", ""}].gone)
	c.mu.Unlock()
	if gone["exchanges"] != 25 {
		t.Errorf("before: %v", gone)
	}
	testutil.CollectAndCount(c)
	c.mu.Lock()
	p := c.past[series{"0", "a", "", "", ""}]
	if p.gone["exchanges"] != 26 || p.gone["error-EIO"] != 52 {
		t.Errorf("after a counter went back: %v", p.gone)
	}
	if len(c.past) != 2 {
		t.Errorf("%d series are kept, want 2", len(c.past))
	}
	c.mu.Unlock()

	// A day after a reader left its counters are forgotten.
	now = now.Add(memory)
	testutil.CollectAndCount(c)
	if len(c.past) != 2 {
		t.Errorf("after a day: %d series are kept, want 2", len(c.past))
	}
	now = now.Add(time.Second)
	testutil.CollectAndCount(c)
	if len(c.past) != 1 {
		t.Errorf("after more than a day: %d series are kept, want 1", len(c.past))
	}
}

// Over HTTP; a mount that is not there is down and may come back; the end is the context's.
func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cards")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, dir, log.New(io.Discard, "", 0)) }()
	ask := func(method, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a.StatusCode, string(text)
	}
	if code, text := ask("GET", "/metrics"); code != 200 || !strings.Contains(text, "\ncardfs_up 0\n") || strings.Contains(text, "cardfs_cards") {
		t.Errorf("without a mount: %d\n%s", code, text)
	}
	os.Mkdir(dir, 0o755)
	put(t, dir, 4, status, stats)
	if code, text := ask("GET", "/metrics"); code != 200 || !strings.Contains(text, "\ncardfs_up 1\n") || values(t, text)["cardfs_exchanges_total"] != "7" {
		t.Errorf("with a mount: %d\n%s", code, text)
	}
	for _, tt := range []struct {
		method, path string
		code         int
	}{{"GET", "/", 200}, {"GET", "/other", 404}, {"POST", "/metrics", 405}, {"DELETE", "/", 405}} {
		if code, _ := ask(tt.method, tt.path); code != tt.code {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, code, tt.code)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	// Losing the port is an error that names the port.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, dir, log.New(io.Discard, "", 0)); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a closed port: %v", err)
	}
	if err := Write(io.Discard, filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("Write without a mount: %v", err)
	}
}
