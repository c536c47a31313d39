package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/remote/internal/script"
	"github.com/cardfs/cardfs/reader/readertest"
)

const patience = 30 * time.Second

// within fails the test if what it waits for does not come.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
	return v
}

// open opens a file of the script.
func open(t *testing.T, g *Group, path string) *File {
	t.Helper()
	f, err := g.Open(t.Context(), path, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A call that a signal ends is repeated if it only opens or reads. "It is not written again":
// whoever interrupted a write may have seen it.
func TestInterrupted(t *testing.T) {
	var opens, reads, writes atomic.Int32
	once := func(n *atomic.Int32) syscall.Errno {
		if n.Add(1) == 1 {
			return syscall.EINTR
		}
		return 0
	}
	dir := script.Mount(t, map[string]*script.File{"f": {
		Open: func(context.Context) syscall.Errno { return once(&opens) },
		Read: func(context.Context, int) ([]byte, syscall.Errno) { return []byte("text"), once(&reads) },
		Write: func(_ context.Context, data []byte) (int, syscall.Errno) {
			return len(data), once(&writes)
		},
	}})
	f := open(t, start(t).Group(dir, 4), "f")
	if text, err := f.Read(t.Context(), 10); err != nil || string(text) != "text" {
		t.Errorf("read: %q, %v", text, err)
	}
	if _, err := f.Exchange(t.Context(), []byte("command"), 10); !errors.Is(err, syscall.EINTR) || errors.Is(err, ErrWritten) {
		t.Errorf("exchange: %v", err)
	}
	if o, r, w := opens.Load(), reads.Load(), writes.Load(); o != 2 || r != 2 || w != 1 {
		t.Errorf("%d opens, %d reads and %d writes, want 2, 2 and 1", o, r, w)
	}
}

// Of an exchange, ErrWritten says that only the read failed. A write that fails is not followed
// by a read, and one that was taken in part is an error.
func TestExchangeErrors(t *testing.T) {
	var taken, refused, reads atomic.Int32
	dir := script.Mount(t, map[string]*script.File{"f": {
		Read: func(context.Context, int) ([]byte, syscall.Errno) {
			reads.Add(1)
			return nil, syscall.EIO
		},
		Write: func(context.Context, []byte) (int, syscall.Errno) {
			return int(taken.Load()), syscall.Errno(refused.Load())
		},
	}})
	f := open(t, start(t).Group(dir, 4), "f")
	taken.Store(7)
	if _, err := f.Exchange(t.Context(), []byte("command"), 10); !errors.Is(err, ErrWritten) || reads.Load() != 1 {
		t.Errorf("a read that fails: %v, %d reads", err, reads.Load())
	}
	if _, err := f.Read(t.Context(), 10); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrWritten) {
		t.Errorf("a read alone that fails: %v", err)
	}
	reads.Store(0)
	if err := f.Write(t.Context(), []byte("command")); err != nil || reads.Load() != 0 {
		t.Errorf("a write alone: %v, %d reads", err, reads.Load())
	}
	refused.Store(int32(syscall.EBUSY))
	if _, err := f.Exchange(t.Context(), []byte("command"), 10); !errors.Is(err, syscall.EBUSY) || reads.Load() != 0 {
		t.Errorf("a write that fails: %v, %d reads", err, reads.Load())
	}
	taken.Store(6)
	refused.Store(0)
	if _, err := f.Exchange(t.Context(), []byte("command"), 10); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrWritten) || reads.Load() != 0 {
		t.Errorf("6 bytes of 7: %v, %d reads", err, reads.Load())
	}
}

// "Close closes the file, after the calls under way." None begins after it, and whatever the
// file system does about it holds up nobody.
func TestCloseUnderWay(t *testing.T) {
	began, goOn, closing, closed := make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	dir := script.Mount(t, map[string]*script.File{
		"f": {
			Read: func(ctx context.Context, _ int) ([]byte, syscall.Errno) {
				began <- struct{}{}
				select {
				case <-goOn:
					return []byte("text"), 0
				case <-ctx.Done():
					return nil, syscall.EINTR
				}
			},
			Close: func() { closing <- struct{}{}; <-closed },
		},
		"other": {Read: func(context.Context, int) ([]byte, syscall.Errno) { return []byte("other"), 0 }},
	})
	defer close(closed)
	g := start(t).Group(dir, 8)
	f := open(t, g, "f")
	done := make(chan string, 1)
	go func() {
		text, err := f.Read(t.Context(), 10)
		done <- fmt.Sprintf("%s %v", text, err)
	}()
	within(t, "a read", began)
	f.Close()
	_ = f.group.p.send(frame{op: opClose, handle: f.handle}, nil) // once more
	soon, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := f.Read(soon, 10); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a read after Close: %v", err)
	}
	for range 20 { // a close would be seen by then
		if text, err := g.ReadFile(soon, "other", 10); err != nil || string(text) != "other" {
			t.Errorf("another file: %q, %v", text, err)
		}
	}
	select {
	case <-closing:
		t.Error("closed while a read is under way")
	default:
	}
	close(goOn)
	if got := within(t, "the read", done); got != "text <nil>" {
		t.Errorf("the read under way: %s", got)
	}
	within(t, "the end", closing)
	if text, err := g.ReadFile(soon, "other", 10); err != nil || string(text) != "other" {
		t.Errorf("another file, while a close hangs: %q, %v", text, err)
	}
}

