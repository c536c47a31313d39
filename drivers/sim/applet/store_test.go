package applet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func open(t *testing.T, path string, state any) *Store {
	t.Helper()
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := s.Bind("test", state); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	var n, m struct{ N int }
	s := open(t, path, &n)
	n.N = 42
	s.Changed()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path); !errors.Is(err, ErrStore) {
		t.Errorf("a second card: %v", err)
	}
	n.N = 43
	s.Changed()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path); !errors.Is(err, ErrStore) {
		t.Errorf("a second card, file replaced: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, _ := os.ReadFile(path)
	if !strings.Contains(string(text), "no place for keys that matter") || !strings.Contains(string(text), `"version": 1`) {
		t.Errorf("%s", text)
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("left over: %v", all)
	}
	s.Close()
	s = open(t, path, &m)
	if m.N != 43 {
		t.Errorf("%d came back", m.N)
	}
	// What belongs to another application stays.
	var other struct{ X string }
	if found, err := s.Bind("other", &other); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	other.X = "x"
	s.Flush()
	s.Close()
	s = open(t, path, new(struct{ N int }))
	s.Changed()
	s.Flush()
	s.Close()
	s = open(t, path, new(struct{ N int }))
	if found, err := s.Bind("other", &other); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}

// Nothing is written when nothing changed.
func TestStoreUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, new(struct{ N int }))
	s.Flush()
	before, _ := os.Stat(path)
	s.Flush()
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("written again")
	}
	m := open(t, "", new(struct{ N int }))
	m.Changed()
	if err := m.Flush(); err != nil {
		t.Error(err)
	}
}

func TestStoreRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(string) error{
		"link":     func(p string) error { return os.Symlink(p+".target", p) },
		"fifo":     func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"readable": func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o640)) },
		"text":     func(p string) error { return os.WriteFile(p, []byte("hello"), 0o600) },
		"format":   func(p string) error { return os.WriteFile(p, []byte(`{"format":"x","version":1}`), 0o600) },
		"version": func(p string) error {
			return os.WriteFile(p, []byte(`{"format":"cardfs simulated card","version":2}`), 0o600)
		},
		"long": func(p string) error { return os.WriteFile(p, []byte(strings.Repeat(" ", maxStored+1)), 0o600) },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(path); !errors.Is(err, ErrStore) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path + ".target"); err == nil {
			t.Errorf("%s: a file was made", name)
		}
	}
	if _, err := OpenStore(dir); err == nil {
		t.Error("a directory")
	}
	path := filepath.Join(dir, "unknown field")
	os.WriteFile(path, []byte(`{"format":"cardfs simulated card","version":1,"applications":{"test":{"SECRET":"4711"}}}`), 0o600)
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Bind("test", new(struct{ N int })); !errors.Is(err, ErrStore) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "4711") {
		t.Errorf("%v", err)
	}
}

// A card that is killed after an answer has counted what it answered.
func TestKilled(t *testing.T) {
	path := os.Getenv("APPLET_TEST_STATE")
	if path != "" { // the daemon: it answers without end
		a := &plain{aid: "A0"}
		a.store = open(t, path, &a.state)
		c := NewCard(atrT1, a.store, a)
		for {
			c.Process(unhex("00030000"))
			fmt.Println(a.state.N)
		}
	}
	path = filepath.Join(t.TempDir(), "state")
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "APPLET_TEST_STATE="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var answered, n int
		for range 7 {
			if _, err := fmt.Fscan(out, &answered); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Process.Kill()
		for {
			if _, err := fmt.Fscan(out, &n); err != nil {
				break
			}
			answered = n
		}
		cmd.Wait()
		var state struct{ N int }
		s := open(t, path, &state)
		s.Close()
		// The last answer may have been cut or not have left yet.
		if state.N < answered || state.N > answered+1 && answered > 9 {
			t.Errorf("%d answered, %d in the file", answered, state.N)
		}
	}
}
