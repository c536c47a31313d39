package fs

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
)

// wantEmpty fails the test unless all room was given back.
func wantEmpty(t *testing.T, r *room) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.used.Load(); n != 0 || len(r.shares) != 0 {
		t.Errorf("%d bytes are not given back, %d users have a share", n, len(r.shares))
		for uid, s := range r.shares {
			t.Errorf("user %d: %d bytes, %d opens", uid, s.used.Load(), s.opens)
		}
	}
}

// "A slot 8 MiB for each user and 64 MiB in all."
func TestShares(t *testing.T) {
	r := new(room)
	s := r.share(1)
	if again := r.share(1); again != s || r.share(2) == s {
		t.Error("a user has one share")
	}
	for _, tt := range []struct {
		n  int
		ok bool
	}{{userRoom + 1, false}, {userRoom, true}, {1, false}, {0, true}, {-1, true}, {1, true}, {1, false}} {
		if tt.n < 0 {
			s.give(-tt.n)
		} else if s.take(tt.n) != tt.ok {
			t.Errorf("%d bytes, with %d taken: %v", tt.n, s.used.Load(), !tt.ok)
		}
	}
	var all []*share
	for uid := range uint32(slotRoom/userRoom - 1) {
		other := r.share(10 + uid)
		all = append(all, other)
		if !other.take(userRoom) {
			t.Fatalf("user %d has no room", uid)
		}
	}
	last := r.share(100)
	if last.take(1) || last.used.Load() != 0 || r.used.Load() != slotRoom {
		t.Errorf("more than the slot's room: %d", r.used.Load())
	}
	s.give(1)
	if !last.take(1) || last.take(1) {
		t.Error("the last byte")
	}
	// Dispensable bytes take at most half.
	for _, other := range all {
		other.give(userRoom)
	}
	if all[0].takeSpare(userRoom/2+1) || !all[0].takeSpare(userRoom/2) || all[0].takeSpare(1) || !all[0].take(userRoom/2) {
		t.Error("spare room")
	}
	all[0].give(userRoom)
	last.give(1)
	s.give(userRoom - 1)
	for _, s := range append(all, last, s, s, r.shares[2]) {
		s.close()
	}
	wantEmpty(t, r)
}

// "A channel holds at most ... 1 MiB of commands and answers": the limit is exact to the byte
// for commands, for the room of outstanding answers, for answers, and for an unfinished line.
func TestChannelRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		card := &fakeCard{answer: 60 << 10}
		card.do = func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-goOn
			return append(dst, make([]byte, card.answer)...), nil
		}
		c := open(t, card, rdwr)
		long := "00EE0000" + strings.Repeat("5A", 4<<10-4) + "\n"
		for range 16 {
			c.mustWrite(long)
		}
		if c.held != channelRoom || c.share.used.Load() != channelRoom {
			t.Fatalf("%d bytes are held, %d of the user's", c.held, c.share.used.Load())
		}
		for _, more := range []string{"00A40000\n", "0"} {
			if errno := c.write(more); errno != syscall.ENOBUFS {
				t.Errorf("past 1 MiB: %v", errno)
			}
		}
		if _, errno := c.Ioctl(bg, fused.IoctlBinary, 0, nil, nil); errno != 0 {
			t.Fatal(errno)
		}
		if errno := c.write("\x00\xa4\x00\x00"); errno != syscall.ENOBUFS {
			t.Errorf("past 1 MiB, in binary: %v", errno)
		}
		close(goOn)
		synctest.Wait()
		if want := 16 * card.answer; c.held != want {
			t.Errorf("%d bytes are held of %d of answers", c.held, want)
		}
		card.answer = 2
		c.mustWrite("\x00\xa4\x00\x00") // the room of the commands is free again
		synctest.Wait()
		for range 17 {
			for got, want := 0, map[bool]int{true: 60 << 10, false: 2}[len(c.answers) > 1]; got < want; {
				s, errno := c.read(50_000)
				if errno != 0 || s == "" {
					t.Fatalf("%d bytes, %v", got, errno)
				}
				got += len(s)
			}
			synctest.Wait()
		}
		c.wantRead("")
		if c.held != 0 || c.kept > 256<<10 || c.share.used.Load() != int64(c.kept) {
			t.Errorf("%d bytes are held and %d kept, %d of the user's, of nothing", c.held, c.kept, c.share.used.Load())
		}
		c.Release(bg)
		wantEmpty(t, c.room)
	})
}

