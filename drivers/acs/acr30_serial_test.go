package acs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/acs/emu"
	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

func serial30(link serial.Opener) reader.Device {
	return reader.Device{Driver: "acr30", Address: "/dev/ttyS0", ID: reader.ID{Model: serialModel}, Link: link}
}

func newSerial30(t testing.TB, c card) *emu.Serial30 {
	t.Helper()
	e := emu.NewSerialACR30()
	e.Patience = 600 * time.Millisecond
	readertest.Insert(t, &e.Contact, c)
	return e
}

// connectedSerial30 opens a reader with a card, and powers the card up. The reader leaves at the end.
func connectedSerial30(t testing.TB, c card) (*emu.Serial30, *slot30) {
	t.Helper()
	e := newSerial30(t, c)
	p := serialtest.Plug(e)
	t.Cleanup(p.Unplug)
	r, s := open30(t, serial30(p))
	t.Cleanup(func() { r.Close() })
	connect(t, s)
	return e, s
}

func loadSerial(t *testing.T, name string) serialtest.Session {
	t.Helper()
	return readertest.Load(t, serialtest.Load, "testdata/"+name)
}

// The driver sends what the session's host sends, and accepts what its device answers.
func TestACR30PlaysSerialSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, loadSerial(t, "acr30-serial.txt"))
		play30(t, p, func() reader.Device { return serial30(p) }, serialModel)
	})
}

// The emulated reader answers the sessions' hosts as their devices do.
func TestReaderPlaysSerialSessions(t *testing.T) {
	for name, c := range map[string]card{"acr30-serial.txt": t0, "openct-serial.txt": bareT1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newSerial30(t, c)
				p := serialtest.Plug(e)
				defer p.Unplug()
				serialtest.Replay(t, loadSerial(t, name), p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
			})
		})
	}
}

func TestACR30SerialSuite(t *testing.T) {
	for proto, c := range []card{t0, t1} {
		t.Run(fmt.Sprintf("T=%d", proto), func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newSerial30(t, c)
				p := serialtest.Plug(e)
				return readertest.Emulated(ACR30{}, serial30(p), p.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length arrive whole.
func TestACR30SerialLengths(t *testing.T) {
	for _, c := range []card{t0, t1} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(newSerial30(t, c))
			defer p.Unplug()
			r, s := open30(t, serial30(p))
			defer r.Close()
			readertest.EveryLength(t, connect(t, s))
		})
	}
}

// Every character may fail in every way. The card never sees a command twice; answers are right
// or errors; and once the line is good again the reader works.
func TestACR30SerialFaults(t *testing.T) {
	for proto, c := range []card{bare, t1} {
		var toDev, toHost int
		synctest.Test(t, func(t *testing.T) { toDev, toHost = serialFault30(t, c, serialtest.Fault{At: -1}) })
		if toDev < 80 || toHost < 80 {
			t.Fatalf("T=%d: %d characters to the reader, %d to the host", proto, toDev, toHost)
		}
		faulttest.Everywhere(t, toDev, toHost, func(t *testing.T, f serialtest.Fault) { serialFault30(t, c, f) })
	}
}

// serialFault30 opens the reader and sends two commands. It returns how many characters went
// to the reader and to the host before the second.
func serialFault30(t *testing.T, c card, f serialtest.Fault) (toDev, toHost int) {
	e := newSerial30(t, c)
	p := serialtest.Plug(e)
	defer func() { p.Unplug() }()
	what := fmt.Sprintf("%s, %+v", c, f)
	p.Inject(f)
	run := func(s *slot30, p1 byte) error {
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			return err
		}
		out := []byte{0x80, 0xE2, 0, p1, p1}
		if s.t == 1 {
			out = append([]byte{0, 0, byte(len(out))}, out...)
			var lrc byte
			for _, b := range out {
				lrc ^= b
			}
			out = append(out, lrc)
		}
		before := e.Contact.APDUs()
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: out, Wait: 10 * time.Second}, nil)
		n := e.Contact.APDUs() - before
		if n > 1 || err == nil && n != 1 {
			t.Errorf("%s: the card saw the command %d times, %v", what, n, err)
		}
		if want := append(pattern(int(p1)), 0x90, 0); err == nil && s.t == 0 && !bytes.Equal(got, want) || err == nil && s.t == 1 && !bytes.Contains(got, want) {
			t.Errorf("%s: % X", what, got)
		}
		return err
	}
	check := func(err error) {
		t.Helper()
		known := errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrGone)
		if err != nil && (!known || !strings.HasPrefix(err.Error(), "acr30 /dev/ttyS0: ")) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r, err := ACR30{}.Open(t.Context(), serial30(p))
	check(err)
	if err == nil {
		defer r.Close()
		s := r.Slots()[0].(*slot30)
		err = run(s, 10)
		check(err)
		toDev, toHost = p.Sent()
		if f.Kind < serialtest.Silence {
			if err := run(s, 11); err != nil {
				t.Errorf("%s: afterwards: %v", what, err)
			}
		}
	}
	if err == nil || f.Kind < serialtest.Silence && r != nil {
		return toDev, toHost
	}
	// Another try, on another line.
	p.Unplug()
	p = serialtest.Plug(e)
	if r, err = (ACR30{}).Open(t.Context(), serial30(p)); err != nil {
		t.Errorf("%s: opened again: %v", what, err)
		return toDev, toHost
	}
	defer r.Close()
	if err := run(r.Slots()[0].(*slot30), 12); err != nil {
		t.Errorf("%s: opened again: %v", what, err)
	}
	return toDev, toHost
}

