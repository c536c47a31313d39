package holders

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The holders of a device file are found in /proc. A process that holds it twice is named
// once.
func TestHolders(t *testing.T) {
	proc := fakeProc(t, map[string][]string{
		"100 pcscd":  {"/dev/null", "/dev/bus/usb/001/002"},
		"200 scdaem": {"/dev/bus/usb/001/002", "/dev/bus/usb/001/002"},
		"300 other":  {"/dev/bus/usb/001/003"},
	})
	if got := list(proc, "/dev/bus/usb/001/002"); !slices.Equal(got, []string{"pcscd (pid 100)", "scdaem (pid 200)"}) {
		t.Errorf("%q", got)
	}
	// Our own file, opened for the attempt, is no holder; a second one of ours is. A holder
	// that comes after ours is found.
	for n, want := range map[int][]string{1: nil, 2: {fmt.Sprintf("ourselves (pid %d)", os.Getpid())}} {
		const device = "/dev/bus/usb/001/002"
		proc := fakeProc(t, map[string][]string{
			fmt.Sprint(os.Getpid()) + " ourselves": slices.Repeat([]string{device}, n), "99999999 behind": {device},
		})
		if got := list(proc, device); !slices.Equal(got, append(want, "behind (pid 99999999)")) {
			t.Errorf("%d files of ours: %q", n, got)
		}
	}
	if got := list(proc, "/dev/bus/usb/009/009"); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func fakeProc(t *testing.T, all map[string][]string) string {
	t.Helper()
	proc := t.TempDir()
	for who, files := range all {
		pid, comm, _ := strings.Cut(who, " ")
		fd := filepath.Join(proc, pid, "fd")
		if err := os.MkdirAll(fd, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(comm+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for i, f := range files {
			if err := os.Symlink(f, filepath.Join(fd, fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return proc
}
