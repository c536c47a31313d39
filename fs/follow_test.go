package fs

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// newTestFollower follows lines that the test sends.
func newTestFollower(nonblock bool) (w *follower, lines chan string, leave context.CancelFunc) {
	lines = make(chan string, 10_000)
	w = &follower{turn: make(chan struct{}, 1)}
	w.nonblock.Store(nonblock)
	w.leaving, leave = context.WithCancel(context.Background())
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

// `event` and `trace` are streams that bear lseek(2) too, wait, and end.
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

// An interrupted read takes nothing; when the mount is leaving, waiting reads end.
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
