package fs

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
)

// lockingCard is a card with a lock, as `apdu` has.
type lockingCard struct {
	fakeCard
	lockedBy *advisory
	owner    any
}

func (l *lockingCard) lock(ctx context.Context, shared, wait bool) error {
	return byOwner{advisory: l.lockedBy, owner: l.owner}.lock(ctx, false, wait)
}

func (l *lockingCard) unlock() { l.lockedBy.unlock(l.owner) }

func openLocking(t *testing.T, a *advisory, flags uint32) *client {
	card := &lockingCard{lockedBy: a, owner: new(int)}
	c := open(t, &card.fakeCard, flags)
	c.to, c.lockLines = card, true
	c.onIdle = card.unlock
	return c
}

// "lock and unlock, as lines written to apdu, are flock on that open for whoever has none:
// answered by ok in order with the commands. lock on an open that has the lock says ok;
// unlock ends it. lock is never EBUSY: its read waits, or with O_NONBLOCK says EAGAIN
// until it is granted. Closing unlocks, and gives up waiting."
func TestLockLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a advisory
		first, second := openLocking(t, &a, rdwr), openLocking(t, &a, rdwr|syscall.O_NONBLOCK)
		first.mustWrite("00010000\nlock\n00020000\nlock # again\n \tlock\r\n")
		synctest.Wait()
		first.wantRead("00 01 00 00 90 00\nok\n00 02 00 00 90 00\nok\nok\n")
		first.wantRead("")

		second.mustWrite("lock\n00030000\n")
		synctest.Wait()
		for range 2 {
			if _, errno := second.read(100); errno != syscall.EAGAIN {
				t.Errorf("while another has the lock: %v", errno)
			}
		}
		if second.card.commands() != "" {
			t.Errorf("behind a lock that is not granted: sent %s", second.card.commands())
		}
		// "trylock is lock with LOCK_NB: EBUSY."
		quick := openLocking(t, &a, rdwr)
		quick.mustWrite("trylock\n")
		if _, errno := quick.read(100); errno != syscall.EBUSY {
			t.Errorf("trylock: %v", errno)
		}
		quick.mustWrite("errors\ntrylock\n")
		synctest.Wait()
		quick.wantRead("ok\n")
		quick.wantRead("error EBUSY " + reader.ErrLocked.Error() + "\n")
		quick.Release(bg)
		first.mustWrite("unlock\n")
		synctest.Wait()
		first.wantRead("ok\n")
		second.wantRead("ok\n00 03 00 00 90 00\n")

		// Closing ends it.
		third := openLocking(t, &a, rdwr)
		third.mustWrite("lock")
		done := make(chan string)
		go func() {
			s, errno := third.read(100)
			done <- fmt.Sprint(s, errno)
		}()
		synctest.Wait()
		second.Release(bg)
		if got := <-done; got != "ok\nerrno 0" {
			t.Errorf("read %q", got)
		}
		third.mustWrite("unlock\nunlock\n") // it no longer has the lock
		third.wantRead("ok\nok\n")

		// Closing gives up the wait. The command written after the lock line is left behind, and
		// still sent.
		third.mustWrite("lock\n")
		synctest.Wait()
		fourth := openLocking(t, &a, rdwr)
		fourth.mustWrite("lock\n00040000\nlock\n")
		synctest.Wait()
		if fourth.card.commands() != "" {
			t.Error("it did not wait")
		}
		fourth.Release(bg)
		synctest.Wait()
		if got := fourth.card.commands(); got != "00040000" {
			t.Errorf("left behind: %s", got)
		}
		if n := len(a.holders); n != 1 {
			t.Errorf("%d hold the lock", n)
		}
		third.Release(bg)
		if n := len(a.holders); n != 0 {
			t.Errorf("%d hold the lock after all closed", n)
		}
		for _, c := range []*client{first, second, third, fourth} {
			if c != first {
				wantEmpty(t, c.room)
			}
		}
	})
}

// A signal ends a read that waits for the lock. A later read gets the answer.
func TestLockLineInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a advisory
		a.lock(bg, "another", false, true, nil)
		c := openLocking(t, &a, rdwr)
		c.mustWrite("lock\n")
		ctx, cancel := context.WithCancel(bg)
		done := make(chan syscall.Errno)
		go func() {
			_, errno := c.readAt(ctx, 100, c.off)
			done <- errno
		}()
		synctest.Wait()
		cancel()
		if errno := <-done; errno != syscall.EINTR {
			t.Error(errno)
		}
		a.unlock("another")
		c.wantRead("ok\n")
	})
}

