package rutoken

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/rutoken/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

const (
	atr = "3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00"
	fcp = "62 3D 81 02 10 00 80 02 04 00 82 02 01 00 83 02 3F 00 8A 01 05 86 28 01 02 03 04 05 06 07 08 " +
		"11 00 00 00 12 00 00 00 13 00 00 00 14 00 00 00 15 00 00 00 16 00 00 00 17 00 00 00 00 00 00 00 "
	record = "00 10 00 04 01 00 00 3F 05 00 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08 11 12 13 14 15 16 17"
)

// session is the card of the session in testdata. A command that brings data along has an Le.
func session() *readertest.Scripted {
	return &readertest.Scripted{Card: atr, Answers: map[string]string{
		"00 CA 01 81 04":          "78 56 34 12 90 00",
		"00 A4 00 00 02 00 3F 00": record + "90 00",
	}}
}

func newToken(t testing.TB, c icc.Card) *emu.Token {
	t.Helper()
	e := emu.New("")
	readertest.Insert(t, &e.Contact, c)
	return e
}

// open opens a device with the driver. The words are parameters of attach.
func open(t testing.TB, link usb.Opener, words ...string) (reader.Reader, reader.Slot) {
	t.Helper()
	dev := device(link, words...)
	return readertest.Open(t, Driver{}, dev)
}

func device(link reader.Link, words ...string) reader.Device {
	dev := reader.Device{Driver: "rutoken", Address: "usb:1-2", Link: link, Params: map[string]string{}}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		if w == "t0=plain" {
			dev.T0Plain = true // as the core has it
			continue
		}
		dev.Params[key] = value
	}
	return dev
}

// exchange does one exchange that must succeed.
func exchange(t *testing.T, s reader.Slot, tx, want string) {
	t.Helper()
	rx, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(tx)}, nil)
	if err != nil || !bytes.Equal(rx, unhex(want)) {
		t.Errorf("%s: % X, %v; want %s", tx, rx, err, want)
	}
}

func load(t *testing.T) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/rutoken.txt")
}

// The session in testdata: the driver sends what the session's host sends, with the same
// time-outs and pauses, and accepts what its token answers. Programs write and get
// big-endian IDs and FCP, unless nothing is rewritten.
func TestDriverPlaysSession(t *testing.T) {
	for _, tt := range []struct {
		params  string
		serial  string
		selects [][2]string
	}{
		{"rewrite=on", "12 34 56 78 90 00", [][2]string{{"00 A4 00 00 02 3F 00", fcp + "90 00"}}},
		{"rewrite=on t0=plain", "12 34 56 78 90 00", [][2]string{{"00 A4 00 00 02 3F 00", "90 00"}, {"00 C0 00 00 00", record + "90 00"}}},
		{"rewrite=off", "78 56 34 12 90 00", [][2]string{{"00 A4 00 00 02 00 3F", "90 00"}, {"00 C0 00 00 00", record + "90 00"}}},
	} {
		t.Run(tt.params, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := usbtest.NewPlayer(t, load(t)).Describe(emu.New("").Descriptors())
				r, _ := open(t, p, strings.Fields(tt.params)...)
				h := readertest.NewHost(t, p, r)
				h.PowerOn("power on", reader.Cold, atr)
				h.Step("serial number")
				h.Exchange("00 CA 01 81 04", tt.serial)
				h.Step("select")
				for _, x := range tt.selects {
					h.Exchange(x[0], x[1])
				}
				h.Step("refused")
				h.Exchange("00 CA 01 81 04", "6D 00")
				h.Gone("unplugged")
			})
		})
	}
}

// The emulated token answers the session's host as the session's token does.
func TestTokenPlaysSession(t *testing.T) {
	card := session()
	e := newToken(t, card)
	e.Linger(2, 0, 0, 0, 0, 0, 0, 0, 0, 2)
	usbtest.Replay(t, load(t), e.Plug(), map[string]func(){
		"the card has no serial number": func() { clear(card.Answers) },
	})
}

// What the core relies on: a T=0 card that is always there, and no PPS. What is rewritten
// must be whole commands.
func TestTraits(t *testing.T) {
	for params, want := range map[string]reader.Traits{
		"rewrite=on":  {Level: reader.ShortAPDU, AutoPPS: true, AutoT0: true, Fixed: true},
		"rewrite=":    {Level: reader.ShortAPDU, AutoPPS: true, AutoT0: true, Fixed: true},
		"rewrite=off": {Level: reader.TPDU, AutoPPS: true, Fixed: true},
	} {
		_, s := open(t, newToken(t, session()).Plug(), params)
		if got := s.Traits(); got != want {
			t.Errorf("%s: %+v, want %+v", params, got, want)
		}
		if got := reader.FeaturesOf(s).ProtocolLister; got == nil || len(got.Protocols()) != 1 || got.Protocols()[0] != 0 {
			t.Errorf("%s: protocols %v", params, got)
		}
	}
	_, err := Driver{}.Open(t.Context(), device(newToken(t, session()).Plug(), "rewrite=no"))
	if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "rutoken usb:1-2: rewrite=no: on or off is wanted") {
		t.Error(err)
	}
}

// What the user said of a token counts where attach says nothing.
func TestUserRewrite(t *testing.T) {
	said := ""
	d := Driver{Rewrite: func(vendor, product uint16) string {
		if vendor != 0x0A89 || product != 0x0012 {
			t.Errorf("%04X:%04X", vendor, product)
		}
		return said
	}}
	for _, tt := range []struct {
		said, params string
		want         reader.Level
	}{
		{"", "rewrite=", reader.ShortAPDU}, {"on", "rewrite=", reader.ShortAPDU}, {"off", "rewrite=", reader.TPDU},
		{"off", "rewrite=on", reader.ShortAPDU}, {"on", "rewrite=off", reader.TPDU},
	} {
		said = tt.said
		dev := device(emu.NewUaToken("").Plug(), tt.params)
		dev.ID = d.IDs()[1]
		r, err := d.Open(t.Context(), dev)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := r.Slots()[0].Traits().Level; got != tt.want {
			t.Errorf("%s and %s: level %v, want %v", tt.said, tt.params, got, tt.want)
		}
	}
}

func TestSuite(t *testing.T) {
	for params, answer := range map[string]string{"rewrite=on": "12 34 56 78 90 00", "rewrite=off": "78 56 34 12 90 00"} {
		t.Run(params, func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newToken(t, session())
				port := e.Plug()
				f := readertest.Emulated(Driver{}, device(port, params), port.Unplug, readertest.Contact(&e.Contact, true))
				f.Command, f.Answer = unhex("00 CA 01 81 04"), unhex(answer)
				return f
			})
		})
	}
}
