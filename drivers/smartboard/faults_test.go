package smartboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// Every character of a start, a reset and a command may fail in every way. The program gets the right answer, or an
// error that the core knows and that names the reader; the card sees no command twice; and with a good line the same
// reader, or the same plugged in again, works.
//
// A frame has no checksum. So a character too many, or one that arrives as another, is noticed by T=1, and in T=0
// only where no answer looks like that.
func TestFaults(t *testing.T) {
	for proto, c := range []card{t0, t1} {
		toDevice, toHost := 0, 0
		synctest.Test(t, func(t *testing.T) { toDevice, toHost = faulty(t, proto, c, nil) })
		if toDevice < 20 || toHost < 30 {
			t.Fatalf("%d characters to the device, %d to the host", toDevice, toHost)
		}
		faulttest.Everywhere(t, toDevice, toHost, func(t *testing.T, f serialtest.Fault) { faulty(t, proto, c, &f) })
	}
}

// faulty does the exchanges of TestFaults and returns how many characters they took.
func faulty(t *testing.T, proto int, c card, f *serialtest.Fault) (toDevice, toHost int) {
	e := newReader(t, emu.Options{}, c)
	p := serialtest.Plug(e)
	defer func() { p.Unplug() }()
	what := "no fault"
	unseen := false // nothing tells the driver of the fault
	if f != nil {
		what = fmt.Sprintf("T=%d, %+v", proto, *f)
		p.Inject(*f)
		unseen = proto == 0 && (f.Kind == serialtest.Change || f.Kind == serialtest.Double || f.Kind == serialtest.Noise)
	}
	check := func(err error) {
		t.Helper()
		known := errors.Is(err, reader.ErrProtocol) || errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrGone) || errors.Is(err, reader.ErrStale) || errors.Is(err, reader.ErrMute)
		known = known || f != nil && f.Kind == serialtest.Change && errors.Is(err, reader.ErrNoCard) // says the status, or the code
		if err != nil && (!known || !strings.Contains(err.Error(), "smartboard /dev/ttyS0: ") && !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrTimeout)) {
			t.Errorf("%s: %v", what, err)
		}
		if gone := f != nil && f.Kind == serialtest.HangUp; err != nil && gone != errors.Is(err, reader.ErrGone) {
			t.Errorf("%s: %v", what, err)
		}
	}
	run := func(s reader.Slot, n byte, doubt bool) error {
		if _, err := s.Status(t.Context()); err != nil {
			return err
		}
		l := newLink(s)
		if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
			return err
		}
		before := e.Contact.APDUs()
		got, err := l.Transmit(t.Context(), []byte{0x80, 0xE2, 0, n, n}, nil)
		if seen := e.Contact.APDUs() - before; seen > 1 || err == nil && !doubt && seen != 1 {
			t.Errorf("%s: the card saw the command %d times, %v", what, seen, err)
		}
		if err == nil && !doubt && !bytes.Equal(got, append(pattern(int(n)), 0x90, 0)) {
			t.Errorf("%s: % X", what, got)
		}
		return err
	}
	began := time.Now()
	r, err := Driver{}.Open(t.Context(), device(p))
	if err == nil {
		defer func() { r.Close() }()
		err = run(r.Slots()[0], 10, unseen)
	}
	if err != nil && f == nil {
		t.Fatal(err)
	}
	check(err)
	if d := time.Since(began); d > 40*time.Second {
		t.Errorf("%s: it took %v", what, d)
	}
	toDevice, toHost = p.Sent()
	again := r == nil || f != nil && f.Kind >= serialtest.Silence
	if again { // another line
		if r != nil {
			r.Close()
		}
		p.Unplug()
		p = serialtest.Plug(e)
		if r, err = (Driver{}).Open(t.Context(), device(p)); err != nil {
			t.Fatalf("%s: opened again: %v", what, err)
		}
	}
	if unseen { // what was left of it at the reader breaks the next command
		r.Slots()[0].Status(t.Context())
	}
	if err := run(r.Slots()[0], 12, false); err != nil {
		t.Errorf("%s: afterwards: %v", what, err)
	}
	return toDevice, toHost
}

// A command whose beginning alone arrived is not completed by what the host sends next: it may be a PIN. The reader
// hears a break, and nothing else before it.
func TestBrokenCommand(t *testing.T) {
	for at := range 11 {
		synctest.Test(t, func(t *testing.T) {
			e, p, s := connected(t, emu.Options{}, t0)
			sent, _ := p.Sent()
			p.Inject(serialtest.Fault{At: sent + at, Kind: serialtest.Lose})
			var log serialtest.Log
			p.Observe(log.Add)
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 20 00 01 04 31 32 33"), Wait: time.Second}, nil); !errors.Is(err, reader.ErrTimeout) {
				t.Error(err)
			}
			if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
				t.Errorf("status %v, %v", st, err)
			}
			if n := e.Contact.APDUs(); n != 0 {
				t.Errorf("the card saw %d commands", n)
			}
			if got := log.Session()[1].String(); got != "host -" {
				t.Errorf("behind the command: %s", got)
			}
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); !errors.Is(err, reader.ErrStale) {
				t.Errorf("exchange after the reader was started again: %v", err)
			}
		})
	}
}