// "If ctx ends before, the file is closed as soon as it is open", and the call counts until then.
func TestOpenGivenUp(t *testing.T) {
	began, goOn, closed := make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, 1)
	dir := script.Mount(t, map[string]*script.File{"f": {
		Open: func(ctx context.Context) syscall.Errno {
			began <- struct{}{}
			select {
			case <-goOn:
				return 0
			case <-ctx.Done():
				return syscall.EINTR
			}
		},
		Close: func() { closed <- struct{}{} },
	}})
	g := start(t).Group(dir, 1)
	ctx, giveUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := g.Open(ctx, "f", os.O_RDONLY)
		done <- err
	}()
	within(t, "an open", began)
	giveUp()
	if err := within(t, "the open that was given up", done); !errors.Is(err, context.Canceled) {
		t.Errorf("the open that was given up: %v", err)
	}
	if _, err := g.Open(t.Context(), "f", os.O_RDONLY); !errors.Is(err, ErrStuck) {
		t.Errorf("another, while it waits: %v", err)
	}
	close(goOn)
	within(t, "its close", closed)
	readertest.Eventually(t, "the call that was given up counts no more", func() bool { return len(g.calls) == 0 })
	open(t, g, "f")
}

// No descriptor is left of what was opened, refused or closed.
func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a/b/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t)
	g := p.Group(dir, 4)
	count := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	use := func() {
		open(t, g, "a/b/f").Close()
		for _, none := range []string{"a/b/nosuch", "a/b", "a/../a", "nosuch/f"} {
			if _, err := g.Open(t.Context(), none, os.O_RDONLY); err == nil {
				t.Fatalf("%s was opened", none)
			}
		}
	}
	use()
	before := count()
	for range 50 {
		use()
	}
	readertest.Eventually(t, "there are no more descriptors than before", func() bool { return count() <= before+5 }) // Close does not wait
}

// The child ends with its Process, and with it the calls that it waits in, if their file system
// lets go of them: another machine's card is not kept open.
func TestChildEnds(t *testing.T) {
	const calls = 8
	began := make(chan struct{}, calls)
	dir := script.Mount(t, map[string]*script.File{"f": {Read: func(ctx context.Context, _ int) ([]byte, syscall.Errno) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, syscall.EINTR
	}}})
	p := start(t)
	g := p.Group(dir, calls+1)
	done := make(chan error, calls)
	var opened [calls]*File
	for i := range opened {
		opened[i] = open(t, g, "f")
	}
	for _, f := range opened {
		go func() {
			_, err := f.Read(t.Context(), 1)
			done <- err
		}()
		within(t, "a read", began)
	}
	p.Close()
	for range calls {
		if err := within(t, "a read of a child that has ended", done); !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
	}
	readertest.Eventually(t, "the child has ended", func() bool { return unix.Kill(p.cmd.Process.Pid, 0) != nil })
}

// "A session of its own: what a terminal sends to the daemon is not for the child", which has
// nothing of the daemon's but the connection.
func TestChild(t *testing.T) {
	t.Setenv("CARDFS_SECRET", "1")
	p := start(t)
	if _, err := p.Group("/proc/self", 1).Open(t.Context(), "nosuch", os.O_RDONLY); err == nil { // it runs
		t.Error("nosuch was opened")
	}
	pid := p.cmd.Process.Pid
	if session, err := unix.Getsid(pid); err != nil || session != pid {
		t.Errorf("session %d of process %d, %v", session, pid, err)
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) > 0 {
		t.Errorf("environment %q, %v", env, err)
	}
}

// A frame that no side sends ends the connection; nothing is kept for it.
func TestFrames(t *testing.T) {
	f := frame{id: 1 << 40, op: opExchange, handle: 7, arg: 99, data: []byte("data")}
	wire := string(f.append(nil))
	got, err := readFrame(strings.NewReader(wire))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(f) {
		t.Errorf("%+v became %+v, %v", f, got, err)
	}
	for n := range len(wire) {
		if _, err := readFrame(strings.NewReader(wire[:n])); err == nil {
			t.Errorf("%d of %d bytes were a frame", n, len(wire))
		}
	}
	long := frame{data: make([]byte, maxData+1)}
	if _, err := readFrame(strings.NewReader(string(long.append(nil)))); err == nil {
		t.Errorf("a frame of %d bytes was taken", len(long.data))
	}
}
