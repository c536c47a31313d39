package usbtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ usbip.Device = (*Port)(nil)
	_ T            = (testing.TB)(nil)
)

var ctx = context.Background()

// mirror is a device that returns what it receives: endpoint 02 to 81, and request 01 to
// request 02. Its interrupt endpoint 83 counts the requests 03.
type mirror struct {
	*Device
	stored  []byte
	news    byte
	resets  int
	configs int
	offs    int
}

var mirrorDescriptors = []byte{
	18, 1, 0x00, 0x02, 0, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 0, 1,
	9, 2, 39 + 9, 0, 2, 1, 0, 0x80, 50,
	9, 4, 0, 0, 3, 0xFF, 0, 0, 0,
	7, 5, 0x02, 2, 64, 0, 0,
	7, 5, 0x81, 2, 64, 0, 0,
	7, 5, 0x83, 3, 8, 0, 10,
	9, 4, 1, 0, 0, 0xFF, 0, 0, 0,
}

func newMirror() *mirror {
	m := &mirror{}
	m.Device = New(Model{
		Descriptors: mirrorDescriptors,
		Strings:     []string{"cardfs", "mirror"},
		Control: func(ctx context.Context, s usb.Setup, data []byte) (int, error) {
			switch {
			case s.RequestType == 0x40 && s.Request == 1:
				m.stored = append([]byte(nil), data...)
				return len(data), nil
			case s.RequestType == 0xC0 && s.Request == 2 && m.stored == nil:
				return 0, ErrNAK
			case s.RequestType == 0xC0 && s.Request == 2:
				return copy(data, m.stored), nil
			case s.RequestType == 0x40 && s.Request == 3:
				m.news++
				m.Wake()
				return 0, nil
			case s.RequestType == 0xC0 && s.Request == 4: // as long as a card needs
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return 0, usb.ErrStall
		},
		Out: func(ep uint8, p []byte) { m.Send(0x81, p) },
		In: func(ep uint8) ([]byte, bool) {
			if ep != 0x83 || m.news == 0 {
				return nil, false
			}
			n := m.news
			m.news = 0
			return []byte{n}, true
		},
		Configured: func() { m.configs++ },
		Reset:      func() { m.resets++ },
		Unplugged:  func() { m.offs++; m.stored = nil },
	})
	return m
}

func claim(t *testing.T, p *Port, iface uint8) usb.Conn {
	t.Helper()
	c, err := p.OpenUSB(ctx, iface)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (c *complaints) Helper()                     {}
func (c *complaints) Failed() bool                { return len(c.list) > 0 }
func (c *complaints) Cleanup(f func())            { c.cleanups = append(c.cleanups, f) }
func (c *complaints) Errorf(f string, arg ...any) { c.list = append(c.list, fmt.Sprintf(f, arg...)) }
func (c *complaints) end() {
	for _, f := range c.cleanups {
		f()
	}
}

// One device can be plugged in and out any number of times. Each time it has lost its state,
// and nothing from before continues.
func TestPlugAndReplug(t *testing.T) {
	m := newMirror()
	before := m.Plug()
	c := claim(t, before, 0)
	c.Control(ctx, usb.Setup{RequestType: 0x40, Request: 1}, []byte{1}, time.Second)
	m.Send(0x81, []byte("stale"))
	worked := make(chan struct{})
	m.Go(func() { <-m.Context().Done(); close(worked) })
	read := make(chan error)
	go func() { _, err := c.In(ctx, 0x83, make([]byte, 8), 0); read <- err }()
	now := m.Plug()
	if err := <-read; !errors.Is(err, reader.ErrGone) {
		t.Error(err)
	}
	<-worked
	<-before.Gone()
	if _, err := c.Out(ctx, 2, nil, false, 0); !errors.Is(err, reader.ErrGone) {
		t.Error(err)
	}
	if _, err := before.OpenUSB(ctx, 0); !errors.Is(err, reader.ErrGone) {
		t.Error(err)
	}
	before.Unplug() // it is not there any more
	c = claim(t, now, 0)
	if n, err := c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: 2}, make([]byte, 8), time.Millisecond); n != 0 || !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := c.In(ctx, 0x81, make([]byte, 8), time.Millisecond); n != 0 || !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("%d, %v", n, err)
	}
	now.Unplug()
	m.Unplug()
	m.Go(func() { t.Error("works without power") })
	if m.configs != 2 || m.offs != 2 || m.Context().Err() == nil {
		t.Errorf("taken up %d times, lost its power %d times", m.configs, m.offs)
	}
}

