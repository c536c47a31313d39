package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// fakeCard answers each command with itself and 9000. A command FF… is refused
// by check.
type fakeCard struct {
	mu   sync.Mutex
	sent []string
	do   func(ctx context.Context, command, dst []byte) ([]byte, error)
}

func (f *fakeCard) check(command []byte) error {
	if len(command) < 4 || command[0] == 0xFF {
		return fmt.Errorf("no C-APDU: %w", reader.ErrInvalid)
	}
	return nil
}

func (f *fakeCard) exchange(ctx context.Context, command, dst []byte) ([]byte, error) {
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
	card    *fakeCard
	off     int64
	orphans *atomic.Int32
	idle    int
}

func open(t testing.TB, card *fakeCard, flags uint32) *client {
	c := &client{t: t, card: card, orphans: new(atomic.Int32)}
	mode := flags & syscall.O_ACCMODE
	c.channel = &channel{
		to: card, gone: make(chan struct{}), orphans: c.orphans, onIdle: func() { c.idle++ },
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

// What was written reaches the card even if the open is closed before the
// answer; who flooded a file so is stopped, for a while. onIdle comes once, when
// nothing is under way any more.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		card := &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-goOn
			return append(dst, 0x90, 0x00), nil
		}}
		orphans := new(atomic.Int32)
		var opens []*client
		another := func() *client {
			c := open(t, card, syscall.O_WRONLY)
			c.channel.orphans = orphans
			opens = append(opens, c)
			return c
		}
		for range 4 {
			c := another()
			c.mustWrite(strings.Repeat("00A40000\n", 64) + "00B0")
			c.Release(bg)
			if c.idle != 0 {
				t.Error("idle with commands under way")
			}
		}
		c := another()
		if errno := c.write("00A40000\n"); errno != syscall.ENOBUFS {
			t.Errorf("with %d orphans: %v", orphans.Load(), errno)
		}
		close(goOn)
		synctest.Wait()
		if n := orphans.Load(); n != 0 || len(card.sent) != 4*64 {
			t.Errorf("%d orphans are left, %d commands were sent", n, len(card.sent))
		}
		c.mustWrite("00A40000\n")
		synctest.Wait()
		c.Release(bg)
		for i, c := range opens {
			if c.idle != 1 {
				t.Errorf("open %d was idle %d times", i, c.idle)
			}
		}
	})
}

func exchangeRequest(size int) uint32 { return iocExchange | uint32(size)<<16 }

// ioctlBuffers are what the kernel brings and wants back: the second comes from
// a pool and holds another client's bytes.
func ioctlBuffers(command string, size int) (in, out []byte) {
	raw, err := parseHex(nil, []byte(command))
	if err != nil {
		panic(err)
	}
	in = make([]byte, max(size, 4))
	binary.NativeEndian.PutUint32(in, uint32(len(raw)))
	copy(in[4:], raw)
	return in[:size], bytes.Repeat([]byte{0xA5}, size)
}

// CARDFS_EXCHANGE: the answer in the buffer, and nobody else's bytes behind it.
func TestIoctlExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		in, out := ioctlBuffers("00A4000002 3F00", 64)
		n, errno := c.Ioctl(bg, exchangeRequest(len(in)), 0, in, out)
		want := []byte{9, 0, 0, 0, 0x00, 0xA4, 0, 0, 2, 0x3F, 0, 0x90, 0x00}
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			want[0], want[3] = 0, 9
		}
		if n != 9 || errno != 0 || !bytes.Equal(out, append(want, make([]byte, 64-len(want))...)) {
			t.Errorf("%d, %v, % X", n, errno, out)
		}
		c.wantRead("")
	})
}

// An answer longer than the buffer: its length is told and it waits for read(2).
func TestIoctlOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{4 + 4, 4 + 5} {
			c := open(t, &fakeCard{}, rdwr)
			in, out := ioctlBuffers("00A40000", size)
			n, errno := c.Ioctl(bg, exchangeRequest(size), 0, in, out)
			if n != 6 || errno != 0 || binary.NativeEndian.Uint32(out) != 6 || bytes.Count(out[4:], []byte{0}) != size-4 {
				t.Errorf("%d, %v, % X", n, errno, out)
			}
			c.wantRead("00 A4 00 00 90 00\n")
			c.wantRead("")
		}
		in, out := ioctlBuffers("00A40000", 4+6)
		c := open(t, &fakeCard{}, rdwr)
		if n, errno := c.Ioctl(bg, exchangeRequest(10), 0, in, out); n != 6 || errno != 0 || !bytes.Equal(out[8:], []byte{0x90, 0}) && !bytes.Equal(out[4:], []byte{0, 0xA4, 0, 0, 0x90, 0}) {
			t.Errorf("an answer that just fits: %d, %v, % X", n, errno, out)
		}
		c.wantRead("")
	})
}

