package fs

import (
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/fs/internal/fused"
)

// polledOpen returns an open that is polled, and the count of its wake-ups.
func polledOpen(t *testing.T, r *room, uid uint32, flags uint32) (*client, *atomic.Int32, func()) {
	t.Helper()
	c := openIn(t, r, uid, &fakeCard{answer: shortAnswer}, flags)
	c.leaving = func(func()) func() { return func() {} }
	wakes := new(atomic.Int32)
	return c, wakes, c.Watch(func() { wakes.Add(1) })
}

// "Writable when a command would be taken": not while write(2) would say ENOBUFS because
// the user's or the slot's room is full. A poller is woken when there is room again.
func TestPollOutAndRoom(t *testing.T) {
	const out = fused.Writable
	for _, tt := range []struct {
		name string
		fill func(r *room, mine *share) (give func(int))
	}{
		{"the user's", func(r *room, mine *share) func(int) {
			mine.force(userRoom - shortCommand)
			return mine.give
		}},
		{"the slot's", func(r *room, mine *share) func(int) {
			other := r.share(1001)
			other.force(slotRoom - shortCommand)
			return other.give
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := new(room)
			c, wakes, stop := polledOpen(t, r, 1000, syscall.O_WRONLY)
			give := tt.fill(r, c.share)
			want := func(when string, bits uint32, n int32) {
				t.Helper()
				if got := c.Ready(); got != bits {
					t.Errorf("%s: ready says %#x, want %#x", when, got, bits)
				}
				if got := wakes.Swap(0); got != n {
					t.Errorf("%s: woken %d times, want %d", when, got, n)
				}
			}
			want("with room for one to the byte", out, 0)
			give(-1)
			want("with a byte less", 0, 0)
			want("asked again", 0, 0)
			if errno := c.write("00A40000\n"); errno != syscall.ENOBUFS {
				t.Errorf("write: %v", errno)
			}
			give(-100)
			give(100)
			want("still a byte less", 0, 0)
			give(1)
			want("there is room again", out, 1)
			give(1)
			want("nobody waited", out, 0)

			// With EPOLLET a refused write is the only question: no poll follows.
			give(-2)
			if errno := c.write("00A40000\n"); errno != syscall.ENOBUFS {
				t.Errorf("write: %v", errno)
			}
			give(2)
			want("after a write that was refused", out, 1)
			// A long command has no room although a short one has. This must not cause endless
			// wake-ups.
			if errno := c.write("00D60000FF" + strings.Repeat("00", 255) + "\n"); errno != syscall.ENOBUFS {
				t.Errorf("write of a long one: %v", errno)
			}
			want("a long command", out, 0)

			give(-2)
			want("before the end", 0, 0)
			stop()
			give(2)
			if wakes.Load() != 0 || len(r.wait) != 0 || r.waiters.Load() != 0 {
				t.Error("who does not wait any more is woken")
			}
		})
	}
}

// A read on one open makes room for another open of the same user.
func TestPollOutOfAnotherOpen(t *testing.T) {
	r := new(room)
	full := openIn(t, r, 1000, &fakeCard{answer: shortAnswer}, rdwr)
	c, wakes, stop := polledOpen(t, r, 1000, rdwr)
	defer stop()
	full.mustWrite("00A40000\n")
	full.mu.Lock()
	for full.busy {
		full.wait(bg)
	}
	full.mu.Unlock()
	c.share.force(userRoom - int(c.share.used.Load()))
	if c.Ready()&fused.Writable != 0 {
		t.Fatal("writable")
	}
	full.share.give(shortCommand - 6) // the answer has six bytes
	if wakes.Load() != 0 || c.Ready()&fused.Writable != 0 {
		t.Error("there is no room yet")
	}
	full.read(1)
	full.Release(bg)
	if wakes.Load() != 1 || c.Ready()&fused.Writable == 0 {
		t.Errorf("woken %d times", wakes.Load())
	}
}

// No wake-up is lost between the check and the wait, even if others take and give room
// meanwhile.
func TestPollOutLosesNoWake(t *testing.T) {
	for range 300 {
		r := new(room)
		c, wakes, stop := polledOpen(t, r, 1000, syscall.O_WRONLY)
		c.share.force(userRoom)
		var all sync.WaitGroup
		var saw uint32
		all.Go(func() { saw = c.Ready() })
		all.Go(func() { c.share.give(userRoom) })
		all.Go(func() { // may take the room for a moment
			if c.share.take(userRoom) {
				c.share.give(userRoom)
			}
		})
		all.Wait()
		if saw == 0 && wakes.Load() == 0 {
			t.Fatal("neither writable nor woken")
		}
		stop()
	}
}

// "Without [a newline] it counts when the answer is read": until then nothing is
// outstanding, and poll(2) does not report the file readable.
func TestPollWithoutNewline(t *testing.T) {
	c := open(t, &fakeCard{answer: shortAnswer}, rdwr)
	c.mustWrite("00A40000")
	if got := c.Ready(); got != fused.Writable {
		t.Errorf("%#x, want %#x", got, uint32(fused.Writable))
	}
	if got, errno := c.read(100); got == "" || errno != 0 {
		t.Errorf("read: %q, %v", got, errno)
	}
}
