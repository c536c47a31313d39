package usb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// TestLimits measures cardfs against pcscd with libccid, on the same device of
// the same machine, in turns.
func TestLimits(t *testing.T) {
	if os.Getenv("CARDFS_BENCH") == "" && !machine.Inside() {
		t.Skip("takes minutes; make bench-vm (CARDFS_BENCH=1)")
	}
	machine.RunSelf(t, "^TestBench$", machine.Config{Timeout: 20 * time.Minute, XHCI: true})
}

const (
	rounds    = 7
	exchanges = 100
	idleTime  = 10 * time.Second
)

// subject is one of the two that are compared, while it has the device.
type subject interface {
	pid() int
	// exchanges returns the times of n exchanges.
	exchanges(n int) []float64
	// firstAnswer returns when a reader that is about to be plugged in has answered a
	// command. armed is called when the client waits for it.
	firstAnswer(armed func())
	// noticed returns when waiting and newly asking programs know of an unplugging. armed is
	// called when the client waits for it.
	noticed(armed func())
	stop()
}

// Rows of the table.
const (
	apdu    = "one APDU"
	first   = "plug → first APDU answered"
	ours    = "of that, after the kernel's enumeration"
	gone    = "unplug → known"
	idle    = "transfers in 10 s, idle, card in"
	wakeups = "context switches in 10 s, idle, card in"
)

// controllers are the host controllers that the reader is plugged into. On UHCI a transfer
// ends with its frame of 1 ms: a command and its answer take two, whoever asks. An xHCI
// carries each transfer at once. Enumeration is the kernel's, and takes 0.4 s on either; so
// does most of what passes until an unplugging is known on xHCI.
var controllers = []struct {
	name, kind string
	bounds     map[string]float64
}{
	{"xHCI", "ccid-xhci", map[string]float64{apdu: 0.9, first: 0.9, ours: 0.5, gone: 1.2}},
	{"UHCI", "ccid", map[string]float64{apdu: 1.1, first: 0.9, ours: 0.5, gone: 0.7}},
}

func TestBench(t *testing.T) {
	g := machine.NeedGuest(t)
	for _, c := range controllers {
		t.Run(c.name, func(t *testing.T) { comparePcscd(t, g, c.kind, c.bounds) })
	}
}