// A reader that was switched off and on has lost its settings, and its card the power.
func TestACR30SwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s := connectedSerial30(t, t0)
		e.Switch(false)
		for range 2 {
			if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) {
				t.Errorf("status of a reader without power: %v", err)
			}
		}
		e.Switch(true)
		_, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, nil)
		if !errors.Is(err, reader.ErrStale) {
			t.Errorf("exchange with a card that has lost its power: %v", err)
		}
		c := e.Contact.Remove() // of which the reader tells nobody
		e.Contact.Insert(c)
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		connect(t, s)
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, nil); err != nil {
			t.Error(err)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card saw %d commands", n)
		}
		// Switched off and on between two commands: nothing was left unanswered.
		e.Switch(false)
		e.Switch(true)
		c = e.Contact.Remove()
		e.Contact.Insert(c) // told of, since the reader is as new
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		_, err = s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, nil)
		if !errors.Is(err, reader.ErrStale) {
			t.Errorf("exchange with a card that has lost its power: %v", err)
		}
		connect(t, s)
	})
}

// An answer that comes too late is not taken for that of the next command.
func TestACR30SerialLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s := connectedSerial30(t, t0)
		readertest.Late(t, s, &e.Contact, 3*time.Second, 0x0E)
	})
}

// A frame begins at the last STX, and noise before it does not count.
func TestACR30Noise(t *testing.T) {
	for _, noise := range []string{"\xFE\x03\x00", "\x02", "\x0201", "0190000091\x03"} {
		synctest.Test(t, func(t *testing.T) {
			e := newSerial30(t, t0)
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode30)
				for {
					if c, ok := l.Char(); !ok {
						return
					} else if c == etx {
						l.Send([]byte(noise)...)
						l.Send(frameOf("01 90 00 10 52 45 41 44 45 52 31 30 33 30 FE FE 30 00 00 01", true)...)
					}
				}
			}))
			defer p.Unplug()
			c, err := openSerialCarrier(t.Context(), serial30(p))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			l := &hexLine{carrier: c}
			if err := l.send(t.Context(), insStatus, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := l.receive(t.Context(), time.Second); err != nil || len(got) != statusLength {
				t.Errorf("%q: % X, %v", noise, got, err)
			}
			_ = e
		})
	}
}

// What held a command or an answer is cleared after use.
func TestACR30Wipes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := connectedSerial30(t, t0)
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("80 EE 00 00 04 31 32 33 34"), Wait: time.Second}, nil); err != nil {
			t.Fatal(err)
		}
		l := s.line.(*hexLine)
		c := l.carrier.(*serialCarrier)
		for i, m := range [][]byte{l.frame[:], c.buf[:], c.next[:], s.command[:]} {
			if !bytes.Equal(m, make([]byte, len(m))) {
				t.Errorf("buffer %d: % X", i, m)
			}
		}
	})
}

// "Input is flushed before sending": an answer that comes twice, at once or late, is not that of
// the next command.
func TestACR30SerialFlush(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := byte(0)
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode30)
				for {
					if c, ok := l.Char(); !ok {
						return
					} else if c == etx {
						n++
						answer := frameOf(fmt.Sprintf("01 90 00 01 %02X", n), true)
						l.Send(answer...)
						if late {
							time.Sleep(time.Second)
						}
						l.Send(answer...)
					}
				}
			}))
			defer p.Unplug()
			c, err := openSerialCarrier(t.Context(), serial30(p))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			l := &hexLine{carrier: c}
			for want := byte(1); want < 4; want++ {
				if err := l.send(t.Context(), insStatus, nil); err != nil {
					t.Fatal(err)
				}
				if got, err := l.receive(t.Context(), 5*time.Second); err != nil || !bytes.Equal(got, []byte{want}) {
					t.Errorf("late %v: % X, %v, want %02X", late, got, err, want)
				}
				time.Sleep(2 * time.Second)
			}
		})
	}
}
