package vpcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// piped is a slot with a card at the other end of a pipe, in a bubble of synctest.
func piped(t *testing.T, timeout time.Duration) (*slot, net.Conn) {
	here, there := net.Pipe()
	s := newSlot(false)
	c := newConn(here, timeout, slog.Default(), func(*conn) {})
	s.offer(c)
	go c.read()
	t.Cleanup(func() {
		c.end(errors.New("the test is over"))
		there.Close()
		<-c.done
	})
	return s, there
}

// pipes is a listener whose connections and errors the test makes.
type pipes struct {
	conns chan net.Conn
	errs  chan error
	once  sync.Once
	over  chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error, 100), over: make(chan struct{})}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case err := <-l.errs:
		return nil, err
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.errs:
		return nil, err
	case <-l.over:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { l.once.Do(func() { close(l.over) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (l *pipes) dial() net.Conn {
	here, there := net.Pipe()
	l.conns <- here
	return there
}

// opened is a port on pipes.
func opened(t *testing.T, o options) (*port, *pipes, *host) {
	l := newPipes()
	h := &host{t: t, seen: make(chan reader.Device, 64)}
	o.network, o.address = "unix", "pipes"
	p := newPort(reader.Device{Driver: "vpcd", Host: h}, o, l, slog.Default())
	t.Cleanup(func() { _ = p.Close() })
	return p, l, h
}

func (p *port) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// ended reports whether a connection is closed.
func ended(nc net.Conn) bool {
	_ = nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := nc.Read(make([]byte, 1))
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
}

func logged(t *testing.T) *bytes.Buffer {
	var b bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return &b
}

// A card's place is free as soon as anybody can know that it has gone: the next is not turned
// away.
func TestPlaceIsFree(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", map[string]string{"cards": "1"})
	s := p.Slots()[0]
	for range 100 {
		remove := card(t, p)
		until(t, s, reader.Present)
		remove()
		until(t, s, reader.Absent)
	}
	p, h := attach(t, "127.0.0.1:0", map[string]string{"cards": "2"})
	card(t, p)
	until(t, p.Slots()[0], reader.Present)
	for range 100 {
		remove := card(t, p)
		d, r := h.open()
		if want := p.opts.String() + "+2"; d.Address != want {
			t.Fatalf("announced at %s, want %s", d.Address, want)
		}
		remove()
		await(t, r.Gone(), "departure of a guest")
	}
}

// "cards=N  how many cards there may be at once": further ones are closed at once, and a
// place that becomes free can be used again.
func TestCards(t *testing.T) {
	for _, cards := range []int{1, 3, 16} {
		log := logged(t)
		synctest.Test(t, func(t *testing.T) {
			p, l, h := opened(t, options{cards: cards, timeout: time.Minute})
			var held []net.Conn
			for range cards {
				held = append(held, l.dial())
			}
			for range 1000 {
				if nc := l.dial(); !ended(nc) {
					t.Fatal("a connection too many is open")
				}
			}
			synctest.Wait()
			if len(h.seen) != cards-1 || p.connections() != cards {
				t.Errorf("%d readers announced, %d connections, want %d cards", len(h.seen), p.connections(), cards)
			}
			for _, nc := range held {
				if ended(nc) {
					t.Error("a card was disconnected")
				}
			}
			held[cards-1].Close()
			synctest.Wait()
			again := l.dial()
			if ended(again) {
				t.Error("a place that was left is not free")
			}
			if !ended(l.dial()) {
				t.Error("a connection too many is open")
			}
			again.Close()
			for _, nc := range held {
				nc.Close()
			}
		})
		if n := strings.Count(log.String(), "all places are taken"); n != 2 {
			t.Errorf("%d cards: said %d times, want once each time that they are", cards, n)
		}
	}
}

// On a real socket, with the default.
func TestFlood(t *testing.T) {
	p, h := attach(t, "unix:"+filepath.Join(t.TempDir(), "s"), nil)
	const all, places = 100, 16
	ends := make(chan error, all)
	for range all {
		nc := dial(t, p)
		go func() {
			_, err := nc.Read(make([]byte, 1))
			ends <- err
		}()
	}
	for range all - places {
		if err := await(t, ends, "end of a connection too many"); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
	for range places - 1 {
		await(t, h.seen, "announcement")
	}
	n := p.connections()
	if n != places || len(h.seen) != 0 {
		t.Errorf("%d connections, want %d; %d readers too many", n, places, len(h.seen))
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for range places {
		await(t, ends, "end of a card with its port")
	}
}

// A connection that never sends anything is asked for its ATR after a minute, and closed if
// it does not answer. One that answers is a card, and is not asked again.
func TestSilentConnection(t *testing.T) {
	for _, answers := range []bool{false, true} {
		for _, reads := range []bool{false, true} {
			if answers && !reads {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				p, l, h := opened(t, options{cards: 2, timeout: 10 * time.Second})
				start := time.Now()
				asked := make(chan time.Duration, 100)
				end := make(chan time.Duration, 2)
				for range 2 { // in the standing slot, and as a reader of its own
					nc := l.dial()
					if !reads {
						continue
					}
					go func() {
						for {
							m, err := next(nc)
							if err != nil {
								end <- time.Since(start)
								return
							}
							if !bytes.Equal(m, []byte{ctlATR}) {
								t.Errorf("asked % X", m)
							}
							asked <- time.Since(start)
							if answers {
								_, _ = nc.Write(appendFrame(nil, atr))
							}
						}
					}()
				}
				synctest.Wait()
				time.Sleep(proofTime - time.Second)
				if p.connections() != 2 || len(asked) != 0 {
					t.Errorf("%d connections, asked %d times, before the time", p.connections(), len(asked))
				}
				time.Sleep(2 * time.Second)
				time.Sleep(time.Hour)
				synctest.Wait()
				if want := map[bool]int{true: 2}[answers]; p.connections() != want {
					t.Errorf("answers %v: %d connections, want %d", answers, p.connections(), want)
				}
				if reads && (len(asked) != 2 || <-asked != proofTime || <-asked != proofTime) {
					t.Error("they were not asked once, at their time")
				}
				if reads && !answers && <-end != proofTime+10*time.Second {
					t.Error("it was not disconnected at its time")
				}
				if st, _ := p.slot.Status(t.Context()); (st == reader.Present) != answers {
					t.Errorf("answers %v: state %d", answers, st)
				}
				if len(h.seen) != 1 {
					t.Errorf("%d announced", len(h.seen))
				}
				_ = p.Close()
			})
		}
	}
}

// A card that is in use at that time is not asked in between. A caller that wants to ask
// while it is being asked waits.
func TestAskedInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, nc := piped(t, 10*time.Minute)
		wire := make(chan error, 1)
		go func() { wire <- play(nc, "> 00 01 01; > 00 01 04") }()
		go func() {
			<-wire
			time.Sleep(5 * time.Minute)
			_, _ = nc.Write(unhex("00 02 3B 00"))
		}()
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		go func() { wire <- play(nc, "> 00 04 00 00 00 01; < 00 02 90 00") }()
		if got := exchange(t, s, "00 00 00 01"); got != "90 00" {
			t.Errorf("answer %s", got)
		}
		if err := <-wire; err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, nc := piped(t, 10*time.Minute)
		go func() {
			time.Sleep(proofTime - time.Second)
			_ = play(nc, "> 00 01 04")
			time.Sleep(time.Minute)
			_ = play(nc, "< 00 02 3B 00; > 00 01 01; > 00 01 04; < 00 02 3B 01")
		}()
		time.Sleep(proofTime + time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.PowerOn(ctx, reader.Cold); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whoever waits may leave: %v", err)
		}
		got, err := s.PowerOn(t.Context(), reader.Cold)
		if err != nil || !bytes.Equal(got, unhex("3B 01")) {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// A message for which the socket has no room at all does not count as sent. All arrive, in
// their order.
func TestNoRoom(t *testing.T) {
	p, _ := attach(t, "unix:"+filepath.Join(t.TempDir(), "s"), nil)
	nc := dial(t, p)
	until(t, p.Slots()[0], reader.Present)
	c, _, err := p.slot.get()
	if err != nil {
		t.Fatal(err)
	}
	const many = 20000 // more than any socket here holds
	told := make(chan error, 1)
	go func() {
		for n := range many {
			if err := c.tell(t.Context(), byte(n)); err != nil {
				told <- fmt.Errorf("message %d: %w", n, err)
				return
			}
		}
		told <- nil
	}()
	full := func() bool {
		var n int
		_ = c.raw.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0) })
		return n == 0
	}
	for !full() {
		time.Sleep(time.Millisecond)
	}
	_ = nc.SetReadDeadline(time.Now().Add(time.Minute)) // for one that never comes
	for n := range many {
		if m, err := next(nc); err != nil || len(m) != 1 || m[0] != byte(n) {
			t.Fatalf("message %d: % X, %v", n, m, err)
		}
	}
	if err := await(t, told, "end of the messages"); err != nil {
		t.Error(err)
	}
}

// A card that was sent messages but never said anything is still asked for its ATR: messages
// without answers prove nothing.
func TestToldIsNotProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, nc := piped(t, time.Minute)
		c, start := s.card, time.Now()
		wire := make(chan error, 1)
		go func() { wire <- play(nc, "> 00 01 00") }()
		if err := c.tell(t.Context(), ctlOff); err != nil {
			t.Fatal(err)
		}
		if err := <-wire; err != nil {
			t.Error(err)
		}
		time.Sleep(proofTime - time.Second)
		if err := play(nc, "> 00 01 04"); err != nil || time.Since(start) > proofTime {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		<-c.done // it does not answer
	})
}

