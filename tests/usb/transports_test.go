package usb

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/tests/vm/machine"
)

// TestTransports measures cardfs on usbfs against cardfs on gousb, in turns in one
// machine: the README's table.
func TestTransports(t *testing.T) {
	if os.Getenv("CARDFS_BENCH") == "" && !machine.Inside() {
		t.Skip("takes minutes; CARDFS_BENCH=1")
	}
	machine.RunSelf(t, "^TestMeasureTransports$", machine.Config{Timeout: 20 * time.Minute})
}

func TestMeasureTransports(t *testing.T) {
	g := machine.NeedGuest(t)
	names := []string{"usbfs", "gousb"}
	sample := map[string][]float64{}
	add := func(row, who string, v ...float64) { sample[row+who] = append(sample[row+who], v...) }
	const (
		apdu    = "one APDU"
		first   = "plug → first APDU answered"
		gone    = "unplug → known"
		wakeups = "context switches in 5 s, idle, card in"
		memory  = "resident memory, kB"
	)
	for round := range rounds {
		for _, name := range names {
			t.Setenv(envTransport, name)
			x := newFiles(t)
			var began time.Time
			x.firstAnswer(func() { began = time.Now(); plugNow(t, g, "ccid") })
			add(first, name, float64(time.Since(began)))
			add(apdu, name, x.exchanges(exchanges)...)
			if round == 0 {
				_, switches := idleness(t, x.pid())
				add(wakeups, name, switches/(idleTime.Seconds()/5))
			}
			add(memory, name, float64(measure(t, x.pid()).RSS))
			x.noticed(func() { began = time.Now(); unplug(t, g, "r1") })
			add(gone, name, float64(time.Since(began)))
			x.stop()
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "medians\tusbfs\tgousb\tratio\t")
	for _, row := range []string{apdu, first, gone} {
		a, b := median(sample[row+names[0]]), median(sample[row+names[1]])
		fmt.Fprintf(w, "%s\t%v\t%v\t%.2f\t\n", row, time.Duration(a).Round(time.Microsecond), time.Duration(b).Round(time.Microsecond), b/a)
	}
	for _, row := range []string{wakeups, memory} {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t\t\n", row, median(sample[row+names[0]]), median(sample[row+names[1]]))
	}
	w.Flush()
	t.Logf("%d rounds, %d APDUs each\n%s", rounds, exchanges, b.String())
}
