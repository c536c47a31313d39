package probe_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/probe"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/towitoko"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

var mode = serial.Mode{Baud: 9600, Frame: serial.Frame8E1}

var _ icc.Card = (*spy)(nil)

// spy is a card that counts what is done to it.
type spy struct{ resets, commands atomic.Int32 }

func (*spy) ATR() []byte             { return []byte{0x3B, 0x02, 0x14, 0x50} }
func (s *spy) Reset(bool)            { s.resets.Add(1) }
func (s *spy) Process([]byte) []byte { s.commands.Add(1); return []byte{0x90, 0x00} }

// touched reports what was done to the card.
func (s *spy) touched() string {
	if r, c := s.resets.Load(), s.commands.Load(); r > 0 || c > 0 {
		return fmt.Sprintf("%d resets, %d commands", r, c)
	}
	return ""
}

// ask has the drivers probe a device in memory, and returns what they said, and the
// session as far as it is the host's.
func ask(t *testing.T, d serialtest.Device, all []reader.Driver) (probe.Found, []serialtest.Entry, error) {
	t.Helper()
	plugged := serialtest.Plug(d)
	defer plugged.Unplug()
	synctest.Wait()
	var session []serialtest.Entry
	plugged.Observe(func(e serialtest.Entry) {
		e.Data = slices.Clone(e.Data)
		session = append(session, e)
	})
	port, err := plugged.OpenSerial(t.Context(), mode)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	found, err := probe.Ask(t.Context(), port, "/dev/tty", all, func(driver string, err error) { t.Logf("%v: %s: %v", time.Since(began), driver, err) })
	t.Logf("%v: %+v, %v", time.Since(began), found, err)
	port.Close()
	synctest.Wait() // the device notices, and may switch its lines
	return found, session, err
}

// serialEmulators are the emulated readers on serial lines.
func serialEmulators() []emulators.Emulator {
	return slices.DeleteFunc(emulators.All(), func(e emulators.Emulator) bool {
		_, serial := e.New("").(emulators.Serial)
		return !serial
	})
}

// want is what is found at an emulator, but for parameters. "" stands for nothing: its
// driver is no Prober.
func want(e emulators.Emulator) string {
	driver := e.Driver(nil)
	if _, ok := driver.(reader.Prober); !ok {
		return ""
	}
	return "attach " + driver.Name() + " /dev/tty"
}

// Each emulated reader is found, with what `attach` needs for it, and its card is left in
// peace.
func TestFinds(t *testing.T) {
	for _, e := range serialEmulators() {
		t.Run(e.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := e.New("").(emulators.Serial)
				card := &spy{}
				if err := d.Contacts()[0].Insert(card); err != nil {
					t.Fatal(err)
				}
				found, _, err := ask(t, d, drivers.All(drivers.Env{}))
				line := ""
				if err == nil {
					line = found.Attach()
				}
				if before, _, _ := strings.Cut(strings.Replace(line, " type=", " model=", 1), " model="); before != want(e) {
					t.Errorf("%q, %v; want %q", line, err, want(e))
				}
				if what := card.touched(); what != "" && !isBare(e) {
					t.Errorf("the card: %s", what)
				}
			})
		})
	}
}

// alone are the drivers that ask if one is to. What is for a card without a reader asks only
// when another has found that the line repeats its question.
func alone(d reader.Driver) []reader.Driver {
	if d.Name() == "smph" {
		return []reader.Driver{towitoko.Driver{}, d}
	}
	return []reader.Driver{d}
}

// isBare: the lines of the port are the card's, and opening it alone may give it power.
func isBare(e emulators.Emulator) bool { return e.Driver(nil).Name() == "smph" }

// "It has no effect on a reader that takes it, and none on a card." Each driver alone asks
// each reader, and finds none but its own.
func TestHarmless(t *testing.T) {
	for _, driver := range drivers.All(drivers.Env{}) {
		if _, ok := driver.(reader.Prober); !ok {
			continue
		}
		for _, e := range serialEmulators() {
			t.Run(driver.Name()+" asks "+e.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := e.New("").(emulators.Serial)
					card := &spy{}
					if err := d.Contacts()[0].Insert(card); err != nil {
						t.Fatal(err)
					}
					found, _, err := ask(t, d, alone(driver))
					if own := e.Driver(nil).Name() == driver.Name(); own != (found.Driver == driver.Name()) {
						t.Errorf("%+v, %v", found, err)
					}
					if what := card.touched(); what != "" && !isBare(e) {
						t.Errorf("the card: %s", what)
					}
				})
			})
		}
	}
}

// A reader that was asked works as before: its driver opens it at once.
func TestLeavesReader(t *testing.T) {
	for _, e := range serialEmulators() {
		driver := e.Driver(nil)
		if _, ok := driver.(reader.Prober); !ok {
			continue
		}
		t.Run(e.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := e.New("").(emulators.Serial)
				if err := d.Contacts()[0].Insert(&spy{}); err != nil {
					t.Fatal(err)
				}
				plugged := serialtest.Plug(d)
				defer plugged.Unplug()
				port, err := plugged.OpenSerial(t.Context(), mode)
				if err != nil {
					t.Fatal(err)
				}
				found, err := probe.Ask(t.Context(), port, "/dev/tty", alone(driver), nil)
				if err != nil {
					t.Fatal(err)
				}
				port.Close()
				r, err := driver.Open(t.Context(), reader.Device{Driver: driver.Name(), Params: found.Params, Link: plugged})
				if err != nil {
					t.Fatal(err)
				}
				if atr, err := r.Slots()[0].PowerOn(t.Context(), reader.Cold); err != nil || len(atr) != 4 {
					t.Errorf("ATR of %d bytes, %v", len(atr), err)
				}
				r.Close()
			})
		})
	}
}

