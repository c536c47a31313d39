package usb

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// makers are the drivers of readers' makers, and an emulated reader for each. The serial ones
// are in tests/bench.
var makers = map[string]string{"libacsccid1": "acr38"}

const (
	envMakers   = "CARDFS_TEST_MAKERS" // where their files are
	makersBound = 0.9                  // an APDU, against theirs
)

// TestMakersLimits measures drivers against those of the readers' makers, on the same emulated
// readers of one machine.
func TestMakersLimits(t *testing.T) {
	if os.Getenv("CARDFS_BENCH") == "" && !machine.Inside() {
		t.Skip("takes minutes; make bench-vm (CARDFS_BENCH=1)")
	}
	if !machine.Inside() {
		for name := range makers {
			t.Setenv(envMakers+name, foreign.Unpack(t, name))
		}
	}
	machine.RunSelf(t, "^TestMakersBench$", machine.Config{Timeout: 20 * time.Minute})
}

func TestMakersBench(t *testing.T) {
	machine.NeedGuest(t)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	defer func() {
		w.Flush()
		t.Logf("medians of %d rounds, %d APDUs each\n%s", rounds, exchanges, b.String())
	}()
	fmt.Fprintln(w, "reader\tits maker's\tcardfs\tpcscd\tratio\tbound\ttransfers of cardfs\tpcscd\t")
	for _, e := range emulators.All() {
		for maker, name := range makers {
			if e.Name != name {
				continue
			}
			took, transfers := againstMaker(t, e, maker)
			ours, theirs := median(took["cardfs"]), median(took["pcscd"])
			verdict := "met"
			if ours > makersBound*theirs {
				verdict = "MISSED"
				t.Errorf("%s: ratio %.2f, bound %.1f", name, ours/theirs, makersBound)
			}
			fmt.Fprintf(w, "%s\t%s\t%v\t%v\t%.2f\t≤ %.1f %s\t%.2f\t%.2f\t\n", name, maker, time.Duration(ours).Round(time.Microsecond),
				time.Duration(theirs).Round(time.Microsecond), ours/theirs, makersBound, verdict, transfers["cardfs"], transfers["pcscd"])
		}
	}
}

// againstMaker returns the times of an APDU in nanoseconds, and the transfers that one took.
func againstMaker(t *testing.T, e emulators.Emulator, maker string) (took map[string][]float64, transfers map[string]float64) {
	const bundles = "/usr/lib/pcsc/drivers"
	root := onHost(os.Getenv(envMakers + maker))
	if err := unix.Mount(root+bundles, bundles, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(bundles, unix.MNT_DETACH)
	took, transfers = map[string][]float64{}, map[string]float64{}
	for range rounds {
		for _, who := range []string{"cardfs", "pcscd"} {
			x := newToken(t, e)
			command := strings.ReplaceAll(x.command, " ", "")
			var port *usbip.Port
			var n atomic.Int64
			plug := func() {
				port = x.plug(t)
				x.observe(func(l usbtest.Line) {
					if l.Kind == usbtest.Transfer {
						n.Add(1)
					}
				})
			}
			var measure func() []float64
			var stop func()
			if who == "cardfs" {
				d := newFiles(t)
				plug()
				slot := d.next("arrived")[1]
				if got, err := exchange(d.d.Path(slot+"/apdu"), x.command); err != nil || got != x.answer {
					t.Fatalf("%s: %s, %v", e.Name, got, err)
				}
				measure = func() []float64 {
					return times(t, run(t, nil, built("filebench"), "ioctl", strconv.Itoa(exchanges), command, d.d.Path(slot+"/apdu")))
				}
				stop = d.stop
			} else {
				readerName := ""
				l := newLibccid(t, &readerName, pcscd.Env("LD_LIBRARY_PATH="+root+"/lib/x86_64-linux-gnu"))
				plug()
				daemon.Eventually(t, "pcscd has the reader", func() bool {
					list, ok := strings.CutPrefix(l.say("list"), "ok ")
					readerName = list
					return ok && list != ""
				})
				if got := l.say("work", readerName, command); got != "ok "+strings.ReplaceAll(x.answer, " ", "") {
					t.Fatalf("%s: %s: %s: %s", maker, e.Name, readerName, got)
				}
				measure = func() []float64 { return l.times(exchanges, command) }
				stop = l.stop
			}
			n.Store(0)
			took[who] = append(took[who], measure()...)
			transfers[who] += float64(n.Load()) / float64(exchanges+exchanges/10) / rounds
			stop()
			if err := port.Unplug(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return took, transfers
}
