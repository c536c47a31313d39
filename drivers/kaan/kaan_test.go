package kaan

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex   = readertest.Hex
	pattern = readertest.Pattern
	connect = readertest.Connect
)

// card takes any PIN, and keeps what it was sent last.
type card struct {
	readertest.Card
	last []byte
}

func t0() *card { return &card{Card: readertest.Plain} }
func t1() *card { return &card{Card: readertest.Block} }

func (c *card) Incoming(cla, ins byte) bool { return ins == 0x20 || c.Card.Incoming(cla, ins) }

func (c *card) Process(command []byte) []byte {
	c.last = bytes.Clone(command)
	if command[1] == 0x20 {
		return unhex("90 00")
	}
	return c.Card.Process(command)
}

func device(d Driver, l serial.Opener) reader.Device {
	return reader.Device{Driver: d.Name(), Address: "/dev/ttyS7", Link: l}
}

func open(t testing.TB, d Driver, l serial.Opener) reader.Reader {
	t.Helper()
	r, _ := readertest.Open(t, d, device(d, l))
	return r
}

func load(t *testing.T, name string) serialtest.Session {
	t.Helper()
	return readertest.Load(t, serialtest.Load, "testdata/"+name)
}

func status(t testing.TB, s reader.Slot, want reader.Status) {
	t.Helper()
	if got, err := s.Status(context.Background()); got != want || err != nil {
		t.Errorf("status %v, %v; want %v", got, err, want)
	}
}

// The driver sends what the session's host sends, and accepts what its device answers.
func TestDriverPlaysKAAN(t *testing.T) {
	p := serialtest.NewPlayer(t, load(t, "kaan.txt"))
	p.Step("start")
	r := open(t, KAAN(nil), p)
	h := readertest.NewHost(t, p, r)
	h.Identify("Kobil KAAN", "units", "01 40")
	h.Status("status", reader.Present)
	h.PowerOn("power on", reader.Cold, string(readertest.Plain))
	h.Step("protocol")
	if _, err := h.Slot.(reader.ProtocolSelector).SelectProtocol(t.Context(), iso7816.Params{T: 0}); err != nil {
		t.Error(err)
	}
	h.Step("command")
	h.Exchange("00 A4 00 00 02 3F 00", "90 00")
	h.Status("removal", reader.Absent)
	h.Gone("unplugged")
}

func TestDriverPlaysB1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "b1.txt"))
		p.Step("start")
		r := open(t, B1(nil), p)
		p.Step("status")
		status(t, r.Slots()[0], reader.Present)
		p.Step("removal")
		status(t, r.Slots()[0], reader.Absent)
	})
}

// The emulated terminals answer the session's host as the session's device does.
func TestTerminalPlaysSession(t *testing.T) {
	for _, tt := range []struct {
		file string
		emu  *emu.Terminal
		card icc.Card
	}{
		{"kaan.txt", emu.New(emu.Config{Units: []byte{0x40}, Plain: true}), t0()},
		{"b1.txt", emu.New(emu.Config{B1: true, Older: true}), icc.NewMemory("sle4442")},
	} {
		t.Run(tt.file, func(t *testing.T) {
			s := load(t, tt.file)
			synctest.Test(t, func(t *testing.T) {
				c := tt.emu.Contacts()[0]
				if err := c.Insert(tt.card); err != nil {
					t.Fatal(err)
				}
				p := serialtest.Plug(tt.emu)
				defer p.Unplug()
				serialtest.Replay(t, s, p, map[string]func(){"the card is taken out": func() { c.Remove() }})
			})
		})
	}
}

type kind struct {
	name string
	drv  Driver
	cfg  emu.Config
	card func() *card
}

var kinds = []kind{
	{"T=0", KAAN(nil), emu.Config{Units: []byte{0x40, 0x50}}, t0},
	{"T=1", KAAN(nil), emu.Config{Most: 32}, t1},
	{"two slots", KAAN(nil), emu.Config{Slots: 2, Older: true}, t1},
	{"B1", B1(nil), emu.Config{B1: true}, t0},
}

func newTerminal(t testing.TB, k kind) *emu.Terminal {
	t.Helper()
	k.cfg.Pace = time.Millisecond // in a bubble no time passes otherwise
	e := emu.New(k.cfg)
	for _, c := range e.Contacts() {
		if err := c.Insert(k.card()); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func TestSuite(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newTerminal(t, k)
				port := serialtest.Plug(e)
				f := &readertest.Fixture{
					Driver: k.drv, Device: device(k.drv, port),
					Command: unhex("00 84 00 00 08"), Answer: unhex("11 12 13 14 15 16 17 18 90 00"),
					Unplug: port.Unplug, Close: port.Unplug,
				}
				for _, c := range e.Contacts() {
					f.Slots = append(f.Slots, readertest.Contact(c, false))
				}
				return f
			})
		})
	}
}

// Commands and answers of every length arrive whole, in either slot.
func TestLengths(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := serialtest.Plug(newTerminal(t, k))
				defer p.Unplug()
				r := open(t, k.drv, p)
				defer r.Close()
				for n, s := range r.Slots() {
					l := connect(t, s)
					for _, n := range []int{1, 2, 26, 27, 28, 31, 32, 33, 64, 200, 251, 252, 253, 254, 255} {
						tx := append([]byte{0x00, 0xEE, 0, 0, byte(n)}, pattern(n)...)
						rx, err := l.Transmit(t.Context(), tx, nil)
						if k.card().Card == readertest.Plain {
							// without Le, T=0 gives only SW
							if err != nil || len(rx) < 2 {
								t.Errorf("%d bytes: % X, %v", n, rx, err)
							}
							continue
						}
						if err != nil || !bytes.Equal(rx, append(pattern(n), 0x90, 0x00)) {
							t.Errorf("%d bytes: % X, %v", n, rx, err)
						}
					}
					for _, n := range []int{1, 30, 31, 32, 33, 251, 252, 253, 254, 255, 256} {
						rx, err := l.Transmit(t.Context(), []byte{0x00, 0xE2, byte(n >> 8), byte(n), byte(n)}, nil)
						if err != nil || !bytes.Equal(rx, append(pattern(n), 0x90, 0x00)) {
							t.Errorf("slot %d, %d bytes: % X, %v", n, n, rx, err)
						}
					}
					rx, err := l.Transmit(t.Context(), unhex("00 A4 00 00 02 3F 00 00"), nil)
					if err != nil || !bytes.Equal(rx, unhex("90 00")) {
						t.Errorf("case 4 in slot %d: % X, %v", n, rx, err)
					}
				}
			})
		})
	}
}
