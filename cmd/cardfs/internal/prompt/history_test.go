package prompt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// XDG Base Directory Specification: "If $XDG_STATE_HOME is either not set or empty, a default
// equal to $HOME/.local/state should be used"; a path that is not absolute is ignored.
func TestHistoryFile(t *testing.T) {
	for _, x := range []struct{ state, home, want string }{
		{"/s", "/h", "/s/cardfs/history"},
		{"", "/h", "/h/.local/state/cardfs/history"},
		{"s", "/h", "/h/.local/state/cardfs/history"},
		{"", "", ""},
		{"", "h", ""},
	} {
		t.Setenv("XDG_STATE_HOME", x.state)
		t.Setenv("HOME", x.home)
		if got := HistoryFile(); got != x.want {
			t.Errorf("%q, %q: %q, want %q", x.state, x.home, got, x.want)
		}
	}
}

// A history is its owner's alone, whatever it was before; what could steer a terminal is left
// out of it; the last thousand lines count.
func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "cardfs", "history")
	if lines, err := loadHistory(path); err != nil || len(lines) != 0 {
		t.Fatalf("%q, %v", lines, err)
	}
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if got := mode(filepath.Dir(path)); got != 0o700 {
		t.Errorf("the directory has mode %o", got)
	}
	for _, line := range []string{"one", "two"} {
		if err := appendHistory(path, line); err != nil {
			t.Fatal(err)
		}
	}
	if got := mode(path); got != 0o600 {
		t.Errorf("mode %o", got)
	}
	os.Chmod(path, 0o644)
	appendHistory(path, "\x1b[2J")
	appendHistory(path, "\xff")
	appendHistory(path, "")
	appendHistory(path, "three é")
	lines, err := loadHistory(path)
	if err != nil || strings.Join(lines, "|") != "one|two|three é" {
		t.Errorf("%q, %v", lines, err)
	}
	if got := mode(path); got != 0o600 {
		t.Errorf("after a chmod: mode %o", got)
	}
	count := func() int {
		text, _ := os.ReadFile(path)
		return strings.Count(string(text), "\n")
	}
	for _, x := range []struct{ wrote, loaded, left int }{{2 * limit, limit, 2 * limit}, {2*limit + 1, limit, limit}, {limit - 1, limit - 1, limit - 1}} {
		var text strings.Builder
		for i := range x.wrote {
			fmt.Fprintf(&text, "%d\n", i)
		}
		os.WriteFile(path, []byte(text.String()), 0o600)
		lines, err := loadHistory(path)
		if err != nil || len(lines) != x.loaded || lines[len(lines)-1] != fmt.Sprint(x.wrote-1) || count() != x.left || mode(path) != 0o600 {
			t.Errorf("%d lines: %d loaded, %d left, mode %o, %v", x.wrote, len(lines), count(), mode(path), err)
		}
	}
	if lines, err := loadHistory(""); lines != nil || err != nil {
		t.Errorf("no file: %q, %v", lines, err)
	}
	if _, err := loadHistory(filepath.Dir(path)); err == nil {
		t.Error("a directory")
	}
	if _, err := loadHistory(filepath.Join(path, "cardfs", "history")); err == nil {
		t.Error("below a file")
	}
	if err := replace(filepath.Dir(filepath.Dir(path)), "x"); err == nil {
		t.Error("a directory is replaced")
	}
	if entries, _ := os.ReadDir(filepath.Dir(filepath.Dir(filepath.Dir(path)))); len(entries) != 1 {
		t.Errorf("%v is left", entries)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%v beside it", entries)
	}
}
