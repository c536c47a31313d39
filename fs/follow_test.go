package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// newTestFollower follows lines that the test sends.
func newTestFollower(nonblock bool) (w *follower, lines chan string, leave context.CancelFunc) {
	lines = make(chan string, 10_000)
	w = &follower{turn: make(chan struct{}, 1)}
	w.nonblock.Store(nonblock)
	w.leaving, leave = context.WithCancel(context.Background())
	w.there = func() (bool, bool) { return len(lines) > 0, false }
	w.next = func(ctx context.Context, wait bool, dst []byte) ([]byte, bool, error) {
		select {
		case l, ok := <-lines:
			if !ok {
				return dst, false, reader.ErrGone
			}
			return append(append(dst, l...), '\n'), true, nil
		default:
		}
		if !wait {
			return dst, false, nil
		}
		select {
		case l, ok := <-lines:
			if !ok {
				return dst, false, reader.ErrGone
			}
			return append(append(dst, l...), '\n'), true, nil
		case <-ctx.Done():
			return dst, false, reader.ErrInterrupted
		}
	}
	return w, lines, leave
}

func followRead(w *follower, ctx context.Context, size int, off int64) (string, syscall.Errno) {
	r, errno := w.Read(ctx, make([]byte, size), off)
	if errno != 0 {
		return "", errno
	}
	p, _ := r.Bytes(nil)
	return string(p), 0
}

// `event` and `trace` are streams. They tolerate lseek(2), wait for lines, and end.
func TestFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, lines, leave := newTestFollower(false)
		defer leave()
		go func() {
			time.Sleep(time.Second)
			lines <- "one"
			lines <- "two"
		}()
		off := int64(0)
		want := func(size int, text string, wantErr syscall.Errno) {
			t.Helper()
			got, errno := followRead(w, bg, size, off)
			if got != text || errno != wantErr {
				t.Errorf("read of %d at %d: %q, %v; want %q, %v", size, off, got, errno, text, wantErr)
			}
			off += int64(len(got))
		}
		want(4, "one\n", 0)
		want(2, "tw", 0)
		off -= 2 // lseek(2)
		want(100, "two\n", 0)
		if got, errno := followRead(w, bg, 10, 100); got != "" || errno != 0 {
			t.Errorf("read beyond the position: %q, %v", got, errno)
		}
		lines <- "last"
		close(lines)
		want(100, "last\n", 0)
		want(100, "", syscall.ENODEV)
		want(100, "", syscall.ENODEV)
	})
}

func TestFollowerNonblock(t *testing.T) {
	w, lines, leave := newTestFollower(true)
	defer leave()
	if _, errno := followRead(w, bg, 10, 0); errno != syscall.EAGAIN {
		t.Errorf("nothing there: %v", errno)
	}
	lines <- "x"
	if got, errno := followRead(w, bg, 10, 0); got != "x\n" || errno != 0 {
		t.Errorf("read %q, %v", got, errno)
	}
}

// An interrupted read takes nothing. Waiting reads end when the mount is leaving.
func TestFollowerInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, lines, leave := newTestFollower(false)
		go func() {
			for i := range 1000 {
				time.Sleep(time.Duration(i*7919%6) * time.Millisecond)
				lines <- fmt.Sprint(i)
			}
		}()
		var got, want string
		interrupted := 0
		for i := range 1000 {
			want += fmt.Sprintln(i)
		}
		for i := 0; len(got) < len(want); i++ {
			ctx, cancel := context.WithTimeout(bg, time.Duration(i*104729%3+1)*time.Millisecond)
			s, errno := followRead(w, ctx, 3, int64(len(got)))
			cancel()
			if errno == syscall.EINTR {
				interrupted++
			} else if errno != 0 {
				t.Fatal(errno)
			}
			got += s
		}
		if got != want || interrupted == 0 {
			t.Errorf("%d bytes of %d, %d interrupts", len(got), len(want), interrupted)
		}
		var errno syscall.Errno
		done := make(chan struct{})
		go func() {
			_, errno = followRead(w, bg, 10, int64(len(got)))
			close(done)
		}()
		synctest.Wait()
		leave()
		<-done
		if errno != syscall.ENODEV {
			t.Errorf("while leaving: %v", errno)
		}
	})
}

// Two readers that share an open take turns. The second can be interrupted while it waits for
// its turn; with O_NONBLOCK it does not wait.
func TestFollowerTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, lines, leave := newTestFollower(false)
		defer leave()
		first := make(chan string)
		go func() {
			s, _ := followRead(w, bg, 100, 0)
			first <- s
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(bg)
		second := make(chan syscall.Errno)
		go func() {
			_, errno := followRead(w, ctx, 100, 0)
			second <- errno
		}()
		synctest.Wait()
		cancel()
		if errno := <-second; errno != syscall.EINTR {
			t.Errorf("interrupted while it waits for its turn: %v", errno)
		}
		// The end of the stream takes precedence over the interrupt.
		there := w.there
		w.there = func() (bool, bool) { return false, true }
		if _, errno := followRead(w, ctx, 100, 0); errno != syscall.ENODEV {
			t.Errorf("interrupted when the reader had left: %v", errno)
		}
		w.there = there
		w.SetNonblock(true)
		if _, errno := followRead(w, bg, 100, 0); errno != syscall.EAGAIN {
			t.Errorf("with O_NONBLOCK: %v", errno)
		}
		lines <- "one" // the first read began without O_NONBLOCK and still waits
		if s := <-first; s != "one\n" {
			t.Errorf("the first got %q", s)
		}
		w.SetNonblock(false)
		go func() {
			s, _ := followRead(w, bg, 100, 4)
			first <- s
		}()
		synctest.Wait()
		lines <- "two"
		if s := <-first; s != "two\n" {
			t.Errorf("the first got %q", s)
		}
	})
}

