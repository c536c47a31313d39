package devfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// pair is a File on the master of a pseudo-terminal, as the kernel has it or as a file that
// cannot be polled, and its other side.
func pair(t *testing.T, polls bool) (*File, *os.File) {
	t.Helper()
	f, err := Open("/dev/ptmx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if !f.Polls() {
		t.Fatal("a terminal can be polled")
	}
	number := 0
	if err := f.Do(t.Context(), patience, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	raw := unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.CS8 | unix.B9600}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, &raw); err != nil {
		t.Fatal(err)
	}
	if !polls {
		f.polls = false
		if err := f.Control(func(fd int) error { return unix.SetNonblock(fd, false) }); err != nil {
			t.Fatal(err)
		}
	}
	return f, slave
}

func kinds(t *testing.T, f func(t *testing.T, f *File, other *os.File)) {
	for _, polls := range []bool{true, false} {
		t.Run(fmt.Sprintf("polls %v", polls), func(t *testing.T) {
			file, other := pair(t, polls)
			f(t, file, other)
		})
	}
}

// A read gives what there is, and waits only for that.
func TestRead(t *testing.T) {
	kinds(t, func(t *testing.T, f *File, other *os.File) {
		var p [8]byte
		if n, err := f.Write(t.Context(), []byte("abc"), time.Now().Add(patience)); n != 3 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if n, err := other.Read(p[:]); string(p[:n]) != "abc" {
			t.Fatalf("%q, %v", p[:n], err)
		}
		time.AfterFunc(10*time.Millisecond, func() { other.Write([]byte("xyz")) })
		if n, err := f.Read(t.Context(), p[:], time.Now().Add(patience)); string(p[:n]) != "xyz" || err != nil {
			t.Errorf("%q, %v", p[:n], err)
		}
	})
}

