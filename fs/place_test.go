package fs

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
)

// needMount skips the test where mounting is not possible.
func needMount(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount without fusermount3")
	}
	if err := fuseUsable(); err != nil {
		t.Fatal(err)
	}
}

func mustCardfsMounts(t *testing.T) int {
	t.Helper()
	all, err := cardfsMounts()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, i := range all {
		if strings.HasPrefix(i.Mountpoint, filepath.Join(os.TempDir(), t.Name())) {
			n++
		}
	}
	return n
}

// A symbolic link that replaces the directory after it was looked up does not make root mount
// over the link's target. The mount that is then given up does not stay anywhere.
func TestMountPointIsLookedUpOnce(t *testing.T) {
	needMount(t)
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, exists := range []bool{true, false} {
		dir := filepath.Join(top, strconv.FormatBool(exists))
		mine, victim := filepath.Join(dir, "mine"), filepath.Join(dir, "victim")
		if err := os.MkdirAll(mine, 0o755); err != nil {
			t.Fatal(err)
		}
		if exists {
			if err := os.Mkdir(victim, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		at, err := openPlace(mine)
		if err != nil {
			t.Fatal(err)
		}
		defer at.close()
		if err := os.Rename(mine, mine+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, mine); err != nil {
			t.Fatal(err)
		}
		fd, m, err := connect(at, false)
		if err == nil {
			unix.Close(fd)
			m.detach()
			t.Error("mounted, though the directory is not there any more")
		}
		// ENOENT means that the link was followed, if only for a moment: it leads nowhere.
		if !exists && errors.Is(err, unix.ENOENT) {
			t.Errorf("the link was followed: %v", err)
		}
		if n := mustCardfsMounts(t); n != 0 {
			t.Errorf("%d mounts are left", n)
		}
	}
}

// Another cardfs's mount that was moved to our place is not taken for ours.
func TestAnothersMountAtThePlace(t *testing.T) {
	needMount(t)
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := filepath.Join(top, "ours"), filepath.Join(top, "theirs")
	place := func(parent string) *place {
		t.Helper()
		dir := filepath.Join(parent, "mnt")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		at, err := openPlace(dir)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	at, other := place(ours), place(theirs)
	defer at.close()
	fd, another, err := connect(other, false)
	other.close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.Rename(ours, ours+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(theirs, ours); err != nil {
		t.Fatal(err)
	}
	if fd, m, err := connect(at, false); err == nil {
		unix.Close(fd)
		t.Errorf("mount %d was taken for ours; the other's is %d", m.id, another.id)
	}
	if n := mustCardfsMounts(t); n != 1 {
		t.Errorf("%d mounts are left; the other's was wanted", n)
	}
	if err := another.detach(); err != nil {
		t.Error(err)
	}
}

// The kernel reuses the number of a mount that ended. The new mount is ours although a mount
// with its number was there before.
func TestMountNumberUsedAgain(t *testing.T) {
	needMount(t)
	var all sync.WaitGroup
	for range 8 {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for range 50 {
				at, err := openPlace(dir)
				if err != nil {
					t.Error(err)
					return
				}
				fd, m, err := connect(at, false)
				at.close()
				if err != nil {
					t.Error(err)
					return
				}
				if err := m.detach(); err != nil {
					t.Error(err)
				}
				unix.Close(fd)
			}
		})
	}
	all.Wait()
}

// A mount is identified by its number and its device, and detached wherever it is now.
// Another mount at the same place is left alone.
func TestDetachOnlyOurs(t *testing.T) {
	needMount(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	connectAt := func(name string) (int, mounted) {
		t.Helper()
		at, err := openPlace(name)
		if err != nil {
			t.Fatal(err)
		}
		defer at.close()
		fd, m, err := connect(at, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd, m
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	os.Mkdir(one, 0o755)
	os.Mkdir(two, 0o755)
	_, first := connectAt(one)
	// An open descriptor keeps the mount connected, so that it keeps its device number.
	sitter, err := unix.Open(one, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sitter)
	if err := unix.Unmount(one, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	_, second := connectAt(one)
	if err := first.detach(); err != nil {
		t.Errorf("what is gone already: %v", err)
	}
	if n := mustCardfsMounts(t); n != 1 {
		t.Errorf("%d mounts are left; the successor's was wanted", n)
	}
	// A different number or device means a different mount.
	for _, other := range []mounted{{second.id + 1, second.major, second.minor}, {second.id, second.major, second.minor + 1}, {second.id, second.major + 1, second.minor}} {
		if err := other.detach(); err != nil || mustCardfsMounts(t) != 1 {
			t.Errorf("%+v for %+v: %v", other, second, err)
		}
	}
	_, third := connectAt(two)
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(dir+".moved", dir)
	for _, m := range []mounted{second, third} {
		if err := m.detach(); err != nil {
			t.Errorf("detach: %v", err)
		}
	}
	if n := mustCardfsMounts(t); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// Another mount on top is not taken for ours.
func TestDetachHidden(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	at, err := openPlace(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer at.close()
	fd, m, err := connect(at, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := m.detach(); err == nil || !strings.Contains(err.Error(), "another mount hides this one") {
		t.Errorf("detach: %v", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("the other mount is gone: %v", err)
	}
	if err := m.detach(); err != nil {
		t.Error(err)
	}
}

// An error after fusermount3 has mounted leaves no mount: here it sends no descriptor.
func TestSetuidMountedThenFailed(t *testing.T) {
	needMount(t)
	real, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	before, _ := cardfsMounts()
	script := "#!/bin/sh\nexec 9<>/dev/fuse; mount -i -t fuse.cardfs -o fd=9,rootmode=40000,user_id=0,group_id=0 cardfs \"$4\"\n"
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "fusermount3"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	fd, made, err := connectBySetuid(real, []string{"default_permissions"})
	if fd >= 0 || !made || err == nil {
		t.Fatalf("%d, %v, %v", fd, made, err)
	}
	if n := mustCardfsMounts(t); n != 1 {
		t.Fatalf("%d mounts: the script should have made one", n)
	}
	detachDead(before)
	if n := mustCardfsMounts(t); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// Linux 6.15, Documentation/admin-guide/sysctl/fs.rst: "/proc/sys/fs/fuse/
// default_request_timeout … the kernel will abort the connection".
func TestWarnOfTimeouts(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		lines int
	}{
		{nil, 0},
		{map[string]string{"default_request_timeout": "0\n", "max_request_timeout": "0\n"}, 0},
		{map[string]string{"max_request_timeout": "600\n"}, 1}, // a kernel that has only this one
		{map[string]string{"default_request_timeout": "30\n", "max_request_timeout": "0\n"}, 1},
		{map[string]string{"default_request_timeout": "0\n", "max_request_timeout": "600\n"}, 1},
		{map[string]string{"default_request_timeout": "60\n", "max_request_timeout": "600\n"}, 2},
	} {
		dir := t.TempDir()
		os.MkdirAll(filepath.Join(dir, "fs/fuse"), 0o755)
		for name, text := range c.files {
			os.WriteFile(filepath.Join(dir, "fs/fuse", name), []byte(text), 0o644)
		}
		log := &levels{}
		warnOfTimeouts(slog.New(log), dir)
		if len(log.lines) != c.lines {
			t.Errorf("%v: %q", c.files, log.lines)
		}
		for _, l := range log.lines {
			if !strings.HasPrefix(l, "WARN ") || !strings.Contains(l, "sysctl fs.fuse.") {
				t.Errorf("%v: %q", c.files, l)
			}
		}
	}
}

// Whatever prevents a mount is an error, and nothing is mounted.
func TestMountRefused(t *testing.T) {
	needMount(t)
	full := t.TempDir()
	name := filepath.Join(full, "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := core.NewManager(core.Options{})
	defer m.Close(bg)
	before := mustCardfsMounts(t)
	for dir, want := range map[string]string{
		full:           "not empty",
		name:           "not a directory",
		full + "/none": "no such directory; create it first: mkdir -p " + full + "/none",
	} {
		s, err := Mount(dir, m, Options{GID: -1})
		if err == nil || s != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %s", dir, s, err, want)
		}
	}
	if now := mustCardfsMounts(t); now != before {
		t.Errorf("%d mounts, %d before", now, before)
	}
}

// Mounting logs the warning.
func TestMountWarnsOfTimeouts(t *testing.T) {
	needMount(t)
	kernel := t.TempDir()
	if err := os.MkdirAll(filepath.Join(kernel, "fs/fuse"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(kernel, "fs/fuse/default_request_timeout"), []byte("30\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func(was string) { procSys = was }(procSys)
	procSys = kernel
	m := core.NewManager(core.Options{})
	defer m.Close(bg)
	log := &levels{}
	s, err := Mount(t.TempDir(), m, Options{GID: -1, Log: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	if lines := log.taken(); len(lines) != 1 {
		t.Errorf("the log has %q", lines)
	}
	if err := s.Close(10 * time.Second); err != nil {
		t.Error(err)
	}
	<-s.Done()
}

// levels is a log that keeps each line's level.
type levels struct {
	mu    sync.Mutex
	lines []string
}

func (l *levels) Enabled(context.Context, slog.Level) bool { return true }
func (l *levels) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *levels) WithGroup(string) slog.Handler            { return l }
func (l *levels) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, r.Level.String()+" "+r.Message)
	return nil
}

func (l *levels) taken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// refusing answers statfs(2) with an error number that the kernel rejects.
type refusing struct{ fuse.RawFileSystem }

func (refusing) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status {
	return 600 // linux/fs/fuse/dev.c, fuse_dev_do_write: "if (oh.error <= -512 || oh.error > 0)"
}

// A caller whose answer the kernel rejects gets EIO. Otherwise it would wait for ever.
func TestRefusedAnswer(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	at, err := openPlace(dir)
	if err != nil {
		t.Fatal(err)
	}
	fd, m, err := connect(at, false)
	at.close() // it would keep the mount
	if err != nil {
		t.Fatal(err)
	}
	log := &levels{}
	s, err := fused.New(fd, refusing{fuse.NewDefaultRawFileSystem()}, &fuse.MountOptions{MaxWrite: fused.MaxWrite}, slog.New(log))
	if err != nil {
		m.detach()
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { s.Serve(); close(ended) }()
	// A process that waits for its own mount cannot even be killed. This ends the wait.
	hung := time.AfterFunc(20*time.Second, func() { _ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) })
	defer hung.Stop()
	for range 3 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != unix.EIO {
			t.Errorf("statfs: %v", err)
		}
	}
	if !s.Connected() {
		t.Error("not connected")
	}
	if err := m.detach(); err != nil {
		t.Error(err)
	}
	<-ended
	if s.Connected() {
		t.Error("connected to nothing")
	}
	if lines := log.taken(); len(lines) != 1 {
		t.Errorf("the log has %q", lines)
	}
}