// When the mount leaves, a read that waits for its turn reports this rather than a signal.
func TestFollowerTurnWhenLeaving(t *testing.T) {
	w, _, leave := newTestFollower(false)
	w.turn <- struct{}{} // somebody reads
	leave()
	interrupted, cancel := context.WithCancel(bg)
	cancel()
	for range 50 {
		for _, ctx := range []context.Context{bg, interrupted} {
			if _, errno := followRead(w, ctx, 100, 0); errno != syscall.ENODEV {
				t.Fatal(errno)
			}
		}
	}
}

// RELEASE stops the following and unlocks.
func TestFollowerRelease(t *testing.T) {
	w, _, leave := newTestFollower(false)
	defer leave()
	var locks advisory
	w.flocked = flocked{byOwner{&locks, w, nil}}
	if err := w.lock(bg, false, false); err != nil {
		t.Fatal(err)
	}
	closed := 0
	w.close = func() { closed++ }
	w.Release(bg)
	if closed != 1 || len(locks.holders) != 0 {
		t.Errorf("closed %d times, still locked by %v", closed, locks.holders)
	}
}

// "event, trace: readable when there is a line": this includes the rest of a line, and the
// end of the stream. A poller is also woken for lines that a read left behind.
func TestFollowerReady(t *testing.T) {
	w, lines, leave := newTestFollower(true)
	ended := false
	var told func()
	w.there = func() (bool, bool) { return len(lines) > 0, ended }
	w.told = func(f func()) { told = f }
	want := func(bits uint32) {
		t.Helper()
		if got := w.Ready(); got != bits {
			t.Errorf("%#x, want %#x", got, bits)
		}
	}
	want(0)
	wakes := 0
	woken := make(chan struct{}, 10)
	stop := w.Watch(func() { wakes++; woken <- struct{}{} })
	if told == nil {
		t.Fatal("the feed is not watched")
	}
	lines <- "one"
	want(fused.Readable)
	followRead(w, bg, 2, 0)
	want(fused.Readable)
	if wakes != 1 {
		t.Errorf("told %d times of what a reader left", wakes)
	}
	followRead(w, bg, 100, 2)
	if wakes != 1 {
		t.Error("told of nothing")
	}
	want(0)
	w.turn <- struct{}{} // somebody reads
	want(0)
	<-w.turn
	ended = true
	want(fused.HungUp)
	ended = false
	leave()
	<-woken
	want(fused.HungUp)
	stop()
	if told != nil || w.wake.Load() != nil {
		t.Error("it goes on being watched")
	}
}

// "A slow reader is told how many it lost (lost=N)", and only then.
func TestLostLines(t *testing.T) {
	e := core.Event{}
	plain := string(e.Append(nil))
	for lost, want := range map[uint64]string{0: "x" + plain, 1: "x" + plain + " lost=1", 1000: "x" + plain + " lost=1000"} {
		if got := string(eventLine([]byte("x"), e, lost)); got != want {
			t.Errorf("%d events lost: %q, want %q", lost, got, want)
		}
	}
	for lost, want := range map[uint64]string{0: "xline", 1: "x# lost=1\nline", 1000: "x# lost=1000\nline"} {
		if got := string(traceLine([]byte("x"), "line", lost)); got != want {
			t.Errorf("%d lines of trace lost: %q, want %q", lost, got, want)
		}
	}
}

// "A new reader of an event file first gets the present state as events, then everything
// after it: no gap, no lost wake-up". A nonblocking read gets what is there, each event once.
func TestEventsOneByOne(t *testing.T) {
	d := newDesk(t, "t1")
	h, err := d.open(as(1000, self), "event", syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	w := h.(*follower)
	defer w.Release(bg)
	take := func(ctx context.Context, wait bool) (what string, ok bool, err error) {
		line, ok, err := w.next(ctx, wait, []byte("before "))
		var before, seq, slot string
		fmt.Sscan(string(line), &before, &seq, &slot, &what)
		if before != "before" || ok != (what != "") || ok && line[len(line)-1] != '\n' {
			t.Errorf("line %q, %v", line, ok)
		}
		return what, ok, err
	}
	for i, want := range []string{"arrived", "ready", "inserted"} {
		if what, ok, err := take(bg, i == 1); what != want || !ok || err != nil {
			t.Errorf("event %d: %q, %v, %v; want %s", i, what, ok, err, want)
		}
	}
	if what, ok, err := take(bg, false); ok || err != nil {
		t.Errorf("nothing happened: %q, %v, %v", what, ok, err)
	}
	ended, cancel := context.WithCancel(bg)
	cancel()
	if what, ok, err := take(ended, true); ok || !errors.Is(err, reader.ErrInterrupted) {
		t.Errorf("interrupted: %q, %v, %v", what, ok, err)
	}
	go Ctl(d.m, "sim 0 remove")
	if what, ok, err := take(bg, true); what != "removed" || !ok || err != nil {
		t.Errorf("waited for: %q, %v, %v", what, ok, err)
	}
	if err := Ctl(d.m, "detach 0"); err != nil {
		t.Fatal(err)
	}
	if what, ok, err := take(bg, true); what != "left" || !ok || err != nil {
		t.Errorf("the last: %q, %v, %v", what, ok, err)
	}
	for _, wait := range []bool{true, false} {
		if what, ok, err := take(bg, wait); ok || !errors.Is(err, reader.ErrGone) {
			t.Errorf("after the last, wait %v: %q, %v, %v", wait, what, ok, err)
		}
	}
}
