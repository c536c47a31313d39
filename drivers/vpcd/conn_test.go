package vpcd

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// A timer that fires as its answer arrives runs during the next exchange, and must not end
// it. A timer that fires in its own exchange does.
func TestOldTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, nc := piped(t, time.Second)
		c := s.card
		go func() { _ = play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00; > 00 04 00 00 00 01") }()
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		c.late() // nobody waits
		answer := make(chan error, 1)
		go func() {
			_, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 01")}, nil)
			answer <- err
		}()
		synctest.Wait()
		c.late()
		time.Sleep(time.Second - time.Nanosecond)
		c.late()
		synctest.Wait()
		if _, err := nc.Write(unhex("00 02 90 00")); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
		if err := <-answer; err != nil {
			t.Error(err)
		}
		// In its own exchange it ends the connection.
		start := time.Now()
		go func() { _ = play(nc, "> 00 04 00 00 00 02") }()
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 02")}, nil)
		if took := time.Since(start); !errors.Is(err, reader.ErrTimeout) || took != time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// A command that the socket accepts in pieces arrives whole.
func TestPartialWrite(t *testing.T) {
	p, _ := attach(t, "unix:"+filepath.Join(t.TempDir(), "s"), nil)
	s := p.Slots()[0]
	nc := dial(t, p)
	until(t, s, reader.Present)
	c, _, err := p.slot.get()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4096) })
	if err != nil {
		t.Fatal(err)
	}
	cmd := make([]byte, maxMessage)
	for i := range cmd {
		cmd[i] = byte(i ^ i>>8)
	}
	got := make(chan []byte, 1)
	go func() {
		_ = play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00")
		for c.unsent() { // so that the first write cannot accept all
			time.Sleep(time.Millisecond)
		}
		m, _ := next(nc)
		got <- m
		_, _ = nc.Write(unhex("00 02 90 00"))
	}()
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Exchange(t.Context(), reader.Transfer{Out: cmd}, nil); err != nil || !bytes.Equal(a, unhex("90 00")) {
		t.Errorf("% X, %v", a, err)
	}
	if m := await(t, got, "command"); !bytes.Equal(m, cmd) {
		t.Errorf("the command arrived as %d bytes that differ", len(m))
	}
}

// When a waiting card takes its place, the slot notifies; otherwise nobody would look again.
func TestNextIsNotified(t *testing.T) {
	s := newSlot(false)
	var conns [2]net.Conn
	for i := range conns {
		here, there := net.Pipe()
		conns[i] = there
		c := newConn(here, time.Minute, slog.Default(), func(*conn) {})
		if i == 1 {
			s.card.end(errors.New("it left"))
		}
		if !s.offer(c) {
			t.Fatal("there is no place")
		}
		t.Cleanup(func() { c.end(errors.New("the test is over")); there.Close() })
	}
	taken := func() bool {
		select {
		case <-s.Changes():
			return true
		default:
			return false
		}
	}
	if !taken() {
		t.Error("nobody is told of the exchange")
	}
	for i, want := range []reader.Status{reader.Absent, reader.Present, reader.Present} {
		if st, err := s.Status(t.Context()); st != want || err != nil {
			t.Errorf("look %d: state %d, %v, want %d", i, st, err, want)
		}
		if got := taken(); got != (i == 0) {
			t.Errorf("look %d: another is asked for: %v", i, got)
		}
	}
	// A third card has no place while the second is there, nor while one waits.
	here, there := net.Pipe()
	defer there.Close()
	third := newConn(here, time.Minute, slog.Default(), func(*conn) {})
	defer third.end(errors.New("the test is over"))
	if s.offer(third) {
		t.Error("the slot is occupied")
	}
}

// The next in line may leave before its turn.
func TestNextLeaves(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	first := dial(t, p)
	until(t, s, reader.Present)
	c, _, _ := p.slot.get()
	first.Close()
	await(t, c.done, "end of the first")
	second := dial(t, p)
	for p.occupied() == nil {
		await(t, p.slot.changes, "the second")
	}
	c = p.occupied()
	second.Close()
	await(t, c.done, "end of the second")
	until(t, s, reader.Absent)
	if st, _ := s.Status(t.Context()); st != reader.Absent {
		t.Errorf("state %d", st)
	}
	card(t, p)
	until(t, s, reader.Present)
}

// The power given to one card does not carry over to the next.
func TestPowerOfAnother(t *testing.T) {
	p, _ := attach(t, "127.0.0.1:0", nil)
	s := p.Slots()[0]
	remove := card(t, p)
	until(t, s, reader.Present)
	powerOn(t, s)
	old, _, _ := p.slot.get()
	remove()
	until(t, s, reader.Absent)
	card(t, p)
	until(t, s, reader.Present)
	p.slot.setPowered(old, true) // the old card's answer arrives late
	if st, _ := s.Status(t.Context()); st != reader.Present {
		t.Errorf("state %d, want present without power", st)
	}
	powerOn(t, s)
	p.slot.setPowered(old, false)
	if st, _ := s.Status(t.Context()); st != reader.Powered {
		t.Errorf("state %d, want powered", st)
	}
	if err := s.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
	if st, _ := s.Status(t.Context()); st != reader.Present {
		t.Errorf("state %d, want present without power", st)
	}
}
