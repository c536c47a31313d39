package cyberjack

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/cyberjack/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex   = readertest.Hex
	pattern = readertest.Pattern
	connect = readertest.Connect
)

// card keeps the PIN that VERIFY brings, which takes busy.
type card struct {
	readertest.Card
	busy time.Duration
	last []byte
}

func t0() *card { return &card{Card: readertest.Plain} }
func t1() *card { return &card{Card: readertest.Block} }

func (c *card) Incoming(cla, ins byte) bool { return ins == 0x20 || c.Card.Incoming(cla, ins) }

func (c *card) Busy(command []byte) time.Duration {
	if command[1] == 0x20 {
		return c.busy
	}
	return 0
}

func (c *card) Process(command []byte) []byte {
	if command[1] == 0x20 {
		c.last = bytes.Clone(command)
		return unhex("90 00")
	}
	return c.Card.Process(command)
}

func newReader(t testing.TB, cfg emu.Config, c icc.Card) *emu.Reader {
	t.Helper()
	e := emu.New(cfg)
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device(l usb.Opener) reader.Device {
	return reader.Device{Driver: "cyberjack", Address: "usb:1-2", ID: ids[0], Link: l}
}

func open(t testing.TB, l usb.Opener) *slot {
	t.Helper()
	_, s := readertest.Open(t, Driver{}, device(l))
	return s.(*slot)
}

func status(t testing.TB, s reader.Slot, want reader.Status) {
	t.Helper()
	if got, err := s.Status(context.Background()); got != want || err != nil {
		t.Errorf("status %v, %v; want %v", got, err, want)
	}
}

const session = "testdata/session.txt"

var verify = reader.PINVerify{PINFormat: reader.PINFormat{
	Format: 0x82, MinDigits: 1, MaxDigits: 8, APDU: readertest.Hex("00 20 00 01 08 FF FF FF FF FF FF FF FF"),
}}

// The driver sends what the session's host sends, with its time-outs and pauses, and accepts
// what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, readertest.Load(t, usbtest.Load, session)).Describe(emu.New(emu.Config{}).Descriptors())
		p.Step("start")
		begin := time.Now()
		slot := open(t, p)
		if d := time.Since(begin); d != settleTime+activateTime {
			t.Errorf("the start took %v", d)
		}
		h := readertest.NewHost(t, p, slot)
		h.Status("status", reader.Present)
		h.PowerOn("power on", reader.Cold, string(readertest.Plain))
		h.Step("command")
		h.Exchange("00 A4 00 00 02 3F 00", "90 00")
		h.Step("PIN")
		begin = time.Now()
		if got, err := slot.VerifyPIN(t.Context(), &verify, nil); err != nil || !bytes.Equal(got, unhex("90 00")) {
			t.Errorf("% X, %v", got, err)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("the PIN took %v", d)
		}
		h.Status("card out", reader.Absent)
		h.PowerOff("power off")
		h.Gone("unplugged")
	})
}

// The emulated reader answers the session's host as the session's device does.
func TestReaderPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := t0()
		c.busy = 4 * time.Second
		e := newReader(t, emu.Config{}, c)
		p := e.Plug()
		defer p.Unplug()
		usbtest.Replay(t, readertest.Load(t, usbtest.Load, session), p, map[string]func(){
			"the user types a digit and OK": func() { e.Type("1") },
			"the card leaves":               func() { e.Contact.Remove() },
		})
	})
}

type kind struct {
	name string
	cfg  emu.Config
	card func() *card
}

var kinds = []kind{
	{"T=0", emu.Config{}, t0},
	{"T=1", emu.Config{Most: 32, ZLP: true}, t1},
	{"long blocks", emu.Config{Most: 255, ZLP: true, EmptyWTX: true}, t1},
}

func TestSuite(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, k.cfg, k.card())
				port := e.Plug()
				return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length up to those of a short APDU arrive whole, whatever the
// reader puts into a block.
func TestLengths(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newReader(t, k.cfg, k.card()).Plug()
				defer p.Unplug()
				readertest.EveryLength(t, connect(t, open(t, p)))
			})
		})
	}
}

// Each transfer fails in each way.
func TestFaults(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			faulttest.Session{
				Driver: Driver{},
				New:    func() faulttest.Device { return emu.New(k.cfg) },
				Card:   func() icc.Card { return k.card() },
				Commands: [][2]string{
					{"00 A4 00 00 02 3F 00", "90 00"},
					{"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"},
					{"80 E2 00 64 64", fmt.Sprintf("% X 90 00", pattern(100))},
				},
				Transfers: 8,
				Limit:     4 * time.Minute,
			}.Run(t)
		})
	}
}