// "The answer stays until it was delivered." An answer longer than its command announced has
// no room reserved. It may exceed the limit, but then nothing is sent after it.
func TestAnswersLongerThanExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		card := &fakeCard{answer: 2}
		card.do = func(_ context.Context, command, dst []byte) ([]byte, error) {
			return append(dst, make([]byte, 65538)...), nil
		}
		c := open(t, card, rdwr)
		c.mustWrite(strings.Repeat("00A40000\n", maxAnswers))
		synctest.Wait()
		// 15 fit, and the one that does not is kept.
		if want := 16 * 65538; c.held != want || c.share.used.Load() != int64(want) || len(card.sent) != 16 {
			t.Errorf("%d bytes are held, %d of the user's; %d commands were sent", c.held, c.share.used.Load(), len(card.sent))
		}
		whole, refused := 0, 0
		for len(c.answers) > 0 || c.out.ready() > 0 {
			s, errno := c.read(1 << 17)
			whole += strings.Count(s, "\n")
			if errno == syscall.ENOBUFS {
				refused++
			} else if errno != 0 {
				t.Fatal(errno)
			}
		}
		if whole != 16 || refused != maxAnswers-16 {
			t.Errorf("%d answers, %d errors", whole, refused)
		}
		c.mustWrite("00A40000\n")
		synctest.Wait()
		if len(card.sent) != 17 {
			t.Error("nothing is sent any more once all was read")
		}
		for c.out.ready() > 0 || len(c.answers) > 0 {
			c.read(1 << 17)
		}
		card.sent = nil
		// The same by ioctl, when the answers do not fit its buffer.
		card.do = func(_ context.Context, command, dst []byte) ([]byte, error) {
			return append(dst, make([]byte, 65538)...), nil
		}
		done := 0
		for range maxAnswers {
			in, out := ioctlBuffers("00A40000", 8)
			n, errno := c.Ioctl(bg, exchangeRequest(8), 0, in, out)
			if errno == 0 && n == 65538 {
				done++
			} else if errno != syscall.ENOBUFS {
				t.Fatal(n, errno)
			}
		}
		if done != 16 || c.held != 16*65538 || len(card.sent) != 16 {
			t.Errorf("%d answers wait, %d bytes; %d commands were sent", done, c.held, len(card.sent))
		}
		// A command that announces such a long answer is not sent.
		card.answer = 65538
		sent := len(card.sent)
		in, out := ioctlBuffers("00A40000", 8)
		if _, errno := c.Ioctl(bg, exchangeRequest(8), 0, in, out); errno != syscall.ENOBUFS || len(card.sent) != sent {
			t.Errorf("%v, %d sent", errno, len(card.sent)-sent)
		}
		c.Release(bg)
		wantEmpty(t, c.room)
	})
}

// "So that nobody ... locks others out by commands left behind": one user's commands do not
// count against another user.
func TestOneUserFillsTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		card := &fakeCard{answer: 258, do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-goOn
			return append(dst, 0x90, 0x00), nil
		}}
		r := new(room)
		opens, errno := 0, syscall.Errno(0)
		for errno == 0 {
			c := openIn(t, r, 1000, card, rdwr)
			errno = c.write(strings.Repeat("00A40000\n", maxAnswers))
			c.Release(bg)
			if opens++; opens > 10_000 {
				t.Fatal("one user may leave any number of commands behind")
			}
		}
		if errno != syscall.ENOBUFS || opens < 100 || r.used.Load() > userRoom+leftBehind {
			t.Errorf("%d opens, then %v, with %d bytes", opens, errno, r.used.Load())
		}
		// A single command each: the cost of the open itself counts.
		opens, errno = 0, 0
		for errno == 0 {
			c := openIn(t, r, 1001, card, rdwr)
			errno = c.write("00A40000\n")
			c.Release(bg)
			if opens++; opens > 10_000 {
				t.Fatal("one user may leave any number of opens behind")
			}
		}
		other := openIn(t, r, 1002, card, rdwr)
		other.mustWrite(strings.Repeat("00A40000\n", maxAnswers))
		close(goOn)
		synctest.Wait()
		c := openIn(t, r, 1000, card, rdwr)
		c.mustWrite("00A40000\n")
		synctest.Wait()
		c.wantRead("90 00\n")
		c.Release(bg)
		other.Release(bg)
		wantEmpty(t, r)
	})
}

