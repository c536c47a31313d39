package fs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// fakeCard answers each command with itself and 9000. A command FF… is refused
// by check.
type fakeCard struct {
	answer int // what check says of its length
	mu     sync.Mutex
	sent   []string
	do     func(ctx context.Context, command, dst []byte) ([]byte, error)
}

func (f *fakeCard) check(command []byte) (int, error) {
	if len(command) < 4 || command[0] == 0xFF {
		return 0, fmt.Errorf("no C-APDU: %w", reader.ErrInvalid)
	}
	return f.answer, nil
}

func (f *fakeCard) exchange(ctx context.Context, command []byte, _ core.Moment, dst []byte) ([]byte, error) {
	f.mu.Lock()
	f.sent = append(f.sent, fmt.Sprintf("%X", command))
	do := f.do
	f.mu.Unlock()
	if do != nil {
		return do(ctx, command, dst)
	}
	return append(append(dst, command...), 0x90, 0x00), nil
}

func (f *fakeCard) commands() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.sent, " ")
}

// client is one open of an exchange file, with the file offset that the kernel
// keeps for it.
type client struct {
	t testing.TB
	*channel
	card *fakeCard
	off  int64
	room *room
	idle int
}

func open(t testing.TB, card *fakeCard, flags uint32) *client {
	return openIn(t, new(room), 1000, card, flags)
}

// openIn is an open of one of several users, of one slot.
func openIn(t testing.TB, r *room, uid uint32, card *fakeCard, flags uint32) *client {
	c := &client{t: t, card: card, room: r}
	mode := flags & syscall.O_ACCMODE
	c.channel = &channel{
		to: card, later: func(c *channel) { go c.send() }, panicked: func(any) {}, now: func() core.Moment { return 0 }, gone: make(chan struct{}), onIdle: func() { c.idle++ },
		share: r.share(uid), pass: new(core.Pass),
		nonblock: flags&syscall.O_NONBLOCK != 0,
		append:   flags&syscall.O_APPEND != 0,
		readable: mode != syscall.O_WRONLY,
		writable: mode != syscall.O_RDONLY,
	}
	return c
}

var bg = context.Background()

func (c *client) write(s string) syscall.Errno {
	c.t.Helper()
	if c.channel.append {
		c.off = 0 // st_size
	}
	n, errno := c.Write(bg, []byte(s), c.off)
	if errno == 0 && int(n) != len(s) {
		c.t.Errorf("write of %d bytes wrote %d", len(s), n)
	}
	c.off += int64(n)
	return errno
}

func (c *client) mustWrite(s string) {
	c.t.Helper()
	if errno := c.write(s); errno != 0 {
		c.t.Fatalf("write %.40q: %v", s, errno)
	}
}

func (c *client) readAt(ctx context.Context, size int, off int64) (string, syscall.Errno) {
	r, errno := c.Read(ctx, make([]byte, size), off)
	if errno != 0 {
		return "", errno
	}
	p, _ := r.Bytes(nil)
	return string(p), 0
}

func (c *client) read(size int) (string, syscall.Errno) {
	s, errno := c.readAt(bg, size, c.off)
	c.off += int64(len(s))
	return s, errno
}

func (c *client) wantRead(want string) {
	c.t.Helper()
	if got, errno := c.read(1 << 17); errno != 0 || got != want {
		c.t.Errorf("read %q, %v; want %q", got, errno, want)
	}
}

const rdwr = syscall.O_RDWR

// "Several lines in one write are several commands, answered in order."
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		c.mustWrite("00A40000\n\n  # nothing\n80 ee 00 00 # echo\n")
		synctest.Wait()
		c.wantRead("00 A4 00 00 90 00\n80 EE 00 00 90 00\n")
		c.wantRead("")
		c.mustWrite("00B00000\n")
		c.wantRead("00 B0 00 00 90 00\n")
		c.wantRead("")
	})
}

