package towitoko

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/memcard"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex    = readertest.Hex
	pattern  = readertest.Pattern
	newLink  = readertest.NewLink
	powerUp  = readertest.PowerUp
	transmit = readertest.Transmit
)

type card = readertest.Card

const (
	quick  = card("3B F2 13 00 FF C1 10 31 FE 55 C8 03 9E")       // T=1, 4/372
	mirror = card("3F 97 12 80 31 FE 45 53 49 4D 44 55 90 00 59") // inverse, T=0 and T=1, 2/372
	common = card("3B 77 94 00 00 53 49 4D 54 30 90 00")          // 8/512, which the reader does not have
)

var (
	challenge = readertest.Challenge
	response  = readertest.Response
)

func device(link serial.Opener, params ...string) reader.Device {
	dev := reader.Device{Driver: "towitoko", Address: "/dev/ttyS0", Link: link, Params: map[string]string{}}
	for _, p := range params {
		if key, value, ok := strings.Cut(p, "="); ok {
			dev.Params[key] = value
		}
	}
	return dev
}

func newReader(t testing.TB, o emu.Options, c icc.Card) *emu.Reader {
	t.Helper()
	e := emu.NewReader(o)
	if c != nil {
		readertest.Insert(t, &e.Contact, c)
	}
	return e
}

// open opens a reader, which the test closes: the end of a session is part of it.
func open(t testing.TB, link serial.Opener, params ...string) *slot {
	t.Helper()
	r, err := Driver{}.Open(t.Context(), device(link, params...))
	if err != nil {
		t.Fatal(err)
	}
	return r.(*slot)
}

// plug opens a reader as the core does.
func plug(t testing.TB, o emu.Options, c icc.Card, params ...string) (*emu.Reader, *serialtest.Plugged, *slot, *link.Link) {
	t.Helper()
	e := newReader(t, o, c)
	p := serialtest.Plug(e)
	s := open(t, p, params...)
	t.Cleanup(func() {
		s.Close()
		p.Unplug()
	})
	return e, p, s, newLink(s)
}

func load(t *testing.T, name string) serialtest.Session {
	t.Helper()
	return readertest.Load(t, serialtest.Load, "testdata/"+name)
}

// numbered is a 2-wire chip whose bytes are their addresses, behind the ATR.
func numbered(name string) *icc.Memory {
	m := icc.NewMemory(name)
	p := make([]byte, len(m.Contents())-4)
	for i := range p {
		p[i] = byte(4 + i)
	}
	m.Fill(4, p)
	return m
}

// The driver sends what the sessions' hosts send, with their time-outs and pauses, and accepts
// what their devices answer.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "session.txt"))
		p.Step("open")
		s := open(t, p)
		h := readertest.NewHost(t, p, s)
		h.Identify("Towitoko Chipdrive External", "version", "10")
		h.Status("status", reader.Present)
		h.PowerUp("power on", string(readertest.Plain))
		h.Status("powered", reader.Powered)
		h.Step("commands")
		h.Transmit("00 A4 00 00 02 3F 00", "90 00")
		h.Transmit("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		h.PowerOff("power off")
		h.Status("card out", reader.Absent)
		s.Close()
	})
}

func TestDriverPlaysMemorySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "memory.txt"))
		p.Step("open")
		s := open(t, p)
		p.Step("power on")
		if atr, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(atr, unhex("A2 13 10 91")) || s.Traits().Level != reader.Synchronous {
			t.Fatalf("% X, %v", atr, err)
		}
		p.Step("tries")
		c, err := memcard.Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		p.Step("read")
		if got, err := c.Read(t.Context(), 0x20, 4, nil); err != nil || !bytes.Equal(got, unhex("20 21 22 23")) {
			t.Errorf("% X, %v", got, err)
		}
		p.Step("verify")
		if ok, err := c.Verify(t.Context(), unhex("FF FF FF")); !ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
		p.Step("write")
		if n, err := c.Write(t.Context(), 0x40, unhex("A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 AA AB AC AD AE AF"), 0); n != 16 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		p.Step("power off")
		if err := s.PowerOff(t.Context()); err != nil {
			t.Error(err)
		}
		p.Step("again")
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Error(err)
		}
	})
}

func TestDriverPlaysFastSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "fast.txt"))
		p.Step("open")
		s := open(t, p)
		h := readertest.NewHost(t, p, s)
		h.PowerUp("power on", string(readertest.Fast))
		h.Step("commands")
		h.Transmit("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		h.Status("status", reader.Powered)
		h.PowerOff("power off")
		h.Step("close")
		s.Close()
	})
}

// The emulated reader answers the sessions' hosts as their devices do.
func TestReaderPlaysSessions(t *testing.T) {
	for name, x := range map[string]struct {
		o emu.Options
		c icc.Card
	}{
		"session.txt":       {emu.Options{}, readertest.Plain},
		"memory.txt":        {emu.Options{}, numbered("sle4442")},
		"fast.txt":          {emu.Options{Type: emu.Micro}, readertest.Fast},
		"openct.txt":        {emu.Options{}, readertest.Plain},
		"openct-memory.txt": {emu.Options{}, numbered("sle4432")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newReader(t, x.o, x.c)
				p := serialtest.Plug(e)
				defer p.Unplug()
				serialtest.Replay(t, load(t, name), p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
			})
		})
	}
}

func TestSuite(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Block, readertest.Inverse, readertest.Fast} {
		t.Run(string(c), func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, emu.Options{Pause: time.Millisecond}, c)
				p := serialtest.Plug(e)
				f := readertest.Emulated(Driver{}, device(p), p.Unplug, readertest.Contact(&e.Contact, false))
				f.Wait = 5 * time.Second
				return f
			})
		})
	}
}
