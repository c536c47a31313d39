package soak

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// The readers of TestWeek, by the last digit of their number.
const (
	weekReaders = 1000
	weekDays    = 7

	moving = 8 // unplugged and plugged in, their cards taken out and put in
	doomed = 9 // only clients that are killed use them
)

// weekDevices are the kinds of the readers, ten of each in turn.
var weekDevices = []string{"ikey3k", "t0", "t1", "apdu", "ccid", "ccid-ext", "pinpad", "iccd", "char-t1", "ccid-short"}

func weekDevice(n int) string { return weekDevices[n/10%len(weekDevices)] }

// A week in ten minutes, or in twenty seconds: a thousand readers under clients of every
// kind, some of which are killed; readers and cards that come and go; a log that is moved
// away or cut short; a configuration that is read again. At each midnight all is at rest: then `stats` of each reader that
// stayed has exactly what the clients counted, and memory, descriptors and threads are what
// they were. At the end there are as many goroutines as in a daemon that has done nothing.
func TestWeek(t *testing.T) {
	length := 20 * time.Second
	if os.Getenv("CARDFS_SOAK") != "" {
		length = 10 * time.Minute
	}
	dir := daemon.MountPoint(t)
	fresh := daemon.Start(t, program, dir)
	attachWeek(t, fresh)
	idle := goroutines(t, fresh)

	log := &rotated{name: filepath.Join(t.TempDir(), "log")}
	conf := filepath.Join(t.TempDir(), "cardfs.conf")
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := daemon.Start(t, program, dir, "--log", log.name, "--config", conf)
	attachWeek(t, d)
	log.daemon = d
	w := &week{t: t, d: d, log: log, conf: conf, counted: make(map[int]*use), before: make(map[int]map[string]int)}
	for n := range weekReaders {
		if n%10 < moving {
			w.counted[n], w.before[n] = new(use), stats(t, d, n)
		}
	}
	follower := run(t, "follower", dir)
	if _, err := follower.next(); err != nil {
		t.Fatal(err)
	}
	var held []proc.Usage
	for day := range weekDays {
		w.day(length/weekDays, uint64(day))
		w.midnight()
		// Descriptors of closed files are released a moment later.
		daemon.Eventually(t, "no more descriptors than at first", func() bool {
			return day == 0 || measure(t, d.Pid()).Descriptors <= held[0].Descriptors
		})
		held = append(held, measure(t, d.Pid()))
		t.Logf("day %d: %v", day+1, held[day])
	}
	t.Logf("%d clients killed, %d times unplugged, %d cards taken out, %d logs moved away, %d cut short, %d configurations; clients: %v",
		w.killed, w.unplugged.Load(), w.removed.Load(), log.moved, log.cut, w.reloads, w.met)
	// During the first day the daemon grows to its working size.
	first, last := held[1], held[weekDays-1]
	if last.RSS > first.RSS+first.RSS/10+16<<10 {
		t.Errorf("the daemon grew from %d to %d KiB", first.RSS, last.RSS)
	}
	if last.Threads > first.Threads+32 {
		t.Errorf("the daemon went from %d threads to %d", first.Threads, last.Threads)
	}
	w.usable()
	seen := follower.end().Counts
	t.Logf("a follower of all events saw %v", seen)
	n := int(w.unplugged.Load())
	if seen["lost"] == 0 && (seen["left"] != n+w.detached || seen["arrived"] != weekReaders+n+w.attached) {
		t.Errorf("%d readers left and came back, %d were attached and %d detached by the configuration; the events are %v", n, w.attached, w.detached, seen)
	}
	for _, n := range []int64{w.unplugged.Load(), w.removed.Load(), int64(w.killed), int64(log.moved), int64(log.cut), int64(w.reloads), int64(w.met["ESTALE"])} {
		if n == 0 {
			t.Error("the daemon met too little: nothing was shown")
		}
	}
	if n := goroutines(t, d); n > idle+16 {
		t.Errorf("%d goroutines at the end, %d in a daemon that has done nothing", n, idle)
	} else {
		t.Logf("%d goroutines at the end, %d in a daemon that has done nothing", n, idle)
	}
}

