// Package serial tests the real program with many serial readers at once, behind
// pseudo-terminals.
package serial

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/internal/ptys"
)

var program string

func TestMain(m *testing.M) { daemon.Main(m, &program) }

// attached is a reader that the program has attached.
type attached struct {
	*ptys.Reader
	slot string // its first
	file *os.File
}

// attach attaches a reader, waits until it is ready and opens its exchange file.
func attach(t *testing.T, d *daemon.Daemon, r *ptys.Reader) *attached {
	t.Helper()
	words := append([]string{"attach", "--mount", d.Dir}, strings.Fields(r.Attach())[1:]...)
	out, err := exec.Command(program, words...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", r.Attach(), err, out)
	}
	a := &attached{Reader: r, slot: strings.Fields(string(out))[0]}
	a.open(t, d)
	t.Cleanup(func() { a.file.Close() })
	return a
}

// open opens the exchange file.
func (a *attached) open(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	var err error
	if a.file, err = os.OpenFile(d.Path(a.slot+"/apdu"), os.O_RDWR, 0); err != nil {
		t.Fatalf("%s: %v", a.Name(), err)
	}
}

// exchange selects the MF.
func (a *attached) exchange() (time.Duration, error) {
	began := time.Now()
	if _, err := a.file.WriteString("00A4000C023F00\n"); err != nil {
		return 0, err
	}
	var buf [64]byte
	n, err := a.file.Read(buf[:])
	if got := strings.TrimSpace(string(buf[:n])); err == nil && got != "90 00" {
		err = fmt.Errorf("the answer is %q", got)
	}
	return time.Since(began), err
}

// sixteen readers: every kind once, then the first ones again.
func sixteen() (kinds []ptys.Kind) {
	for i := range 16 {
		kinds = append(kinds, ptys.Kinds[i%len(ptys.Kinds)])
	}
	return kinds
}

const (
	turns     = 5  // of measuring all with and without one that hangs
	exchanges = 20 // of each reader in each half of a turn
	slower    = 2.0
)

// A reader that hangs holds up nobody but those who use it: while one answers nothing, 15 others of different kinds do all that they did before, as fast, a new one is
// attached, and cardfs answers for all, the one that hangs included.
func TestOneHangs(t *testing.T) {
	d := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off")
	var all []*attached
	open := func(k ptys.Kind) *attached {
		t.Helper()
		r, err := k.Open()
		if err != nil {
			t.Fatal(err)
		}
		return attach(t, d, r)
	}
	kinds := sixteen()
	for _, k := range kinds[:15] {
		a := open(k)
		defer a.Close()
		all = append(all, a)
	}
	// took are the fastest quarter's medians of each reader in each half: a machine that does
	// other things at times cannot make one reader fast.
	var took [2][][]float64
	took[0], took[1] = make([][]float64, len(all)), make([][]float64, len(all))
	measure := func(half int) {
		var work sync.WaitGroup
		for i, a := range all {
			work.Go(func() {
				var each []float64
				for range exchanges {
					d, err := a.exchange()
					if err != nil {
						t.Errorf("%s: %v", a.Name(), err)
						return
					}
					each = append(each, float64(d))
				}
				slices.Sort(each)
				took[half][i] = append(took[half][i], each[exchanges/8])
			})
		}
		work.Wait()
	}
	for turn := range turns {
		sick := open(kinds[15-turn])
		if _, err := sick.exchange(); err != nil {
			t.Fatalf("%s: %v", sick.Name(), err)
		}
		measure(0)

		sick.Hang()
		before, _ := sick.Plugged.Sent()
		ended := make(chan error, 1)
		var leaves atomic.Bool
		go func() { // its users try again and again
			for {
				if _, err := sick.exchange(); err == nil || leaves.Load() {
					ended <- err
					return
				}
			}
		}()
		daemon.Eventually(t, "the reader that hangs is asked something", func() bool {
			now, _ := sick.Plugged.Sent()
			return now > before
		})
		measure(1)

		// Everything else of all readers.
		for _, a := range all {
			for _, word := range []string{"off", "on"} {
				if err := os.WriteFile(d.Path(a.slot+"/power"), []byte(word+"\n"), 0); err != nil {
					t.Errorf("%s: power %s: %v", a.Name(), word, err)
				}
			}
			if got := d.Read(a.slot + "/atr"); len(got) < 4 {
				t.Errorf("%s: ATR %q", a.Name(), got)
			}
			a.file.Close() // it was of the card before its reset
			a.open(t, d)
			if _, err := a.exchange(); err != nil {
				t.Errorf("%s: behind a power-up: %v", a.Name(), err)
			}
		}
		run(t, "list", "--mount", d.Dir)
		d.Read(sick.slot + "/status")
		other := open(kinds[turn])
		if _, err := other.exchange(); err != nil {
			t.Errorf("a new %s: %v", other.Name(), err)
		}
		other.file.Close()
		run(t, "detach", "--mount", d.Dir, other.slot)
		other.Close()
		leaves.Store(true)
		run(t, "detach", "--wait", "0", "--mount", d.Dir, sick.slot)
		sick.Close()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s hangs, and answers", sick.Name())
			}
		case <-time.After(proc.Patience):
			t.Fatalf("%s: the command does not end with its reader", sick.Name())
		}
	}

	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "reader\tan exchange\twhile one hangs\tratio\t")
	var ratios []float64
	for i, a := range all {
		before, during := median(took[0][i]), median(took[1][i])
		ratios = append(ratios, during/before)
		fmt.Fprintf(w, "%s\t%v\t%v\t%.2f\t\n", a.Name(), time.Duration(before).Round(time.Microsecond), time.Duration(during).Round(time.Microsecond), during/before)
	}
	w.Flush()
	t.Logf("%d turns\n%s", turns, b.String())
	if r := median(ratios); r > slower {
		t.Errorf("exchanges of the others take %.2f times as long while one reader hangs; %.1f is the most", r, slower)
	}
	d.Stop()
}

func run(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		t.Errorf("cardfs %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
