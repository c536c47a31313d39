package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

func nodeDevice(link reader.Link) reader.Device {
	return reader.Device{Driver: "ccid", Address: "/dev/cmx0", Link: link}
}

func newNode(t *testing.T, make func() *emu.Node, atr []byte) (*emu.Node, *testCard) {
	t.Helper()
	e, card := make(), &testCard{atr: atr}
	if err := e.Contact(0).Insert(card); err != nil {
		t.Fatal(err)
	}
	return e, card
}

// nodeBench is a reader with a device file behind the core, as programs see it.
func nodeBench(t *testing.T, link reader.Link) *core.Manager {
	t.Helper()
	m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
	if err := m.Announce(nodeDevice(link)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(context.Background()) })
	return m
}

func nodeSession(t *testing.T, m *core.Manager) *core.Session {
	t.Helper()
	s, err := nodeSlot(m).Open(ctx, core.Caller{Owner: t, Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var nodes = map[string]func() *emu.Node{"cm4040": emu.NewCM4040, "scr243": emu.NewSCR243, "cm4040 without Abort": func() *emu.Node {
	e := emu.NewCM4040()
	e.NoAbort = true
	return e
}}

// What the core relies on.
func TestNodeSuite(t *testing.T) {
	for name, make := range nodes {
		for _, atr := range [][]byte{atrT0, atrT1} {
			if (atr[1] == 0x02) != (name == "cm4040") {
				continue
			}
			t.Run(fmt.Sprintf("%s/%X", name, atr[1]), func(t *testing.T) {
				readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
					e, _ := newNode(t, make, atr)
					p := chardevtest.Plug(e)
					dev := nodeDevice(p)
					dev.Params = map[string]string{"model": name[:6]}
					return &readertest.Fixture{
						Driver: Driver{}, Device: dev,
						Command: unhex("00 84 00 00 04"), Answer: unhex("00 01 02 03 90 00"),
						Slots:  []readertest.Slot{readertest.Contact(e.Contact(0), false)},
						Unplug: p.Unplug, Close: p.Unplug,
					}
				})
			})
		}
	}
}

// Messages of every length arrive whole, each by one write and one read.
func TestNodeExchanges(t *testing.T) {
	for name, make := range nodes {
		for _, atr := range [][]byte{atrT0, atrT0Fast, atrT1, atrT1IFSC, atrT1Fast, atrInverse} {
			if name != "cm4040" && atr[1] != 0x80 {
				continue
			}
			t.Run(fmt.Sprintf("%s/% X", name, atr), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, _ := newNode(t, make, atr)
					p := chardevtest.Plug(e)
					defer p.Unplug()
					m := nodeBench(t, p)
					exercise(t, nodeSession(t, m), 255)
					m.Close(ctx)
				})
			})
		}
	}
}

// The assumed descriptors are ones that the driver need not correct: "TPDU level, T=0 and T=1,
// 5 V, the rate of the ATR".
func TestNodeModels(t *testing.T) {
	for name, m := range nodeModels {
		info, ifs, err := Parse(m.descriptors())
		if err != nil || len(ifs) != 1 || len(ifs[0].Notes) > 0 {
			t.Fatalf("%s: %+v, %v", name, ifs, err)
		}
		i := ifs[0]
		if i.slots() != 1 || i.MaxMessage != 271 || i.Features.Level() != reader.TPDU || i.Protocols != 3 || i.VoltageSupport != 1 ||
			i.PINSupport != 0 || i.Intr.Address != 0 || i.NumDataRates != 0 || i.MaxDataRate != i.DataRate {
			t.Errorf("%s: %+v", name, i)
		}
		f := &function{ifd: &ifd{info: info}, Interface: i}
		for ta1 := range 256 {
			if (&slot{function: f, lane: new(lane)}).Supports(byte(ta1)) != (ta1 == 0x11) {
				t.Errorf("%s: TA1 %02X", name, ta1)
			}
		}
	}
}

