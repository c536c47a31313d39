package acs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/acs/emu"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
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

type card = readertest.Card

const (
	t0 = card("3B 95 18 40 FF 62 01 02 01 04")
	t1 = card("3B 80 81 31 FE 45 8B")
)

type kind struct {
	name string
	cfg  emu.Config
	card card
}

var kinds = []kind{
	{"T=0", emu.Config{Product: 0x9000}, t0},
	{"T=1", emu.Config{Product: 0x9000, Padded: true}, t1},
	{"two slots, small packets", emu.Config{Product: 0x90CF, SAM: true, Packet: 8, ZLP: true}, t0},
}

// empty is without cards.
func (k kind) empty() *emu.Reader {
	k.cfg.Patience = 600 * time.Millisecond // a real one waits as long as the protocol says
	return emu.New(k.cfg)
}

func newReader(t testing.TB, k kind) *emu.Reader {
	t.Helper()
	e := k.empty()
	for _, c := range e.Contacts() {
		readertest.Insert(t, c, k.card)
	}
	return e
}

func device38(link usb.Opener) reader.Device {
	dev := reader.Device{Driver: "acr38", Address: "usb:1-2", ID: models[0].ID, Link: link}
	if d, err := usb.ParseDevice(link.Descriptors()); err == nil {
		dev.ID.Product = d.Product
	}
	return dev
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, device38(link))
}

const session = "testdata/acr38.txt"

// The driver sends what the session's host sends, with the same time-outs, and accepts what
// its device answers.
func TestDriverPlaysSession(t *testing.T) {
	p := usbtest.NewPlayer(t, readertest.Load(t, usbtest.Load, session)).Describe(emu.NewACR38("").Descriptors())
	p.Step("start")
	r, slot := open(t, p)
	h := readertest.NewHost(t, p, r)
	h.Wait = 2 * time.Second
	h.Identify("ACS ACR38U", "version", "1.00")
	h.Status("status", reader.Present)
	h.PowerOn("power on", reader.Cold, string(t0))
	h.Step("PPS")
	h.Exchange("FF 10 18 F7", "FF 10 18 F7")
	if err := slot.(reader.ParamSetter).SetParams(t.Context(), iso7816.Params{T: 0, TA1: 0x18}); err != nil {
		t.Error(err)
	}
	h.Step("commands")
	h.Exchange("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
	h.Exchange("00 A4 00 00 02 3F 00", "90 00")
	h.Gone("unplugged")
}

// The emulated reader answers the session's host as the session's device does.
func TestReaderPlaysSession(t *testing.T) {
	usbtest.Replay(t, readertest.Load(t, usbtest.Load, session), newReader(t, kinds[0]).Plug(), nil)
}

func TestSuite(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, k)
				port := e.Plug()
				f := readertest.Emulated(Driver{}, device38(port), port.Unplug)
				for n, c := range e.Contacts() {
					f.Slots = append(f.Slots, readertest.Contact(c, n > 0))
				}
				return f
			})
		})
	}
}

// Commands and answers of every length arrive whole, in either slot. The card's rate is set
// by a PPS in the first one.
func TestLengths(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			r, _ := open(t, newReader(t, k).Plug())
			for n, s := range r.Slots() {
				l := connect(t, s)
				if want := byte(0x18); k.card == t0 && n == 0 && l.Params().TA1 != want {
					t.Errorf("TA1 %02X, want %02X", l.Params().TA1, want)
				}
				readertest.EveryLength(t, l)
			}
		})
	}
}

// A card that comes or goes is reported by the reader itself: nobody polls.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, kinds[0])
		r, s := open(t, e.Plug())
		defer r.Close()
		changes := reader.FeaturesOf(s).Notifier.Changes()
		told := func() bool {
			synctest.Wait()
			select {
			case <-changes:
				return true
			default:
				return false
			}
		}
		if told() {
			t.Error("a change without one")
		}
		c := e.Contacts()[0].Remove()
		if st, err := s.Status(t.Context()); !told() || st != reader.Absent || err != nil {
			t.Errorf("taken out: %v, %v", st, err)
		}
		e.Contacts()[0].Insert(c)
		if st, err := s.Status(t.Context()); !told() || st != reader.Present || err != nil {
			t.Errorf("put in: %v, %v", st, err)
		}
		e.Send(0x81, unhex("01 C2 00 00"))
		e.Send(0x81, unhex("01"))
		e.Send(0x81, nil)
		if told() {
			t.Error("another message counts as a change")
		}
	})
}

