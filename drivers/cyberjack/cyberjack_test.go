package cyberjack

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

// card answers the commands of the session. INS E2 gives P1 P2 bytes, EE its data back; 20 is
// kept, and takes busy.
type card struct {
	atr  string
	busy time.Duration
	last []byte
}

func t0() *card { return &card{atr: "3B 02 14 50"} }
func t1() *card { return &card{atr: "3B 80 81 31 FE 45 8B"} }

func (c *card) ATR() []byte             { return unhex(c.atr) }
func (*card) Reset(bool)                {}
func (*card) Incoming(_, ins byte) bool { return ins == 0xA4 || ins == 0xEE || ins == 0x20 }
func (c *card) Busy(command []byte) time.Duration {
	if command[1] == 0x20 {
		return c.busy
	}
	return 0
}

func (c *card) Process(command []byte) []byte {
	switch x := fmt.Sprintf("%X", command); {
	case command[1] == 0x20:
		c.last = bytes.Clone(command)
		return unhex("90 00")
	case strings.HasPrefix(x, "00A40000023F00"):
		return unhex("90 00")
	case x == "0084000008":
		return unhex("11 12 13 14 15 16 17 18 90 00")
	case command[1] == 0xE2:
		return append(pattern(int(command[2])<<8|int(command[3])), 0x90, 0x00)
	case command[1] == 0xEE:
		return append(bytes.Clone(command[5:5+int(command[4])]), 0x90, 0x00)
	}
	return unhex("6D 00")
}

func newReader(t testing.TB, cfg emu.Config, c icc.Card) *emu.Reader {
	t.Helper()
	e := emu.New(cfg)
	if err := e.Contact.Insert(c); err != nil {
		t.Fatal(err)
	}
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
	s, err := usbtest.Load(session)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, s).Describe(emu.New(emu.Config{}).Descriptors())
		p.Step("start")
		begin := time.Now()
		slot := open(t, p)
		if d := time.Since(begin); d != settleTime+activateTime {
			t.Errorf("the start took %v", d)
		}
		p.Step("status")
		status(t, slot, reader.Present)
		p.Step("power on")
		if atr, err := slot.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(atr, t0().ATR()) {
			t.Fatalf("ATR % X, %v", atr, err)
		}
		p.Step("command")
		got, err := slot.Exchange(t.Context(), reader.Transfer{Out: unhex("00 A4 00 00 02 3F 00")}, nil)
		if err != nil || !bytes.Equal(got, unhex("90 00")) {
			t.Errorf("% X, %v", got, err)
		}
		p.Step("PIN")
		begin = time.Now()
		if got, err = slot.VerifyPIN(t.Context(), &verify, nil); err != nil || !bytes.Equal(got, unhex("90 00")) {
			t.Errorf("% X, %v", got, err)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("the PIN took %v", d)
		}
		p.Step("card out")
		status(t, slot, reader.Absent)
		p.Step("power off")
		if err := slot.PowerOff(t.Context()); err != nil {
			t.Error(err)
		}
		p.Step("unplugged")
		if _, err := slot.Status(t.Context()); !errors.Is(err, reader.ErrGone) {
			t.Errorf("status after the reader left: %v", err)
		}
	})
}

// The emulated reader answers the session's host as the session's device does.
func TestReaderPlaysSession(t *testing.T) {
	s, err := usbtest.Load(session)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		c := t0()
		c.busy = 4 * time.Second
		e := newReader(t, emu.Config{}, c)
		p := e.Plug()
		defer p.Unplug()
		usbtest.Replay(t, s, p, map[string]func(){
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
				return &readertest.Fixture{
					Driver: Driver{}, Device: device(port),
					Slots:   []readertest.Slot{readertest.Contact(&e.Contact, false)},
					Command: unhex("00 84 00 00 08"), Answer: unhex("11 12 13 14 15 16 17 18 90 00"),
					Unplug: port.Unplug, Close: port.Unplug,
				}
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
				l := connect(t, open(t, p))
				for n := 1; n <= 256; n++ {
					got, err := l.Transmit(t.Context(), []byte{0x80, 0xE2, byte(n >> 8), byte(n), byte(n)}, nil)
					if want := append(pattern(n), 0x90, 0x00); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("answer of %d bytes: %d, %v", n, len(got), err)
					}
					if n == 256 {
						break
					}
					tx := append(append([]byte{0x80, 0xEE, 0, 0, byte(n)}, pattern(n)...), 0)
					if got, err = l.Transmit(t.Context(), tx, nil); err != nil || !bytes.Equal(got, append(pattern(n), 0x90, 0x00)) {
						t.Fatalf("echo of %d bytes: % X, %v", n, got, err)
					}
				}
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
