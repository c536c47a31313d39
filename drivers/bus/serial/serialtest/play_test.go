package serialtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// record is a T that keeps what a player reports.
type record struct {
	errs    []string
	cleanup []func()
}

func (r *record) Helper()                     {}
func (r *record) Failed() bool                { return len(r.errs) > 0 }
func (r *record) Cleanup(f func())            { r.cleanup = append(r.cleanup, f) }
func (r *record) Errorf(f string, arg ...any) { r.errs = append(r.errs, fmt.Sprintf(f, arg...)) }

// play has f play against the session and returns what the player reports.
func play(t *testing.T, text string, f func(ctx context.Context, p *Player, port serial.Port)) string {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var r record
	synctest.Test(t, func(t *testing.T) {
		p := NewPlayer(&r, s)
		port, err := p.OpenSerial(t.Context(), serial.Mode{Baud: 9600, Frame: serial.Frame8E2})
		if err == nil {
			f(t.Context(), p, port)
			port.Close()
		}
		for _, f := range r.cleanup {
			f()
		}
	})
	return strings.Join(r.errs, "\n")
}

// host is a host that does all that example has.
func exampleHost(t *testing.T) func(ctx context.Context, p *Player, port serial.Port) {
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	return func(ctx context.Context, p *Player, port serial.Port) {
		time.Sleep(time.Second)
		check("flush", port.Flush())
		check("write", port.Write(ctx, []byte{0}))
		check("write", port.Write(ctx, []byte{1}))
		var buf [8]byte
		began := time.Now()
		n, err := serial.ReadFull(ctx, port, buf[:3], time.Second)
		if d := time.Since(began); n != 3 || err != nil || d != 200*time.Millisecond || buf[2] != 0x35 {
			t.Errorf("read: %d, %v after %v", n, err, d)
		}
		if l, err := port.Lines(ctx); l != serial.DTR|serial.RTS|serial.CTS|serial.CD || err != nil {
			t.Errorf("lines %v, %v", l, err)
		}
		p.Step("power on")
		check("RTS off", port.SetLines(ctx, 0, serial.RTS))
		check("write", port.Write(ctx, []byte{0x80, 0x6F, 0, 5, 0x76}))
		if _, err := port.Read(ctx, buf[:1], time.Second); !errors.Is(err, serial.ErrTimeout) {
			t.Errorf("read: %v", err)
		}
		check("break", port.Break(ctx, 250*time.Millisecond))
		check("close", port.Close())
		<-port.Gone()
	}
}

func TestPlayer(t *testing.T) {
	if got := play(t, example, exampleHost(t)); got != "" {
		t.Error(got)
	}
}

// Whatever the host does otherwise is reported, with the line of the session.
func TestPlayerReports(t *testing.T) {
	const head = "line 9600 8E2\n"
	write := func(p ...byte) func(context.Context, *Player, serial.Port) {
		return func(ctx context.Context, _ *Player, port serial.Port) { port.Write(ctx, p) }
	}
	read := func(n int, wait time.Duration) func(context.Context, *Player, serial.Port) {
		return func(ctx context.Context, _ *Player, port serial.Port) {
			serial.ReadFull(ctx, port, make([]byte, n), wait)
		}
	}
	for _, c := range []struct {
		text, want string
		do         func(context.Context, *Player, serial.Port)
	}{
		{"line 9600 8N1\n", "line 1", write()},
		{head + "OUT | 01 02\n", "byte 1", write(1, 3)},
		{head + "OUT | 01 02\n", "ended at line 2, byte 1", write(1)},
		{head + "OUT | 01\n", "OUT | 02", write(1, 2)},
		{head + "OUT | 01\nIN | 02\nOUT | 03", "line 3", write(1, 3)},
		{head + "OUT | 01\nIN | 02\n", "ended at line 3", write(1)},
		{head + "IN 2s | 02\n", "read of 1 with 1s", read(1, time.Second)},
		{head + "IN 1s | 02\n", "in vain", read(2, time.Second)},
		{head + "IN 1s | timeout\n", "read of 1 with 2s", read(1, 2*time.Second)},
		{head + "OUT | 01\n", "in vain", read(1, time.Second)},
		{head + "wait 1s\nOUT | 01\n", "after 999ms", func(ctx context.Context, p *Player, port serial.Port) {
			time.Sleep(999 * time.Millisecond)
			port.Write(ctx, []byte{1})
		}},
		{head + "wait 1s\nflush\nOUT | 01\n", "flush after 0s", func(ctx context.Context, p *Player, port serial.Port) {
			port.Flush()
			time.Sleep(time.Second)
			port.Write(ctx, []byte{1})
		}},
		{head + "line 9600 8O2\n", "line 2", func(ctx context.Context, p *Player, port serial.Port) {
			port.SetMode(ctx, serial.Mode{Baud: 9600, Frame: serial.Frame8O1})
		}},
		{head + "host RTS\n", "host DTR", func(ctx context.Context, p *Player, port serial.Port) {
			port.SetLines(ctx, 0, serial.RTS)
		}},
		{head + "break 1s\n", "break 2s", func(ctx context.Context, p *Player, port serial.Port) {
			port.Break(ctx, 2*time.Second)
		}},
		{head + "== a\n", `step "b"`, func(ctx context.Context, p *Player, port serial.Port) { p.Step("b") }},
		{head + "== a\nOUT | 01\n", "== a", write(1)},
	} {
		if got := play(t, c.text, c.do); !strings.Contains(got, c.want) {
			t.Errorf("%s: reported %q, want %q", c.text, got, c.want)
		}
	}
}