func comparePcscd(t *testing.T, g *machine.Guest, kind string, bounds map[string]float64) {
	sample := map[string][]float64{}
	add := func(row, who string, v ...float64) { sample[row+who] = append(sample[row+who], v...) }
	readerName := "" // as pcscd has it: libccid makes it of the device's strings and its port
	for round := range rounds {
		for _, s := range []struct {
			name  string
			start func() subject
		}{{"cardfs", func() subject { return newFiles(t) }}, {"pcscd", func() subject { return newLibccid(t, &readerName) }}} {
			x := s.start()
			if round == 0 {
				// The reader's name, for pcscd's client.
				plugNow(t, g, kind)
				x.firstAnswer(func() {})
				unplug(t, g, "r1")
				x.noticed(func() {})
			}
			var began time.Time
			var enumerated func() time.Time
			x.firstAnswer(func() {
				enumerated = deviceAdded(t)
				began = time.Now()
				plugNow(t, g, kind)
			})
			answered := time.Now()
			add(first, s.name, float64(answered.Sub(began)))
			add(ours, s.name, float64(answered.Sub(enumerated())))
			add(apdu, s.name, x.exchanges(exchanges)...)
			if round == 0 {
				transfers, switches := idleness(t, x.pid())
				add(idle, s.name, transfers)
				add(wakeups, s.name, switches)
			}
			x.noticed(func() { began = time.Now(); unplug(t, g, "r1") })
			add(gone, s.name, float64(time.Since(began)))
			x.stop()
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "medians\tcardfs\tpcscd, libccid\tratio\tbound\t")
	for _, row := range []string{apdu, first, ours, gone} {
		a, b := median(sample[row+"cardfs"]), median(sample[row+"pcscd"])
		verdict := "met"
		if a/b > bounds[row] {
			verdict = "MISSED"
			t.Errorf("%s: ratio %.2f, bound %.1f", row, a/b, bounds[row])
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%.2f\t≤ %.1f\t%s\n", row, time.Duration(a).Round(time.Microsecond), time.Duration(b).Round(time.Microsecond), a/b, bounds[row], verdict)
	}
	for _, name := range []string{idle, wakeups} {
		a, b := median(sample[name+"cardfs"]), median(sample[name+"pcscd"])
		verdict := "met"
		if a > 0 {
			verdict = "MISSED"
			t.Errorf("%s: %v", name, a)
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t\t0\t%s\n", name, a, b, verdict)
	}
	w.Flush()
	t.Logf("%d rounds, %d APDUs each\n%s", rounds, exchanges, b.String())
}

func plugNow(t testing.TB, g *machine.Guest, kind string) {
	t.Helper()
	if err := machine.Plug(t.Context(), g, kind, "r1"); err != nil {
		t.Fatal(err)
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// times returns what the clients of tests/bench/c print.
func times(t testing.TB, out string) (ns []float64) {
	t.Helper()
	for line := range strings.Lines(out) {
		v, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		if err != nil {
			t.Fatal(err)
		}
		ns = append(ns, v)
	}
	return ns
}

var selectHex = strings.ReplaceAll(selectPKI, " ", "")

// files is cardfs, used through its files.
type files struct {
	t    *testing.T
	d    *mounted
	next func(string) []string
}

func newFiles(t *testing.T) *files {
	d := mount(t, nil)
	return &files{t, d, d.follow()}
}

func (f *files) pid() int { return f.d.Pid() }
func (f *files) stop()    { f.d.Stop() }
func (f *files) exchanges(n int) []float64 {
	return times(f.t, run(f.t, nil, built("filebench"), "ioctl", strconv.Itoa(n), selectHex, f.d.Path("0/apdu")))
}

func (f *files) firstAnswer(armed func()) {
	f.t.Helper()
	armed()
	w := f.next("arrived")
	for {
		got, err := exchange(f.d.Path(w[1]+"/apdu"), selectPKI)
		if errors.Is(err, syscall.ENOMEDIUM) {
			continue // powered before the card was inserted, which happens a moment later
		}
		if err != nil || got != "61 0D" {
			f.t.Fatalf("first answer: %s, %v", got, err)
		}
		return
	}
}

// noticed waits until a blocked read of the slot's events returns, and a new command on the
// open file fails.
func (f *files) noticed(armed func()) {
	f.t.Helper()
	c, err := openChannel(f.d.Path("0/apdu"))
	if err != nil {
		if errors.Is(err, syscall.ENOENT) || isGone(err) {
			return // already
		}
		f.t.Fatal(err)
	}
	defer c.close()
	fd, err := daemon.Open(f.d.Path("0/event"), syscall.O_RDONLY)
	if err != nil {
		f.t.Fatal(err)
	}
	defer syscall.Close(fd)
	var waiting atomic.Bool
	ended := make(chan error)
	go func() {
		buf := make([]byte, 4096)
		for {
			waiting.Store(true)
			n, err := syscall.Read(fd, buf)
			if err == nil && n > 0 || err == syscall.EINTR {
				continue
			}
			ended <- err
			return
		}
	}()
	for !waiting.Load() {
		time.Sleep(time.Millisecond)
	}
	armed()
	<-ended
	if _, err := c.send(selectPKI); !isGone(err) {
		f.t.Errorf("a new command after unplugging: %v", err)
	}
}

// libccid is pcscd with libccid.
type libccid struct {
	t    *testing.T
	name *string // of the reader, once known
	srv  *pcscd.Server
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

func newLibccid(t *testing.T, name *string, options ...pcscd.Option) *libccid {
	srv := startPcscd(t, options...)
	l := &libccid{t: t, name: name, srv: srv, cmd: srv.Command(t.Context(), built("pcscsh"))}
	in, err := l.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.in, l.out = in, bufio.NewReader(out)
	return l
}

func (l *libccid) say(words ...string) string {
	l.t.Helper()
	if _, err := fmt.Fprintln(l.in, strings.Join(words, "\t")); err != nil {
		l.t.Fatal(err)
	}
	line, err := l.out.ReadString('\n')
	if err != nil {
		l.t.Fatalf("%q: the client ended: %v", words, err)
	}
	return strings.TrimSpace(line)
}

func (l *libccid) pid() int { return l.srv.Pid() }

func (l *libccid) stop() {
	_ = l.in.Close()
	_ = l.cmd.Wait()
	if err := l.srv.Close(); err != nil {
		l.t.Error(err)
	}
}

func (l *libccid) exchanges(n int) []float64 { return l.times(n, selectHex) }

// times returns the times of n exchanges of a command.
func (l *libccid) times(n int, command string) []float64 {
	ctx, cancel := context.WithTimeout(l.t.Context(), proc.Patience)
	defer cancel()
	return times(l.t, output(l.t, l.srv.Command(ctx, built("scbench"), "transmit", "", strconv.Itoa(n), command), nil))
}

func (l *libccid) firstAnswer(armed func()) {
	l.t.Helper()
	if *l.name == "" {
		armed()
		daemon.Eventually(l.t, "pcscd has the reader", func() bool {
			list, ok := strings.CutPrefix(l.say("list"), "ok ")
			*l.name = list
			return ok && list != ""
		})
		armed = func() {}
	}
	armed()
	// The client tries again at once, unless it has to wait for a change that pcscd reports.
	if got := l.say("work", *l.name, selectHex); got != "ok 610D" {
		l.t.Fatalf("first answer: %s\n%s", got, tail(l.srv.Log(), 2000))
	}
}

// noticed waits until pcscd notifies a client in SCardGetStatusChange. pcscd is in that call
// the whole time, so a client that asks anew knows too.
func (l *libccid) noticed(armed func()) {
	l.t.Helper()
	if list := l.say("list"); !strings.HasPrefix(list, "ok ") || list == "ok" {
		return
	}
	watch := l.srv.Command(l.t.Context(), built("scbench"), "watch", *l.name)
	out, err := watch.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		l.t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	in.Scan() // the present state
	armed()
	for in.Scan() && !strings.HasPrefix(in.Text(), "0 ") {
	}
	_ = watch.Process.Kill()
	_ = watch.Wait()
}

// idleness counts, with an unused card inserted, the transfers that usbmon sees, except
// those of root hubs, and the context switches of all threads.
func idleness(t testing.TB, pid int) (transfers, switches float64) {
	t.Helper()
	// Earlier work may leave some behind: Go's scheduler and collector take a few seconds to
	// come to rest.
	time.Sleep(idleTime)
	mon, err := os.OpenFile("/sys/kernel/debug/usb/usbmon/0u", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mon.Close()
	before := contextSwitches(t, pid)
	time.Sleep(idleTime)
	for thread, n := range contextSwitches(t, pid) {
		if n -= before[thread]; n > 0 {
			t.Logf("thread %s: %.0f context switches", thread, n)
			switches += n
		}
	}
	buf := make([]byte, 64<<10)
	n, _ := syscall.Read(int(mon.Fd()), buf)
	for line := range strings.Lines(string(buf[:max(n, 0)])) {
		// Linux Documentation/usb/usbmon.rst: tag, time, type, "Ii:BUS:DEVICE:ENDPOINT".
		f := strings.Fields(line)
		if len(f) < 4 || strings.Split(f[3], ":")[2] == "001" {
			continue
		}
		t.Log("usbmon: ", strings.TrimSpace(line))
		transfers++
	}
	return transfers, switches
}

// contextSwitches returns, by thread, how often it has waited.
func contextSwitches(t testing.TB, pid int) map[string]float64 {
	t.Helper()
	m := map[string]float64{}
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, name := range names {
		b, _ := os.ReadFile(name)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "voluntary_ctxt_switches:" {
				v, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					t.Fatal(err)
				}
				m[filepath.Base(filepath.Dir(name))] = v
			}
		}
	}
	return m
}

// deviceAdded listens for the kernel's uevent of a new USB device. The returned function
// returns the time of its arrival.
func deviceAdded(t testing.TB) func() time.Time {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_KOBJECT_UEVENT)
	if err == nil {
		err = errors.Join(syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: 1}),
			syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 60}))
	}
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan time.Time, 1)
	go func() {
		defer syscall.Close(fd)
		buf := make([]byte, 8192)
		for {
			n, _, err := syscall.Recvfrom(fd, buf, 0)
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				came <- time.Now()
				t.Errorf("uevents: %v", err)
				return
			}
			if m := string(buf[:n]); strings.HasPrefix(m, "add@") && strings.Contains(m, "DEVTYPE=usb_device") {
				came <- time.Now()
				return
			}
		}
	}()
	return func() time.Time { return <-came }
}