// "A line may come in pieces: it counts when its newline came or, without one,
// when the answer is read."
func TestPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		for _, piece := range []string{"0", "0A", "4 0", "", "000 # a comm", "ent ZZ", "\n00B0"} {
			c.mustWrite(piece)
		}
		synctest.Wait()
		if got := c.card.commands(); got != "00A40000" {
			t.Errorf("sent %s", got)
		}
		c.mustWrite("0001")
		c.wantRead("00 A4 00 00 90 00\n")
		c.wantRead("00 B0 00 01 90 00\n")
		c.wantRead("")
		c.mustWrite("00B")
		if _, errno := c.read(100); errno != syscall.EINVAL {
			t.Errorf("reading the answer of half a command: %v", errno)
		}
		c.wantRead("")
		// The longest C-APDU in pieces of 128 KiB.
		long := "00EE0000 00FFFF" + strings.Repeat(" 5a", 65535) + "\n"
		for len(long) > 0 {
			n := min(len(long), 131072)
			c.mustWrite(long[:n])
			long = long[n:]
		}
		answer := ""
		for !strings.HasSuffix(answer, "\n") {
			s, errno := c.read(131072)
			if errno != 0 {
				t.Fatal(errno)
			}
			answer += s
		}
		if len(answer) != 3*(7+65535+2) {
			t.Errorf("%d characters", len(answer))
		}
		// A line without end is refused before it takes the memory.
		var errno syscall.Errno
		for i := 0; errno == 0; i++ {
			if errno = c.write(strings.Repeat("00", 65536)); i > 8 {
				t.Fatal("a line without end is taken")
			}
		}
		if errno != syscall.EINVAL {
			t.Error(errno)
		}
	})
}

// "EINVAL, and nothing of that write sent, if it is not hex or not a command."
func TestInvalidLeavesNothing(t *testing.T) {
	for _, bad := range []string{
		"00A40000\nxyz\n", "00A40000\n00A4\n", "00A40000\nFF000000\n", "00A40000\n00A4000\n",
		"00A40000\nzz", "00A40000\n00A4000g",
	} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, &fakeCard{}, rdwr)
			if errno := c.write(bad); errno != syscall.EINVAL {
				t.Errorf("%q: %v", bad, errno)
			}
			synctest.Wait()
			if c.card.commands() != "" {
				t.Errorf("%q: sent %s", bad, c.card.commands())
			}
			c.wantRead("")
			c.mustWrite("00B00000\n")
			c.wantRead("00 B0 00 00 90 00\n")
		})
	}
}

// "A channel holds at most 64 unread answers; past that write says ENOBUFS."
func TestSixtyFourAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		line := func(n int) string { return strings.Repeat("00A40000\n", n) }
		if errno := c.write(line(65)); errno != syscall.ENOBUFS {
			t.Errorf("65 at once: %v", errno)
		}
		synctest.Wait()
		if c.card.commands() != "" {
			t.Errorf("sent %s", c.card.commands())
		}
		c.mustWrite(line(60))
		if errno := c.write(line(5)); errno != syscall.ENOBUFS {
			t.Errorf("60 and 5: %v", errno)
		}
		c.mustWrite(line(4))
		synctest.Wait()
		if errno := c.write(line(1)); errno != syscall.ENOBUFS {
			t.Errorf("64 and 1: %v", errno)
		}
		c.mustWrite("00B0")
		if errno := c.write("0001\n"); errno != syscall.ENOBUFS {
			t.Errorf("64 and one in pieces: %v", errno)
		}
		for range 64 {
			s, errno := c.read(len("00 A4 00 00 90 00\n"))
			if s != "00 A4 00 00 90 00\n" || errno != 0 {
				t.Fatalf("read %q, %v", s, errno)
			}
		}
		// What ENOBUFS refused is there to be written again.
		c.mustWrite("0001\n")
		c.wantRead("00 B0 00 01 90 00\n")
		c.wantRead("")
	})
}

