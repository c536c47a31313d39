package etoken

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/etoken/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

// card keeps what it is to write.
type card struct {
	readertest.Card
	updated []byte
}

const (
	cardos    = "3B F2 98 00 FF C1 10 31 FE 55 C8 03 15"
	selectMF  = "00 A4 00 00 02 3F 00"
	challenge = "00 84 00 00 08"
	random    = "11 12 13 14 15 16 17 18 90 00"
)

func (c *card) Process(command []byte) []byte {
	switch fmt.Sprintf("% X", command[:5]) {
	case "00 D6 00 00 28", "00 D6 00 00 00":
		c.updated = bytes.Clone(command)
		return unhex("90 00")
	}
	return c.Card.Process(command)
}

// kind is a family of models with its emulated device.
type kind struct {
	driver Driver
	make   func(serial string) *emu.Token
	file   string
	steps  []string // the requests of a power-up
}

var kinds = []kind{
	{PRO, emu.NewPRO, "testdata/etoken.txt", []string{"OUT 40 01", "IN C0 81", "OUT 40 03", "IN C0 83", "OUT 40 02", "IN C0 82"}},
	{PRO64, emu.NewPRO64, "testdata/etoken64.txt", []string{"OUT 40 01", "IN C0 81", "OUT 40 08", "IN C0 88", "OUT 40 03", "IN C0 83"}},
}

// each runs a test for each driver.
func each(t *testing.T, test func(t *testing.T, k *kind)) {
	for i := range kinds {
		t.Run(kinds[i].driver.Name(), func(t *testing.T) { test(t, &kinds[i]) })
	}
}

// token makes an emulated token with its card.
func (k *kind) token(t testing.TB) *emu.Token {
	t.Helper()
	e := k.make("")
	readertest.Insert(t, &e.Contact, &card{Card: cardos})
	return e
}

func (k *kind) device(link usb.Opener) reader.Device {
	return reader.Device{Driver: k.driver.Name(), Address: "usb:1-2", Link: link}
}

func (k *kind) open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, k.driver, k.device(link))
}

// connect opens the token, and powers its card up as the core does.
func (k *kind) connect(t testing.TB, opener usb.Opener) *link.Link {
	t.Helper()
	_, s := k.open(t, opener)
	return readertest.Connect(t, s)
}

// The sessions in testdata: the driver sends what the session's host sends, with the same
// time-outs, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		p := usbtest.NewPlayer(t, readertest.Load(t, usbtest.Load, k.file)).Describe(k.make("").Descriptors())
		r, s := k.open(t, p)
		h := readertest.NewHost(t, p, r)
		all := fmt.Sprintf("% X", readertest.Pattern(64))
		h.PowerOn("power on", reader.Cold, cardos)
		h.Step("commands")
		h.Exchange("00 00 07 00 A4 00 00 02 3F 00 9E", "00 00 02 90 00 92")
		h.Exchange("00 40 05 00 84 00 00 08 C9", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2")
		if k.driver == PRO {
			h.Step("chained command")
			h.Exchange("00 20 20 00 D6 00 00 28"+all[:0x1B*3]+"E5", "00 90 00 90")
			h.Exchange("00 40 0D"+all[0x1B*3:0x28*3]+"56", "00 00 02 90 00 92")
			h.Step("more time")
			h.Exchange("00 00 05 00 84 00 00 08 89", "00 C3 01 01 C3")
			h.Wait += time.Second
			h.Exchange("00 E3 01 01 E3", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2")
		} else {
			h.Step("chained answer")
			h.Exchange("00 00 05 00 B0 00 00 40 F5", "00 20 20"+all[:0x20*3]+"00")
			h.Exchange("00 90 00 90", "00 60 20"+all[0x20*3:]+"40")
			h.Exchange("00 80 00 80", "00 00 02 90 00 92")
		}
		h.PowerOn("power on again", reader.Warm, cardos)
		h.Gone("unplugged")
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89")}, nil); !errors.Is(err, reader.ErrGone) {
			t.Errorf("exchange after the token left: %v", err)
		}
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrGone) {
			t.Errorf("power on after the token left: %v", err)
		}
	})
}

// The emulated tokens answer the sessions' hosts as the sessions' devices do.
func TestTokenPlaysSession(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		session := readertest.Load(t, usbtest.Load, k.file)
		synctest.Test(t, func(t *testing.T) {
			e := k.token(t)
			usbtest.Replay(t, session, e.Plug(), map[string]func(){
				"the card is slow": func() { e.Contact.SetFaults(icc.Faults{Slow: 3 * time.Second}) },
			})
		})
	})
}

