package gempc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex   = readertest.Hex
	pattern = readertest.Pattern
	connect = readertest.Connect
)

type card = readertest.Card

const (
	t0 = card("3B 95 18 40 FF 62 01 02 01 04")
	t1 = card("3B 80 81 31 FE 45 8B")
)

// model is an emulated reader.
type model struct {
	name string
	cfg  emu.Config
	card card
}

var kinds = []model{
	{"T=0", emu.Config{Product: 0x0430, Version: "GemUsb-R1.04-GM"}, t0},
	{"T=1", emu.Config{Product: 0x0430, Version: "GemUsb-R1.04-GM"}, t1},
	{"packets of 8", emu.Config{Product: 0x0432, Version: "GemUsb-R1.04-WM", Packet: 8}, t0},
	{"packets of 8, empty ones", emu.Config{Product: 0x0435, Version: "GemUsb-R1.04-A", Packet: 8, ZLP: true}, t0},
	{"packets of 64, empty ones", emu.Config{Product: 0x0430, Version: "GemUsb-R1.04-GM", ZLP: true}, t1},
}

// empty is without a card.
func (m model) empty() *emu.Reader {
	e := emu.New(m.cfg)
	e.Patience = 600 * time.Millisecond // a real one waits as long as the protocol says
	return e
}

func newReader(t testing.TB, m model) *emu.Reader {
	t.Helper()
	e := m.empty()
	readertest.Insert(t, &e.Contact, m.card)
	return e
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, device(link))
}

func device(link usb.Opener) reader.Device {
	return reader.Device{Driver: "gempc", Address: "usb:1-2", ID: models[0], Link: link}
}

const session = "testdata/gempc430.txt"

// The driver sends what the session's host sends, with the same time-outs, and accepts what
// its device answers.
func TestDriverPlaysSession(t *testing.T) {
	p := usbtest.NewPlayer(t, readertest.Load(t, usbtest.Load, session)).Describe(emu.New430("").Descriptors())
	p.Step("start")
	r, _ := open(t, p)
	h := readertest.NewHost(t, p, r)
	h.Identify("Gemplus GemPC430", "version", "GemUsb-R1.04-GM")
	h.Status("status", reader.Present)
	h.PowerOn("power on", reader.Cold, string(t0))
	h.Status("powered", reader.Powered)
	h.Step("commands")
	h.Exchange("00 A4 00 00 02 3F 00", "90 00")
	h.Exchange("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
	h.Exchange("B0 3C 01 00 00", "6D 00")
	h.Exchange("00 82 00 00", "6D 00")
	h.PowerOff("power off")
	h.Gone("unplugged")
}

// The emulated reader answers the session's host as the session's device does.
func TestReaderPlaysSession(t *testing.T) {
	usbtest.Replay(t, readertest.Load(t, usbtest.Load, session), newReader(t, kinds[0]).Plug(), nil)
}

func TestSuite(t *testing.T) {
	for _, k := range []model{kinds[0], kinds[1], kinds[3]} {
		t.Run(k.name, func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, k)
				port := e.Plug()
				return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length up to those of a short APDU arrive whole, in parts
// where one command or answer of the reader is too short.
func TestLengths(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			e := newReader(t, k)
			_, s := open(t, e.Plug())
			readertest.EveryLength(t, connect(t, s))
		})
	}
}

// Each transfer may fail in each way, those of an attachment as well.
func TestFaults(t *testing.T) {
	for _, k := range []model{kinds[0], kinds[1], kinds[3]} {
		faulttest.Session{
			Driver: Driver{}, New: func() faulttest.Device { return k.empty() }, Card: func() icc.Card { return k.card },
			Commands: [][2]string{{"80 E2 00 46 46", fmt.Sprintf("% X 90 00", pattern(70))}, {"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"}},
			Opening:  true, Transfers: 12, Limit: 11 * time.Minute,
			// Nothing tells that a status or data are wrong.
			Unseen: func(_ usbtest.Line, f usbtest.Fault) bool { return f.Kind == usbtest.Garbage },
		}.Run(t)
	}
}

// An answer that comes too late is not taken for that of the next command.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, kinds[0])
		_, s := open(t, e.Plug())
		connect(t, s)
		readertest.Late(t, s, &e.Contact, 2*time.Second, 5)
	})
}

// A program may have left an answer in the reader before cardfs opens it.
func TestLeftBehind(t *testing.T) {
	for _, left := range []string{"03 00 90 00", "01 00", "07 00 06 02 11 00 00 00", "05 00 61 62 61 20"} {
		e := newReader(t, kinds[0])
		port := e.Plug()
		e.Send(0x82, unhex(left))
		r, s := open(t, port)
		if _, more := r.(reader.Identifier).Identify(); more["version"] != "GemUsb-R1.04-GM" {
			t.Errorf("%s: version %q", left, more["version"])
		}
		connect(t, s)
	}
}

// "An answer is a status byte and data": a frame of no bytes is none.
func TestNoStatusByte(t *testing.T) {
	e := newReader(t, kinds[0])
	_, s := open(t, e.Plug())
	e.Send(0x82, unhex("00"))
	if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "no status byte") {
		t.Error(err)
	}
	if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
		t.Errorf("status %v, %v", st, err)
	}
}