// bash's read takes a byte a read where it cannot seek, and a block where it can,
// seeking back to the end of the line; each line is had once.
func TestReadAheadAndSeekBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		c.mustWrite("00A40000\n00B00000\n")
		synctest.Wait()
		for _, want := range []string{"00 A4 00 00 90 00\n", "00 B0 00 00 90 00\n"} {
			s, errno := c.readAt(bg, 128, c.off)
			if errno != 0 || !strings.HasPrefix(s, want) {
				t.Fatalf("read %q, %v", s, errno)
			}
			c.off += int64(len(want)) // lseek(2)
		}
		c.wantRead("")
		// Read ahead, seek back, write: the rest is still to be read.
		c.mustWrite("00010000\n00020000\n")
		synctest.Wait()
		c.readAt(bg, 128, c.off)
		c.off += 18
		c.mustWrite("00030000\n")
		synctest.Wait()
		c.wantRead("00 02 00 00 90 00\n")
		c.wantRead("00 03 00 00 90 00\n")
		c.wantRead("")
	})
}

// "seek(0), write, seek(0), read in a loop reads each command's own answer", however the
// reads are cut.
func TestSeekWriteSeekRead(t *testing.T) {
	for _, size := range []int{1 << 17, 18, 17, 5} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, &fakeCard{}, rdwr)
			for i := range 50 {
				c.off = 0
				c.mustWrite(fmt.Sprintf("00B000%02X\n", i))
				synctest.Wait()
				c.off = 0
				got := ""
				for !strings.HasSuffix(got, "\n") {
					s, errno := c.read(size)
					if errno != 0 || s == "" {
						t.Fatalf("read %q, %v after %q", s, errno, got)
					}
					got += s
				}
				if want := fmt.Sprintf("00 B0 00 %02X 90 00\n", i); got != want {
					t.Fatalf("command %d: %q", i, got)
				}
			}
		})
	}
}

// With O_APPEND the kernel writes at st_size, wherever the reads are, and goes on
// from there.
func TestAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr|syscall.O_APPEND)
		for range 3 {
			c.mustWrite("00A40000\n00B00000\n")
			synctest.Wait()
			c.wantRead("00 A4 00 00 90 00\n00 B0 00 00 90 00\n")
			c.wantRead("")
		}
	})
}

// With O_NONBLOCK "read says EAGAIN while the answer is outstanding".
func TestNonblock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		c := open(t, &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-answer
			return append(dst, 0x90, 0x00), nil
		}}, rdwr|syscall.O_NONBLOCK)
		c.wantRead("")
		c.mustWrite("00A40000\n")
		synctest.Wait()
		if _, errno := c.read(100); errno != syscall.EAGAIN {
			t.Errorf("read: %v", errno)
		}
		in, out := ioctlBuffers("00B00000", 100)
		if _, errno := c.Ioctl(bg, exchangeRequest(len(in)), 0, in, out); errno != syscall.EAGAIN {
			t.Errorf("ioctl: %v", errno)
		}
		close(answer)
		synctest.Wait()
		c.wantRead("90 00\n")
	})
}

// An error takes the place of its answer, and only of its own.
func TestErrorsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			if command[1] == 0xB0 {
				return nil, reader.ErrTimeout
			}
			return append(dst, 0x90, command[1]), nil
		}}, rdwr)
		c.mustWrite("00A40000\n00B00000\n00C00000\n00B00000\n")
		synctest.Wait()
		c.wantRead("90 A4\n")
		if _, errno := c.read(100); errno != syscall.ETIMEDOUT {
			t.Error(errno)
		}
		c.wantRead("90 C0\n")
		if _, errno := c.read(100); errno != syscall.ETIMEDOUT {
			t.Error(errno)
		}
		c.wantRead("")
	})
}