// "The line errors, written to an exchange file, makes that open give an error as a line
// `error ESTALE WORDS` instead of an errno, for whoever is behind SFTP; answered by ok."
func TestErrorLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
			if command[1] == 0xB0 {
				return nil, fmt.Errorf("slot 0:\n %w", reader.ErrStale)
			}
			return append(dst, 0x90, 0), nil
		}}, rdwr)
		c.mustWrite("00B00000\n")
		if _, errno := c.read(100); errno != syscall.ESTALE {
			t.Error(errno)
		}
		c.mustWrite("00A40000\nerrors\n00B00000\n00A40000\n00B00000\n")
		synctest.Wait()
		stale := "error ESTALE slot 0: " + reader.ErrStale.Error() + "\n"
		c.wantRead("90 00\nok\n")
		c.wantRead(stale + "90 00\n")
		c.wantRead(stale)
		c.wantRead("")
		c.mustWrite("00A")
		if s, errno := c.read(100); !strings.HasPrefix(s, "error EINVAL an odd number of hex digits") || errno != 0 {
			t.Errorf("half a command: %q, %v", s, errno)
		}
		c.off += 100
		// The same in short reads.
		c.mustWrite("00B00000\n")
		synctest.Wait()
		got := ""
		for !strings.HasSuffix(got, "\n") {
			s, errno := c.read(7)
			if errno != 0 || s == "" {
				t.Fatalf("%q, %v", s, errno)
			}
			got += s
		}
		if got != stale {
			t.Errorf("read %q", got)
		}
		// In binary mode an answer is bytes and an error is an errno.
		c.Ioctl(bg, fused.IoctlBinary, 0, nil, nil)
		c.mustWrite("\x00\xb0\x00\x00")
		if _, errno := c.read(100); errno != syscall.ESTALE {
			t.Errorf("in binary: %v", errno)
		}
		c.Release(bg)
		wantEmpty(t, c.room)
	})
}

// Which lines are words: written in one piece, in pieces, and on files without locks.
func TestWords(t *testing.T) {
	for _, tt := range []struct {
		line string
		want string // "EINVAL", or the answer
	}{
		{"errors\n", "ok\n"}, {"  errors  \n", "ok\n"}, {"errors# so\n", "ok\n"}, {"errors", "ok\n"}, {"\terrors\r", "ok\n"},
		{"lock\n", "ok\n"}, {"trylock\n", "ok\n"}, {"trylock", "ok\n"}, {"try\n", "EINVAL"}, {"unlock\n", "ok\n"}, {"unlock # x\n", "ok\n"},
		{"error\n", "EINVAL"}, {"errorss\n", "EINVAL"}, {"Errors\n", "EINVAL"}, {"lock 1\n", "EINVAL"}, {"locked\n", "EINVAL"},
		{"00A40000 lock\n", "EINVAL"}, {"lock 00A40000\n", "EINVAL"}, {"ok\n", "EINVAL"}, {"l\n", "EINVAL"}, {"u", "EINVAL"},
		{"e0A40000\n", "E0 A4 00 00 90 00\n"}, {"e0 A4 00 00", "E0 A4 00 00 90 00\n"}, {"# errors\n", ""}, {"#lock\n00A40000\n", "00 A4 00 00 90 00\n"},
	} {
		for _, pieces := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var a advisory
				c := openLocking(t, &a, rdwr)
				errno := syscall.Errno(0)
				if pieces {
					for i := 0; i < len(tt.line) && errno == 0; i++ {
						errno = c.write(tt.line[i : i+1])
					}
				} else {
					errno = c.write(tt.line)
				}
				synctest.Wait()
				got := "EINVAL"
				if errno == 0 {
					if got, errno = c.read(100); errno == syscall.EINVAL {
						got = "EINVAL"
					}
				}
				if got != tt.want {
					t.Errorf("%q, in pieces %v: %q, %v, want %q", tt.line, pieces, got, errno, tt.want)
				}
			})
		}
	}
	for _, line := range []string{"lo # a comment ends it", "lo\t#", "x", "unlocks"} {
		var a advisory
		if openLocking(t, &a, rdwr).write(line) != syscall.EINVAL {
			t.Errorf("%q, which no newline ends and which can become no word, is taken", line)
		}
	}
	c := open(t, &fakeCard{}, rdwr)
	for _, line := range []string{"lock\n", "unlock\n", "lock", "l"} {
		if errno := c.write(line); errno != syscall.EINVAL {
			t.Errorf("%q, to a file without a transaction: %v", line, errno)
		}
	}
	if errno := c.write("errors\n"); errno != 0 {
		t.Errorf("errors: %v", errno)
	}
}

// "Errors never carry bytes of a command."
func TestErrorsCarryNoBytes(t *testing.T) {
	_, err := parseHex(nil, []byte("0020000104 3132x334"))
	if err == nil || strings.ContainsAny(err.Error(), "x") && !strings.Contains(err.Error(), "hex") || strings.Contains(err.Error(), "'") {
		t.Error(err)
	}
}