// A read ends with its time and its context, and then takes nothing. The next read of a file
// that the runtime cannot poll waits until the one that was left behind has ended.
func TestReadEnds(t *testing.T) {
	kinds(t, func(t *testing.T, f *File, other *os.File) {
		var p [8]byte
		if n, err := f.Read(t.Context(), p[:], time.Now().Add(5*time.Millisecond)); n != 0 || !errors.Is(err, reader.ErrTimeout) {
			t.Errorf("late: %d, %v", n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		if n, err := f.Read(ctx, p[:], time.Time{}); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %d, %v", n, err)
		}
		if n, err := f.Read(ctx, p[:], time.Time{}); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %d, %v", n, err)
		}
		if p != [8]byte{} {
			t.Errorf("% X", p)
		}
		other.Write([]byte("1")) // which a read that was left behind does not take
		if n, err := f.Read(t.Context(), p[:], time.Now().Add(patience)); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// A context that ends as its read does must not end the next read.
func TestLateContext(t *testing.T) {
	f, other := pair(t, true)
	var p [8]byte
	for i := range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			other.Write([]byte{1})
			cancel()
		}()
		n, err := f.Read(ctx, p[:], time.Time{})
		if n == 0 && !errors.Is(err, context.Canceled) {
			t.Fatalf("%d: %v", i, err)
		}
		<-done
		if n == 0 {
			n, err = f.Read(t.Context(), p[:], time.Now().Add(patience))
		}
		if n != 1 || err != nil {
			t.Fatalf("%d: %d, %v", i, n, err)
		}
	}
	f.in.wake() // as an AfterFunc that is very late
	go func() {
		time.Sleep(20 * time.Millisecond)
		f.in.wake()
		time.Sleep(20 * time.Millisecond)
		other.Write([]byte{1})
	}()
	if n, err := f.Read(t.Context(), p[:], time.Now().Add(patience)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// A write waits until the file takes something, for its time, and as long as its context and
// the file last.
func TestWriteWaits(t *testing.T) {
	f, other := pair(t, true)
	wrote := make(chan int, 1000)
	endless := func(ctx context.Context, wait time.Duration) error {
		for {
			var until time.Time
			if wait > 0 {
				until = time.Now().Add(wait)
			}
			n, err := f.Write(ctx, make([]byte, 4096), until)
			if err != nil {
				return err
			}
			wrote <- n
		}
	}
	if err := endless(t.Context(), 5*time.Millisecond); !errors.Is(err, reader.ErrTimeout) {
		t.Errorf("late: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	begin := func(ctx context.Context) {
		go func() { ended <- endless(ctx, 0) }()
		for events(t, f, f.out.epoll)&unix.EPOLLOUT == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	begin(ctx)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	begin(t.Context())
	var p [64]byte
	for before := len(wrote); len(wrote) == before; {
		if _, err := other.Read(p[:]); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, reader.ErrGone) {
		t.Errorf("closed: %v", err)
	}
}

// A read for which there is a time, whose answer comes soon, costs no allocation, as it sets
// no timer. One without a time waits in the poller alone: there its context ends it at once.
func TestReadSoon(t *testing.T) {
	f, other := pair(t, true)
	question, answer, p := []byte("question"), []byte("answer"), make([]byte, 16)
	if each := testing.AllocsPerRun(100, func() {
		until := time.Now().Add(patience)
		if _, err := f.Write(t.Context(), question, until); err != nil {
			t.Fatal(err)
		}
		other.Write(answer)
		if n, err := f.Read(t.Context(), p, until); err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}); each > 0 {
		t.Errorf("%v allocations", each)
	}
	if f.in.soon == 0 {
		t.Error("it did not wait by itself")
	}
	for range 2 {
		other.Write(answer)
		if n, err := f.Read(t.Context(), p, time.Time{}); err != nil || n == 0 || f.in.soon != 0 {
			t.Errorf("without a time: %d, %v, waited %v", n, err, f.in.soon)
		}
	}
}

// "Behind a bell it wakes one only for what somebody waits for, and while they wait."
func TestBell(t *testing.T) {
	f, other := pair(t, true)
	ready := func(file *os.File, wait time.Duration) bool {
		p := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLIN}}
		err := Again(func() error { _, err := unix.Poll(p, int(wait.Milliseconds())); return err })
		return err != nil || p[0].Revents != 0
	}
	come := func(c string) {
		t.Helper()
		if other.Write([]byte(c)); !ready(f.file, patience) {
			t.Fatal("nothing came")
		}
	}
	come("1")
	if ready(f.in.epoll, 0) || ready(f.out.epoll, 0) {
		t.Error("it rings for nobody")
	}
	var p [8]byte
	if n, err := f.Read(t.Context(), p[:], time.Time{}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := f.Read(ctx, p[:], time.Time{})
		done <- err
	}()
	for events(t, f, f.in.epoll)&unix.EPOLLIN == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := events(t, f, f.in.epoll); got&unix.EPOLLIN != 0 {
		t.Errorf("it listens behind a read: %#x", got)
	}
	come("2")
	if ready(f.in.epoll, 0) {
		t.Error("it rings behind a read")
	}
}

// events are those that an epoll instance is set to for the file (proc_pid_fdinfo(5)).
func events(t *testing.T, f *File, epoll *os.File) (events uint32) {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", epoll.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_, entry, found := strings.Cut(string(info), "tfd:")
	var fd int
	if n, err := fmt.Sscanf(entry, "%d events: %x", &fd, &events); !found || n != 2 {
		t.Fatalf("%v: %s", err, info)
	}
	return events
}

// slave is a File on a pseudo-terminal, with its master, and a watcher at work.
func slave(t *testing.T) (*File, *os.File, *Watcher) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(fmt.Sprintf("/dev/pts/%d", number))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w, err := f.Watcher()
	if err != nil {
		t.Fatal(err)
	}
	asleep := make(chan struct{})
	go func() {
		defer close(asleep)
		w.Watch()
	}()
	t.Cleanup(func() {
		w.Close()
		<-asleep
	})
	return f, master, w
}

// "Watch calls Leave when the terminal is hung up", also while it sleeps, and not before.
func TestWatch(t *testing.T) {
	for _, what := range []string{"idle", "listening", "at work"} {
		t.Run(what, func(t *testing.T) {
			f, master, w := slave(t)
			var p [8]byte
			work := func() {
				if _, err := f.Write(t.Context(), []byte("1"), time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := master.Read(p[:]); err != nil {
					t.Fatal(err)
				}
			}
			if what == "listening" {
				for events(t, f, w.epoll)&unix.EPOLLOUT == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if what == "at work" {
				for range 3 { // it sleeps, wakes, and sleeps again
					for events(t, f, w.epoll)&unix.EPOLLOUT == 0 {
						work()
					}
					for events(t, f, w.epoll)&unix.EPOLLOUT != 0 {
						work()
					}
				}
			}
			select {
			case <-f.Gone():
				t.Error("it left before the hang-up")
			default:
			}
			master.Close()
			select {
			case <-f.Gone():
			case <-time.After(patience):
				t.Error("the hang-up was not noticed")
			}
		})
	}
}

// Calls come one at a time; one that the kernel blocks does not hold up ctx, limit, nor
// Close, and the next waits for it.
func TestDo(t *testing.T) {
	f, _ := pair(t, true)
	release := make(chan struct{})
	block := func(int) error { <-release; return nil }
	nothing := func(int) error { return nil }
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	if err := f.Do(ctx, 0, block); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	ran := false
	if err := f.Do(t.Context(), 5*time.Millisecond, func(int) error { ran = true; return nil }); !errors.Is(err, reader.ErrTimeout) || ran {
		t.Errorf("behind one that is blocked: %v, ran %v", err, ran)
	}
	release <- struct{}{}
	if err := f.Do(t.Context(), patience, nothing); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := f.Do(t.Context(), patience, func(int) error { return unix.EIO }); !errors.Is(err, unix.EIO) {
		t.Errorf("that fails: %v", err)
	}
	interrupted := 0
	if err := f.Do(t.Context(), patience, func(int) error {
		if interrupted++; interrupted < 3 {
			return unix.EINTR
		}
		return nil
	}); err != nil || interrupted != 3 {
		t.Errorf("interrupted: %v after %d calls", err, interrupted)
	}
	blocked := make(chan error, 1)
	go func() { blocked <- f.Do(t.Context(), 0, block) }()
	for len(f.busy) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-blocked; !errors.Is(err, reader.ErrGone) {
		t.Errorf("closed: %v", err)
	}
	<-f.Gone()
	close(release)
	if _, err := f.Read(t.Context(), make([]byte, 1), time.Time{}); !errors.Is(err, reader.ErrGone) {
		t.Errorf("read after Close: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/file", nil, 0o600)
	os.Symlink("/dev/ptmx", dir+"/link")
	for path, want := range map[string]error{dir + "/file": unix.ENOTTY, dir: unix.EISDIR, dir + "/link": unix.ELOOP, dir + "/none": os.ErrNotExist} {
		if _, err := Open(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}
