package sftp

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The files are there, through a line that counts and is as slow as it was made, until it is cut.
// Other programs use the files: one that waits for a file system cannot be ended.
func TestMount(t *testing.T) {
	const delay = 5 * time.Millisecond
	dir := t.TempDir()
	far, near := filepath.Join(dir, "far"), filepath.Join(dir, "near")
	for _, d := range []string{far, near} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	content := bytes.Repeat([]byte("content\n"), 50_000)
	if err := os.WriteFile(filepath.Join(far, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(delay)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.Mount(t.Context(), far, near)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()

	begin := time.Now()
	got, err := exec.Command("cat", filepath.Join(near, "file")).Output()
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("cat: %d bytes of %d, %v", len(got), len(content), err)
	}
	// LSTAT, OPEN and READ wait for each other.
	if took := time.Since(begin); took < 3*2*delay {
		t.Errorf("cat took %v on a line that takes %v there and back", took, 2*delay)
	}
	r := s.Requests()
	if r["INIT"] == 0 || r["OPEN"] != 1 || r["READ"] < int64(len(content)/(128<<10)) {
		t.Errorf("requests %v", r)
	}
	var sum int64
	for n := range maps.Values(r) {
		sum += n
	}
	if sum > s.Total() {
		t.Errorf("%d requests in all, and before %v", s.Total(), r)
	}

	s.Cut()
	if out, err := exec.Command("cat", filepath.Join(near, "file")).CombinedOutput(); err == nil {
		t.Errorf("cat on a line that was cut: %d bytes", len(out))
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := len(s.Pids()); n > 0 {
		t.Errorf("%d sftp-servers are left", n)
	}
}

// Requests are counted however the stream is cut.
func TestCount(t *testing.T) {
	stream := []byte{0, 0, 0, 5, 1, 0, 0, 0, 3, 0, 0, 0, 1, 6, 0, 0, 0, 3, 5, 9, 9, 0, 0, 0, 2, 99, 7}
	for size := 1; size <= len(stream); size++ {
		s := new(Server)
		see := s.count()
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			see(rest[:n])
			rest = rest[n:]
		}
		if want := map[string]int64{"INIT": 1, "WRITE": 1, "READ": 1, "99": 1}; !maps.Equal(s.Requests(), want) {
			t.Errorf("%d bytes at a time: %v, want %v", size, s.Requests(), want)
		}
	}
}