// What was written reaches the card even if the open is closed before the answer. onIdle
// comes once, when nothing is under way any more.
func TestLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		card := &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-goOn
			return append(dst, 0x90, 0x00), nil
		}}
		r := new(room)
		var opens []*client
		for range 4 {
			c := openIn(t, r, 1000, card, syscall.O_WRONLY)
			opens = append(opens, c)
			c.mustWrite(strings.Repeat("00A40000\n", 64) + "00B0")
			c.Release(bg)
			if c.idle != 0 {
				t.Error("idle with commands under way")
			}
		}
		if n := r.used.Load(); n < 4*64*4 || n > 4*(leftBehind+64*300) {
			t.Errorf("commands left behind count as %d bytes", n)
		}
		close(goOn)
		synctest.Wait()
		if len(card.sent) != 4*64 {
			t.Errorf("%d commands were sent", len(card.sent))
		}
		c := openIn(t, r, 1000, card, syscall.O_WRONLY)
		c.mustWrite("00A40000\n")
		synctest.Wait()
		opens = append(opens, c)
		c.Release(bg)
		for i, c := range opens {
			if c.idle != 1 {
				t.Errorf("open %d was idle %d times", i, c.idle)
			}
		}
		wantEmpty(t, r)
	})
}

// "The answer stays until it was delivered, so an interrupted read can be
// repeated. A command is never sent twice." 3,000 exchanges under interrupts at
// any moment: no wrong, missing or doubled answer.
func TestInterruptsLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(3, 4))
		card := &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			time.Sleep(time.Duration(command[3]%5) * time.Millisecond)
			return append(append(dst, command...), 0x90, 0x00), nil
		}}
		c := open(t, card, rdwr)
		interrupts := 0
		for n := range 3000 {
			command := fmt.Sprintf("80EE%04X", n)
			c.mustWrite(command + "\n")
			want := string(appendHex(nil, []byte{0x80, 0xEE, byte(n >> 8), byte(n), 0x90, 0}))
			got := ""
			for len(got) < len(want) {
				ctx, cancel := context.WithTimeout(bg, time.Duration(rnd.IntN(4000))*time.Microsecond)
				s, errno := c.readAt(ctx, 1+rnd.IntN(40), c.off)
				cancel()
				switch {
				case errno == syscall.EINTR || errno == syscall.ETIMEDOUT:
					interrupts++
				case errno != 0:
					t.Fatal(errno)
				default:
					got += s
					c.off += int64(len(s))
				}
			}
			if got != want {
				t.Fatalf("command %s: %q", command, got)
			}
		}
		if len(card.sent) != 3000 {
			t.Errorf("%d commands were sent", len(card.sent))
		}
		if interrupts < 500 {
			t.Errorf("only %d interrupts", interrupts)
		}
		t.Logf("3000 exchanges, %d interrupts", interrupts)
	})
}

// "Several lines in one write are several commands, ... all are checked before
// the first is sent": of a write that the kernel cut, the piece behind a refused
// one is the rest of a line, and a program that writes the rest again must not
// have it taken for a command.
func TestRestOfRefusedLine(t *testing.T) {
	write := open(t, &fakeCard{}, rdwr).write
	if errno := write(strings.Repeat("00", piece/2-1) + "zz"); errno != syscall.EINVAL {
		t.Fatalf("a piece that is no hex: %v, want EINVAL", errno)
	}
	if errno := write("00A4000C023F00\n"); errno != syscall.EINVAL {
		t.Errorf("the rest of its line: %v, want EINVAL", errno)
	}
	if errno := write("00A4000C023F00\n"); errno != 0 {
		t.Errorf("the next line: %v", errno)
	}
	if errno := write("zz"); errno != syscall.EINVAL {
		t.Fatalf("no hex: %v, want EINVAL", errno)
	}
	if errno := write("00A4000C023F00\n"); errno != 0 {
		t.Errorf("a line after a short write was refused: %v", errno)
	}
}