// An interface can be claimed once. Close ends its transfers, and the device stays.
func TestClaim(t *testing.T) {
	m := newMirror()
	port := m.Plug()
	defer m.Unplug()
	c := claim(t, port, 0)
	claim(t, port, 1)
	if _, err := port.OpenUSB(ctx, 0); !errors.Is(err, reader.ErrClaimed) {
		t.Error(err)
	}
	if _, err := port.OpenUSB(ctx, 2); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
	other := claim(t, m.Plug(), 1)
	if _, err := other.In(ctx, 0x81, nil, 0); !errors.Is(err, usb.ErrNoEndpoint) {
		t.Error(err)
	}
	c = claim(t, m.port, 0)
	ended := make(chan error, 3)
	go func() { _, err := c.In(ctx, 0x81, make([]byte, 8), 0); ended <- err }()
	for _, request := range []uint8{2, 4} { // one waits behind the other, or for the device
		go func() {
			_, err := c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: request}, make([]byte, 8), 0)
			ended <- err
		}()
	}
	c.Close()
	for range 3 {
		if err := <-ended; !errors.Is(err, reader.ErrGone) {
			t.Error(err)
		}
	}
	if c.Close() != nil || m.Context().Err() != nil {
		t.Error("the device left")
	}
	claim(t, m.port, 0)
}

// usb.Conn: each transfer ends with ctx (ctx.Err()), after timeout (ErrTimeout).
func TestTransfersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		c := claim(t, m.Plug(), 0)
		m.Hold(2, true)
		for name, do := range map[string]func(ctx context.Context, d time.Duration) (int, error){
			"IN": func(ctx context.Context, d time.Duration) (int, error) { return c.In(ctx, 0x81, make([]byte, 8), d) },
			"OUT": func(ctx context.Context, d time.Duration) (int, error) {
				return c.Out(ctx, 2, make([]byte, 8), false, d)
			},
			"no answer": func(ctx context.Context, d time.Duration) (int, error) {
				return c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: 2}, make([]byte, 8), d)
			},
			"busy": func(ctx context.Context, d time.Duration) (int, error) {
				return c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: 4}, make([]byte, 8), d)
			},
		} {
			start := time.Now()
			if n, err := do(ctx, time.Minute); n != 0 || !errors.Is(err, usb.ErrTimeout) || time.Since(start) != time.Minute {
				t.Errorf("%s: %d, %v after %v", name, n, err, time.Since(start))
			}
			short, cancel := context.WithTimeout(ctx, time.Second)
			if n, err := do(short, time.Minute); n != 0 || err != context.DeadlineExceeded {
				t.Errorf("%s: %d, %v", name, n, err)
			}
			if n, err := do(short, time.Minute); n != 0 || err != context.DeadlineExceeded {
				t.Errorf("%s, too late: %d, %v", name, n, err)
			}
			cancel()
		}
		m.Hold(2, false)
		if n, err := c.Out(ctx, 2, []byte{1}, false, time.Second); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		go c.Reset(ctx)
		for range 2 { // the transfer sent before may come first
			_, err := c.In(ctx, 0x81, make([]byte, 8), time.Minute)
			if errors.Is(err, usb.ErrReset) {
				break
			}
		}
		synctest.Wait()
		if m.resets != 1 {
			t.Error("the device was not reset")
		}
		m.Unplug()
	})
}