// ISO/IEC 7816-3:2006 §11.4.2: IFSC and IFSD are 32 until something else is said. The ATR
// says 254, and the card may ask for more; still "a higher value is reported to crash the
// token", and the host announces no IFSD, not even after S(RESYNCH). Each fetch of a block
// asks for 37 bytes.
func TestBlockSizes(t *testing.T) {
	each(t, func(t *testing.T, k *kind) { synctest.Test(t, func(t *testing.T) { testBlockSizes(t, k) }) })
}

func testBlockSizes(t *testing.T, k *kind) {
	e := k.token(t)
	e.Contact.SetFaults(icc.Faults{RequestIFS: 254})
	blocks, longest := 0, 0
	e.Observe(func(l usbtest.Line) {
		switch {
		case l.Kind != usbtest.Transfer || l.Setup.Request&0x7F != 6 || l.Setup.RequestType&0x60 == 0:
		case l.In && l.Asked != 0x25:
			t.Errorf("a fetch of %d bytes", l.Asked)
		case !l.In:
			blocks++
			longest = max(longest, len(l.Data))
			if l.Data[1] == 0xC1 {
				t.Error("S(IFS request)")
			}
		}
	})
	l := k.connect(t, e.Plug())
	if blocks != 0 {
		t.Errorf("%d blocks in the power-up", blocks)
	}
	// An extended command and a long answer, with noise in the middle.
	update := append(unhex("00 D6 00 00 00 01 2C"), readertest.Pattern(300)...)
	for _, faults := range []icc.Faults{{RequestIFS: 254}, {Every: 3}, {Fraction: 0.5, Seed: 7}} {
		e.Contact.SetFaults(faults)
		l.Transmit(t.Context(), update, nil)
		if l.Dead() {
			e.Contact.SetFaults(icc.Faults{})
			if err := l.PowerUp(t.Context(), reader.Warm, -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.Contact.SetFaults(icc.Faults{})
	if rx, err := l.Transmit(t.Context(), update, nil); err != nil || !bytes.Equal(rx, unhex("90 00")) ||
		!bytes.Equal(e.Contact.Card().(*card).updated, update) {
		t.Errorf("% X, %v", rx, err)
	}
	if rx, err := l.Transmit(t.Context(), unhex("00 B0 00 00 40"), nil); err != nil || !bytes.Equal(rx, append(readertest.Pattern(64), 0x90, 0)) {
		t.Errorf("% X, %v", rx, err)
	}
	if longest != 36 {
		t.Errorf("the longest block has %d bytes, want 36", longest)
	}
}

// A command costs two transfers a block, a power-up six.
func TestTransfers(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		e := k.token(t)
		var got []string
		e.Observe(func(l usbtest.Line) {
			if l.Kind == usbtest.Transfer && l.Setup.RequestType&0x60 != 0 {
				dir := map[bool]string{true: "IN", false: "OUT"}[l.In]
				got = append(got, fmt.Sprintf("%s %02X %02X", dir, l.Setup.RequestType, l.Setup.Request))
			}
		})
		l := k.connect(t, e.Plug())
		if !slices.Equal(got, k.steps) {
			t.Errorf("power-up: %v", got)
		}
		got = nil
		if _, err := l.Transmit(t.Context(), unhex(selectMF), nil); err != nil || !slices.Equal(got, []string{"OUT 40 06", "IN C0 86"}) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// A block may take the time that the protocol gives the card, or 20 s if that is none.
func TestTimeouts(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, 1: 1, 0: 20 * time.Second, -1: 20 * time.Second} {
		f := &fake{Answers: kinds[0].honest()}
		_, slot := kinds[0].open(t, f)
		slot.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: given}, nil)
		if got := f.Waits[len(f.Waits)-1]; got != want {
			t.Errorf("wait %v: %v, want %v", given, got, want)
		}
	}
}

// The token holds a fetch until its card has answered, as long as the card asks for more
// time. The host gives up a silent one after the waiting time.
func TestSlowAndSilent(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		synctest.Test(t, func(t *testing.T) {
			e := k.token(t)
			l := k.connect(t, e.Plug())
			e.Contact.SetFaults(icc.Faults{Slow: time.Minute})
			start := time.Now()
			rx, err := l.Transmit(t.Context(), unhex(challenge), nil)
			if err != nil || !bytes.Equal(rx, unhex(random)) || time.Since(start) < time.Minute {
				t.Errorf("% X, %v after %v", rx, err, time.Since(start))
			}
			e.Contact.SetFaults(icc.Faults{Mute: true})
			s := l.Slot
			start = time.Now()
			_, err = s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 40 05 00 84 00 00 08 C9"), Wait: 3 * time.Second}, nil)
			if !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 3*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			// A mute card sends no ATR, for which the token has a second.
			start = time.Now()
			if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrMute) || time.Since(start) != time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
}

// When a token is pulled, or its port reset, its card loses power, and nothing of what was
// sent is left to fetch.
func TestPowerLost(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		faulttest.PowerLost(t, k.driver, func() faulttest.Device { return k.token(t) }, func(t *testing.T, d faulttest.Device) {
			if got := d.Plug().Ask(usb.Setup{RequestType: 0xC0, Request: 0x81}, 0x23); got != usb.ErrTimeout.Error() {
				t.Errorf("an ATR without a reset: %s", got)
			}
		})
	})
}

