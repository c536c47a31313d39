// Package daemon runs the real `cardfs mount` for tests. A server and its
// clients that share a process can wait for each other in the kernel, so tests
// of the mounted files run the server as a process of its own.
package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// Main is the TestMain of a package whose tests run the program. It builds the program once,
// and stores its path in program. What else the tests need, builds make in a directory that is
// removed afterwards.
func Main(m *testing.M, program *string, builds ...func(ctx context.Context, dir string) error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "cardfs-test")
	if err == nil {
		*program = filepath.Join(dir, "cardfs")
		err = Build(ctx, *program)
	}
	for _, build := range builds {
		if err == nil {
			err = build(ctx, dir)
		}
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// Build builds the program as for a release.
func Build(ctx context.Context, program string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/cardfs")
	cmd.Dir = cc.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// Command is `PROGRAM mount ARGS DIR`.
func Command(program, dir string, args ...string) *exec.Cmd {
	return exec.Command(program, append(append([]string{"mount"}, args...), dir)...)
}

// Ready is the daemon's message that its files are there.
const Ready = "mounted at"

// Daemon is a `cardfs mount`, which may be started more than once.
type Daemon struct {
	Dir string // the mount point
	Log proc.Log
	// Credential is the user who runs it; nil: the user of the test.
	Credential *syscall.Credential

	t       testing.TB
	program string
	args    []string
	run     *proc.Process // nil: it does not run
}

// New prepares a daemon that is not started yet. After the test the daemon is ended and the
// mount point is free. If the test failed, the daemon's log is shown.
func New(t testing.TB, program, dir string, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{Dir: dir, t: t, program: program, args: args}
	t.Cleanup(func() {
		failed := t.Failed()
		if failed {
			t.Logf("%s:\n%s", dir, d.show())
		}
		if d.Running() {
			d.Stop()
		}
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		if failed || t.Failed() {
			t.Logf("the daemon's log ends with\n%s", d.Log.Tail(20_000))
		}
	})
	return d
}

// Start is New and Daemon.Start.
func Start(t testing.TB, program, dir string, args ...string) *Daemon {
	t.Helper()
	d := New(t, program, dir, args...)
	d.Start()
	return d
}

// Start mounts. It returns when the files are there.
func (d *Daemon) Start() {
	d.t.Helper()
	cmd := Command(d.program, d.Dir, d.args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.Credential}
	run, err := proc.Start(cmd, &d.Log)
	if err != nil {
		d.t.Fatal(err)
	}
	d.run = run
	if err := run.Await(context.Background(), Ready); err != nil {
		d.t.Fatal(err)
	}
}

// Running reports whether the daemon was started and has not been ended.
func (d *Daemon) Running() bool { return d.run != nil }

// Pid returns the number of the running process.
func (d *Daemon) Pid() int { return d.run.Pid() }

// Stop ends the daemon by SIGTERM, and returns how long that took. It must
// succeed and leave no mount.
func (d *Daemon) Stop() time.Duration {
	d.t.Helper()
	begin := time.Now()
	err := d.run.Stop()
	took := time.Since(begin)
	d.run = nil
	if err != nil {
		d.t.Error(err)
	}
	if Mounted(d.t, d.Dir) {
		d.t.Errorf("%s is still mounted", d.Dir)
	}
	return took
}

// Kill ends the daemon by SIGKILL, which leaves a dead mount.
func (d *Daemon) Kill() {
	d.run.Kill()
	d.run = nil
}

// Quit ends the daemon by SIGQUIT, which leaves a dead mount, and returns the runtime's
// stack trace of each goroutine.
func (d *Daemon) Quit() string {
	d.t.Helper()
	from := d.Log.Len()
	_ = d.run.Cmd.Process.Signal(syscall.SIGQUIT)
	if err := d.run.Wait(); errors.Is(err, proc.ErrHangs) {
		d.t.Error(err)
	}
	d.run = nil
	return d.Log.String()[from:]
}

// show returns what a person would look at. Another process reads it: reading from a hung
// mount would hang the test.
func (d *Daemon) show() string {
	out, _ := exec.Command("timeout", "5", "sh", "-c", `cd "$1" && ls && head -n 20 */status && timeout 0.3 cat event`, "sh", d.Dir).CombinedOutput()
	return string(out)
}

// Path returns the path of a file below the mount point.
func (d *Daemon) Path(name string) string { return filepath.Join(d.Dir, name) }

// Read returns the text of a file.
func (d *Daemon) Read(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(d.Path(name))
	if err != nil {
		d.t.Error(err)
	}
	return string(text)
}

// Write writes text to a file.
func (d *Daemon) Write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(d.Path(name), []byte(text), 0); err != nil {
		d.t.Errorf("%q > %s: %v", text, name, err)
	}
}

// Ctl writes a line to the daemon's ctl, which must be accepted.
func (d *Daemon) Ctl(format string, args ...any) {
	d.t.Helper()
	if err := d.TryCtl(fmt.Sprintf(format, args...)); err != nil {
		d.t.Error(err)
	}
}

// TryCtl writes a line to the daemon's ctl.
func (d *Daemon) TryCtl(line string) error {
	if err := os.WriteFile(d.Path("ctl"), []byte(line+"\n"), 0); err != nil {
		return fmt.Errorf("%q > ctl: %w", line, err)
	}
	return nil
}

// Await waits until a text file contains a text. The file need not exist yet. Await looks
// when it begins to wait and after each event of the mount.
func (d *Daemon) Await(name, text string) {
	d.t.Helper()
	// cat can be killed, and does not block a thread of ours.
	cat := exec.Command("cat", d.Path("event"))
	var events proc.Log
	follow, err := proc.Start(cat, &events)
	if err != nil {
		d.t.Fatal(err)
	}
	defer follow.Kill()
	ctx, cancel := context.WithTimeout(d.t.Context(), proc.Patience)
	defer cancel()
	for from := 0; ; {
		// The events begin with the present state of each slot. So a change between the first
		// look and the open is not missed.
		said, readErr := os.ReadFile(d.Path(name))
		if bytes.Contains(said, []byte(text)) {
			return
		}
		if err := events.Wait(ctx, "\n", from); err != nil {
			d.t.Fatalf("%s never said %q: %q, %v; events:\n%s", name, text, said, readErr, &events)
		}
		from = events.Len()
	}
}

// Mounted reports whether a file system is mounted at dir.
func Mounted(t testing.TB, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), " "+dir+" ")
}

// Open opens a file for read(2), write(2) and ioctl(2) themselves, which wait; an os.File would
// poll.
func Open(name string, flags int) (fd int, err error) {
	fd, err = Uninterrupted(func() (int, error) { return unix.Open(name, flags|unix.O_CLOEXEC, 0) })
	return fd, os.NewSyscallError("open "+name, err)
}

// Uninterrupted repeats a call that waits for a mount when a signal ended it: the Go runtime
// sends itself signals, and FUSE has no way to restart a call after a handler as SA_RESTART says.
func Uninterrupted(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

// MountPoint returns an empty directory that is removed after the test.
func MountPoint(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("%v: the tests mount; load the kernel's FUSE module", err)
	}
	dir, err := os.MkdirTemp("", "cards") // short: its path may be part of a reader's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		_ = os.Remove(dir)
	})
	return dir
}

// Eventually waits for a state that no event announces.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(proc.Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", proc.Patience, what)
		}
	}
}