// What the list of faults promises, for each kind of transfer.
func TestFaults(t *testing.T) {
	const in, out, ctlIn, ctlOut = "IN 81", "OUT 02", "IN C0 02", "OUT 40 01"
	for _, tt := range []struct {
		fault Fault
		n     int
		err   error
		done  bool // the device got what was sent, or gave what it had
	}{
		{Fault{Kind: Stalled, On: in}, 0, usb.ErrStall, false},
		{Fault{Kind: Stalled, When: During, On: in}, 2, usb.ErrStall, true},
		{Fault{Kind: Stalled, When: After, On: in}, 0, usb.ErrStall, true},
		{Fault{Kind: Silent, On: in}, 0, usb.ErrTimeout, false},
		{Fault{Kind: Silent, When: After, On: in}, 0, usb.ErrTimeout, true},
		{Fault{Kind: Unplugged, On: in}, 0, reader.ErrGone, false},
		{Fault{Kind: Unplugged, When: During, On: in}, 2, reader.ErrGone, true},
		{Fault{Kind: Dead, On: in}, 0, usb.ErrTimeout, false},
		{Fault{Kind: Noise, On: in}, 0, usb.ErrBus, false},
		{Fault{Kind: Short, On: in}, 0, nil, true},
		{Fault{Kind: Short, N: 9, On: in}, 3, nil, true},
		{Fault{Kind: Long, On: in}, 5, nil, true},
		{Fault{Kind: Long, N: 5, On: in}, 0, usb.ErrOverflow, true},
		{Fault{Kind: Garbage, On: in}, 4, nil, true},
		{Fault{Kind: Late, Delay: time.Minute, On: in}, 0, usb.ErrTimeout, true},
		{Fault{Kind: Late, Delay: time.Millisecond, On: in}, 4, nil, true},
		{Fault{Kind: Stalled, On: out}, 0, usb.ErrStall, false},
		{Fault{Kind: Stalled, When: During, On: out}, 2, usb.ErrStall, false},
		{Fault{Kind: Stalled, When: After, On: out}, 0, usb.ErrStall, true},
		{Fault{Kind: Short, N: 1, On: out}, 1, nil, true},
		{Fault{Kind: Long, On: out}, 4, nil, true}, // not a fault of this direction
		{Fault{Kind: Silent, When: After, On: ctlOut}, 0, usb.ErrTimeout, true},
		{Fault{Kind: Stalled, On: ctlOut}, 0, usb.ErrStall, false},
		{Fault{Kind: Short, N: 2, On: ctlOut}, 2, nil, false},
		{Fault{Kind: Dead, When: After, On: ctlOut}, 0, usb.ErrTimeout, true},
		{Fault{Kind: Stalled, When: After, On: ctlIn}, 0, usb.ErrStall, true},
		{Fault{Kind: Garbage, On: ctlIn}, 4, nil, true},
		{Fault{Kind: Unplugged, When: During, On: ctlIn}, 2, reader.ErrGone, true},
	} {
		t.Run(fmt.Sprint(tt.fault, tt.fault.N, tt.fault.Delay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMirror()
				c := claim(t, m.Plug(), 0)
				defer m.Unplug()
				var log Log
				m.Observe(log.Add)
				data := []byte{1, 2, 3, 4}
				room := make([]byte, 8)
				m.Send(0x81, data)
				m.stored = data
				do := map[string]func() (int, error){
					in:  func() (int, error) { return c.In(ctx, 0x81, room, time.Second) },
					out: func() (int, error) { return c.Out(ctx, 2, append(data, 5)[:4], false, time.Second) },
					ctlIn: func() (int, error) {
						return c.Control(ctx, usb.Setup{RequestType: 0xC0, Request: 2}, room, time.Second)
					},
					ctlOut: func() (int, error) {
						m.stored = nil
						return c.Control(ctx, usb.Setup{RequestType: 0x40, Request: 1}, data, time.Second)
					},
				}[tt.fault.On]
				fault := tt.fault
				fault.Skip = 1
				m.Inject(fault)
				m.befalls(Line{Kind: Transfer, In: true, Control: true, Setup: usb.Setup{RequestType: 0x80}}) // none of a standard request
				if fault.Kind != Long || fault.On == in {
					if f := m.befalls(parse(t, lineOf(tt.fault.On))[0]); f != nil || m.faults[0].Skip != 0 {
						t.Fatal("skips none")
					}
				}
				n, err := do()
				if n != tt.n || !errors.Is(err, tt.err) {
					t.Errorf("%d, %v; want %d, %v", n, err, tt.n, tt.err)
				}
				m.mu.Lock()
				e := m.at(0x81)
				queued := len(e.queue) - e.first
				m.mu.Unlock()
				done := map[string]bool{in: queued == 0, out: queued == 2, ctlIn: tt.done, ctlOut: len(m.stored) == 4}[tt.fault.On]
				if done != tt.done {
					t.Errorf("done: %v, want %v", done, tt.done)
				}
				if fault.Kind == Stalled && !strings.Contains(fault.On, " C0") && !strings.Contains(fault.On, " 40") {
					if _, err := do(); !errors.Is(err, usb.ErrStall) {
						t.Errorf("%v, though the endpoint is halted", err)
					}
				}
				if s := log.Session(); len(s) == 0 {
					t.Error("nothing was written down")
				} else if l := slices.IndexFunc(s, func(l Line) bool { return l.Kind == Transfer }); l < 0 || (s[l].Err == nil) != (tt.err == nil) || s[l].In && len(s[l].Data) != tt.n {
					t.Errorf("log: %v", s)
				}
				m.Heal()
				if tt.fault.Kind != Unplugged {
					c.ClearHalt(ctx, 0x81)
					c.ClearHalt(ctx, 2)
					if n, err := c.Out(ctx, 2, data, false, time.Second); n != 4 || err != nil {
						t.Errorf("afterwards: %d, %v", n, err)
					}
				}
			})
		})
	}
}

