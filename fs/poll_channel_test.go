package fs

import (
	"bytes"
	"context"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// "Exchange files: readable when an answer or an error is there, or the reader left
// (POLLHUP); not for the end of file that a read with nothing outstanding gives. Writable
// when a command would be taken."
func TestChannelReady(t *testing.T) {
	const in, out, hup = unix.POLLIN | 0x40, unix.POLLOUT | 0x100, unix.POLLHUP | unix.POLLERR
	answer := make(chan error)
	card := &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
		if err := <-answer; err != nil {
			return nil, err
		}
		return append(dst, 0x90, 0), nil
	}}
	for _, c := range []struct {
		flags uint32
		r, w  uint32
	}{{syscall.O_RDWR, in, out}, {syscall.O_RDONLY, in, 0}, {syscall.O_WRONLY, 0, out}} {
		c0 := open(t, card, c.flags)
		want := func(bits uint32) {
			t.Helper()
			if got := c0.Ready(); got != bits {
				t.Errorf("open with %#o: %#x, want %#x", c.flags, got, bits)
			}
		}
		var wakes atomic.Int32
		woken := make(chan struct{}, 1000)
		var leave func()
		gone := make(chan struct{})
		c0.gone = gone
		c0.leaving = func(f func()) func() { leave = f; return func() { leave = nil } }
		stop := c0.Watch(func() { wakes.Add(1); woken <- struct{}{} })
		want(c.w)
		if c.flags == syscall.O_RDWR {
			c0.mustWrite("00A40000\n00A40000\n")
			want(out)
			answer <- nil
			<-woken
			want(in | out)
			c0.read(2)
			for got := ""; got != "\n"; { // as long as a part of the answer is left
				want(in | out)
				got, _ = c0.read(1)
			}
			answer <- reader.ErrTimeout
			<-woken
			for c0.Ready() == out { // until the next answer is there
				<-woken
			}
			want(in | out)
			if _, errno := c0.read(100); errno != syscall.ETIMEDOUT {
				t.Error(errno)
			}
			want(out)
			c0.wantRead("")
			c0.mustWrite(string(bytes.Repeat([]byte("00A40000\n"), maxAnswers)))
			want(0)
			for range maxAnswers {
				answer <- nil
			}
			for busy := true; busy; { // until the last answer is there
				<-woken
				c0.mu.Lock()
				busy = c0.busy
				c0.mu.Unlock()
			}
			want(in)
			wakes.Store(0)
			c0.read(6)
			want(in | out)
			if wakes.Load() == 0 {
				t.Error("nobody is told that there is room")
			}
			wakes.Store(0)
			c0.read(6)
			if wakes.Load() != 0 {
				t.Error("woken for nothing")
			}
		}
		close(gone)
		want(in | hup)
		leave()
		if wakes.Load() == 0 {
			t.Error("nobody is told that the reader left")
		}
		stop()
		if c0.wake != nil || leave != nil {
			t.Error("it goes on being watched")
		}
	}
}