// "A channel holds at most 64 unread answers": those that did not fit an ioctl
// are among them.
func TestIoctlOverflowIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		short := func() syscall.Errno {
			in, out := ioctlBuffers("00A40000", 8)
			_, errno := c.Ioctl(bg, exchangeRequest(8), 0, in, out)
			return errno
		}
		for range maxAnswers {
			if errno := short(); errno != 0 {
				t.Fatal(errno)
			}
		}
		if errno := short(); errno != syscall.ENOBUFS {
			t.Errorf("the 65th: %v", errno)
		}
		if n := len(strings.Fields(c.card.commands())); n != maxAnswers {
			t.Errorf("%d commands were sent", n)
		}
		c.read(len("00 A4 00 00 90 00\n"))
		if errno := short(); errno != 0 {
			t.Errorf("after one was read: %v", errno)
		}
	})
}

func TestIoctlRefused(t *testing.T) {
	in, out := ioctlBuffers("00A40000", 64)
	lying := bytes.Clone(in)
	binary.NativeEndian.PutUint32(lying, 61)
	huge := bytes.Clone(in)
	binary.NativeEndian.PutUint32(huge, 0xFFFFFFFF)
	bad, _ := ioctlBuffers("FF000000", 64)
	empty, _ := ioctlBuffers("", 64)
	for _, tt := range []struct {
		name  string
		flags uint32
		cmd   uint32
		in    []byte
		want  syscall.Errno
	}{
		{"TCGETS", rdwr, 0x5401, nil, syscall.ENOTTY},
		{"another number", rdwr, exchangeRequest(64) + 7, in, syscall.ENOTTY},
		{"another magic", rdwr, exchangeRequest(64) ^ 0x100, in, syscall.ENOTTY},
		{"another direction", rdwr, exchangeRequest(64) &^ (1 << 30), in, syscall.ENOTTY},
		{"read only", syscall.O_RDONLY, exchangeRequest(64), in, syscall.EBADF},
		{"write only", syscall.O_WRONLY, exchangeRequest(64), in, syscall.EBADF},
		{"binary, read only", syscall.O_RDONLY, iocBinary, nil, syscall.EBADF},
		{"TCGETS, read only", syscall.O_RDONLY, 0x5401, nil, syscall.ENOTTY},
		{"no room for the header", rdwr, exchangeRequest(3), in[:3], syscall.EINVAL},
		{"a length beyond the buffer", rdwr, exchangeRequest(64), lying, syscall.EINVAL},
		{"a length beyond reason", rdwr, exchangeRequest(64), huge, syscall.EINVAL},
		{"no command", rdwr, exchangeRequest(64), empty, syscall.EINVAL},
		{"not a command", rdwr, exchangeRequest(64), bad, syscall.EINVAL},
	} {
		c := open(t, &fakeCard{}, tt.flags)
		if _, errno := c.Ioctl(bg, tt.cmd, 0, tt.in, out[:len(tt.in)]); errno != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, errno, tt.want)
		}
		if c.card.commands() != "" {
			t.Errorf("%s: sent %s", tt.name, c.card.commands())
		}
	}
}

// "CARDFS_BINARY turns that open's read and write to raw bytes, one write a
// command, one read an answer."
func TestBinary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		if _, errno := c.Ioctl(bg, iocBinary, 0, nil, nil); errno != 0 {
			t.Fatal(errno)
		}
		c.mustWrite("\x00\xa4\x00\x00")
		c.mustWrite("\x00\xb0\x0a\x00") // a newline byte is a byte
		synctest.Wait()
		c.wantRead("\x00\xa4\x00\x00\x90\x00")
		// A read too short for the answer leaves the rest.
		if s, _ := c.read(4); s != "\x00\xb0\x0a\x00" {
			t.Errorf("read %q", s)
		}
		c.wantRead("\x90\x00")
		c.wantRead("")
		if errno := c.write("\xff\x00\x00\x00"); errno != syscall.EINVAL {
			t.Error(errno)
		}
	})
}

