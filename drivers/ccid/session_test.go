package ccid

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// host performs the actions of a session of testdata.
type host struct {
	t *testing.T
	p *usbtest.Player
	s *slot
}

// openPlayer opens the device of a session.
func openPlayer(t *testing.T, s usbtest.Session) *host {
	t.Helper()
	p := usbtest.NewPlayer(t, s)
	r, err := Driver{}.Open(ctx, reader.Device{Driver: "ccid", Address: "usb:1-2", Link: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return &host{t, p, r.Slots()[0].(*slot)}
}

func (h *host) powerOn(want string) *iso7816.ATR {
	h.t.Helper()
	got, err := h.s.PowerOn(ctx, reader.Cold)
	check(h.t, got, err, unhex(want), nil)
	atr, err := iso7816.ParseATR(unhex(want))
	if err != nil {
		h.t.Fatal(err)
	}
	return atr
}

// parameters calls SetParams with the ATR's values for T=t, at the rate of ta1.
func (h *host) parameters(atr *iso7816.ATR, t int, ta1 byte) {
	h.t.Helper()
	p, err := atr.Params(t)
	if err == nil {
		p.TA1 = ta1
		err = h.s.SetParams(ctx, p)
	}
	check(h.t, nil, err, nil, nil)
}

func (h *host) exchange(tx, rx string, wtx int) {
	h.t.Helper()
	got, err := h.s.Exchange(ctx, reader.Transfer{Out: unhex(tx), WTX: wtx}, nil)
	check(h.t, got, err, unhex(rx), nil)
}

func (h *host) status(want reader.Status) {
	h.t.Helper()
	if got, err := h.s.Status(ctx); got != want || err != nil {
		h.t.Errorf("status %v, %v, want %v", got, err, want)
	}
}

func (h *host) unplugged() {
	h.t.Helper()
	h.p.Step("the reader is unplugged")
	<-h.s.gone
	if _, err := h.s.Status(ctx); !errors.Is(err, reader.ErrGone) {
		h.t.Errorf("status after the reader left: %v", err)
	}
}

// sessions lists the sessions of testdata, the emulated reader of each, and the actions
// behind its events.
var sessions = []struct {
	file   string
	reader func() emu.Config
	card   []byte
	events func(e *emu.Reader) map[string]func()
	host   func(h *host)
}{
	{"testdata/extended-apdu.txt", tinyAPDU, unhex("3B 90 95 80 01 84"), func(e *emu.Reader) map[string]func() {
		return map[string]func(){"no card": func() { e.Contact(0).Remove() }}
	}, func(h *host) {
		h.p.Step("power on")
		atr := h.powerOn("3B 90 95 80 01 84")
		h.p.Step("protocol")
		want, _ := atr.Params(0)
		got, err := h.s.SelectProtocol(ctx, want)
		if err != nil || got.T != 0 || got.TA1 != 0x95 {
			h.t.Errorf("%+v, %v", got, err)
		}
		h.p.Step("a short command")
		h.exchange("00 84 00 00 04", "00 01 02 03 90 00", 0)
		h.p.Step("a command of 51 bytes")
		data := fmt.Sprintf("%X", pattern(45))
		h.exchange("80 EE 00 00 2D"+data+"00", data+"90 00", 0)
		h.p.Step("the card is pulled under a command of 2 s")
		_, err = h.s.Exchange(ctx, reader.Transfer{Out: unhex("80 E8 00 14 00")}, nil)
		check(h.t, nil, err, nil, reader.ErrNoCard)
		h.unplugged()
	}},
	{"testdata/tpdu.txt", bareTPDU, unhex("3B 12 95 14 50"), func(e *emu.Reader) map[string]func() {
		return map[string]func(){
			"no card":    func() { e.Contact(0).Remove() },
			"a T=1 card": func() { e.Contact(0).Insert(&testCard{atr: unhex("3B 80 81 11 FE EE")}) },
		}
	}, func(h *host) {
		<-h.s.Changes()
		h.p.Step("T=0: power on")
		atr := h.powerOn("3B 12 95 14 50")
		h.p.Step("T=0: PPS, parameters")
		h.exchange("FF 10 95 7A", "FF 10 95 7A", 0)
		h.parameters(atr, 0, 0x95)
		h.p.Step("T=0: commands")
		h.exchange("00 A4 00 00 02 3F 00", "90 00", 0)
		h.exchange("00 84 00 00 04", "00 01 02 03 90 00", 0)
		h.p.Step("T=0: a command of 0.7 s")
		h.exchange("80 E8 00 07 00", "90 00", 0)
		h.p.Step("the card is taken out")
		<-h.s.Changes()
		h.status(reader.Absent)
		_, err := h.s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 04")}, nil)
		check(h.t, nil, err, nil, reader.ErrNoCard)
		h.p.Step("T=1: power on")
		<-h.s.Changes()
		atr = h.powerOn("3B 80 81 11 FE EE")
		h.p.Step("T=1: parameters")
		h.parameters(atr, 1, iso7816.DefaultTA1)
		h.p.Step("T=1: blocks")
		h.exchange("00 C1 01 FE 3E", "00 E1 01 FE 1E", 0)
		h.exchange("00 00 05 00 84 00 00 04 85", "00 00 06 00 01 02 03 90 00 96", 0)
		h.p.Step("T=1: a command of 1.2 s")
		h.exchange("00 40 04 80 E8 00 0C 20", "00 C3 01 01 C3", 0)
		h.exchange("00 E3 01 01 E3", "00 40 02 90 00 D2", 1)
		h.p.Step("power off")
		if err := h.s.PowerOff(ctx); err != nil {
			h.t.Error(err)
		}
		h.unplugged()
	}},
}

// bareTPDU is a TPDU reader that leaves voltage, parameters and PPS to the host
// (dwFeatures 00010030).
func bareTPDU() emu.Config {
	c := emu.TPDUReader()
	c.Features = emu.AutoClock | emu.AutoBaud
	return c
}

// tinyAPDU is an extended APDU reader with messages of 32 bytes.
func tinyAPDU() emu.Config {
	c := emu.ExtendedAPDUReader()
	c.MaxMessage, c.NoInterrupt = 32, true
	return c
}

// The driver sends what the hosts of the sessions send, and accepts what their devices
// answer.
func TestDriverPlaysSession(t *testing.T) {
	for _, s := range sessions {
		t.Run(s.file, func(t *testing.T) {
			session, err := usbtest.Load(s.file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { s.host(openPlayer(t, session)) })
		})
	}
}

// The emulated readers answer the sessions' hosts as the sessions' devices do.
func TestEmulatorPlaysSession(t *testing.T) {
	for _, s := range sessions {
		t.Run(s.file, func(t *testing.T) {
			session, err := usbtest.Load(s.file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				e := emu.New(s.reader())
				if err := e.Contact(0).Insert(&testCard{atr: bytes.Clone(s.card)}); err != nil {
					t.Fatal(err)
				}
				usbtest.Replay(t, session, e.Plug(), s.events(e))
				e.Unplug()
			})
		})
	}
}

// A memory card in a CCID reader of TPDU level: the reader refuses SetParameters, and
// bmICCStatus 0 (CCID 1.1 table 6.2-3) says that the card is active. A refusal is no
// reason to give up an active card: the pseudo-APDUs of such readers (FF A4: select the
// card type) pass without any command before them.
func TestMemoryCardSession(t *testing.T) {
	for _, refusal := range []string{"40 FE", "40 F6", "40 07", "40 00"} {
		t.Run(refusal, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				session, err := usbtest.Parse(fmt.Sprintf(`
					OUT 02 | 65 00 00 00 00  00 00 00 00 00
					IN  81 | 81 00 00 00 00  00 00 01 00 00
					OUT 02 | 65 00 00 00 00  00 01 00 00 00
					IN  81 | 81 00 00 00 00  00 01 01 00 00

					== opened
					OUT 02 | 62 00 00 00 00  00 02 01 00 00                   # IccPowerOn, 5 V
					IN  81 | 80 06 00 00 00  00 02 00 00 00  3B 04 17 04 FF FF
					OUT 02 | 61 05 00 00 00  00 03 00 00 00  11 00 00 0A 00   # SetParameters
					IN  81 | 82 00 00 00 00  00 03 %s 00                      # failed, the card is active

					== card type 06
					OUT 02 | 6F 06 00 00 00  00 04 00 00 00  FF A4 00 00 01 06
					IN  81 | 80 02 00 00 00  00 04 00 00 00  90 00

					== closed
					OUT 02 | 63 00 00 00 00  00 05 00 00 00
					IN  81 | 81 00 00 00 00  00 05 01 00 00
				`, refusal))
				if err != nil {
					t.Fatal(err)
				}
				p := usbtest.NewPlayer(t, session).Describe(emu.New(bareTPDU()).Descriptors())
				m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
				defer m.Close(ctx)
				if err := m.Announce(reader.Device{Driver: "ccid", Address: "usb:1-2", Link: p, Slots: 1}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				p.Step("opened")
				s := (&bench{t: t, m: m}).session(0)
				if i := s.Slot().Info(); i.State != "powered" || i.Err != nil {
					t.Errorf("state %s, error %v", i.State, i.Err)
				}
				p.Step("card type 06")
				transmit(t, s, unhex("FF A4 00 00 01 06"), unhex("90 00"))
				p.Step("closed")
			})
		})
	}
}
