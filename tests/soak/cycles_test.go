package soak

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// "Too early is impossible": readers come and go under clients that open at random moments.
// Each open gives the right answer, ENOENT, ENODEV or EINTR; none hangs. At the end the
// daemon holds no more than at the beginning.
func TestCycles(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--sim", "ikey3k", "--sim", "t0", "--attach", "sim ikey3k start=15ms")
	pid := d.Pid()
	n := soak(t, 300)
	cycle(t, d.TryCtl, dir, n/10) // the daemon grows to its working size
	before := measure(t, pid)
	cycle(t, d.TryCtl, dir, n)
	daemon.Eventually(t, "the daemon has no more descriptors open than before", func() bool {
		return measure(t, pid).Descriptors <= before.Descriptors
	})
	after := measure(t, pid)
	t.Logf("the daemon before: %v; after: %v", before, after)
	if after.RSS > before.RSS+16<<10 {
		t.Errorf("the daemon grew from %d to %d KiB", before.RSS, after.RSS)
	}
	if after.Threads > before.Threads+32 {
		t.Errorf("the daemon went from %d threads to %d", before.Threads, after.Threads)
	}
	t.Logf("SIGTERM to the end: %v", d.Stop())
}

// The same with the server in this process, whose goroutines and heap can be counted, and
// the clients in other processes.
func TestCyclesInProcess(t *testing.T) {
	dir := daemon.MountPoint(t)
	begin := runtime.NumGoroutine()
	m := core.NewManager(core.Options{Drivers: drivers.All(drivers.Env{}), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	server, err := fs.Mount(dir, m, fs.Options{GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"attach sim ikey3k", "attach sim t0", "attach sim ikey3k start=15ms"} {
		if err := fs.Ctl(m, line); err != nil {
			t.Fatal(err)
		}
	}
	n := soak(t, 150)
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	do := func(line string) error { return fs.Ctl(m, line) }
	cycle(t, do, dir, n/10)
	goroutines, held, open := runtime.NumGoroutine(), heap(), measure(t, os.Getpid())
	cycle(t, do, dir, n)
	// The number of readers of /dev/fuse varies.
	daemon.Eventually(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines+4 })
	daemon.Eventually(t, "no more descriptors than before", func() bool { return measure(t, os.Getpid()).Descriptors <= open.Descriptors })
	after := heap()
	t.Logf("goroutines %d, then %d; heap %d KiB, then %d KiB", goroutines, runtime.NumGoroutine(), held>>10, after>>10)
	if after > held+2<<20 {
		t.Errorf("the heap grew from %d to %d bytes", held, after)
	}
	server.Leave()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	m.Close(ctx)
	if err := server.Close(time.Second); err != nil {
		t.Error(err)
	}
	daemon.Eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= begin+2 })
	if runtime.NumGoroutine() > begin+2 {
		buf := make([]byte, 1<<20)
		t.Logf("%s", buf[:runtime.Stack(buf, true)])
	}
}

// cycle unplugs and plugs n times altogether, while two client processes open.
func cycle(t *testing.T, ctl func(string) error, dir string, n int) {
	t.Helper()
	clients := []*process{run(t, "opener", dir), run(t, "opener", dir)}
	for _, c := range clients {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for slot := range slots {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), uint64(slot)))
			for i := slot; i < n; i += len(slots) {
				words := []string{"unplug", "plug"}
				if slot == removable && rnd.IntN(2) == 0 {
					words = []string{"remove", "insert"}
				}
				for _, word := range words {
					if err := ctl(fmt.Sprintf("sim %d %s", slot, word)); err != nil {
						t.Errorf("cycle %d: %v", i, err)
						return
					}
					// At once, soon, or after the clients made progress.
					time.Sleep([]time.Duration{0, 1, 5, 20}[rnd.IntN(4)] * time.Duration(rnd.IntN(1000)) * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	counts := make(map[string]int)
	for _, c := range clients {
		for what, n := range c.end().Counts {
			counts[what] += n
		}
	}
	var words []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[what], what))
	}
	t.Logf("%d cycles in %v: %s", n, took.Round(time.Millisecond), strings.Join(words, ", "))
	if n >= 100 && (counts["atr right"] == 0 || counts["exchanges right"] == 0 || counts["open atr ENODEV"]+counts["open apdu ENODEV"] == 0) {
		t.Error("the clients met too little: nothing was shown")
	}
}

// A file opened in a reader's directory stays dead when another reader takes the number.
func TestOldDirectoryStaysDead(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--sim", "ikey3k")
	cwd, err := daemon.Open(dir+"/0", syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(cwd)
	apdu, err := daemon.Open(dir+"/0/apdu", syscall.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(apdu)
	d.Ctl("detach 0")
	daemon.Eventually(t, "the directory is gone", func() bool { _, err := os.Stat(dir + "/0"); return os.IsNotExist(err) })
	d.Ctl("attach sim t0")
	if atr, err := os.ReadFile(dir + "/0/atr"); err != nil || string(atr) != slots[1].atr {
		t.Errorf("the new reader: %q, %v", atr, err)
	}
	if _, err := ioctl(apdu, echo([]byte{1})); err != syscall.ENODEV {
		t.Errorf("ioctl on an old open: %v", err)
	}
	if _, err := syscall.Write(apdu, []byte("00A40000\n")); err != syscall.ENODEV {
		t.Errorf("write on an old open: %v", err)
	}
	for _, name := range []string{"atr", "apdu", "status", "."} {
		fd, err := syscall.Openat(cwd, name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err == nil {
			syscall.Close(fd)
		}
		if err == nil && name != "." {
			t.Errorf("%s opens through the old directory", name)
		} else if err != nil && err != syscall.ENODEV {
			t.Errorf("%s through the old directory: %v", name, err)
		}
	}
	d.Stop()
}
