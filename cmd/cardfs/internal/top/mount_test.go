package top

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// tree has the files of a mount as far as top uses them.
func tree(t *testing.T) mount {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"event":    "1 0 arrived driver=sim\n2 0 ready\n3 1 left lost=4\n",
		"ctl":      "",
		"0/status": "state powered\n", "0/stats": "exchanges 3\n", "0/power": "", "0/trace": "a line\n",
		"1/status": "state failed\nerror no answer\n", "1/stats": "exchanges 0\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return mount{&client.Mount{Dir: dir}}
}

func TestMount(t *testing.T) {
	m := tree(t)
	if found, err := m.look(nil, true); err != nil || len(found) != 2 {
		t.Errorf("all: %v, %v", found, err)
	}
	found, err := m.look([]int{1, 7}, false)
	if err != nil || len(found) != 1 || found[0].Number != 1 {
		t.Errorf("1 and 7: %v, %v", found, err)
	}

	if err := m.power(0, "reset"); err != nil {
		t.Error(err)
	}
	before, _ := os.ReadDir("/proc/self/fd")
	for range 50 {
		m.power(0, "reset")
	}
	if after, _ := os.ReadDir("/proc/self/fd"); len(after) > len(before)+10 {
		t.Errorf("%d descriptors, before %d", len(after), len(before))
	}
	os.WriteFile(filepath.Join(m.Dir, "0/power"), nil, 0o644)
	m.power(0, "reset")
	if text, _ := os.ReadFile(filepath.Join(m.Dir, "0/power")); string(text) != "reset\n" {
		t.Errorf("power was told %q", text)
	}
	if err := m.power(1, "reset"); err == nil || !strings.Contains(err.Error(), "reader 1") && !strings.Contains(err.Error(), "no reader 1") {
		t.Errorf("no file power: %v", err)
	}
	os.Remove(filepath.Join(m.Dir, "0/power"))
	if err := os.Symlink("/dev/full", filepath.Join(m.Dir, "0/power")); err != nil {
		t.Fatal(err)
	}
	if err := m.power(0, "reset"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write that fails: %v", err)
	}

	f, err := m.trace(0)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(f); err != nil || string(text) != "a line\n" {
		t.Errorf("trace: %q, %v", text, err)
	}
	f.Close()
	if _, err := m.trace(5); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the trace of nobody: %v", err)
	}

	var got []happened
	err = m.follow(func(slot int, left, lost bool) { got = append(got, happened{slot, left, lost}) })
	if err == nil || err.Error() != "the mount ended" {
		t.Errorf("the end: %v", err)
	}
	if want := (happened{1, true, true}); len(got) != 3 || got[0] != (happened{slot: 0}) || got[2] != want {
		t.Errorf("events %+v", got)
	}
	os.Remove(filepath.Join(m.Dir, "event"))
	if err := m.follow(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no event file: %v", err)
	}
	if err := m.explain(unix.ENOTCONN); !strings.Contains(err.Error(), "dead") {
		t.Errorf("a dead daemon: %v", err)
	}
}
