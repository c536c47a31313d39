package applet

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// On a full disk the state file stays as it was and no other is left behind. The card answers
// 6581 to whatever would have changed its state, forgets its security state, and goes on once there is room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	switch err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); {
	case errors.Is(err, unix.EPERM):
		t.Skip("NOT TESTED: mounting a small file system needs root (run the tests by sudo)")
	case err != nil:
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "state")
	a := &plain{aid: "A0"}
	a.store = open(t, path, &a.state)
	c := NewCard(atrT1, a.store, a)
	script(t, c, "00030000 → 63C1")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err = nil; err == nil; {
		_, err = filler.Write(make([]byte, 512))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	a.log = nil
	script(t, c, "00030000 → 6581\n00020001 → 6581") // also what changes nothing: there is still something to write
	if len(a.log) != 2 {
		t.Errorf("the security state stayed: %v", a.log)
	}
	if err := a.store.Flush(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want what the system said", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file changed, %v:\n%s", err, after)
	}
	if all, _ := os.ReadDir(dir); len(all) != 2 {
		t.Errorf("left over: %v", all)
	}
	if _, err := OpenStore(path); !errors.Is(err, ErrStore) {
		t.Errorf("a second card: %v", err)
	}

	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	filler.Close()
	script(t, c, "00030000 → 63C3") // the second, which got no answer, counts
	var state struct{ N int }
	c.Close()
	s := open(t, path, &state)
	defer s.Close()
	if state.N != 3 {
		t.Errorf("%d in the file", state.N)
	}
}