// scripted is a reader whose answers a test chooses.
type scripted struct {
	answers [][]byte
	sent    [][]byte
}

func (c *scripted) command(_ context.Context, cmd []byte, _ time.Duration) ([]byte, error) {
	c.sent = append(c.sent, bytes.Clone(cmd))
	if len(c.answers) == 0 {
		return nil, reader.ErrTimeout
	}
	a := c.answers[0]
	c.answers = c.answers[1:]
	return a, nil
}

func (c *scripted) resync(context.Context) ([]byte, error) { return unhex("00 47 65 6D 55 73 62"), nil }
func (c *scripted) Gone() <-chan struct{}                  { return nil }
func (c *scripted) Close() error                           { return nil }

func answers(list ...string) *scripted {
	c := new(scripted)
	for _, a := range list {
		c.answers = append(c.answers, unhex(a))
	}
	return c
}

// Each status has its error, and only plausible answers are accepted.
func TestAnswers(t *testing.T) {
	long := "00 " + strings.Repeat("AA", 240)
	for _, x := range []struct {
		name    string
		t       int
		tx      string
		answers []string
		want    string // bytes, or a part of the error
		is      error
	}{
		{"parts of 240, counted", 0, "00 B0 00 00 00", []string{long, "00" + strings.Repeat("BB", 16) + "90 00"}, strings.Repeat("AA", 240) + strings.Repeat("BB", 16) + "90 00", nil},
		{"parts that say 1B", 0, "00 B0 00 00 00", []string{"1B" + strings.Repeat("AA", 240), "00" + strings.Repeat("BB", 16) + "90 00"}, strings.Repeat("AA", 240) + strings.Repeat("BB", 16) + "90 00", nil},
		{"a short answer is whole", 0, "00 B0 00 00 00", []string{"00 AA 90 00"}, "AA 90 00", nil},
		{"SW alone", 0, "00 B0 00 00 00", []string{"E7 6C 10"}, "6C 10", nil},
		{"ended after SW1", 0, "00 B0 00 00 10", []string{"E5 90 00"}, "90 00", nil},
		{"T=1 in parts", 1, "00 B0 00 00 00", []string{"1B" + strings.Repeat("AA", 254), "00 BB BB 90 00"}, strings.Repeat("AA", 254) + "BB BB 90 00", nil},
		{"T=1, an empty part", 1, "00 B0 00 00 00", []string{"1B"}, "an empty part", reader.ErrProtocol},
		{"T=1, parts without end", 1, "00 B0 00 00 00", []string{"1B" + strings.Repeat("AA", 254), "1B" + strings.Repeat("AA", 254)}, "an answer of 508 bytes; 258 are the most", reader.ErrProtocol},
		{"more than asked for", 0, "00 B0 00 00 02", []string{"00 AA BB CC 90 00"}, "an answer of 5 bytes, 4 were asked for", reader.ErrProtocol},
		{"no SW", 0, "00 A4 00 00 02 3F 00", []string{"00 90"}, "an answer of 1 bytes; SW1 SW2 are the least", reader.ErrProtocol},
		{"status only", 0, "00 A4 00 00 02 3F 00", []string{"00"}, "an answer of 0 bytes", reader.ErrProtocol},
		{"the second part fails", 0, "00 B0 00 00 00", []string{long, "A3"}, "parity error", reader.ErrProtocol},
		{"unknown command", 0, "00 A4 00 00", []string{"01"}, "does not know", reader.ErrUnsupported},
		{"silent", 0, "00 A4 00 00", []string{"A2"}, "the card is silent", reader.ErrTimeout},
		{"pulled", 0, "00 A4 00 00", []string{"F7"}, "pulled out", reader.ErrNoCard},
		{"no card", 0, "00 A4 00 00", []string{"FB"}, "no card", reader.ErrNoCard},
		{"a status nobody knows", 0, "00 A4 00 00", []string{"7A"}, "status 7A", reader.ErrProtocol},
		{"the first part of a long command is refused", 0, "00 D6 00 00 FF" + strings.Repeat("11", 255), []string{"03"}, "number of parameters", reader.ErrProtocol},
		{"the first part is answered with data", 0, "00 D6 00 00 FF" + strings.Repeat("11", 255), []string{"00 90 00"}, "answered with 2 bytes", reader.ErrProtocol},
		{"too short", 0, "00 A4 00", nil, "", reader.ErrInvalid},
		{"extended", 1, "00 B0 00 00 00 01 00", nil, "extended length", reader.ErrUnsupported},
	} {
		t.Run(x.name, func(t *testing.T) {
			g := &gemcore{line: answers(x.answers...)}
			dst := append(make([]byte, 0, 1000), "before"...)
			got, err := g.exchange(t.Context(), x.t, unhex(x.tx), time.Second, dst)
			if x.is == nil {
				if want := append([]byte("before"), unhex(x.want)...); err != nil || !bytes.Equal(got, want) {
					t.Errorf("% X, %v", got, err)
				}
				return
			}
			if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.want) || string(got) != "before" {
				t.Errorf("%q, %v", got, err)
			}
			if rest := dst[len(dst):cap(dst)]; !bytes.Equal(rest, make([]byte, len(rest))) {
				t.Error("a part of the answer is still in memory")
			}
			if g.cmd != [256]byte{} {
				t.Error("the driver holds the command")
			}
		})
	}
}