// A panic below costs the one who asked EIO, whichever way he asked, and neither the
// next command nor anybody else.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			if command[1] == 0xB0 {
				panic("a driver's")
			}
			return append(dst, 0x90, 0), nil
		}}, rdwr)
		c.mustWrite("00A40000\n00B00000\n00A40000\n")
		synctest.Wait()
		c.wantRead("90 00\n")
		if _, errno := c.read(100); errno != syscall.EIO {
			t.Errorf("read: %v", errno)
		}
		c.wantRead("90 00\n")
		in, out := ioctlBuffers("00B00000", 100)
		if _, errno := c.Ioctl(bg, exchangeRequest(len(in)), 0, in, out); errno != syscall.EIO {
			t.Errorf("ioctl: %v", errno)
		}
		c.mustWrite("00B00000") // sent by the read, as no newline came
		if _, errno := c.read(100); errno != syscall.EIO {
			t.Errorf("read: %v", errno)
		}
		in, out = ioctlBuffers("00A40000", 100)
		if n, errno := c.Ioctl(bg, exchangeRequest(len(in)), 0, in, out); errno != 0 || n != 2 {
			t.Errorf("the next ioctl: %d, %v", n, errno)
		}
	})
}

// stepped is a card that answers when it is let.
func stepped() (card *fakeCard, step chan struct{}) {
	step = make(chan struct{})
	return &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
		<-step
		return append(append(dst, command...), 0x90, 0x00), nil
	}}, step
}

// Two threads that share an open take turns, by read and write, by ioctl, and by both:
// whoever waits is woken.
func TestTurnsOnOneOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		card, step := stepped()
		c := open(t, card, rdwr)
		results := make(chan string, 10)
		exchange := func(command string) {
			in, out := ioctlBuffers(command, 64)
			n, errno := c.Ioctl(bg, exchangeRequest(64), 0, in, out)
			results <- fmt.Sprintf("%X %v", out[4:4+n], errno)
		}
		for i := range 5 {
			go exchange(fmt.Sprintf("00A400%02X", i))
		}
		synctest.Wait()
		got := map[string]bool{}
		for range 5 {
			step <- struct{}{}
			got[<-results] = true
		}
		for i := range 5 {
			if want := fmt.Sprintf("00A400%02X9000 errno 0", i); !got[want] {
				t.Errorf("no %s in %v", want, got)
			}
		}
		// A read that waits for another's ioctl finds nothing for itself, and ends.
		go exchange("00B00000")
		synctest.Wait()
		go func() {
			s, errno := c.readAt(bg, 100, c.off)
			results <- fmt.Sprintf("%q %v", s, errno)
		}()
		synctest.Wait()
		if len(results) != 0 {
			t.Error("the read did not wait")
		}
		step <- struct{}{}
		synctest.Wait()
		if len(results) != 2 {
			t.Fatalf("%d of an ioctl and a read ended", len(results))
		}
		if a, b := <-results, <-results; a != `"" errno 0` && b != `"" errno 0` {
			t.Errorf("%s, %s", a, b)
		}
		// What is written during an ioctl is sent after it, whoever waits.
		go exchange("00C00000")
		synctest.Wait()
		c.mustWrite("00D00000\n")
		go exchange("00E00000")
		synctest.Wait()
		for range 3 {
			step <- struct{}{}
			synctest.Wait()
		}
		if len(results) != 2 {
			t.Fatalf("%d ioctls ended", len(results))
		}
		c.wantRead("00 D0 00 00 90 00\n")
		if got := card.commands(); !strings.HasSuffix(got, "00C00000 00D00000 00E00000") {
			t.Errorf("sent %s", got)
		}
	})
}

// "ENODEV: the reader is gone": nothing is taken any more, what was answered before can
// still be read, and then every read says so.
func TestReaderLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		c := open(t, &fakeCard{}, rdwr)
		c.gone = gone
		c.mustWrite("00A40000\n00B0")
		synctest.Wait()
		close(gone)
		if errno := c.write("0000\n"); errno != syscall.ENODEV {
			t.Errorf("write: %v", errno)
		}
		c.Ioctl(bg, iocBinary, 0, nil, nil)
		if errno := c.write("\x00\xa4\x00\x00"); errno != syscall.ENODEV {
			t.Errorf("write in binary: %v", errno)
		}
		c.binary = false
		c.line = nil
		c.wantRead("00 A4 00 00 90 00\n")
		for range 2 {
			if _, errno := c.read(100); errno != syscall.ENODEV {
				t.Errorf("read: %v", errno)
			}
		}
	})
}