// What a device does that is none: with each of these the search ends, soon, and says why.
func TestStrangers(t *testing.T) {
	silent := func(l *serialtest.Line) {
		for {
			if _, ok := l.Next(); !ok {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		device serialtest.DeviceFunc
		want   error
		most   time.Duration
		sent   int // at most so many characters
	}{
		"silent": {silent, probe.ErrNothing, 40 * time.Second, 100},
		"echo": {func(l *serialtest.Line) {
			l.SetMode(serial.Mode{Frame: serial.Frame8N1})
			for {
				c, ok := l.Char()
				if !ok {
					return
				}
				l.Send(c)
			}
		}, probe.ErrEcho, 20 * time.Second, 4},
		"endless": {func(l *serialtest.Line) {
			for l.Context().Err() == nil {
				l.Send(0x24)
				time.Sleep(time.Millisecond)
			}
		}, probe.ErrNoise, 6 * time.Second, 0},
		"endless once asked": {func(l *serialtest.Line) {
			if _, ok := l.Char(); !ok {
				return
			}
			for l.Context().Err() == nil {
				l.Send(0x21, 0xE0, 0x00, 0x24)
				time.Sleep(100 * time.Microsecond)
			}
		}, probe.ErrNoise, 30 * time.Second, 4},
		"garbage": {func(l *serialtest.Line) {
			for i := byte(1); ; i++ {
				c, ok := l.Char()
				if !ok {
					return
				}
				l.Send(c^i*37, i, 0xFF)
			}
		}, probe.ErrNothing, 60 * time.Second, 100},
		"card": {func(l *serialtest.Line) {
			for {
				e, ok := l.Next()
				if !ok {
					return
				}
				if e.Kind == serialtest.LinesChange && e.Lines&serial.DTR != 0 {
					l.SetMode(mode)
					l.Send(0x3B, 0x02, 0x14, 0x50)
				}
			}
		}, probe.ErrCard, 10 * time.Second, 0},
		"inverse card": {func(l *serialtest.Line) {
			for {
				e, ok := l.Next()
				if !ok {
					return
				}
				if e.Kind == serialtest.LinesChange && e.Lines&serial.DTR != 0 {
					l.Send(0x03, 0xBF, 0xD7, 0xF5) // 3F 02 14 50
				}
			}
		}, probe.ErrCard, 10 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, all := time.Now(), drivers.All(drivers.Env{})
				if strings.HasSuffix(name, "card") { // smph finds them
					all = slices.DeleteFunc(all, func(d reader.Driver) bool { return d.Name() == "smph" })
				}
				found, session, err := ask(t, c.device, all)
				if !errors.Is(err, c.want) {
					t.Errorf("%+v, %v; want %v", found, err, c.want)
				}
				if d := time.Since(began); d > c.most {
					t.Errorf("took %v", d)
				}
				n := 0
				for _, e := range session {
					if e.Kind == serialtest.Out {
						n += len(e.Data)
					}
				}
				if n > c.sent {
					t.Errorf("%d characters sent, %d are the most", n, c.sent)
				}
			})
		})
	}
}

// "Lines are switched, and breaks sent, only by a driver that asks late", and the port is
// quiet for longer than any reader waits for a character between two questions.
func TestBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last time.Time
		lines := 0
		_, session, err := ask(t, serialtest.DeviceFunc(func(l *serialtest.Line) {
			for {
				e, ok := l.Next()
				switch now := time.Now(); {
				case !ok:
					return
				case e.Kind == serialtest.LinesChange:
					lines++
				case e.Kind == serialtest.Char:
					if gap := now.Sub(last); gap > 0 && gap < 1100*time.Millisecond && !last.IsZero() {
						t.Errorf("a question %v behind the one before", gap)
					}
					last = now
				}
			}
		}), drivers.All(drivers.Env{}))
		if !errors.Is(err, probe.ErrNothing) {
			t.Error(err)
		}
		asked := false
		for _, e := range session {
			switch e.Kind {
			case serialtest.Out:
				asked = true
			case serialtest.SetMode, serialtest.Flush:
			default:
				t.Logf("%+v after a question: %v", e, asked)
			}
		}
	})
}

// A search ends with its context, whatever it waits for.
func TestEnds(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 7 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plugged := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) { <-l.Context().Done() }))
				defer plugged.Unplug()
				port, err := plugged.OpenSerial(t.Context(), mode)
				if err != nil {
					t.Fatal(err)
				}
				defer port.Close()
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(after, cancel)
				began := time.Now()
				_, err = probe.Ask(ctx, port, "/dev/tty", drivers.All(drivers.Env{}), nil)
				if !errors.Is(err, context.Canceled) || time.Since(began) > after {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// A port that leaves ends it too.
func TestLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plugged := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
			l.Char()
			l.Drop()
		}))
		defer plugged.Unplug()
		port, err := plugged.OpenSerial(t.Context(), mode)
		if err != nil {
			t.Fatal(err)
		}
		defer port.Close()
		if _, err = probe.Ask(t.Context(), port, "/dev/tty", drivers.All(drivers.Env{}), nil); !errors.Is(err, reader.ErrGone) {
			t.Error(err)
		}
	})
}