// "So that nobody makes the daemon grow": 60 opens × 64 long commands behind a flock.
func TestMemoryBehindALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		card := &fakeCard{answer: 65538, do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-goOn
			return append(dst, make([]byte, 65538)...), nil
		}}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		line := "00EE0000 00FFFF" + strings.Repeat(" 5a", 65535) + " 0000\n"
		before := heap()
		r := new(room)
		var opens []*client
		taken := 0
		for range 60 {
			c := openIn(t, r, 1000, card, rdwr)
			opens = append(opens, c)
			for refused, i := 0, 0; i < 64 && refused < 3; i++ {
				for rest := line; len(rest) > 0; {
					n := min(len(rest), piece)
					if c.write(rest[:n]) != 0 {
						refused++
						break
					}
					if rest = rest[n:]; rest == "" {
						taken++
					}
				}
			}
		}
		if grown := int64(heap() - before); grown > 2*userRoom {
			t.Errorf("%d commands taken: the daemon grew by %d MiB", taken, grown>>20)
		}
		close(goOn)
		synctest.Wait()
		if grown := int64(heap() - before); grown > 2*userRoom {
			t.Errorf("%d answers: the daemon grew by %d MiB", taken, grown>>20)
		}
		if taken < 40 {
			t.Errorf("only %d commands were taken", taken)
		}
		// Half-read answers, and the bytes that a read keeps for a seek back.
		for _, c := range opens {
			c.read(piece)
		}
		if grown := int64(heap() - before); grown > 2*userRoom+60*2*smallStream || r.used.Load() > userRoom {
			t.Errorf("half-read: the daemon grew by %d MiB, %d count", grown>>20, r.used.Load())
		}
		for _, c := range opens {
			c.Release(bg)
		}
		wantEmpty(t, r)
	})
}

// The bytes that a long read keeps are given up when the room is needed. They never cause a
// write to be refused.
func TestKeptReadsDoNotRefuseWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(room)
		card := &fakeCard{answer: 65538, do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			return append(dst, make([]byte, 65538)...), nil
		}}
		var opens []*client
		for i := range 200 {
			c := openIn(t, r, 1000, card, rdwr)
			opens = append(opens, c)
			c.mustWrite("00A40000\n")
			got := 0
			for got < 3*65538 {
				s, errno := c.read(piece)
				if errno != 0 || s == "" {
					t.Fatalf("open %d: %d bytes, %v", i, got, errno)
				}
				got += len(s)
			}
			c.wantRead("")
		}
		if n := r.used.Load(); n == 0 || n > userRoom/2 {
			t.Errorf("%d bytes are kept", n)
		}
		// A short read gives back the room that a long one kept.
		kept := r.used.Load()
		card.answer = 2
		card.do = nil
		for _, c := range opens {
			c.mustWrite("00A40000\n00A40000\n")
			synctest.Wait()
			c.read(100)
			c.read(100)
			c.mustWrite("00A40000\n")
			synctest.Wait()
			c.read(100)
		}
		if n := r.used.Load(); n >= kept/4 {
			t.Errorf("%d bytes are kept of short answers, %d of long ones", n, kept)
		}
		for _, c := range opens {
			c.Release(bg)
		}
		wantEmpty(t, r)
	})
}