// What is not visible on a line may be done at any time.
func TestPlayerAllows(t *testing.T) {
	got := play(t, "line 9600 8E2\nOUT | 01\nIN | 02 03\nIN | 04\n", func(ctx context.Context, p *Player, port serial.Port) {
		port.Flush()
		port.SetMode(ctx, port.Mode())
		port.SetLines(ctx, serial.DTR, 0)
		port.Write(ctx, []byte{1})
		port.Drain(ctx)
		var one [1]byte
		if n, err := port.Read(ctx, one[:], time.Second); n != 1 || err != nil || one[0] != 2 {
			t.Errorf("%d, %v", n, err)
		}
		port.Flush() // drops 03 and 04
	})
	if got != "" {
		t.Error(got)
	}
}

// "If the port's mode has Check, Read ends behind a character that came with wrong parity."
func TestPlayerParity(t *testing.T) {
	for _, check := range []bool{true, false} {
		got := play(t, "line 9600 8E2\nline 9600 8O2\nIN | 01 02! 03\n", func(ctx context.Context, p *Player, port serial.Port) {
			port.SetMode(ctx, serial.Mode{Baud: 9600, Frame: serial.Frame8O2, Check: check})
			var buf [3]byte
			n, err := serial.ReadFull(ctx, port, buf[:], time.Second)
			if check && (n != 2 || !errors.Is(err, serial.ErrParity) || !errors.Is(err, reader.ErrProtocol)) || !check && (n != 3 || err != nil) {
				t.Errorf("check %v: %d, %v", check, n, err)
			}
			serial.ReadFull(ctx, port, buf[n:], time.Second)
			if buf != [3]byte{1, 2, 3} {
				t.Errorf("check %v: % X", check, buf)
			}
		})
		if got != "" {
			t.Error(got)
		}
	}
}

// chip is the device of example.
func chip(leave <-chan struct{}) Device {
	return DeviceFunc(func(l *Line) {
		l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E2})
		var p [2]byte
		if !l.Read(p[:]) || p != [2]byte{0, 1} {
			return
		}
		l.Send(0x84, 0x77)
		l.SendWrong(0x35)
		l.SetLines(serial.CTS|serial.CD, 0)
		<-leave
		l.SetLines(0, serial.CTS|serial.CD)
		for {
			if _, ok := l.Next(); !ok {
				return
			}
		}
	})
}

// Replay finds an emulated device that does what the session says, and its Log writes the
// session down.
func TestReplay(t *testing.T) {
	s, err := Parse(example)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		plugged := Plug(chip(leave))
		var log Log
		plugged.Observe(log.Add)
		Replay(t, s, plugged, map[string]func(){"the card leaves": func() { close(leave) }})
		const want = `line 9600 8E2
host DTR RTS
OUT | 00 01
IN | 84 77 35!
device CTS CD
host DTR
OUT | 80 6F 00 05 76
break 250ms
device -
host -
unplug
`
		if got := log.Session().String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		plugged.Unplug()
	})
}

func TestReplayReports(t *testing.T) {
	echo := DeviceFunc(func(l *Line) {
		for {
			c, ok := l.Char()
			if !ok {
				return
			}
			if l.Send(c); c == 3 {
				l.SendWrong(c)
			}
		}
	})
	for text, want := range map[string]string{
		"OUT | 01\nIN | 02":                            "line 2: IN | 02\nit sent IN | 01",
		"OUT | 01\nIN | 01 02":                         "IN | 01: ",
		"OUT | 01 02\nIN | 01\n":                       "1 bytes more",
		"OUT | 01 02\nIN | 01\nOUT | 01":               "1 bytes more",
		"OUT | 01\nIN 1s | timeout":                    "it sent 01",
		"OUT | 03\nIN | 03 03":                         "it sent IN | 03 03!",
		"OUT | 01\nIN | 01!":                           "it sent IN | 01",
		"OUT | 01\nIN | 01\ndevice CTS":                "they are -",
		"* it leaves":                                  "nothing does",
		"OUT | 01 04\nIN | 01\nflush\nIN 1s | timeout": "",
		"OUT | 01 04\nIN | 01 ??":                      "",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var r record
		synctest.Test(t, func(t *testing.T) {
			plugged := Plug(echo)
			r.errs = nil
			for i := range s { // so that all has come that will
				if s[i].Kind == In && i > 0 {
					s = append(append(append(Session{}, s[:i]...), Entry{Kind: Wait, Time: time.Second}), s[i:]...)
					break
				}
			}
			Replay(&r, s, plugged, nil)
			plugged.Unplug()
		})
		if got := strings.Join(r.errs, "\n"); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q: reported %q, want %q", text, got, want)
		}
	}
}
