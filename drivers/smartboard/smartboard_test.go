package smartboard

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex   = readertest.Hex
	pattern = readertest.Pattern
	newLink = readertest.NewLink
	connect = readertest.Connect
)

// card answers SELECT at once or after a time, GET CHALLENGE, and for E2 as many bytes as P3 says; E0 brings data, and
// EE is answered by them.
type card struct {
	atr  string
	busy time.Duration // of every command
}

// The cards: T=0 as in the session; T=1 with IFSC 254; T=0 and T=1.
var (
	t0 = card{atr: "3B 02 14 50"}
	t1 = card{atr: "3B 84 81 31 FE 45 54 45 53 54 96"}
)

var (
	selectMF  = unhex("00 A4 00 00 02 3F 00")
	challenge = unhex("00 84 00 00 08")
	response  = unhex("11 12 13 14 15 16 17 18 90 00")
)

func (c card) ATR() []byte { return unhex(c.atr) }
func (card) Reset(bool)    {}

func (card) Incoming(_, ins byte) bool {
	return ins == 0xA4 || ins == 0xE0 || ins == 0xEE || ins == 0x20
}

func (c card) Busy([]byte) time.Duration { return c.busy }

func (card) Process(p []byte) []byte {
	switch p[1] {
	case 0x84:
		return response
	case 0xE2:
		n := int(p[4])
		if n == 0 {
			n = 256
		}
		return append(pattern(n), 0x90, 0x00)
	case 0xEE:
		return append(bytes.Clone(p[5:5+int(p[4])]), 0x90, 0x00)
	}
	return unhex("90 00")
}

func newReader(t testing.TB, o emu.Options, c card) *emu.Reader {
	t.Helper()
	e := emu.New(o)
	e.Patience = 2 * time.Second
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device(link reader.Link) reader.Device {
	return reader.Device{Driver: "smartboard", Address: "/dev/ttyS0", Link: link}
}

func open(t testing.TB, link serial.Opener) *slot {
	t.Helper()
	_, s := readertest.Open(t, Driver{}, device(link))
	return s.(*slot)
}

// connected opens a reader with a card, and powers the card up. The reader leaves at the end.
func connected(t testing.TB, o emu.Options, c card) (*emu.Reader, *serialtest.Plugged, *slot) {
	t.Helper()
	e := newReader(t, o, c)
	p := serialtest.Plug(e)
	t.Cleanup(p.Unplug)
	s := open(t, p)
	connect(t, s)
	return e, p, s
}

func loadSession(t *testing.T) serialtest.Session {
	t.Helper()
	return readertest.Load(t, serialtest.Load, "testdata/session.txt")
}

// The driver sends what the session's host sends, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, loadSession(t))
		p.Step("start")
		r := open(t, p)
		defer r.Close()
		h := readertest.NewHost(t, p, r)
		h.Identify(model, "identification", "Cherry SmartBoard")
		h.Status("status", reader.Present)
		h.PowerOn("power on", reader.Cold, t0.atr)
		h.Status("powered", reader.Powered)
		h.Step("commands")
		asked := 0
		for _, x := range []struct{ tx, rx []byte }{{selectMF, unhex("90 00")}, {challenge, response}} {
			got, err := r.Exchange(t.Context(), reader.Transfer{Out: x.tx, Wait: 2 * time.Second, Extended: func() { asked++ }}, nil)
			if err != nil || !bytes.Equal(got, x.rx) {
				t.Errorf("% X: % X, %v", x.tx, got, err)
			}
		}
		if asked != 2 {
			t.Errorf("the reader asked %d times for time, the session has 2", asked)
		}
		h.Status("the card leaves", reader.Absent)
	})
}

// The emulated reader answers the session's host as its device does.
func TestReaderPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := t0
		c.busy = 200 * time.Millisecond
		e := newReader(t, emu.Options{}, c)
		p := serialtest.Plug(e)
		defer p.Unplug()
		serialtest.Replay(t, loadSession(t), p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
	})
}

func TestSuite(t *testing.T) {
	for name, x := range map[string]struct {
		o emu.Options
		c card
	}{
		"T=0":     {emu.Options{}, t0},
		"T=1":     {emu.Options{EmptyATR: true}, t1},
		"unasked": {emu.Options{Events: emu.Unasked}, t0},
		"instead": {emu.Options{Events: emu.Instead}, t1},
		"quiet":   {emu.Options{Quiet: true}, t0},
	} {
		t.Run(name, func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, x.o, x.c)
				p := serialtest.Plug(e)
				return readertest.Emulated(Driver{}, device(p), p.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length that a frame carries arrive whole, and others fail with words.
func TestLengths(t *testing.T) {
	for proto, c := range []card{t0, t1} {
		synctest.Test(t, func(t *testing.T) {
			_, _, s := connected(t, emu.Options{}, c)
			l := connect(t, s)
			for n := 1; n <= 256; n++ {
				if proto == 1 || n <= 252 {
					got, err := l.Transmit(t.Context(), []byte{0x80, 0xE2, 0, 0, byte(n)}, nil)
					if want := append(pattern(n), 0x90, 0x00); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("T=%d: answer of %d bytes: %d, %v", proto, n, len(got), err)
					}
				}
				if n > 255 {
					break
				}
				got, err := l.Transmit(t.Context(), append([]byte{0x80, 0xE0, 0, 0, byte(n)}, pattern(n)...), nil)
				if proto == 1 || n <= 249 {
					if err != nil || !bytes.Equal(got, unhex("90 00")) {
						t.Fatalf("T=%d: command of %d bytes: % X, %v", proto, n, got, err)
					}
				} else if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "249 bytes of data") {
					t.Errorf("T=%d: command of %d bytes: % X, %v", proto, n, got, err)
				}
			}
		})
	}
}

// A port without a reader fails within seconds, with words.
func TestNoReader(t *testing.T) {
	faulttest.Strangers{
		Driver: Driver{}, Device: device(nil), Mode: mode, Limit: 6 * time.Second,
		Mute:      faulttest.Refusal{Says: "open: stop the reader: ", Is: reader.ErrTimeout},
		Echo:      faulttest.Refusal{Says: "open: start the reader: it says nothing about itself", Is: reader.ErrProtocol},
		Leaves:    faulttest.Refusal{Says: "open: stop the reader: ", Is: reader.ErrGone},
		Unplugged: "open",
		More: []faulttest.Stranger{
			{Name: "babble", Serve: serialtest.Babble(10*time.Millisecond, 0xAA), Refusal: faulttest.Refusal{Says: "open: stop the reader: a frame begins with AA", Is: reader.ErrProtocol}},
			{Name: "it leaves at the pause", Serve: func(l *serialtest.Line) { l.Next(); l.Drop() }, Refusal: faulttest.Refusal{Says: "open: wake the reader: ", Is: reader.ErrGone}},
		},
	}.Run(t)
}

// Open ends with its context in each of the pauses.
func TestOpenCancelled(t *testing.T) {
	for d := 100 * time.Millisecond; d < 1300*time.Millisecond; d += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(newReader(t, emu.Options{}, t0))
			defer p.Unplug()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			began := time.Now()
			if _, err := (Driver{}).Open(ctx, device(p)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != d {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	}
}