// A line that is still coming is bounded, to the character; of one that is too long
// nothing is a command up to its newline.
func TestLongestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, over := range []int{0, 1} {
			c := open(t, &fakeCard{}, rdwr)
			c.mustWrite("00A40000")
			for range maxLine/1024 - 1 {
				c.mustWrite(strings.Repeat(" ", 1024))
			}
			rest := strings.Repeat(" ", 1024-8+over)
			if errno := c.write(rest); errno != map[int]syscall.Errno{0: 0, 1: syscall.EINVAL}[over] {
				t.Errorf("%d more than the longest: %v", over, errno)
			}
			if over == 0 {
				c.mustWrite("\n")
				c.wantRead("00 A4 00 00 90 00\n")
				continue
			}
			for _, piece := range []string{"00", " ", "00A40000", "00A40000\n"} {
				if errno := c.write(piece); errno != syscall.EINVAL {
					t.Errorf("%q, of the rest of a line that was too long: %v", piece, errno)
				}
			}
			c.mustWrite("00B00000\n")
			c.wantRead("00 B0 00 00 90 00\n")
			if got := c.card.commands(); got != "00B00000" {
				t.Errorf("sent %s", got)
			}
			c.Release(bg)
			wantEmpty(t, c.room)
		}
	})
}

// The kernel cuts a write at 128 KiB: what follows a refused piece of that size, without a
// newline at its end, is the rest of its line; after any other it is a line of its own.
func TestRefusedPieces(t *testing.T) {
	for _, tt := range []struct {
		size int
		end  string
		rest bool
	}{{piece, "zz", true}, {piece, "z\n", false}, {piece - 1, "zz", false}, {piece + 1, "zz", true}} {
		c := open(t, &fakeCard{}, rdwr)
		if errno := c.write(strings.Repeat("0", tt.size-len(tt.end)) + tt.end); errno != syscall.EINVAL {
			t.Fatalf("%d characters of no hex: %v", tt.size, errno)
		}
		if errno := c.write("00A40000\n"); (errno == syscall.EINVAL) != tt.rest {
			t.Errorf("after %d characters that end with %q: %v", tt.size, tt.end, errno)
		}
		if errno := c.write("00A40000\n"); errno != 0 {
			t.Errorf("the next line, after %d characters: %v", tt.size, errno)
		}
	}
}

// "The answer stays until it was delivered, so an interrupted read can be repeated": by
// whichever read comes next.
func TestAnswerAfterInterruptedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		card, step := stepped()
		c := open(t, card, rdwr)
		c.mustWrite("00A40000\n")
		for range 3 {
			ctx, cancel := context.WithCancel(bg)
			done := make(chan syscall.Errno)
			go func() {
				_, errno := c.readAt(ctx, 100, c.off)
				done <- errno
			}()
			synctest.Wait()
			cancel()
			if errno := <-done; errno != syscall.EINTR {
				t.Errorf("an interrupted read: %v", errno)
			}
		}
		step <- struct{}{}
		synctest.Wait()
		// An interrupt that comes when the answer is there does not lose it either.
		ctx, cancel := context.WithCancel(bg)
		cancel()
		s, errno := c.readAt(ctx, 100, c.off)
		if s != "00 A4 00 00 90 00\n" || errno != 0 {
			t.Errorf("read %q, %v", s, errno)
		}
		c.off += int64(len(s))
		c.wantRead("")
		if got := card.commands(); got != "00A40000" {
			t.Errorf("sent %s", got)
		}
	})
}

