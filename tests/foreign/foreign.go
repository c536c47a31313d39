// Package foreign gets other projects' drivers from Debian for a test, without installing
// them: the pcscd of this machine would find an installed one, and give it readers.
package foreign

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
)

// Unpack returns a directory that has the files of these packages, which are fetched once and
// kept for later runs.
func Unpack(t testing.TB, packages ...string) string {
	t.Helper()
	dir, err := Fetch(t.Context(), packages...)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Fetch is Unpack outside of tests.
func Fetch(ctx context.Context, packages ...string) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	all := filepath.Join(cache, "cardfs", "foreign")
	if err := os.MkdirAll(all, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(all, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	dir = filepath.Join(all, strings.Join(packages, "+"))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(all, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	download := append([]string{"apt-get", "-qq", "download"}, packages...)
	if run(ctx, tmp, download...) != nil {
		// The lists of packages may be missing or out of date.
		updated := run(ctx, tmp, "apt-get", "-qq", "update")
		if err := run(ctx, tmp, download...); err != nil {
			return "", errors.Join(err, updated)
		}
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	for _, deb := range debs {
		if err := run(ctx, tmp, "dpkg-deb", "-x", deb, filepath.Join(tmp, "root")); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(filepath.Join(tmp, "root"), 0o755); err != nil {
		return "", err
	}
	return dir, os.Rename(filepath.Join(tmp, "root"), dir)
}

func run(ctx context.Context, dir string, words ...string) error {
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(words, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// lock keeps others out until the returned function is called.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
