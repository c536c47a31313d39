package fs

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

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
		// An endless line is refused before it exhausts the memory.
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

// "Several lines in one write are several commands, ... all are checked before
// the first is sent". When the kernel cut a write and the first piece was refused, the next
// piece is the rest of a line. A program that writes this rest again must not have it taken
// for a command.
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

// The length of an unfinished line is bounded, to the character. A line that is too long is
// ignored up to its newline.
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

// A refused line that was not too long has ended: what follows is another line.
func TestLongestLineRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, over := range []int{0, 1} {
			c := open(t, &fakeCard{}, rdwr)
			c.mustWrite("00A40000" + strings.Repeat(" ", maxLine-1024-8))
			if errno := c.write("zz" + strings.Repeat(" ", 1022+over)); errno != syscall.EINVAL {
				t.Errorf("%d more than the longest: %v", over, errno)
			}
			if errno := c.write("00B00000\n"); errno != map[int]syscall.Errno{0: 0, 1: syscall.EINVAL}[over] {
				t.Errorf("after %d more than the longest: %v", over, errno)
			}
			synctest.Wait()
			if got := c.card.commands(); got != map[int]string{0: "00B00000"}[over] {
				t.Errorf("sent %s", got)
			}
			c.Release(bg)
			wantEmpty(t, c.room)
		}
	})
}

// The kernel cuts a write at 128 KiB. After a refused piece of that size without a newline at
// its end, the next write is the rest of its line. After any other refused piece it is a new
// line.
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
