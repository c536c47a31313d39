package ikey

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

type card = readertest.Card

const (
	starcos = card("3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1")
	datakey = card("3B FF 11 00 00 81 31 FE 4D 80 25 A0 00 00 00 56 57 44 4B 33 33 30 06 00 D0")
	atr     = string(starcos)
)

// kinds are the models with their devices.
var kinds = []struct {
	driver Driver
	card   card
	make   func(serial string) *emu.Token
	file   string
}{
	{IKey3000, starcos, emu.New3000, "testdata/ikey3000.txt"},
	{IKey2032, datakey, emu.New2032, "testdata/ikey2032.txt"},
}

func newToken(t testing.TB, make func(string) *emu.Token, c card) *emu.Token {
	t.Helper()
	e := make("")
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device(d Driver, link usb.Opener) reader.Device {
	return reader.Device{Driver: d.Name(), Address: "usb:1-2", Link: link}
}

func openAs(t testing.TB, d Driver, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, d, device(d, link))
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	return openAs(t, IKey3000, link)
}

// The sessions in testdata: the driver sends what the session's host sends, with the same
// time-outs, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.driver.Name(), func(t *testing.T) {
			p := usbtest.NewPlayer(t, readertest.Load(t, usbtest.Load, k.file)).Describe(k.make("").Descriptors())
			r, _ := openAs(t, k.driver, p)
			h := readertest.NewHost(t, p, r)
			h.PowerOn("power on", reader.Cold, string(k.card))
			h.Step("commands")
			h.Exchange("00 00 07 00 A4 00 00 02 3F 00 9E", "00 00 02 90 00 92")
			h.Exchange("00 40 05 00 84 00 00 08 C9", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2")
			h.Step("other blocks")
			h.Exchange("00 90 00 90", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2")
			h.Exchange("00 C0 00 C0", "00 E0 00 E0")
			h.Exchange("00 C1 01 B4 74", "00 E1 01 B4 54")
			h.Gone("unplugged")
		})
	}
}

// The emulated tokens answer the sessions' hosts as the sessions' devices do.
func TestTokenPlaysSession(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.driver.Name(), func(t *testing.T) {
			usbtest.Replay(t, readertest.Load(t, usbtest.Load, k.file), newToken(t, k.make, k.card).Plug(), nil)
		})
	}
}

// A block may take the time that the protocol gives the card, or 10 s if that is zero.
func TestTimeouts(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, 1: 1, 0: 10 * time.Second, -1: 10 * time.Second} {
		f := &fake{Answers: honest()}
		_, slot := open(t, f)
		slot.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: given}, nil)
		if got := f.Waits[len(f.Waits)-1]; got != want {
			t.Errorf("wait %v: %v, want %v", given, got, want)
		}
	}
}

// What the core relies on: the token does the PPS, its card is always present, and the IFSD
// is the vendor's, whose blocks the token is known to accept.
func TestTraits(t *testing.T) {
	_, s := open(t, &fake{Answers: honest()})
	want := reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSD: 180, Slack: time.Second, Fixed: true}
	if got := s.Traits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A failed reset leaves the card unpowered: its state is unknown.
func TestResetFails(t *testing.T) {
	for _, transfer := range []string{identify, sendReset, getReset, sendATR, getATR, sendPPS, getPPS} {
		f := &fake{Answers: honest()}
		_, s := open(t, f)
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		f.Answers[transfer] = reply{Err: usb.ErrTimeout}
		_, err := s.PowerOn(t.Context(), reader.Warm)
		if st, _ := s.Status(t.Context()); err == nil || st != reader.Present {
			t.Errorf("%s: status %v after %v", transfer, st, err)
		}
	}
}

// USB 2.0 §9.6.1: bcdDevice is bytes 12 and 13 of the device descriptor.
func TestVersion(t *testing.T) {
	whole := unhex("12 01 10 01 00 00 00 08 B9 04 00 13 34 12 00 00 00 01")
	for n, want := range map[int]string{0: "", 13: "", 14: "12.34", 18: "12.34"} {
		r, _ := open(t, &fake{Answers: honest(), Desc: whole[:n]})
		if _, more := r.(reader.Identifier).Identify(); more["version"] != want {
			t.Errorf("%d bytes: version %q, want %q", n, more["version"], want)
		}
	}
}

const (
	identify  = "IN C1 00 0000 0000 40"
	sendReset = "OUT 41 16 0000 0000 00"
	getReset  = "IN C1 01 0000 0000 02"
	sendATR   = "OUT 41 16 2005 0000 00"
	getATR    = "IN C1 01 0000 0000 20"
	sendPPS   = "OUT 41 16 0002 0000 00"
	getPPS    = "IN C1 01 0000 0000 04"
	sendBlock = "OUT 41 17 0000 0005 05"
	getBlock  = "IN C1 01 0000 0000 FF"
)