func TestNodeAttach(t *testing.T) {
	for _, c := range []struct {
		address, model, want string
	}{
		{"/dev/cmx0", "", "OMNIKEY CardMan 4040"},
		{"/dev/cmx3", "", "OMNIKEY CardMan 4040"},
		{"/dev/scr24x0", "", "SCM SCR243"},
		{"/dev/reader", "cm4040", "OMNIKEY CardMan 4040"},
		{"/dev/cmx0", "scr243", "SCM SCR243"},
		{"/dev/cmx0", "cm4000", ""},
	} {
		dev := reader.Device{Driver: "ccid", Address: c.address, Params: map[string]string{}}
		if c.model != "" {
			dev.Params["model"] = c.model
		}
		got, err := Driver{}.Attach(dev)
		switch {
		case c.want == "" && (!errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "cm4040, scr243")):
			t.Errorf("%+v: %v", c, err)
		case c.want == "":
		case err != nil || got.ID.Model != c.want || got.Bus != "chardev" || got.Slots != 1:
			t.Errorf("%+v: %+v, %v", c, got, err)
		default:
			if _, ok := got.Link.(chardev.Opener); !ok {
				t.Errorf("%+v: no device file", c)
			}
		}
		if d, ok := got.Link.(reader.Detacher); ok {
			d.Detached()
		}
	}
	dev := reader.Device{Address: "/dev/cmx0", Params: map[string]string{"interface": "1"}}
	if _, err := (Driver{}).Attach(dev); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
	// By the name, another file is a serial port.
	for _, address := range []string{"/dev/ttyS0", "/dev/cmx0/ttyS0", "/dev/ttycmx0"} {
		if dev, err := (Driver{}).Attach(reader.Device{Address: address}); err != nil || dev.Bus != "serial" {
			t.Errorf("%+v, %v", dev, err)
		} else {
			dev.Link.(reader.Detacher).Detached()
		}
	}
}

// A user has to learn that nothing is known of the reader: in the log when it is opened, and in
// `status`.
func TestNodeUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := chardevtest.Plug(emu.NewCM4040())
		defer p.Unplug()
		var log bytes.Buffer
		r, err := Driver{Log: slog.New(slog.NewTextHandler(&log, nil))}.Open(ctx, nodeDevice(p))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, unproven) ||
			!strings.Contains(got, `reader="ccid /dev/cmx0"`) {
			t.Errorf("logged %q", got)
		}
		name, more := r.(reader.Identifier).Identify()
		if _, version := more["version"]; name != "OMNIKEY CardMan 4040" || more["unproven"] != unproven || more["level"] != "TPDU" || version {
			t.Errorf("%q %v", name, more)
		}
		// "presence is polled": there is no interrupt endpoint.
		if r.Slots()[0].(*slot).Changes() != nil {
			t.Error("it is not polled")
		}
	})
}

// handled is a device file in the hands of a test.
type handled struct {
	*chardevtest.Plugged
	// on, if not nil, does a call in place of the file, or has it do the call.
	on    func(call string, p []byte, do func(p []byte) (int, error)) (int, error)
	waits []time.Duration
	sizes []int
}

func (f *handled) OpenNode(ctx context.Context) (chardev.Node, error) {
	n, err := f.Plugged.OpenNode(ctx)
	return handledNode{n, f}, err
}

type handledNode struct {
	chardev.Node
	f *handled
}

func (n handledNode) do(call string, p []byte, wait time.Duration, do func(p []byte) (int, error)) (int, error) {
	n.f.waits, n.f.sizes = append(n.f.waits, wait), append(n.f.sizes, len(p))
	if n.f.on == nil {
		return do(p)
	}
	return n.f.on(call, p, do)
}

func (n handledNode) Read(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	return n.do("read", p, wait, func(p []byte) (int, error) { return n.Node.Read(ctx, p, wait) })
}

func (n handledNode) Write(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	return n.do("write", p, wait, func(p []byte) (int, error) { return n.Node.Write(ctx, p, wait) })
}

