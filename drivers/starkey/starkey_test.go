package starkey

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
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/starkey/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

const (
	starcos  = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"
	selectMF = "00 A4 00 00 02 3F 00"
)

// card answers SELECT, and all else with 64 bytes and its length.
type card struct{ readertest.Card }

func (card) Process(command []byte) []byte {
	if bytes.Equal(command, unhex(selectMF)) {
		return unhex("90 00")
	}
	return append(make([]byte, 64), 0x90, byte(len(command)))
}

func newToken(t testing.TB) *emu.Token {
	t.Helper()
	e := emu.New("")
	readertest.Insert(t, &e.Contact, card{starcos})
	return e
}

func device(link usb.Opener) reader.Device {
	return reader.Device{Driver: "starkey", Address: "usb:1-2", Link: link}
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, device(link))
}

var (
	block  = reader.Transfer{Out: unhex("00 00 07 00 A4 00 00 02 3F 00 9E"), Wait: 20 * time.Second}
	answer = unhex("00 00 02 90 00 92")
)

func session(t *testing.T) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/session.txt")
}

// The session in testdata: the driver sends what the session's host sends, with the same
// time-outs, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, session(t)).Describe(emu.New("").Descriptors())
		r, s := open(t, p)
		h := readertest.NewHost(t, p, r)
		h.PowerOn("power on", reader.Cold, starcos)
		h.Step("command")
		h.Exchange("00 00 07 00 A4 00 00 02 3F 00 9E", "00 00 02 90 00 92")
		h.PowerOn("power on again", reader.Warm, starcos)
		h.Gone("unplugged")
		if _, err := s.Exchange(t.Context(), block, nil); !errors.Is(err, reader.ErrGone) || strings.Contains(err.Error(), unproven) {
			t.Errorf("exchange after the token left: %v", err)
		}
	})
}

// The emulated token answers the session's host as the session's device does.
func TestTokenPlaysSession(t *testing.T) {
	usbtest.Replay(t, session(t), newToken(t).Plug(), nil)
}

// "No more than 32 bytes either way, nothing announced", whatever the ATR says.
func TestBlockSizes(t *testing.T) {
	e := newToken(t)
	e.Contact.SetFaults(icc.Faults{RequestIFS: 254})
	longest := 0
	e.Observe(func(l usbtest.Line) {
		switch {
		case l.Setup.RequestType == 0xC0 && l.Asked != 0x25:
			t.Errorf("a fetch of %d bytes", l.Asked)
		case l.Setup.RequestType == 0x40:
			longest = max(longest, len(l.Data))
			if l.Data[1] == 0xC1 {
				t.Error("S(IFS request)")
			}
		}
	})
	_, s := open(t, e.Plug())
	l := readertest.Connect(t, s)
	long := append(unhex("00 D6 00 00 C8"), make([]byte, 200)...)
	if rx, err := l.Transmit(t.Context(), long, nil); err != nil || len(rx) != 66 || rx[65] != 205 || longest != 36 {
		t.Errorf("% X, %v, block of %d bytes", rx, err, longest)
	}
}

// usbtest.Menu has all that may happen to a transfer. In whichever of a power-up and an
// exchange it happens, the call ends in its time with an error that the core knows, the card
// sees no command twice, and after the next power-up all is well, unless the token has left.
func TestFaultMenu(t *testing.T) {
	for _, transfer := range []string{"IN 81", "OUT 40 06", "IN C0 86"} {
		for _, f := range usbtest.Menu() {
			f.On = transfer
			t.Run(f.String(), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { befalls(t, f) }) })
		}
	}
}

