// Package soak wears the mounted files out: plugging and unplugging under
// clients that open at random moments, many clients on one card, clients that
// are killed, and a daemon that leaves or is killed.
//
//	go test ./tests/soak                             a few hundred cycles, in a minute
//	CARDFS_SOAK=10000 go test -timeout 60m ./tests/soak   the long version
//
// The server and its clients never share a process, since the kernel may make
// the one wait for the other: the tests run the real binary, or serve from this
// process, and this test binary runs itself again as the clients.
package soak

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the program, built once.
var program string

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(client(role, os.Args[1:]))
	}
	dir, err := os.MkdirTemp("", "cardfs-soak")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "cardfs")
	build := exec.Command("go", "build", "-o", program, "github.com/cardfs/cardfs/cmd/cardfs")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// soak is how many cycles or exchanges a test does: few, or what CARDFS_SOAK says.
func soak(t *testing.T, few int) int {
	if s := os.Getenv("CARDFS_SOAK"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n <= 0 {
			t.Fatalf("CARDFS_SOAK=%s: a number is wanted", s)
		}
		return n
	}
	return few
}

// patience is how long anything may take that should take no time; busy
// machines are slow.
const patience = 30 * time.Second

// daemon is a running `cardfs mount`.
type daemon struct {
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	exit chan error

	mu  sync.Mutex
	log bytes.Buffer
}

// start mounts at dir and returns when the daemon says that it is ready.
func start(t testing.TB, dir string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, exit: make(chan error, 1)}
	d.cmd = exec.Command(program, append(append([]string{"mount"}, args...), dir)...)
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			d.mu.Lock()
			fmt.Fprintln(&d.log, lines.Text())
			d.mu.Unlock()
			if strings.Contains(lines.Text(), "mounted at") {
				ready <- true
			}
		}
		d.exit <- d.cmd.Wait()
		close(ready)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		syscall.Unmount(dir, syscall.MNT_DETACH)
		if t.Failed() {
			d.mu.Lock()
			defer d.mu.Unlock()
			log := d.log.String()
			t.Logf("the daemon's log ends with\n%s", log[max(0, len(log)-3000):])
		}
	})
	select {
	case ok := <-ready:
		if !ok {
			t.Fatalf("the daemon does not start:\n%s", d.log.String())
		}
	case <-time.After(patience):
		t.Fatal("the daemon does not get ready")
	}
	return d
}

// stop ends the daemon by SIGTERM and tells how long that took.
func (d *daemon) stop() time.Duration {
	d.t.Helper()
	begin := time.Now()
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.exit:
		took := time.Since(begin)
		if err != nil {
			d.t.Errorf("the daemon ended with %v", err)
		}
		if mounted(d.t, d.dir) {
			d.t.Error("the mount is still there")
		}
		return took
	case <-time.After(patience):
		d.t.Fatal("SIGTERM does not end the daemon")
		return 0
	}
}

func mounted(t testing.TB, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), " "+dir+" ")
}

// ctl writes a line to the daemon's ctl.
func (d *daemon) ctl(line string) error {
	f, err := os.OpenFile(filepath.Join(d.dir, "ctl"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		return fmt.Errorf("ctl %q: %w", line, err)
	}
	return nil
}

// gauge is what a process holds.
type gauge struct {
	descriptors, threads, rss int // rss in KiB
	kinds                     map[string]int
}

func (g gauge) String() string {
	return fmt.Sprintf("%d descriptors %v, %d threads, %d KiB", g.descriptors, g.kinds, g.threads, g.rss)
}

// holds tells whether g is no more than before.
func (g gauge) holds(before gauge) bool { return g.descriptors <= before.descriptors }

func measure(t testing.TB, pid int) (g gauge) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	g.kinds = make(map[string]int)
	for _, fd := range fds {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		kind, _, _ := strings.Cut(target, ":")
		g.kinds[kind]++
	}
	g.descriptors = len(fds)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "Threads:":
			g.threads, _ = strconv.Atoi(f[1])
		case f[0] == "VmRSS:":
			g.rss, _ = strconv.Atoi(f[1])
		}
	}
	return g
}

// eventually waits for a state that comes without a sign.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("not within %v: %s", patience, what)
			return
		}
	}
}

// mountPoint is an empty directory that is gone after the test.
func mountPoint(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("%v: the tests mount; load the kernel's FUSE module", err)
	}
	dir, err := os.MkdirTemp("", "cards")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Unmount(dir, syscall.MNT_DETACH)
		os.Remove(dir)
	})
	return dir
}