// A long answer that is read in pieces of any size gives the same bytes.
func TestLongAnswersInPieces(t *testing.T) {
	for _, binary := range []bool{false, true} {
		for _, size := range []int{1, 2, 3, 4, 5, 100, 4096, 4097, piece} {
			synctest.Test(t, func(t *testing.T) {
				want := make([]byte, 3000+size)
				for i := range want {
					want[i] = byte(i * 7)
				}
				c := open(t, &fakeCard{answer: len(want), do: func(_ context.Context, command, dst []byte) ([]byte, error) {
					return append(dst, want...), nil
				}}, rdwr)
				text := string(appendHex(nil, want))
				command := "00A40000\n"
				if binary {
					c.Ioctl(bg, fused.IoctlBinary, 0, nil, nil)
					text, command = string(want), "\x00\xa4\x00\x00"
				}
				c.mustWrite(command)
				c.mustWrite(command)
				synctest.Wait()
				got := ""
				for {
					s, errno := c.read(size)
					if errno != 0 || len(s) > size {
						t.Fatalf("%d bytes, %v", len(s), errno)
					}
					if s == "" {
						break
					}
					if len(s) < size && !strings.HasSuffix(text, s) {
						t.Fatalf("a short read in the middle of an answer: %d of %d", len(s), size)
					}
					got += s
				}
				if got != text+text {
					t.Errorf("binary %v, reads of %d: %d bytes, not as sent", binary, size, len(got))
				}
				if s, errno := c.readAt(bg, 0, c.off); s != "" || errno != 0 {
					t.Errorf("a read of nothing: %q, %v", s, errno)
				}
			})
		}
	}
}

// A read may also say ENOBUFS: it takes the place of an answer.
func TestErrNoRoom(t *testing.T) {
	if got := toErrno(fmt.Errorf("slot 0: %w", errNoRoom)); got != syscall.ENOBUFS {
		t.Error(got)
	}
	if errors.Is(errNoRoom, reader.ErrInvalid) {
		t.Error("it is no fault of the command")
	}
}

// An ioctl whose answer fits its buffer needs no room. One whose answer may have to wait needs
// room for all of it.
func TestIoctlNeedsRoomForWhatDoesNotFit(t *testing.T) {
	for _, tt := range []struct {
		free, size int
		want       syscall.Errno
	}{{10, 64, 0}, {10, 63, syscall.ENOBUFS}, {59, 63, syscall.ENOBUFS}, {60, 63, 0}, {0, 64, 0}} {
		c := open(t, &fakeCard{answer: 60}, rdwr)
		c.take(channelRoom - tt.free)
		in, out := ioctlBuffers("00A40000", tt.size)
		if _, errno := c.Ioctl(bg, exchangeRequest(tt.size), 0, in, out); errno != tt.want {
			t.Errorf("%d bytes free, a buffer of %d: %v, want %v", tt.free, tt.size, errno, tt.want)
		}
		if sent := c.card.commands() != ""; sent != (tt.want == 0) {
			t.Errorf("%d bytes free, a buffer of %d: sent %v", tt.free, tt.size, sent)
		}
	}
}

// "1 MiB", and not a byte more.
func TestChannelRoomToTheByte(t *testing.T) {
	c := open(t, &fakeCard{}, rdwr)
	if !c.take(channelRoom) || c.take(1) {
		t.Errorf("%d bytes are held", c.held)
	}
	c.give(channelRoom)
	c.Release(bg)
	wantEmpty(t, c.room)
}

// The commands that a closed open left behind take less room each time one is sent.
func TestLeftBehindIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		card, step := stepped()
		card.answer = 100
		c := open(t, card, rdwr)
		c.mustWrite("00A40000\n00A40000\n00A40000\n")
		c.Release(bg)
		for left := 3; left > 0; left-- {
			synctest.Wait()
			if want := int64(leftBehind + left*104); c.share.used.Load() != want {
				t.Errorf("%d commands to go: %d bytes are held, want %d", left, c.share.used.Load(), want)
			}
			step <- struct{}{}
		}
		synctest.Wait()
		wantEmpty(t, c.room)
	})
}
