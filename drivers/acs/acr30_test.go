package acs

import (
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

// ATRs of the sessions from OpenCT, and of a card that has T=0 first and T=1.
const (
	bare   = card("3B 02 14 50")
	bareT1 = card("3B 80 81 31 FE 45 8B")
	dual   = card("3B 97 94 80 31 FE 45 53 49 4D 44 55 90 00 22")
)

func newUSB30(t testing.TB, c card) *emu.USB30 {
	t.Helper()
	e := newFaulty()
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device30(link usb.Opener) reader.Device {
	return reader.Device{Driver: "acr30", Address: "usb:1-2", ID: ACR30{}.IDs()[0], Link: link}
}

func open30(t testing.TB, dev reader.Device) (reader.Reader, *slot30) {
	t.Helper()
	r, err := ACR30{}.Open(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	return r, r.Slots()[0].(*slot30)
}

// play30 is what the driver does in the sessions.
func play30(t *testing.T, player interface{ Step(string) }, dev func() reader.Device, model string) {
	player.Step("start")
	r, slot := open30(t, dev())
	defer r.Close()
	h := readertest.NewHost(t, player, r)
	h.Wait = 2 * time.Second
	h.Identify(model, "version", "READER1030")
	h.Status("status", reader.Present)
	h.PowerOn("power on", reader.Cold, string(t0))
	h.Step("commands")
	h.Exchange("00 A4 00 00 02 3F 00", "90 00")
	h.Exchange("00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00")
	h.Exchange("00 E4 00 00 00", "6D 00")
	h.PowerOff("power off")
	h.Status("card out", reader.Absent)
	h.Step("unplugged")
	<-r.Gone()
	if _, err := slot.Status(t.Context()); !errors.Is(err, reader.ErrGone) {
		t.Errorf("status after the reader left: %v", err)
	}
}

func loadUSB(t *testing.T, name string) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/"+name)
}

// The driver sends what the session's host sends, with the same time-outs, and accepts what
// its device answers.
func TestACR30PlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, loadUSB(t, "acr30.txt")).Describe(emu.NewACR30("").Descriptors())
		play30(t, p, func() reader.Device { return device30(p) }, "ACS ACR30U")
	})
}

// The emulated reader answers the sessions' hosts as their devices do.
func TestReaderPlaysACR30Sessions(t *testing.T) {
	for name, c := range map[string]card{"acr30.txt": t0, "openct-acr30u.txt": bare, "openct-pertosmart.txt": bare} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newUSB30(t, c)
				e.Lax = name == "openct-acr30u.txt"
				p := e.Plug()
				defer p.Unplug()
				usbtest.Replay(t, loadUSB(t, name), p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
			})
		})
	}
}

func TestACR30Suite(t *testing.T) {
	for proto, c := range []card{t0, t1} {
		t.Run(fmt.Sprintf("T=%d", proto), func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newUSB30(t, c)
				e.Bare = proto == 1
				port := e.Plug()
				return readertest.Emulated(ACR30{}, device30(port), port.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}

// Commands and answers of every length arrive whole, whether or not the last packet is filled up.
func TestACR30Lengths(t *testing.T) {
	for _, bare := range []bool{false, true} {
		for _, c := range []card{t0, t1} {
			e := newUSB30(t, c)
			e.Bare = bare
			r, s := open30(t, device30(e.Plug()))
			readertest.EveryLength(t, connect(t, s))
			r.Close()
		}
	}
}

// "An answer is at most as many transfers as it needs": two, or one if it is short.
func TestACR30Transfers(t *testing.T) {
	e := newUSB30(t, t0)
	r, s := open30(t, device30(e.Plug()))
	defer r.Close()
	connect(t, s)
	for _, x := range []struct {
		command string
		want    int
	}{{"80 E2 00 00 00", 2}, {"80 E2 00 05 05", 3}, {"80 E2 01 00 00", 3}} {
		n := 0
		e.Observe(func(l usbtest.Line) {
			if l.Kind == usbtest.Transfer {
				n++
			}
		})
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(x.command), Wait: time.Second}, nil); err != nil || n != x.want {
			t.Errorf("%s: %d transfers, want %d, %v", x.command, n, x.want, err)
		}
	}
}

// The card gets the protocol that is wanted: by another reset if the reader chose the other.
// The same goes for the rate, of which the reader knows two.
func TestACR30Protocol(t *testing.T) {
	for _, x := range []struct {
		card   card
		want   int
		t      int
		resets int
	}{{dual, -1, 0, 1}, {dual, 0, 0, 1}, {dual, 1, 1, 2}, {t0, 0, 0, 1}, {t1, 1, 1, 1}} {
		e := newUSB30(t, x.card)
		r, s := open30(t, device30(e.Plug()))
		l := readertest.NewLink(s)
		resets := 0
		e.Observe(func(l usbtest.Line) {
			if l.Control && len(l.Data) > 4 && string(l.Data[3:5]) == "80" {
				resets++
			}
		})
		err := l.PowerUp(t.Context(), reader.Cold, x.want)
		if err != nil || l.Params().T != x.t || e.Contact.Protocol() != x.t || resets != x.resets {
			t.Errorf("%s, want %d: T=%d, the card has T=%d, %d resets, %v", x.card, x.want, l.Params().T, e.Contact.Protocol(), resets, err)
		}
		if got, err := l.Transmit(t.Context(), unhex("80 E2 00 03 03"), nil); err != nil || len(got) != 5 {
			t.Errorf("% X, %v", got, err)
		}
		// The next card is not forced to the protocol of this one.
		e.Contact.Remove()
		e.Contact.Insert(map[bool]card{true: t0, false: t1}[x.t == 1])
		if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil || l.Params().T != 1-x.t {
			t.Errorf("the next card: T=%d, %v", l.Params().T, err)
		}
		r.Close()
	}
	// A protocol that the card lacks.
	e := newUSB30(t, t0)
	r, s := open30(t, device30(e.Plug()))
	defer r.Close()
	l := readertest.NewLink(s)
	if err := l.PowerUp(t.Context(), reader.Cold, 1); !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("T=1 with a T=0 card: %v", err)
	}
}

