package cardman

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/cardman/emu"
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
	t0   card = "3B 02 14 50"
	t1   card = "3B 84 81 31 FE 45 54 45 53 54 96"
	long card = "3B 6F 00 00 80 5A 08 06 08 20 01 01 01 02 03 04 05 06 07" // three packets
)

var (
	challenge = readertest.Challenge
	response  = readertest.Response
)

func newReader(t testing.TB, c icc.Card) *emu.Reader {
	t.Helper()
	e := emu.New("")
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device(link reader.Link) reader.Device {
	return reader.Device{Driver: "cardman", Address: "usb:1-2", ID: models[0], Link: link}
}

func open(t testing.TB, link usb.Opener) *slot {
	t.Helper()
	_, s := readertest.Open(t, Driver{}, device(link))
	return s.(*slot)
}

func loadSession(t *testing.T) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/session.txt")
}

// The driver sends what the session's host sends, with the same time-outs, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, loadSession(t)).Describe(emu.New("").Descriptors())
		s := open(t, p)
		h := readertest.NewHost(t, p, s)
		h.Identify("OMNIKEY CardMan 2020", "version", "1.00")
		h.Status("status", reader.Present)
		h.PowerUp("power on", string(t0))
		h.Status("powered", reader.Powered)
		h.Step("commands")
		h.Transmit("00 A4 00 00 02 3F 00", "90 00")
		h.Transmit("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
		h.PowerOff("power off")
		h.Status("the card leaves", reader.Absent)
		h.Gone("unplugged")
	})
}

// The emulated reader answers the session's host as its device does.
func TestReaderPlaysSession(t *testing.T) {
	e := newReader(t, t0)
	usbtest.Replay(t, loadSession(t), e.Plug(), map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
}

func TestSuite(t *testing.T) {
	for name, o := range map[string]emu.Options{"": {}, "padded": {Pad: true, Low: true}, "single": {Ones: true}} {
		t.Run(name, func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, t0)
				e.Set(o)
				port := e.Plug()
				return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Each transfer may fail in each way.
func TestFaults(t *testing.T) {
	for _, c := range []card{t0, long} {
		faulttest.Session{
			Driver: Driver{}, New: func() faulttest.Device { return emu.New("") }, Card: func() icc.Card { return c },
			Commands:  [][2]string{{"00 A4 00 00 02 3F 00", "90 00"}, {"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"}},
			Transfers: 14, Limit: time.Minute,
			// Packets have neither a length nor a sum: nothing tells that one is another, or longer.
			Unseen: func(l usbtest.Line, f usbtest.Fault) bool { return l.In },
		}.Run(t)
	}
}

// Commands and answers of every length arrive whole.
func TestLengths(t *testing.T) {
	for _, o := range []emu.Options{{}, {Ones: true}} {
		synctest.Test(t, func(t *testing.T) {
			e := newReader(t, t0)
			e.Set(o)
			port := e.Plug()
			defer port.Unplug()
			s := open(t, port)
			l := connect(t, s)
			for n := 1; n <= 256; n++ {
				got, err := l.Transmit(t.Context(), []byte{0x80, 0xB0, 0, 0, byte(n)}, nil)
				if want := append(pattern(n), 0x90, 0x00); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("answer of %d bytes: %d, %v", n, len(got), err)
				}
				if n == 256 {
					break
				}
				tx := append([]byte{0x80, 0xEE, 0, 0, byte(n)}, pattern(n)...)
				if got, err = l.Transmit(t.Context(), append(tx, 0), nil); err != nil || !bytes.Equal(got, append(pattern(n), 0x90, 0x00)) {
					t.Fatalf("echo of %d bytes: % X, %v", n, got, err)
				}
			}
			if s.in != [len(s.in)]byte{} {
				t.Error("the driver holds an answer")
			}
		})
	}
}

// A user has to learn that the driver is unproven: in the log when it is opened, in `status`, and in the error of a command that
// brings no answer, until one has.
func TestUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e := newReader(t, t0)
		port := e.Plug()
		defer port.Unplug()
		r, err := Driver{Log: slog.New(slog.NewTextHandler(&log, nil))}.Open(t.Context(), device(port))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, unproven) || !strings.Contains(got, `reader="cardman usb:1-2"`) {
			t.Error(got)
		}
		s := r.Slots()[0]
		if got := s.(reader.Describer).Describe()["unproven"]; got != unproven {
			t.Error(got)
		}
		for _, mute := range []bool{true, false, true} {
			e.Set(emu.Options{Mute: mute})
			connect(t, s)
			start := time.Now()
			_, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: 1, Wait: time.Minute}, nil)
			if mute != errors.Is(err, reader.ErrTimeout) {
				t.Error(err)
			}
			if took := time.Since(start); took > 11*time.Second {
				t.Errorf("it took %v", took)
			}
			answered := s.(*slot).answered
			if err != nil && strings.Contains(err.Error(), unproven) == answered {
				t.Errorf("answered %v: %v", answered, err)
			}
		}
	})
	// Not of one that could not be opened.
	var log bytes.Buffer
	e := newReader(t, t0)
	port := e.Plug()
	port.Unplug()
	if _, err := (Driver{Log: slog.New(slog.NewTextHandler(&log, nil))}).Open(t.Context(), device(port)); !errors.Is(err, reader.ErrGone) || log.Len() > 0 {
		t.Errorf("%v, %s", err, log.String())
	}
}

// T=1 ends with words: the driver does not have it. A card with both has T=0.
func TestProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		port := newReader(t, t1).Plug()
		defer port.Unplug()
		s := open(t, port)
		l := readertest.NewLink(s)
		if err := l.PowerUp(t.Context(), reader.Cold, -1); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "T=[1]") {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		port := newReader(t, card("3B 97 94 80 31 FE 45 53 49 4D 44 55 90 00 44")).Plug()
		defer port.Unplug()
		s := open(t, port)
		l := connect(t, s)
		if got := l.Params(); got.T != 0 || got.TA1 != 0x11 {
			t.Errorf("%+v", got)
		}
		if got, err := l.Transmit(t.Context(), challenge, nil); err != nil || !bytes.Equal(got, response) {
			t.Errorf("% X, %v", got, err)
		}
	})
}