// The longest T=1 block, NAD PCB LEN, 254 bytes of INF and an LRC (ISO/IEC 7816-3:2006
// §11.3), is sent. No byte of an answer stays in the driver.
func TestBlocks(t *testing.T) {
	f := &fake{Answers: honest()}
	_, s := open(t, f)
	if _, err := s.PowerOn(context.Background(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	got, err := s.Exchange(context.Background(), reader.Transfer{Out: make([]byte, 258)}, nil)
	if err != nil || len(got) == 0 {
		t.Fatalf("258 bytes: % X, %v", got, err)
	}
	if left := f.Buffer[:len(f.Answers[getBlock].Data)]; !bytes.Equal(left, make([]byte, len(left))) {
		t.Errorf("after the exchange the driver holds % X", left)
	}
}

// The token holds a fetch until its card has answered. The host gives up after the waiting
// time.
func TestSilentCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t, emu.New3000, starcos)
		_, s := open(t, e.Plug())
		if _, err := s.PowerOn(context.Background(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		e.Contact.SetFaults(icc.Faults{Mute: true})
		start := time.Now()
		block := reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: 3 * time.Second}
		_, err := s.Exchange(context.Background(), block, nil)
		if !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// The card is slower than the host's wait: its answer arrives with the next fetch.
		e.Contact.SetFaults(icc.Faults{})
		s.PowerOn(context.Background(), reader.Cold)
		e.Contact.SetFaults(icc.Faults{Slow: 4 * time.Second})
		start = time.Now()
		_, err = s.Exchange(context.Background(), block, nil)
		if !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		rx, err := s.Exchange(context.Background(), reader.Transfer{Out: unhex("00 82 00 82"), Wait: 3 * time.Second}, nil)
		if err != nil || !bytes.Equal(rx, unhex("00 00 0A 11 12 13 14 15 16 17 18 90 00 92")) {
			t.Errorf("% X, %v", rx, err)
		}
		if n := e.Contact.APDUs(); n != 1 {
			t.Errorf("the card had %d commands", n)
		}
	})
}

// When a token is pulled, or its port reset, its card loses power.
func TestPowerLost(t *testing.T) {
	faulttest.PowerLost(t, IKey3000, func() faulttest.Device { return newToken(t, emu.New3000, starcos) })
}

// Requests that the tokens refuse, and observed behaviour that the sessions do not show.
func TestRequests(t *testing.T) {
	for _, x := range []struct {
		name         string
		make         func(string) *emu.Token
		rt, rq       uint8
		value, index uint16
		n            int
		want         string
	}{
		{"device descriptor", emu.New3000, 0x80, 6, 0x0100, 0, 64, "12 01 00 01 FF 00 00 08 B9 04 00 13 00 01 01 02 03 01"},
		{"configuration", emu.New3000, 0x80, 6, 0x0200, 0, 255, "09 02 12 00 01 01 00 80 32 09 04 00 00 00 FF 00 00 00"},
		{"product", emu.New3000, 0x80, 6, 0x0302, 0x0409, 255, "14 03 69 00 4B 00 65 00 79 00 20 00 33 00 30 00 30 00 30 00"},
		{"serial number", emu.New3000, 0x80, 6, 0x0303, 0x0409, 255, "06 03 53 00 31 00"},
		{"other class's request", emu.New3000, 0x21, 1, 0, 0, 0, usb.ErrStall.Error()},
		{"vendor request to the device", emu.New3000, 0xC0, 0, 0, 0, 64, usb.ErrStall.Error()},
		{"unknown card command", emu.New3000, 0x41, 0x16, 0x0007, 0, 0, usb.ErrStall.Error()},
		{"an iKey 2032's command", emu.New3000, 0x41, 0x16, 0x1901, 0, 0, usb.ErrStall.Error()},
		{"PPS with a data byte, as the first driver sent it", emu.New3000, 0x41, 0x16, 0x0002, 0, 1, "00"},
		{"device descriptor", emu.New2032, 0x80, 6, 0x0100, 0, 64, "12 01 00 01 FF 00 00 08 B9 04 02 12 00 01 01 02 03 01"},
		{"power of 56 mA", emu.New2032, 0x80, 6, 0x0200, 0, 9, "09 02 12 00 01 01 00 80 1C"},
		{"an iKey 3000's command", emu.New2032, 0x41, 0x16, 0x2005, 0, 0, usb.ErrStall.Error()},
		{"PPS, which it does not know", emu.New2032, 0x41, 0x16, 0x0002, 0, 0, usb.ErrStall.Error()},
	} {
		setup := usb.Setup{RequestType: x.rt, Request: x.rq, Value: x.value, Index: x.index}
		if got := x.make("S1").Plug().Ask(setup, x.n); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

// The emulated tokens survive any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("C1 00 0000 0000 40 41 16 0520 0000 00 C1 01 0000 0000 20"))
	f.Add(unhex("41 17 0000 0500 05 84 00 00 08 89 C1 01 0000 0000 FF"))
	f.Add(unhex("41 16 0119 0000 00 C1 01 0000 0000 19"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, k := range kinds {
			usbtest.Fuzz(t, newToken(t, k.make, k.card).Plug(), in, time.Microsecond)
		}
	})
}

func TestSuite(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.driver.Name(), func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newToken(t, k.make, k.card)
				port := e.Plug()
				return readertest.Emulated(k.driver, device(k.driver, port), port.Unplug, readertest.Contact(&e.Contact, true))
			})
		})
	}
}