// lineOf completes the beginning of a line.
func lineOf(on string) string {
	switch {
	case strings.HasPrefix(on, "IN C0"):
		return on + " 0000 0000 0008"
	case strings.HasPrefix(on, "OUT 40"):
		return on + " 0000 0000 0000"
	}
	return on
}

// A dead device answers nothing until its port is reset; a device that is dead for good
// never does.
func TestDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		c := claim(t, m.Plug(), 0)
		defer m.Unplug()
		status := func() error {
			_, err := c.Control(ctx, usb.Setup{RequestType: 0x40, Request: 1}, []byte{1}, time.Second)
			return err
		}
		m.Die(false)
		if _, err := c.Control(ctx, usb.Setup{RequestType: 0x80}, make([]byte, 2), time.Second); err != nil {
			t.Errorf("a standard request: %v", err)
		}
		if err := status(); !errors.Is(err, usb.ErrTimeout) {
			t.Error(err)
		}
		if n, err := c.Out(ctx, 2, []byte{1}, false, 0); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		c.Reset(ctx)
		if err := status(); err != nil {
			t.Error(err)
		}
		m.Die(true)
		c.Reset(ctx)
		if err := status(); !errors.Is(err, usb.ErrTimeout) {
			t.Error(err)
		}
		m.Heal()
		if err := status(); err != nil {
			t.Error(err)
		}
	})
}

// Each fault of the list has a name of its own.
func TestMenu(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Menu() {
		name := fmt.Sprint(f, f.N, f.Delay)
		if seen[name] {
			t.Error(name)
		}
		seen[name] = true
	}
	if len(seen) != 5*3+8 {
		t.Error(len(seen))
	}
}

// "Late: the transfer ends after Delay. A host that gave it up before has lost what was moved."
// That holds where nothing was moved, too: the transfer ends with its time-out.
func TestLateAndNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		c := claim(t, m.Plug(), 0)
		defer m.Unplug()
		m.Inject(Fault{Kind: Late, Delay: time.Hour})
		start := time.Now()
		if _, err := c.In(ctx, 0x81, make([]byte, 8), time.Second); !errors.Is(err, usb.ErrTimeout) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