// Requests that the tokens refuse, and observed behaviour that the sessions do not show.
func TestRequests(t *testing.T) {
	stalls, holds, dies := usb.ErrStall.Error(), usb.ErrTimeout.Error(), "dies"
	for _, x := range []struct {
		name         string
		make         func(string) *emu.Token
		rt, rq       uint8
		value, index uint16
		n            int
		want         string
	}{
		{"device descriptor", emu.NewPRO, 0x80, 6, 0x0100, 0, 64, "12 01 00 01 FF 00 00 08 29 05 0C 05 00 01 01 02 03 01"},
		{"configuration", emu.NewPRO, 0x80, 6, 0x0200, 0, 255, "09 02 12 00 01 01 00 80 32 09 04 00 00 00 FF 00 00 00"},
		{"product", emu.NewPRO, 0x80, 6, 0x0302, 0x0409, 255, "16 03 65 00 54 00 6F 00 6B 00 65 00 6E 00 20 00 50 00 52 00 4F 00"},
		{"serial number", emu.NewPRO, 0x80, 6, 0x0303, 0x0409, 255, "06 03 53 00 31 00"},
		{"device descriptor", emu.NewPRO64, 0x80, 6, 0x0100, 0, 64, "12 01 00 01 FF 00 00 08 29 05 00 06 00 01 01 02 03 01"},
		{"a request to the interface", emu.NewPRO, 0x41, 1, 0, 0, 0, stalls},
		{"wValue", emu.NewPRO, 0x40, 1, 1, 0, 0, stalls},
		{"wIndex", emu.NewPRO, 0x40, 1, 0, 1, 0, stalls},
		{"reset with data", emu.NewPRO, 0x40, 1, 0, 0, 1, stalls},
		{"query with data", emu.NewPRO, 0x40, 3, 0, 0, 1, stalls},
		{"parameters of five bytes", emu.NewPRO, 0x40, 2, 0, 0, 5, stalls},
		{"parameters to the 64k", emu.NewPRO64, 0x40, 2, 0, 0, 6, stalls},
		{"their answer", emu.NewPRO64, 0xC0, 0x82, 0, 0, 1, stalls},
		{"the 64k's query", emu.NewPRO, 0x40, 8, 0, 0, 0, stalls},
		{"its answer", emu.NewPRO, 0xC0, 0x88, 0, 0, 2, stalls},
		{"an answer before the request", emu.NewPRO, 0xC0, 0x83, 0, 0, 13, holds},
		{"a block before there is one", emu.NewPRO64, 0xC0, 0x86, 0, 0, 0x25, holds},
		{"fetch of 38 bytes", emu.NewPRO, 0xC0, 0x86, 0, 0, 0x26, stalls},
		{"block of 36 bytes", emu.NewPRO, 0x40, 6, 0, 0, 36, strings.TrimSpace(strings.Repeat("00 ", 36))},
		{"block of 37 bytes", emu.NewPRO, 0x40, 6, 0, 0, 37, dies},
	} {
		synctest.Test(t, func(t *testing.T) {
			port := x.make("S1").Plug()
			got := port.Ask(usb.Setup{RequestType: x.rt, Request: x.rq, Value: x.value, Index: x.index}, x.n)
			if x.want == dies {
				if then := port.Ask(usb.Setup{RequestType: 0x40, Request: 1}, 0); then != holds {
					t.Errorf("%s: then %s", x.name, then)
				}
				x.want = holds
			}
			if got != x.want {
				t.Errorf("%s: %s, want %s", x.name, got, x.want)
			}
		})
	}
}

// The emulated tokens survive any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("40 01 0000 0000 00 C0 81 0000 0000 23 40 03 0000 0000 00 C0 83 0000 0000 0D 40 02 0000 0000 06 00 00 01 00 88 13 C0 82 0000 0000 01"))
	f.Add(unhex("40 01 0000 0000 00 C0 81 0000 0000 23 40 06 0000 0000 09 00 00 05 00 84 00 00 08 89 C0 86 0000 0000 25"))
	f.Add(unhex("40 08 0000 0000 00 C0 88 0000 0000 02 40 03 0000 0000 00 C0 83 0000 0000 01 C0 86 0000 0000 26"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, k := range kinds {
			usbtest.Fuzz(t, k.token(t).Plug(), in, time.Microsecond)
		}
	})
}

func TestSuite(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
			e := k.token(t)
			port := e.Plug()
			return readertest.Emulated(k.driver, k.device(port), port.Unplug, readertest.Contact(&e.Contact, true))
		})
	})
}