// What a file may do to one call of an exchange, and what comes of it. "No command is ever sent
// twice to a card, or lost without an error."
func TestNodeCalls(t *testing.T) {
	fail := func(err error) func([]byte, func([]byte) (int, error)) (int, error) {
		return func([]byte, func([]byte) (int, error)) (int, error) { return 0, fmt.Errorf("file: %w", err) }
	}
	for _, c := range []struct {
		name, call string
		times      int
		do         func(p []byte, do func([]byte) (int, error)) (int, error)
		is         error
		seen       int // how often the card may see the command
		took       time.Duration
		writes     int
	}{
		{"write: EAGAIN", "write", 3, fail(syscall.EAGAIN), nil, 1, 30 * time.Millisecond, 4},
		{"write: EAGAIN for ever", "write", 1 << 30, fail(syscall.EAGAIN), reader.ErrGone, 0, 30 * time.Second, -1},
		{"write: EIO", "write", 1, fail(syscall.EIO), reader.ErrTimeout, 0, 2 * time.Second, -1},
		{"write: a part", "write", 1, func(p []byte, do func([]byte) (int, error)) (int, error) { return do(p[:9]) }, reader.ErrProtocol, 0, 2 * time.Second, -1},
		{"write: nothing", "write", 1, func([]byte, func([]byte) (int, error)) (int, error) { return 0, nil }, reader.ErrProtocol, 0, 2 * time.Second, -1},
		{"write: gone", "write", 1, fail(syscall.ENODEV), syscall.ENODEV, 0, 2 * time.Second, -1},
		{"read: EAGAIN", "read", 3, fail(syscall.EAGAIN), nil, 1, 30 * time.Millisecond, 1},
		{"read: EIO at once", "read", 1, fail(syscall.EIO), reader.ErrProtocol, 1, 2 * time.Second, -1},
		{"read: EIO after the kernel's time", "read", 1, func([]byte, func([]byte) (int, error)) (int, error) {
			time.Sleep(2 * time.Second)
			return 0, syscall.EIO
		}, nil, 1, 2 * time.Second, 1},
		{"read: a part of the header", "read", 1, func(p []byte, do func([]byte) (int, error)) (int, error) {
			n, err := do(p)
			return min(n, 9), err
		}, reader.ErrProtocol, 1, 2 * time.Second, -1},
		{"read: a part", "read", 1, func(p []byte, do func([]byte) (int, error)) (int, error) { return do(p[:11]) }, reader.ErrProtocol, 1, 2 * time.Second, -1},
		{"read: nothing", "read", 3, func([]byte, func([]byte) (int, error)) (int, error) { return 0, nil }, nil, 1, 0, 1},
		{"read: garbage", "read", 1, func(p []byte, do func([]byte) (int, error)) (int, error) {
			n, err := do(p)
			for i := range p[:n] {
				p[i] = byte(0xA5 + i)
			}
			return n, err
		}, reader.ErrTimeout, 1, 10 * time.Second, -1},
		{"read: more than is announced", "read", 1, func(p []byte, do func([]byte) (int, error)) (int, error) {
			n, err := do(p)
			return n + 1, err
		}, nil, 1, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, card := newNode(t, emu.NewCM4040, atrT0)
				f := &handled{Plugged: chardevtest.Plug(e)}
				defer f.Unplug()
				r, err := Driver{}.Open(ctx, nodeDevice(f))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				s := r.Slots()[0]
				if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
					t.Fatal(err)
				}
				left, writes := c.times, 0
				f.on = func(call string, p []byte, do func([]byte) (int, error)) (int, error) {
					if call == "write" {
						writes++
					}
					if call == c.call && left > 0 {
						left--
						return c.do(p, do)
					}
					return do(p)
				}
				start := time.Now()
				got, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 20 00 01 04 31 32 33 34")}, nil)
				if !errors.Is(err, c.is) || (err == nil) != bytes.Equal(got, unhex("90 00")) {
					t.Errorf("% X, %v, want %v", got, err, c.is)
				}
				if err != nil && (strings.Contains(err.Error(), "31") || !strings.HasPrefix(err.Error(), "ccid: ")) {
					t.Error(err)
				}
				if took := time.Since(start); took > c.took+time.Second {
					t.Errorf("it took %v", took)
				}
				if n := card.count(); n > c.seen || err == nil && n != 1 {
					t.Errorf("the card saw the command %d times, want %d; %v", n, c.seen, err)
				}
				if c.writes >= 0 && writes != c.writes {
					t.Errorf("%d writes, want %d", writes, c.writes)
				}
				if c.times > 1<<20 {
					<-r.Gone()
					return
				}
				f.on = nil
				got, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 04")}, nil)
				check(t, got, err, unhex("00 01 02 03 90 00"), nil)
			})
		})
	}
}

// One write and one read an exchange. A read asks for what a module has at most, and has the
// time of the command.
func TestNodeCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newNode(t, emu.NewCM4040, atrT0)
		f := &handled{Plugged: chardevtest.Plug(e)}
		defer f.Unplug()
		r, err := Driver{}.Open(ctx, nodeDevice(f))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		s := r.Slots()[0]
		if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
			t.Fatal(err)
		}
		f.waits, f.sizes = nil, nil
		got, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 00"), Wait: 5 * time.Second}, nil)
		check(t, got, err, append(pattern(256), 0x90, 0), nil)
		if len(f.sizes) != 2 || f.sizes[0] != 15 || f.sizes[1] != 512 || f.waits[0] != writeLimit || f.waits[1] < 4*time.Second {
			t.Errorf("%v, %v", f.sizes, f.waits)
		}
	})
}
