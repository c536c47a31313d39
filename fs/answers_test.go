package fs

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

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
		// A write that ENOBUFS refused can be repeated.
		c.mustWrite("0001\n")
		c.wantRead("00 B0 00 01 90 00\n")
		c.wantRead("")
	})
}

// bash's read reads single bytes where it cannot seek. Where it can, it reads a block and
// seeks back to the end of the line. Either way it gets each line once.
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

// An error takes the place of its own answer and of no other.
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