// attachWeek attaches all readers and powers up their cards.
func attachWeek(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	ctl := openCtl(t, d)
	defer ctl.Close()
	for n := range weekReaders {
		if _, err := fmt.Fprintf(ctl, "attach sim %s\n", weekDevice(n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range weekReaders {
		d.Read(fmt.Sprintf("%d/atr", n))
	}
}

// openCtl opens `ctl` for many lines. At each open it is as long as its list of readers.
func openCtl(t *testing.T, d *daemon.Daemon) *os.File {
	t.Helper()
	ctl, err := os.OpenFile(d.Path("ctl"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ctl
}

// goroutines ends the daemon and returns how many goroutines it had at rest.
func goroutines(t *testing.T, d *daemon.Daemon) int {
	t.Helper()
	n := strings.Count(d.Quit(), "\ngoroutine ")
	if n < weekReaders {
		t.Fatalf("a dump of %d goroutines", n)
	}
	return n
}

// stats reads the counters of a slot.
func stats(t *testing.T, d *daemon.Daemon, slot int) map[string]int {
	t.Helper()
	m := make(map[string]int)
	for line := range strings.Lines(d.Read(fmt.Sprintf("%d/stats", slot))) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("stats of %d: %q", slot, line)
		}
		m[key] = n
	}
	return m
}

// week is the test's own knowledge of the daemon.
type week struct {
	t   *testing.T
	d   *daemon.Daemon
	log *rotated

	counted            map[int]*use // by the clients, by slot
	before             map[int]map[string]int
	met                map[string]int // what the clients met, all slots together
	unplugged, removed atomic.Int64
	killed             int

	// The readers that the configuration has come after the others, while none of those is
	// unplugged, whose number would be free.
	moves              sync.RWMutex
	conf               string
	configured         int
	reloads            int
	attached, detached int
}

// day makes everything happen at once for a while.
func (w *week) day(length time.Duration, seed uint64) {
	w.t.Helper()
	var clients []*process
	for range 3 {
		clients = append(clients, run(w.t, "weekly", w.d.Dir))
	}
	ctl := openCtl(w.t, w.d)
	defer ctl.Close()
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() { w.move(ctl, rand.New(rand.NewPCG(seed, uint64(part))), part, end) })
	}
	wg.Go(func() { w.kill(end) })
	wg.Go(func() {
		for rnd := rand.New(rand.NewPCG(seed, 5)); time.Now().Before(end); time.Sleep(length / 10) {
			w.reload((w.configured + 1 + rnd.IntN(9)) % 10)
		}
		w.reload(0)
	})
	wg.Go(func() {
		for time.Now().Before(end) {
			w.log.move(w.t)
			time.Sleep(length / 4)
		}
	})
	wg.Wait()
	for _, c := range clients {
		r := c.end()
		for n, u := range r.Uses {
			if w.counted[n] != nil {
				w.counted[n].add(u)
			}
		}
		for what, n := range r.Counts {
			if w.met == nil {
				w.met = make(map[string]int)
			}
			w.met[what] += n
		}
	}
}

// move unplugs readers and removes cards. Each is back at the end.
func (w *week) move(ctl *os.File, rnd *rand.Rand, part int, end time.Time) {
	for time.Now().Before(end) {
		n := (rnd.IntN(weekReaders/40)*4+part)*10 + moving
		words, count := []string{"unplug", "plug"}, &w.unplugged
		if device := weekDevice(n); device != "ikey3k" && device != "iccd" && rnd.IntN(2) == 0 {
			words, count = []string{"remove", "insert"}, &w.removed
		}
		w.moves.RLock()
		for _, word := range words {
			if _, err := fmt.Fprintf(ctl, "sim %d %s\n", n, word); err != nil {
				w.t.Errorf("sim %d %s: %v", n, word, err)
			}
			time.Sleep(time.Duration(rnd.IntN(20_000)) * time.Microsecond)
		}
		w.moves.RUnlock()
		count.Add(1)
	}
}

// reload makes the configuration have that many readers.
func (w *week) reload(n int) {
	w.moves.Lock()
	defer w.moves.Unlock()
	var text []byte
	for i := range n {
		text = fmt.Appendf(text, "[[attach]]\ndriver = \"sim\"\ndevice = %q\n", weekDevices[i])
	}
	if err := os.WriteFile(w.conf, text, 0o600); err != nil {
		w.t.Error(err)
	}
	if err := syscall.Kill(w.d.Pid(), syscall.SIGHUP); err != nil {
		w.t.Error(err)
	}
	for deadline := time.Now().Add(proc.Patience); ; time.Sleep(10 * time.Millisecond) {
		there := 0
		entries, err := os.ReadDir(w.d.Dir)
		for _, e := range entries {
			if slot, err := strconv.Atoi(e.Name()); err == nil && slot >= weekReaders {
				there++
			}
		}
		if there == n {
			break
		}
		if time.Now().After(deadline) {
			w.t.Errorf("the configuration has %d readers; there are %d, %v", n, there, err)
			return
		}
	}
	w.attached += max(0, n-w.configured)
	w.detached += max(0, w.configured-n)
	w.configured = n
	w.reloads++
}

// kill starts clients and kills them in the middle of whatever they do.
func (w *week) kill(end time.Time) {
	for time.Now().Before(end) {
		p := run(w.t, "doomed", w.d.Dir)
		if _, err := p.next(); err != nil {
			w.t.Error(err)
			return
		}
		time.Sleep(time.Duration(rand.IntN(100_000)) * time.Microsecond)
		if err := p.kill(); err != nil {
			w.t.Error(err)
			return
		}
		w.killed++
	}
}

// midnight compares `stats` with what the clients counted, and cuts the log short.
func (w *week) midnight() {
	w.t.Helper()
	var all use
	for slot, u := range w.counted {
		all.add(u)
		want := u.stats()
		got := stats(w.t, w.d, slot)
		maps.DeleteFunc(got, func(key string, n int) bool {
			_, ours := want[key]
			return !ours && !strings.HasPrefix(key, "error-")
		})
		for key := range got {
			if got[key] -= w.before[slot][key]; got[key] == 0 {
				delete(got, key)
			}
		}
		maps.DeleteFunc(want, func(_ string, n int) bool { return n == 0 })
		if !maps.Equal(got, want) {
			w.t.Errorf("stats of %d, a %s: %v; the clients counted %v", slot, weekDevice(slot), got, want)
		}
	}
	w.t.Logf("the clients and stats agree on %v", all.stats())
	w.log.cutShort(w.t)
}

// usable checks that each reader works, whatever clients were killed on it.
func (w *week) usable() {
	w.t.Helper()
	data := []byte("still alive")
	for n := range weekReaders {
		fd, err := rawOpen(w.d.Path(fmt.Sprintf("%d/apdu", n)), syscall.O_RDWR)
		if err != nil {
			w.t.Errorf("%d: open: %v", n, err)
			continue
		}
		if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			w.t.Errorf("%d: flock: %v", n, err)
		}
		if answer, err := ioctl(fd, echo(data)); err != nil || !echoed(answer, data) {
			w.t.Errorf("%d: % X, %v", n, answer, err)
		}
		syscall.Close(fd)
	}
}

