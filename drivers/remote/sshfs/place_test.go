package sshfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRuntimeDir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("RUNTIME_DIRECTORY", dir+":/other") // systemd.exec(5): several are separated by colons
	got, err := RuntimeDir()
	if err != nil || got != filepath.Join(dir, "remote") {
		t.Fatalf("%s, %v", got, err)
	}
	if info, err := os.Stat(got); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Chmod(got, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := RuntimeDir(); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory that others may enter: %v", err)
	}
	if err := os.Remove(got); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", got); err != nil {
		t.Fatal(err)
	}
	if _, err := RuntimeDir(); err == nil || !strings.Contains(err.Error(), "is none") {
		t.Errorf("a symbolic link: %v", err)
	}
}

// "Only ours": a place whose process lives is locked, and what is no place stays.
func TestSweep(t *testing.T) {
	above := t.TempDir()
	mine, err := newPlace(above)
	if err != nil {
		t.Fatal(err)
	}
	killed, err := newPlace(above)
	if err != nil {
		t.Fatal(err)
	}
	killed.lock.Close()
	foreign := filepath.Join(above, prefix+"foreign")
	for _, dir := range []string{filepath.Join(above, "other"), foreign, filepath.Join(foreign, "kept")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweep(above); err == nil {
		t.Error("a directory that is not empty was removed")
	}
	for dir, want := range map[string]bool{mine.mount(): true, killed.dir: false, filepath.Join(above, "other"): true, filepath.Join(foreign, "kept"): true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if err := mine.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mine.dir); err == nil {
		t.Errorf("%s is still there", mine.dir)
	}
}