func befalls(t *testing.T, f usbtest.Fault) {
	e := newToken(t)
	defer e.Unplug()
	_, s := open(t, e.Plug())
	run := func() (rx []byte, err error) {
		if _, err = s.PowerOn(t.Context(), reader.Cold); err == nil {
			rx, err = s.Exchange(t.Context(), block, nil)
		}
		return
	}
	e.Inject(f)
	start := time.Now()
	rx, err := run()
	if took := time.Since(start); took > 21*time.Second {
		t.Errorf("it took %v", took)
	}
	known := []error{reader.ErrProtocol, reader.ErrTimeout, reader.ErrGone, usb.ErrBus}
	switch {
	case err != nil && !slices.ContainsFunc(known, func(is error) bool { return errors.Is(err, is) }):
		t.Error(err)
	case f.Kind == usbtest.Unplugged:
		if !errors.Is(err, reader.ErrGone) {
			t.Error(err)
		}
		return
	case err == nil && f.Kind < usbtest.Short:
		t.Error("no error")
	case err == nil && !bytes.Equal(rx, answer) && f.Kind != usbtest.Garbage:
		t.Errorf("% X", rx)
	case err != nil && f.Kind == usbtest.Late && f.Delay == time.Second:
		t.Error(err)
	}
	if n := e.Contact.APDUs(); n > 1 {
		t.Errorf("the card had %d commands", n)
	}
	e.Heal()
	if rx, err := run(); err != nil || !bytes.Equal(rx, answer) {
		t.Errorf("afterwards: % X, %v", rx, err)
	}
}

// The token sends its ATR once. It refuses what the eToken refuses, and holds a fetch until
// its card has answered.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t)
		port := e.Plug()
		defer e.Unplug()
		in := func() error {
			_, err := port.In(t.Context(), 0x81, make([]byte, 32), time.Second)
			return err
		}
		control := func(rt, rq uint8, value uint16, n int) error {
			_, err := port.Control(t.Context(), usb.Setup{RequestType: rt, Request: rq, Value: value}, make([]byte, n), time.Second)
			return err
		}
		for _, x := range []struct {
			what string
			do   func() error
			want error
		}{
			{"fetch before a block", func() error { return control(0xC0, 0x86, 0, 0x25) }, usb.ErrTimeout},
			{"the ATR", in, nil},
			{"the ATR again", in, usb.ErrTimeout},
			{"fetch of 38 bytes", func() error { return control(0xC0, 0x86, 0, 0x26) }, usb.ErrStall},
			{"block of 37 bytes", func() error { return control(0x40, 0x06, 0, 37) }, usb.ErrStall},
			{"wValue", func() error { return control(0x40, 0x06, 1, 4) }, usb.ErrStall},
			{"the eToken's reset", func() error { return control(0x40, 0x01, 0, 0) }, usb.ErrStall},
			{"port reset", func() error { port.Reset(); return nil }, nil},
			{"the ATR anew", in, nil},
		} {
			if err := x.do(); !errors.Is(err, x.want) {
				t.Errorf("%s: %v, want %v", x.what, err, x.want)
			}
		}
		if port.Reset(); e.Contact.Powered() {
			t.Error("the card has power after a reset of the port")
		}
		if got, want := port.Descriptors(), "12 01 10 01 FF 00 00 08 6E 09 05 00 00 01 01 02 00 01 09 02 19 00 01 01 00 80 32 09 04 00 00 01 FF 00 00 00 07 05 81 03 20 00 0A"; fmt.Sprintf("% X", got) != want {
			t.Errorf("descriptors % X", got)
		}
	})
}

// What the core relies on.
func TestTraits(t *testing.T) {
	r, s := open(t, honest())
	want := reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSC: 32, IFSD: 32, Slack: time.Second, Fixed: true}
	if got := s.Traits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := reader.FeaturesOf(s).ProtocolLister.Protocols(); !slices.Equal(got, []int{1}) {
		t.Errorf("protocols %v", got)
	}
	if model, _ := r.(reader.Identifier).Identify(); model != "G&D StarKey 100" {
		t.Error(model)
	}
	if id := (Driver{}).IDs(); len(id) != 1 || id[0].Vendor != 0x096E || id[0].Product != 0x0005 {
		t.Error(id)
	}
}

func TestSuite(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		e := newToken(t)
		port := e.Plug()
		f := readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, true))
		f.Command, f.Answer = unhex(selectMF), unhex("90 00")
		return f
	})
}
