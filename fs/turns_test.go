package fs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
)

// Written commands reach the card even if the open is closed before the answer. onIdle is
// called once, when nothing is under way any more.
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

// After a panic in a lower layer the caller gets EIO, by read or by ioctl. The next command
// and other callers are not affected.
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

// stepped is a card that answers once per receive from step.
func stepped() (card *fakeCard, step chan struct{}) {
	step = make(chan struct{})
	return &fakeCard{do: func(_ context.Context, command, dst []byte) ([]byte, error) {
		<-step
		return append(append(dst, command...), 0x90, 0x00), nil
	}}, step
}

// Two threads that share an open take turns, by read and write, by ioctl, and by both. A
// thread that waits is woken.
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
		// A read that waits for another thread's ioctl gets nothing, and ends.
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
		// Commands written during an ioctl are sent after it.
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

// "ENODEV: the reader is gone": no more commands are taken. Earlier answers can still be read;
// then every read says ENODEV.
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
		c.Ioctl(bg, fused.IoctlBinary, 0, nil, nil)
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

// "The answer stays until it was delivered, so an interrupted read can be repeated". The next
// read gets it, whoever makes it.
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
		// An interrupt that comes after the answer does not lose it either.
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

// A caller is killed in an ioctl, and its open closed, before the card answers. The late
// answer is dropped, and nothing of it stays.
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

// When the reader left and a signal came, the caller gets ENODEV: EINTR would make the program
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

// An answer takes precedence over an interrupt.
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

// A panic in the exchange or in onIdle is logged and leaves nothing locked.
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
