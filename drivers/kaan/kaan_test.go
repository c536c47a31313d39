package kaan

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

// card answers the commands of the sessions. INS E2 gives P1 P2 bytes, EE its data back; 20 is
// kept.
type card struct {
	atr  string
	last []byte
}

func t0() *card { return &card{atr: "3B 02 14 50"} }
func t1() *card { return &card{atr: "3B 80 81 31 FE 45 8B"} }

func (c *card) ATR() []byte             { return unhex(c.atr) }
func (*card) Reset(bool)                {}
func (*card) Incoming(_, ins byte) bool { return ins == 0xA4 || ins == 0xEE || ins == 0x20 }
func (c *card) Process(command []byte) []byte {
	c.last = append([]byte(nil), command...)
	switch x := fmt.Sprintf("%X", command); {
	case strings.HasPrefix(x, "00A40000023F00"), command[1] == 0x20:
		return unhex("90 00")
	case x == "0084000008":
		return unhex("11 12 13 14 15 16 17 18 90 00")
	case command[1] == 0xE2:
		return append(pattern(int(command[2])<<8|int(command[3])), 0x90, 0x00)
	case command[1] == 0xEE:
		return append(append([]byte(nil), command[5:5+int(command[4])]...), 0x90, 0x00)
	}
	return unhex("6D 00")
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
	s, err := serialtest.Load("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return s
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
	if name, more := r.(reader.Identifier).Identify(); name != "Kobil KAAN" || more["units"] != "01 40" {
		t.Errorf("%s, %v", name, more)
	}
	s := r.Slots()[0]
	p.Step("status")
	status(t, s, reader.Present)
	p.Step("power on")
	if atr, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(atr, t0().ATR()) {
		t.Fatalf("ATR % X, %v", atr, err)
	}
	p.Step("protocol")
	if _, err := s.(reader.ProtocolSelector).SelectProtocol(t.Context(), iso7816.Params{T: 0}); err != nil {
		t.Error(err)
	}
	p.Step("command")
	got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 A4 00 00 02 3F 00")}, nil)
	if err != nil || !bytes.Equal(got, unhex("90 00")) {
		t.Errorf("% X, %v", got, err)
	}
	p.Step("removal")
	status(t, s, reader.Absent)
	p.Step("unplugged")
	if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrGone) {
		t.Errorf("status after the terminal left: %v", err)
	}
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
						if k.card().atr == t0().atr {
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