// unsent reports that the long command has not been begun.
func (c *conn) unsent() bool {
	var n int
	_ = c.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	return n == 0
}

// accept(2): EMFILE, and a connection that ended before it was accepted, are temporary. The
// pauses grow to a second, and start small after a success. Other errors end the port and
// all its cards.
func TestAccept(t *testing.T) {
	_ = logged(t)
	synctest.Test(t, func(t *testing.T) {
		p, l, h := opened(t, options{cards: 4, timeout: time.Minute})
		passing := func(n int) time.Duration {
			start := time.Now()
			for range n {
				l.errs <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
			}
			l.dial()
			return time.Since(start)
		}
		l.dial()
		synctest.Wait()
		// 5, 10, 20 ms …; the accept under way takes the connection or the first error.
		if took := passing(3); took != 35*time.Millisecond {
			t.Errorf("3 errors took %v", took)
		}
		if took := passing(10); took != (5+10+20+40+80+160+320+640)*time.Millisecond+2*time.Second {
			t.Errorf("10 errors took %v", took)
		}
		synctest.Wait()
		d := <-h.seen
		r, err := Driver{}.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		l.errs <- &net.OpError{Op: "accept", Err: syscall.EINVAL}
		<-p.Gone()
		<-r.Gone()
		for what, s := range map[string]reader.Slot{"port": p.Slots()[0], "guest": r.Slots()[0]} {
			if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrGone) {
				t.Errorf("%s: %v, want ErrGone", what, err)
			}
		}
	})
	// Detached during a pause.
	synctest.Test(t, func(t *testing.T) {
		p, l, _ := opened(t, options{cards: 4, timeout: time.Minute})
		for range 20 {
			l.errs <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		time.Sleep(5 * time.Second)
		start := time.Now()
		if err := p.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("close: %v after %v", err, time.Since(start))
		}
	})
}

// The names of readers count from 2 and take the lowest number that is free.
func TestGuestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l, h := opened(t, options{cards: 16, timeout: time.Minute})
		var all []net.Conn
		for i := range 5 {
			all = append(all, l.dial())
			synctest.Wait()
			if i > 0 {
				d := <-h.seen
				if want := fmt.Sprintf("unix:pipes+%d", i+1); d.Address != want || d.Port != want[5:] || d.Slots != 1 || d.Bus != "unix" || d.Host != reader.Host(h) {
					t.Errorf("announced %+v, want %s", d, want)
				}
			}
		}
		all[3].Close()
		all[1].Close()
		synctest.Wait()
		for _, want := range []string{"unix:pipes+2", "unix:pipes+4", "unix:pipes+6"} {
			l.dial()
			synctest.Wait()
			if d := <-h.seen; d.Address != want {
				t.Errorf("announced %s, want %s", d.Address, want)
			}
		}
	})
}