// An answer that comes too late is not taken for that of the next command, whoever gave up, and whatever comes next.
func TestLate(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		for _, cancelled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				c := t0
				e, _, s := connected(t, emu.Options{Quiet: quiet}, c)
				e.Contact.SetFaults(icc.Faults{Slow: 1800 * time.Millisecond})
				x := reader.Transfer{Out: unhex("80 E2 00 05 05"), Wait: time.Second}
				ctx, want := t.Context(), reader.ErrTimeout
				if cancelled {
					some, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					ctx, want, x.Wait = some, context.DeadlineExceeded, time.Minute
				}
				if _, err := s.Exchange(ctx, x, nil); !errors.Is(err, want) {
					t.Fatal(err)
				}
				e.Contact.SetFaults(icc.Faults{})
				got, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil)
				if quiet { // nothing showed that the reader had the command
					if !errors.Is(err, reader.ErrStale) {
						t.Errorf("% X, %v", got, err)
					}
					connect(t, s)
					got, err = s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil)
				}
				if err != nil || !bytes.Equal(got, response) {
					t.Errorf("quiet %v, cancelled %v: % X, %v", quiet, cancelled, got, err)
				}
				if n := e.Contact.APDUs(); n != 2 {
					t.Errorf("the card saw %d commands", n)
				}
			})
		}
	}
}

// "What was wrong with one status" costs the card nothing: it keeps its power, and the session goes on.
func TestStatusFails(t *testing.T) {
	for _, toHost := range []bool{false, true} {
		for at := range 3 {
			for _, f := range serialtest.Menu(toHost, at) {
				if f.Kind >= serialtest.Silence || f.Kind == serialtest.Change || !toHost && at == 1 && (f.Kind == serialtest.Lose || f.Kind == serialtest.Noise) {
					continue // of the last two the reader takes another length, and waits for a break
				}
				synctest.Test(t, func(t *testing.T) {
					_, p, s := connected(t, emu.Options{}, t0)
					out, in := p.Sent()
					if f.At = out + at; toHost {
						f.At = in + at
					}
					p.Inject(f)
					s.Status(t.Context())
					if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
						t.Errorf("%v: status %v, %v", f, st, err)
					}
					if got, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); err != nil || !bytes.Equal(got, response) {
						t.Errorf("%v: % X, %v", f, got, err)
					}
				})
			}
		}
	}
}

// A keyboard that was switched off and on has to be started again, and its card was reset.
func TestSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, s := connected(t, emu.Options{}, t0)
		e.Switch(false)
		for range 3 {
			began := time.Now()
			if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) || time.Since(began) > 6*time.Second {
				t.Errorf("status of a keyboard without power: %v after %v", err, time.Since(began))
			}
		}
		e.Switch(true)
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); !errors.Is(err, reader.ErrStale) {
			t.Errorf("exchange with a card that has lost its power: %v", err)
		}
		connect(t, s)
		if got, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); err != nil || !bytes.Equal(got, response) {
			t.Errorf("% X, %v", got, err)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card saw %d commands", n)
		}
	})
}

// The port leaves, or the caller gives up, while the driver waits for a line that was damaged to be quiet.
func TestHushEnds(t *testing.T) {
	for _, gone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode)
				if !l.Read(make([]byte, 3)) {
					return
				}
				for { // noise without an end
					if _, ok := l.NextWithin(10 * time.Millisecond); !ok {
						return
					}
					l.Send(0xAA)
				}
			}))
			defer p.Unplug()
			synctest.Wait()
			port, err := p.OpenSerial(t.Context(), mode)
			if err != nil {
				t.Fatal(err)
			}
			s := &slot{name: "smartboard /dev/ttyS0", powered: true}
			s.Port, s.trouble = port, late
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			want := context.DeadlineExceeded
			if gone {
				want = reader.ErrGone
				time.AfterFunc(time.Second/2, p.Unplug)
			}
			began := time.Now()
			if _, err := s.Status(ctx); !errors.Is(err, want) || time.Since(began) > time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	}
	// Noise without an end ends all the same.
	synctest.Test(t, func(t *testing.T) {
		s, p := slotWith()
		s.trouble = late
		s.Port = &noise{scripted: p}
		began := time.Now()
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrProtocol) || time.Since(began) > 30*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// noise is a port on which characters come without an end, one in 10 ms.
type noise struct{ *scripted }

func (n *noise) Read(_ context.Context, p []byte, _ time.Duration) (int, error) {
	time.Sleep(10 * time.Millisecond)
	p[0] = 0xAA
	return 1, nil
}

// "The line: 115200 8E2, input parity checked": a character with wrong parity makes the whole answer wrong. What is not
// damaged comes through the next time: the reader had the command, and is not started again.
func TestParity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := connected(t, emu.Options{}, t0)
		if m := p.Line().HostMode(); m.String() != "115200 8E2 check" {
			t.Error(m)
		}
		_, in := p.Sent()
		p.Inject(serialtest.Fault{ToHost: true, At: in + 5, Kind: serialtest.Parity})
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); !errors.Is(err, serial.ErrParity) {
			t.Error(err)
		}
		if got, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Second}, nil); err != nil || !bytes.Equal(got, response) {
			t.Errorf("% X, %v", got, err)
		}
	})
}

// "1000 ms for each of the two reads": the rest of a frame has this time as a whole, and not each character.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
			l.SetMode(mode)
			if !l.Read(make([]byte, 8)) {
				return
			}
			for _, c := range unhex("00 05 64 AA BB 90 00") {
				if _, ok := l.NextWithin(400 * time.Millisecond); !ok {
					return
				}
				l.Send(c)
			}
			l.Char()
		}))
		defer p.Unplug()
		synctest.Wait()
		port, err := p.OpenSerial(t.Context(), mode)
		if err != nil {
			t.Fatal(err)
		}
		s := &slot{name: "smartboard /dev/ttyS0", powered: true}
		s.Port = port
		began := time.Now()
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Wait: time.Minute}, nil); !errors.Is(err, reader.ErrTimeout) || time.Since(began) != 1400*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