// The last part of a long command goes first, and CLA to P2 of all other parts are FF.
func TestParts(t *testing.T) {
	data := strings.Repeat("11", 248) + strings.Repeat("22", 7)
	c := answers("00", "00 90 00", "00"+strings.Repeat("AA", 254), "00 BB BB 90 00")
	g := &gemcore{line: c}
	if _, err := g.exchange(t.Context(), 0, unhex("00 D6 00 00 FF"+data), time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := g.exchange(t.Context(), 0, unhex("00 B0 00 00 00"), time.Second, nil); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"14 FF FF FF FF 07" + strings.Repeat("22", 7), "14 00 D6 00 00 FF" + strings.Repeat("11", 248), "13 00 B0 00 00 00", "13 FF FF FF FF 04"} {
		if !bytes.Equal(c.sent[i], unhex(want)) {
			t.Errorf("% X, want %s", c.sent[i], want)
		}
	}
}

// A power-up is tried without a PPS, and in the mode for ISO cards, before it has failed.
func TestPowerUp(t *testing.T) {
	for _, x := range []struct {
		name    string
		answers []string
		want    string // the ATR, or a part of the error
		sent    string // opcodes and parameters
		is      error
	}{
		{"at once", []string{"00 3B 02 14 50"}, "3B 02 14 50", "12 23", nil},
		{"without a PPS", []string{"A7", "00 3B 02 14 50"}, "3B 02 14 50", "12 23,12 13", nil},
		{"in EMV mode", []string{"A8", "A8", "00", "00 3B 02 14 50"}, "3B 02 14 50", "12 23,12 13,17 00 47,12", nil},
		{"no card", []string{"FB"}, "no card", "12 23", reader.ErrNoCard},
		{"pulled out", []string{"A7", "F7"}, "pulled out", "12 23,12 13", reader.ErrNoCard},
		{"silent", []string{"A2", "A2"}, "the card is silent", "12 23,12 13", reader.ErrMute},
		{"never", []string{"1D", "1D", "00", "1D"}, "wrong TCK", "12 23,12 13,17 00 47,12", reader.ErrMute},
		{"no ATR", []string{"00", "00", "00", "00"}, "an empty ATR", "12 23,12 13,17 00 47,12", reader.ErrMute},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := answers(x.answers...)
			s := &slot{gemcore: gemcore{line: c}, name: "gempc usb:1-2"}
			atr, err := s.PowerOn(t.Context(), reader.Cold)
			var sent []string
			for _, cmd := range c.sent {
				sent = append(sent, fmt.Sprintf("% X", cmd))
			}
			if got := strings.Join(sent, ","); got != x.sent {
				t.Errorf("sent %s", got)
			}
			if x.is == nil {
				if err != nil || !bytes.Equal(atr, unhex(x.want)) || !s.powered {
					t.Errorf("% X, %v", atr, err)
				}
			} else if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.want) || s.powered {
				t.Errorf("% X, %v", atr, err)
			}
		})
	}
}

// A cold reset takes the power away first; a warm one does not.
func TestColdAndWarm(t *testing.T) {
	c := answers("00 3B 02 14 50", "00 3B 02 14 50", "00", "00 3B 02 14 50")
	s := &slot{gemcore: gemcore{line: c}}
	for _, how := range []reader.Reset{reader.Cold, reader.Warm, reader.Cold} {
		if _, err := s.PowerOn(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprintf("% X", bytes.Join(c.sent, nil)); got != "12 23 12 23 11 12 23" {
		t.Error(got)
	}
}

// Frames of any content neither panic nor hang the driver.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("02 01 00 10 00 47 65 6D 55 73 62 2D 52 31 2E 30 34 2D 47 4D 0B 00 3B 95 18 40 FF 62 01 02 01 04 03 00 90 00"), byte(0))
	f.Add(unhex("01 00 05 00 47 65 6D 55 05 00 3B 02 14 50"), byte(8))
	f.Fuzz(func(t *testing.T, in []byte, packet byte) {
		synctest.Test(t, func(t *testing.T) {
			cfg := emu.Config{Product: 0x0430, Packet: int(packet) % 65}
			e := emu.New(cfg)
			port := e.Plug()
			for len(in) > 0 {
				n := min(len(in), 1+int(in[0]))
				e.Send(0x82, in[:n])
				in = in[n:]
			}
			r, err := Driver{}.Open(t.Context(), device(port))
			if err != nil {
				return
			}
			defer r.Close()
			s := r.Slots()[0]
			s.Status(t.Context())
			s.PowerOn(t.Context(), reader.Cold)
			s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 B0 00 00 00"), Wait: time.Second}, nil)
			s.PowerOff(t.Context())
		})
	})
}