// Each transfer may fail in each way, those of an attachment as well.
func TestFaults(t *testing.T) {
	for _, k := range kinds[:2] {
		faulttest.Session{
			Driver: Driver{}, New: func() faulttest.Device { return k.empty() }, Card: func() icc.Card { return k.card },
			Commands: [][2]string{{"80 E2 00 46 46", fmt.Sprintf("% X 90 00", pattern(70))}, {"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"}},
			Opening:  true, Transfers: 14, Limit: 2 * time.Hour,
			// Nothing tells that a status or data are wrong. (The reader keeps the time of the card.)
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
		readertest.Late(t, s, e.Contacts()[0], 2*time.Second, 5)
	})
}

// What held a command is cleared after use.
func TestWipes(t *testing.T) {
	_, s := open(t, newReader(t, kinds[0]).Plug())
	connect(t, s)
	if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("80 EE 00 00 04 31 32 33 34"), Wait: time.Second}, nil); err != nil {
		t.Fatal(err)
	}
	if l := s.(*slot38).line.(*bulkLine); l.frame != [len(l.frame)]byte{} {
		t.Errorf("% X", l.frame)
	}
}

// A program may have left an answer in the reader before cardfs opens it.
func TestLeftBehind(t *testing.T) {
	for _, left := range []string{"01 00 00 02 90 00", "01 00 00 00", "01 FE 00 00", "01 00 00 10" + strings.Repeat("AA", 14) + "90 00"} {
		e := newReader(t, kinds[0])
		port := e.Plug()
		e.Send(0x82, unhex(left))
		_, s := open(t, port)
		connect(t, s)
	}
}

// Only plausible answers are accepted, and each status has its error.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		name, answer string
		is           error // nil: accepted
		says         string
	}{
		{"data", "01 00 00 02 90 00", nil, ""},
		{"padded", "01 00 00 02 90 00 00 00 00", nil, ""},
		{"cut", "01 00 00 03 90 00", reader.ErrProtocol, "7 bytes announced, 6 came"},
		{"too long", "01 00 FF FF 90 00", reader.ErrProtocol, "65539 bytes announced, 264 are the most"},
		{"another header", "02 00 00 02 90 00", reader.ErrProtocol, "does not begin with 01"},
		{"no header", "01 00 00", reader.ErrProtocol, "an answer of 3 bytes; 4 are the least"},
		{"no card", "01 FA 00 00", reader.ErrNoCard, "no card"},
		{"silent", "01 FE 00 00", reader.ErrTimeout, "the card is silent"},
		{"without power", "01 F9 00 00", reader.ErrStale, "no power"},
		{"parity", "01 FD 12 34", reader.ErrProtocol, "parity error"},
		{"a status nobody knows", "01 77 00 00", reader.ErrProtocol, "status 77"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newReader(t, kinds[0])
				port := e.Plug()
				r, s := open(t, port)
				defer r.Close()
				connect(t, s)
				e.Hold(0x82, true)
				e.Send(0x82, unhex(x.answer))
				e.Hold(0x82, false)
				got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Second}, []byte("before"))
				if x.is == nil {
					if err != nil || !bytes.Equal(got, append([]byte("before"), 0x90, 0x00)) {
						t.Errorf("% X, %v", got, err)
					}
					return
				}
				if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says) || !strings.HasPrefix(err.Error(), "acr38 usb:1-2: exchange: ") || string(got) != "before" {
					t.Errorf("%q, %v", got, err)
				}
			})
		})
	}
}

// Frames of any content neither panic nor hang the driver.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("14 01 00 00 10 41 43 52 33 38 20 31 30 30 30 FE FE 30 0F 00 01 04 01 00 00 00 04 01 00 00 00 08 01 00 00 04 3B 02 14 50 06 01 00 00 02 90 00"), byte(8))
	f.Fuzz(func(t *testing.T, in []byte, packet byte) {
		synctest.Test(t, func(t *testing.T) {
			e := emu.New(emu.Config{Product: 0x9000, Packet: int(packet)%64 + 1})
			port := e.Plug()
			for len(in) > 0 {
				n := min(len(in), 1+int(in[0]))
				e.Send(0x82, in[1:n])
				e.Send(0x81, in[1:n])
				in = in[n:]
			}
			r, err := Driver{}.Open(t.Context(), device38(port))
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
