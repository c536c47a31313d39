package survey

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// put makes a slot's directory as a mount would show it.
func put(t *testing.T, dir string, n int, status, stats string) {
	t.Helper()
	at := filepath.Join(dir, fmt.Sprint(n))
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"status": status, "stats": stats} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// "`key value` lines": each line of both files, whatever blanks the value has, and slots in
// the order of their numbers. Only numbers are slots.
func TestAll(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []int{10, 9, 2, 0} {
		put(t, dir, n, fmt.Sprintf("state empty\nreader A B %d\nsiblings 9 10\n", n), fmt.Sprintf("exchanges %d\nwait-us 7\n", n))
	}
	for _, name := range []string{"by-id", "-1", "1x", "99999999999"} {
		os.Mkdir(filepath.Join(dir, name), 0o755)
	}
	slots, err := All(dir)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	ids := make(map[ID]bool)
	for _, s := range slots {
		numbers = append(numbers, s.Number)
		ids[s.ID] = true
		if want := map[string]string{"state": "empty", "reader": fmt.Sprint("A B ", s.Number), "siblings": "9 10"}; !maps.Equal(s.Status, want) {
			t.Errorf("%d: status %v, want %v", s.Number, s.Status, want)
		}
		if want := map[string]int64{"exchanges": int64(s.Number), "wait-us": 7}; !maps.Equal(s.Stats, want) {
			t.Errorf("%d: stats %v, want %v", s.Number, s.Stats, want)
		}
		if s.First() != (s.Number == 9) {
			t.Errorf("%d: first of 9 10: %v", s.Number, s.First())
		}
	}
	if !slices.Equal(numbers, []int{0, 2, 9, 10}) || len(ids) != 4 {
		t.Errorf("slots %v, ids %v", numbers, ids)
	}
}

// A reader that left between the two looks is left out. Any other error is reported.
func TestLeft(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 1, "state empty\n", "exchanges 1\n")
	slots, err := Read(dir, []int{0, 1, 2})
	if err != nil || len(slots) != 1 || slots[0].Number != 1 {
		t.Errorf("%v, %v", slots, err)
	}
	for err, want := range map[error]bool{
		unix.ENOENT: true, fmt.Errorf("x: %w", unix.ENODEV): true, unix.ENOTCONN: false, unix.EACCES: false, nil: false,
	} {
		if Gone(err) != want {
			t.Errorf("Gone(%v) = %v", err, !want)
		}
	}
	put(t, dir, 3, "state empty\n", "exchanges many\n")
	if _, err := Read(dir, []int{1, 3}); err == nil || !strings.Contains(err.Error(), "3/stats") {
		t.Errorf("a counter that is no number: %v", err)
	}
	os.Remove(filepath.Join(dir, "3/stats"))
	os.Mkdir(filepath.Join(dir, "3/stats"), 0o755)
	if _, err := Read(dir, []int{1, 3}); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory for a file: %v", err)
	}
	if _, err := All(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no mount: %v", err)
	}
}

// A file may be longer than the buffer, and a file system give it in pieces that end with a
// line or in the middle of one.
func TestText(t *testing.T) {
	dir := t.TempDir()
	for _, length := range []int{0, 1, 7, 8, 9, 16, 17, 1000} {
		want := strings.Repeat("abcdefg\n", 200)[:length]
		if length > 0 && length%8 != 0 {
			want = want[:length-1] + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		at, err := unix.Open(dir, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := text(at, dir, "f", make([]byte, 8))
		if err != nil || string(got) != want {
			t.Errorf("%d bytes: %q, %v", length, got, err)
		}
		unix.Close(at)
	}
}

func TestHasCard(t *testing.T) {
	for _, state := range append(slices.Clone(States), "") {
		s := Slot{Status: map[string]string{"state": state}}
		if s.HasCard() != (state == "present" || state == "powered") {
			t.Errorf("%s: %v", state, s.HasCard())
		}
	}
	if s := (&Slot{Number: 4}); !s.First() {
		t.Error("a slot without siblings is not the first")
	}
}

// Repeated surveys leave no descriptor open, whatever they find.
func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 0, "state empty\n", "exchanges 0\n")
	put(t, dir, 1, "state empty\n", "exchanges many\n")
	count := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	before := count()
	for range 100 {
		All(dir)
		Read(dir, []int{0, 5})
	}
	if n := count() - before; n > 10 {
		t.Errorf("%d descriptors more", n)
	}
}
