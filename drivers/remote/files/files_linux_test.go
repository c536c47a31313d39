package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *Process {
	t.Helper()
	p, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// hanging is a directory with a file event whose read waits: a cardfs. The open of
// 0/apdu waits for a card, where there is a reader.
func hanging(t *testing.T, readers ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hang")
	if err != nil {
		t.Fatal(err)
	}
	m := core.NewManager(core.Options{Drivers: []reader.Driver{&sim.Driver{}}})
	srv, err := fs.Mount(dir, m, fs.Options{GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close(context.Background())
		_ = srv.Close(5 * time.Second)
		_ = os.Remove(dir)
	})
	for _, r := range readers {
		if err := fs.Ctl(m, "attach sim "+r); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadAndWrite(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t).Group(dir, 4)
	if text, err := g.ReadFile(t.Context(), "f", 100); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := g.ReadFile(t.Context(), "f", 2); err != nil || string(text) != "te" {
		t.Errorf("%q, %v", text, err)
	}
	f, err := g.Open(t.Context(), "f", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Write(t.Context(), []byte("TE")); err != nil {
		t.Error(err)
	}
	if text, err := f.Exchange(t.Context(), []byte("X"), 10); err != nil || string(text) != "t" {
		t.Errorf("%q, %v", text, err)
	}
	f.Close()
	if _, err := f.Read(t.Context(), 1); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a read of a closed file: %v", err)
	}
	if _, err := g.Open(t.Context(), "nosuch", os.O_RDONLY); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// "Whoever serves the file system decides what is there": nothing but regular files below the
// directory is opened.
func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "dir")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t).Group(dir, 4)
	for _, name := range []string{"link", "dir/passwd", "pipe", strings.Repeat("../", 30) + "etc/passwd", "/etc/passwd", "."} {
		if f, err := g.Open(t.Context(), name, os.O_RDONLY); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

// "Calls end with their context", and with the process; their number is bounded.
func TestHanging(t *testing.T) {
	p := start(t)
	g := p.Group(hanging(t), 2)
	f, err := g.Open(t.Context(), "event", os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Read(ctx, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := f.Read(t.Context(), 100)
			done <- err
		}()
	}
	readertest.Eventually(t, "both calls wait", func() bool { return len(g.calls) >= 2 })
	if _, err := g.Open(t.Context(), "ctl", os.O_RDONLY); !errors.Is(err, ErrStuck) {
		t.Errorf("one call too many: %v", err)
	}
	p.Close()
	for range 2 {
		if err := <-done; !errors.Is(err, ErrEnded) {
			t.Errorf("a call under way: %v", err)
		}
	}
	if _, err := f.Read(t.Context(), 100); !errors.Is(err, ErrEnded) && !errors.Is(err, ErrStuck) {
		t.Errorf("a call after the end: %v", err)
	}
}

// Requests and replies do not wait for each other, however many are under way.
func TestMany(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 32<<10)
	if err := os.WriteFile(filepath.Join(dir, "f"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	const calls = 256
	g := start(t).Group(dir, calls)
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			for range 20 {
				if text, err := g.ReadFile(t.Context(), "f", len(content)); err != nil || len(text) != len(content) {
					t.Errorf("%d bytes, %v", len(text), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// "Over once nothing waits in the file system any more": not while a call waits that was given
// up here.
func TestOpenUntil(t *testing.T) {
	p := start(t)
	g := p.Group(hanging(t), 2)
	over := make(chan struct{})
	f, err := g.OpenUntil(t.Context(), "event", os.O_RDONLY, func() { close(over) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := f.Read(ctx, 100)
		done <- err
	}()
	readertest.Eventually(t, "the call waits", func() bool { return len(g.calls) > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the call: %v", err)
	}
	f.Close()
	select {
	case <-over:
		t.Error("it is over while a call waits")
	case <-time.After(10 * time.Millisecond):
	}
	p.Close()
	<-over

	failed := false
	if _, err := g.OpenUntil(t.Context(), "ctl", os.O_RDONLY, func() { failed = true }); err == nil || !failed {
		t.Errorf("an open that fails: %v, over %v", err, failed)
	}
}

// "No other open of the group finds its connection at the same time", but one that waits for a
// card does not keep the others off.
func TestOpenAlone(t *testing.T) {
	p := &process{opens: make(map[string]*opens)}
	leave := p.enter("a", true)
	p.enter("b", true)()
	second := make(chan func())
	for _, alone := range []bool{true, false} {
		go func() { second <- p.enter("a", alone) }()
	}
	select {
	case <-second:
		t.Error("two opens of a directory, one of which is alone")
	case <-time.After(10 * time.Millisecond):
	}
	leave()
	leave()
	(<-second)()
	(<-second)()
	p.enter("a", false)()
	first := p.enter("a", false)
	p.enter("a", false)()
	first()
	if len(p.opens) > 0 {
		t.Errorf("%d directories are left", len(p.opens))
	}

	g := start(t).Group(hanging(t, "t1 card=none"), 4)
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() {
		_, err := g.OpenAlone(ctx, "0/apdu", os.O_RDWR, func() {})
		waits <- err
	}()
	readertest.Eventually(t, "the call waits", func() bool { return len(g.calls) > 0 })
	for range 2 {
		f, err := g.OpenAlone(t.Context(), "0/status", os.O_RDONLY, func() {})
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("an open without a card: %v", err)
	}
}