// An ioctl comes after what was written before, and what is written while it is
// under way comes after it.
func TestIoctlKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step := make(chan struct{})
		card := &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			<-step
			return append(append(dst, command...), 0x90, 0x00), nil
		}}
		c := open(t, card, rdwr)
		c.mustWrite("00010000\n00020000\n")
		done := make(chan struct{})
		go func() {
			defer close(done)
			in, out := ioctlBuffers("00030000", 64)
			if n, errno := c.Ioctl(bg, exchangeRequest(64), 0, in, out); n != 6 || errno != 0 {
				t.Errorf("%d, %v", n, errno)
			}
		}()
		synctest.Wait()
		step <- struct{}{}
		step <- struct{}{}
		synctest.Wait()
		c.mustWrite("00040000\n")
		synctest.Wait()
		step <- struct{}{}
		<-done
		step <- struct{}{}
		synctest.Wait()
		if got := card.commands(); got != "00010000 00020000 00030000 00040000" {
			t.Errorf("sent %s", got)
		}
		c.wantRead("00 01 00 00 90 00\n00 02 00 00 90 00\n00 04 00 00 90 00\n")
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

// "An ioctl says EINTR only while its command was not yet sent."
func TestIoctlInterrupts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := make(chan struct{}, 1)
		card := &fakeCard{}
		reached := make(map[uint16]int)
		card.do = func(ctx context.Context, command, dst []byte) ([]byte, error) {
			select {
			case turn <- struct{}{}:
			case <-ctx.Done():
				return nil, reader.ErrInterrupted
			}
			defer func() { <-turn }()
			card.mu.Lock()
			reached[binary.BigEndian.Uint16(command[2:])]++
			card.mu.Unlock()
			time.Sleep(time.Millisecond)
			return append(append(dst, command...), 0x90, 0x00), nil
		}
		var wg sync.WaitGroup
		var done, interrupted atomic.Int32
		for client := range 4 {
			wg.Go(func() {
				c := open(t, card, rdwr)
				for i := range 250 {
					n := uint16(client*250 + i)
					in, out := ioctlBuffers(fmt.Sprintf("80EE%04X", n), 32)
					ctx, cancel := context.WithTimeout(bg, time.Duration(n%7)*time.Millisecond)
					ret, errno := c.Ioctl(ctx, exchangeRequest(32), 0, in, out)
					cancel()
					card.mu.Lock()
					sent := reached[n]
					card.mu.Unlock()
					switch {
					case errno == 0 && ret == 6 && sent == 1 && binary.BigEndian.Uint16(out[6:]) == n:
						done.Add(1)
					case errno == syscall.EINTR && sent == 0:
						interrupted.Add(1)
					default:
						t.Errorf("command %d: %d, %v, reached the card %d times, % X", n, ret, errno, sent, out)
					}
				}
			})
		}
		wg.Wait()
		if done.Load() == 0 || interrupted.Load() == 0 {
			t.Error("nothing was shown")
		}
		t.Logf("%d done, %d interrupted before they were sent", done.Load(), interrupted.Load())
	})
}

// The map of errors: each line of the contract's table, wrapped.
func TestErrno(t *testing.T) {
	for err, want := range map[error]syscall.Errno{
		reader.ErrNoCard: syscall.ENOMEDIUM, reader.ErrGone: syscall.ENODEV, reader.ErrStale: syscall.ESTALE,
		reader.ErrLocked: syscall.EBUSY, reader.ErrTimeout: syscall.ETIMEDOUT, reader.ErrProtocol: syscall.EPROTO,
		reader.ErrUnsupported: syscall.EOPNOTSUPP, reader.ErrInvalid: syscall.EINVAL, reader.ErrInterrupted: syscall.EINTR,
		reader.ErrNotReady: syscall.EAGAIN, reader.ErrMute: syscall.EIO, errors.New("anything else"): syscall.EIO, nil: 0,
	} {
		wrapped := err
		if err != nil {
			wrapped = fmt.Errorf("tried something: %w", err)
		}
		if got := toErrno(wrapped); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
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