// Option 01 is 9600 bit/s for the card, 00 the rate that the card offers (manual, 07).
func TestACR30Rates(t *testing.T) {
	e := newUSB30(t, t0)
	r, s := open30(t, device30(e.Plug()))
	defer r.Close()
	ctx := t.Context()
	choose := func(ta1, want byte) {
		t.Helper()
		p, err := s.SelectProtocol(ctx, iso7816.Params{T: 0, TA1: ta1})
		if err != nil || p.TA1 != ta1 || e.Contact.Rate() != want {
			t.Errorf("TA1 %02X: %02X, the card has %02X, %v", ta1, p.TA1, e.Contact.Rate(), err)
		}
	}
	if _, err := s.SelectProtocol(ctx, iso7816.Params{}); !errors.Is(err, reader.ErrStale) {
		t.Errorf("without power: %v", err)
	}
	if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
		t.Fatal(err)
	}
	if !s.Supports(0x18) || !s.Supports(0x11) || s.Supports(0x13) {
		t.Error("the reader has the rate of the card and the default one")
	}
	choose(0x18, 0x18)
	choose(0x11, 0x11)
	// The option holds on: for the next reset, and after the reader was restarted.
	if _, err := s.PowerOn(ctx, reader.Cold); err != nil || e.Contact.Rate() != 0x11 {
		t.Errorf("rate %02X, %v", e.Contact.Rate(), err)
	}
	e.Hold(0x81, true)
	if _, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 08"), Wait: time.Millisecond}, nil); !errors.Is(err, reader.ErrTimeout) {
		t.Error(err)
	}
	e.Hold(0x81, false)
	choose(0x18, 0x18)
	// A card that offers no rate has none to select.
	e.Contact.Remove()
	e.Contact.Insert(bare)
	if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
		t.Fatal(err)
	}
	choose(0x11, 0x11)
	if s.option.value != optionNone {
		t.Error("an option for nothing")
	}
}

// A reader at whose every transfer something fails says so, sends no command twice, and works
// again.
func TestACR30Faults(t *testing.T) {
	for proto, c := range []card{bare, t1} {
		faulttest.Session{
			Driver: ACR30{},
			New:    func() faulttest.Device { return newFaulty() },
			Card:   func() icc.Card { return c },
			Commands: [][2]string{
				{"80 E2 00 05 05", "00 01 02 03 04 90 00"},
				{"80 E0 00 00 02 0A 0B", "90 00"},
			},
			Transfers: 12,
			Limit:     []time.Duration{6 * time.Minute, time.Minute}[proto],
			Unseen:    func(usbtest.Line, usbtest.Fault) bool { return false },
		}.Run(t)
	}
}

// newFaulty is without a card.
func newFaulty() *emu.USB30 {
	e := emu.NewACR30("")
	e.Patience = 600 * time.Millisecond // a real one waits as long as the protocol says
	return e
}

// An answer that comes too late is not taken for that of the next command, in whose place the
// status is asked for.
func TestACR30Late(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newUSB30(t, t0)
		r, s := open30(t, device30(e.Plug()))
		defer r.Close()
		connect(t, s)
		// The answer has as many bytes as a status.
		readertest.Late(t, s, &e.Contact, 3*time.Second, 0x0E)
	})
}

// A program may have left an answer in the reader before cardfs opens it, and the reader may
// tell of cards until it is told not to.
func TestACR30LeftBehind(t *testing.T) {
	for _, left := range []string{"01 90 00 02 90 00", "01 90 00 00", "01 60 02 00", "01 FF 01 00", "01 90 00 10" + strings.Repeat("AA", 14) + "90 00"} {
		e := newUSB30(t, t0)
		port := e.Plug()
		e.SendPackets(0x81, frameOf(left, true), false)
		r, s := open30(t, device30(port))
		connect(t, s)
		if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
			t.Errorf("%s: %v, %v", left, st, err)
		}
		r.Close()
	}
}
