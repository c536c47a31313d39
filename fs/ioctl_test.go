package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

func exchangeRequest(size int) uint32 { return fused.IoctlExchange | uint32(size)<<16 }

// ioctlBuffers are the kernel's input and the room for the answer. The room comes from a pool
// and still holds another client's bytes.
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

// For an answer longer than the buffer the ioctl returns the length. The answer itself waits
// for read(2).
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

// "A channel holds at most 64 unread answers": answers that did not fit an ioctl count too.
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
		{"binary, read only", syscall.O_RDONLY, fused.IoctlBinary, nil, syscall.EBADF},
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
		if _, errno := c.Ioctl(bg, fused.IoctlBinary, 0, nil, nil); errno != 0 {
			t.Fatal(errno)
		}
		c.mustWrite("\x00\xa4\x00\x00")
		c.mustWrite("\x00\xb0\x0a\x00") // a newline has no meaning here
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

// An ioctl is sent after the commands written before it. Commands written during the ioctl
// are sent after it.
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

// fineCard answers 90 00.
type fineCard struct{}

func (fineCard) check([]byte) (int, error) { return shortAnswer, nil }

func (fineCard) exchange(_ context.Context, _ []byte, _ core.Moment, dst []byte) ([]byte, error) {
	return append(dst, 0x90, 0x00), nil
}

// An exchange allocates nothing; nor does the server (TestDirectGarbage).
func TestIoctlGarbage(t *testing.T) {
	c := open(t, nil, rdwr)
	c.to = fineCard{}
	in, out := ioctlBuffers("00A40000", 100)
	if n := testing.AllocsPerRun(100, func() {
		if n, errno := c.Ioctl(bg, exchangeRequest(100), 0, in, out); n != 2 || errno != 0 {
			t.Fatalf("%d, %v", n, errno)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