// rotated is the daemon's log under logrotate.
type rotated struct {
	name       string
	daemon     *daemon.Daemon
	moved, cut int
}

// move is logrotate's way with a signal.
func (l *rotated) move(t *testing.T) {
	old := l.name + ".1"
	if err := os.Rename(l.name, old); err != nil {
		t.Error(err)
		return
	}
	if err := syscall.Kill(l.daemon.Pid(), syscall.SIGUSR1); err != nil {
		t.Error(err)
		return
	}
	for deadline := time.Now().Add(proc.Patience); ; time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(l.name); bytes.Contains(text, []byte(`msg="log opened anew"`)) {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the log was never opened anew")
			return
		}
	}
	l.check(t, old)
	// Nobody has the old file open any more.
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", l.daemon.Pid()))
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); target == old {
			t.Errorf("%s is %s, which was moved away", fd, target)
		}
	}
	l.moved++
}

// cutShort truncates the log as logrotate's copytruncate does.
func (l *rotated) cutShort(t *testing.T) {
	t.Helper()
	l.check(t, l.name)
	if err := os.Truncate(l.name, 0); err != nil {
		t.Error(err)
	}
	l.cut++
}

// check checks that a log has complete lines only.
func (l *rotated) check(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("time=")) || !bytes.HasSuffix(line, []byte("\n")) {
			t.Errorf("%s: the line %q", name, line)
		}
	}
}
