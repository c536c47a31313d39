// Package debian gives a test its own Debian, in a directory, which contains only what
// cardfs's packages need.
package debian

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
)

// Packages installed in a Debian 12 beforehand: the dependencies of cardfs's packages, since
// the test uses no repository at that point, and programs that use the readers or that the
// documentation names.
const suite, before = "bookworm", "ca-certificates,fuse3,libusb-1.0-0,pcscd,opensc,systemd,init-system-helpers,gcc,libc6-dev,pkg-config,procps," +
	"dbus,sudo,python3,jq,mawk,bubblewrap,sshfs,openssh-server,openssh-client,gnupg,scdaemon,openssl,nodejs,curl"

// unused is how long a Debian is kept that no test asks for.
const unused = 7 * 24 * time.Hour

// Fresh unpacks a Debian into a directory. It is made once, and kept for later runs.
func Fresh(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	Unpack(t, root)
	return root
}

// Unpack is Fresh for a directory that exists.
func Unpack(t testing.TB, root string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a root of its own needs root (run the tests by sudo)")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "cardfs", "debian")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	// Two versions of the tests may need different packages, and be run in turns.
	sum := sha256.Sum256([]byte(before))
	tar := filepath.Join(cache, fmt.Sprintf("%s-%x.tar", suite, sum[:4]))
	if _, err := os.Stat(tar); err != nil {
		t.Log("making a Debian of its own, once: some 100 MB from its mirror")
		Run(t, nil, "mmdebstrap", "--format=tar", "--variant=minbase", "--include="+before, suite, tar+".new")
		old, _ := filepath.Glob(filepath.Join(cache, suite+"*.tar*"))
		for _, name := range old {
			if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > unused {
				os.Remove(name)
			}
		}
		if err := os.Rename(tar+".new", tar); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	if err := os.Chtimes(tar, now, now); err != nil {
		t.Fatal(err)
	}
	Run(t, nil, "tar", "-C", root, "--exclude=./dev/*", "-xf", tar)
}

// Run runs a program, which must succeed, and returns its output.
func Run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = cc.Root()
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Within runs a script in the root, in a mount and process namespace of its own, which end
// with it.
func Within(t testing.TB, root, script string) string {
	t.Helper()
	const enter = `mount --make-rprivate /
mount -t proc proc "$0/proc"
mount -t tmpfs dev "$0/dev"
mount -t tmpfs run "$0/run"
for n in null zero full random urandom fuse; do touch "$0/dev/$n"; mount --bind /dev/$n "$0/dev/$n"; done
ln -s /proc/self/fd "$0/dev/fd"
exec chroot "$0" /bin/bash -euc "$1"`
	return Run(t, []string{"DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"},
		"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", enter, root, script)
}

// Lock keeps other tests from build/packages, which all share, until the returned function
// is called.
func Lock(t testing.TB) (unlock func()) {
	t.Helper()
	dir := filepath.Join(cc.Root(), "build")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "packages.lock"))
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { lock.Close() }
}

// Packages makes the packages of a version and puts them into the root's /packages, below the
// version. The one that is installed instead of another's is apart, in instead.
func Packages(t testing.TB, root, version string) {
	t.Helper()
	defer Lock(t)()
	Run(t, []string{"VERSION=" + version}, "make", "--no-print-directory", "deb")
	dir := filepath.Join(root, "packages", version)
	all, err := filepath.Glob(filepath.Join(cc.Root(), "build/packages/*_"+version+"_*.deb"))
	if err != nil || len(all) != 4 {
		t.Fatalf("packages %q, %v; want four", all, err)
	}
	instead, err := filepath.Glob(filepath.Join(cc.Root(), "build/packages/instead/*_"+version+"_*.deb"))
	if err != nil || len(instead) != 1 {
		t.Fatalf("packages instead of others %q, %v; want one", instead, err)
	}
	for _, name := range all {
		move(t, name, dir)
	}
	move(t, instead[0], filepath.Join(dir, "instead"))
}

// move moves a file into a directory, which may be of another file system.
func move(t testing.TB, name, dir string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o644), os.Remove(name))
	}
	if err != nil {
		t.Fatal(err)
	}
}