// A caller killed in an ioctl is gone, and its open with it, before the card answered: the
// late answer is dropped, and nothing of it stays.
func TestClosedDuringIoctl(t *testing.T) {
	for _, room := range []int{8, 64} {
		synctest.Test(t, func(t *testing.T) {
			card, step := stepped()
			c := open(t, card, rdwr)
			done := make(chan struct{})
			go func() {
				in, out := ioctlBuffers("00A40000", room)
				c.Ioctl(bg, exchangeRequest(room), 0, in, out)
				close(done)
			}()
			synctest.Wait()
			c.mustWrite("00B00000\n")
			c.Release(bg)
			if c.idle != 0 {
				t.Error("idle with commands under way")
			}
			step <- struct{}{}
			<-done
			step <- struct{}{}
			synctest.Wait()
			if c.idle != 1 || len(c.answers) != 0 || card.commands() != "00A40000 00B00000" {
				t.Errorf("idle %d times, %d answers, sent %s", c.idle, len(c.answers), card.commands())
			}
			wantEmpty(t, c.room)
		})
	}
}

// That the reader left is told before that a signal came: EINTR would have the program
// try again.
func TestGoneBeforeInterrupted(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, c *client) syscall.Errno{
		"read": func(ctx context.Context, c *client) syscall.Errno {
			_, errno := c.readAt(ctx, 100, c.off)
			return errno
		},
		"ioctl": func(ctx context.Context, c *client) syscall.Errno {
			in, out := ioctlBuffers("00A40000", 64)
			_, errno := c.Ioctl(ctx, exchangeRequest(64), 0, in, out)
			return errno
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			hang := make(chan struct{})
			c := open(t, &fakeCard{do: func(context.Context, []byte, []byte) ([]byte, error) {
				<-hang
				return nil, reader.ErrGone
			}}, rdwr)
			gone := make(chan struct{})
			c.gone = gone
			c.mustWrite("00A40000\n")
			ctx, cancel := context.WithCancel(bg)
			go func() {
				if errno := call(ctx, c); errno != syscall.ENODEV {
					t.Errorf("%s: %v", name, errno)
				}
			}()
			synctest.Wait()
			close(gone)
			cancel()
			synctest.Wait()
			close(hang)
		})
	}
}

// A change is seen before an interrupt: an answer that is there is given.
func TestAnswerBeforeInterrupted(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			hang := make(chan struct{})
			c := open(t, &fakeCard{do: func(context.Context, []byte, []byte) ([]byte, error) {
				<-hang
				return []byte{0x90, 0x00}, nil
			}}, rdwr)
			c.mustWrite("00A40000\n")
			ctx, cancel := context.WithCancel(bg)
			go func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if err := c.wait(ctx); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
			c.mu.Lock()
			c.touch()
			cancel()
			c.mu.Unlock()
			close(hang)
			synctest.Wait()
		})
	}
}

// A panic of what stands behind the file, also at the end of it all, is logged, and leaves
// nothing locked.
func TestPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := 0
		card := &fakeCard{do: func(context.Context, []byte, []byte) ([]byte, error) { panic("exchange") }}
		c := open(t, card, rdwr)
		c.panicked = func(any) { panics++ }
		c.onIdle = func() { panic("idle") }
		for range 3 {
			c.mustWrite("00A40000\n")
			if _, errno := c.read(100); errno != syscall.EIO {
				t.Errorf("a command whose exchange panics: %v", errno)
			}
			in, out := ioctlBuffers("00A40000", 64)
			if _, errno := c.Ioctl(bg, exchangeRequest(64), 0, in, out); errno != syscall.EIO {
				t.Errorf("by ioctl: %v", errno)
			}
		}
		if panics != 6 || c.held != 0 || c.busy {
			t.Errorf("%d panics logged, %d bytes held, busy: %v", panics, c.held, c.busy)
		}
		hang := make(chan struct{})
		card.do = func(context.Context, []byte, []byte) ([]byte, error) { <-hang; return nil, nil }
		c.mustWrite("00A40000\n")
		synctest.Wait()
		c.Release(bg)
		close(hang)
		synctest.Wait()
		if panics != 7 || !c.mu.TryLock() {
			t.Errorf("%d panics logged; it is still locked: %v", panics, !c.mu.TryLock())
		}
	})
}
