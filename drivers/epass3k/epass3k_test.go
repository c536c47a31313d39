package epass3k

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
	"github.com/cardfs/cardfs/drivers/epass3k/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

const atr = "3B 0F 00 65 46 53 05 16 05 71 DF 00 00 00 80 6A 82"

type card = readertest.Scripted

// newCard is an ePass3000's.
func newCard() *card { return &card{Card: atr, Answers: map[string]string{}} }

// responding is the card of testdata/response.txt.
func responding() *card {
	return &card{Card: atr, Answers: map[string]string{
		"00 A4 00 00 02 3F 00 00": "01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 90 00",
	}}
}

func newToken(t testing.TB, c icc.Card) *emu.Token {
	t.Helper()
	return newConfig(t, emu.Config{Packet: 64}, c)
}

func newConfig(t testing.TB, config emu.Config, c icc.Card) *emu.Token {
	t.Helper()
	e := emu.NewConfig("", config)
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device(link reader.Link) reader.Device {
	return reader.Device{Driver: "epass3k", Address: "usb:1-2", Link: link}
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, device(link))
}

// connect opens the token and powers its card up, as the core does.
func connect(t testing.TB, e *emu.Token) (*usbtest.Port, reader.Slot, *link.Link) {
	t.Helper()
	port := e.Plug()
	t.Cleanup(port.Unplug)
	_, s := open(t, port)
	return port, s, readertest.Connect(t, s)
}

func load(t *testing.T, name string) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/"+name+".txt")
}

// The sessions in testdata: the driver sends what the session's host sends, with the same
// time-outs, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	for _, tt := range []struct {
		file, step string
		commands   [][2]string
	}{
		{"session", "commands", [][2]string{
			{"00 A4 00 00 02 3F 00", "90 00"},
			{"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"},
		}},
		{"response", "commands", [][2]string{
			{"00 A4 00 00 02 3F 00 10", "01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 90 00"},
			{"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"},
		}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := usbtest.NewPlayer(t, load(t, tt.file)).Describe(emu.New("").Descriptors())
				r, _ := open(t, p)
				h := readertest.NewHost(t, p, r)
				h.PowerUp("power on", atr)
				h.TransmitAll(tt.step, tt.commands)
				h.Gone("unplugged")
			})
		})
	}
}

// The emulated token answers the sessions' hosts as the sessions' devices do.
func TestTokenPlaysSession(t *testing.T) {
	for file, c := range map[string]*card{"session": newCard(), "response": responding()} {
		synctest.Test(t, func(t *testing.T) {
			usbtest.Replay(t, load(t, file), newToken(t, c).Plug(), nil)
		})
	}
}

// What the core relies on: it writes the TPDUs, no PPS can be sent, the card is always
// present, and its protocol is T=0.
func TestTraits(t *testing.T) {
	_, s := open(t, newToken(t, newCard()).Plug())
	if got, want := s.Traits(), (reader.Traits{Level: reader.TPDU, AutoPPS: true, Slack: time.Second, Fixed: true}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := reader.FeaturesOf(s).ProtocolLister; got == nil || fmt.Sprint(got.Protocols()) != "[0]" {
		t.Errorf("protocols of %v", got)
	}
}

// "T=0 only": a card with T=1 is refused in words, and nothing is sent to it.
func TestT1(t *testing.T) {
	e := newToken(t, readertest.Card("3B 80 81 31 FE 45 8F"))
	_, s := open(t, e.Plug())
	readertest.Refused(t, s, "T=[1]")
}

// ISO/IEC 7816-3:2006 §12.2: all lengths that the four short cases have. Nobody knows the size
// of the token's packets, whether an empty one follows an answer that fills its last, and which
// interface is the token's. Newer tokens return data where others say 61xx.
func TestLengths(t *testing.T) {
	for _, packet := range []uint8{8, 16, 32, 64} {
		for _, c := range []emu.Config{{}, {ZLP: true}, {Interface: 1}, {Direct: true}, {ZLP: true, Direct: true}} {
			c.Packet = packet
			synctest.Test(t, func(t *testing.T) {
				e := newConfig(t, c, newCard())
				e.Observe(func(l usbtest.Line) {
					if l.In && l.Endpoint == in && l.Asked%int(packet) != 0 {
						t.Errorf("%d bytes asked for in packets of %d", l.Asked, packet)
					}
				})
				_, _, l := connect(t, e)
				start := time.Now()
				readertest.Lengths(t, l, []int{0, 1, 2, 3, 7, 8, 63, 64, 65, 254, 255},
					[]int{0, 1, 2, 7, 8, 9, 24, 56, 63, 64, 65, 120, 248, 254, 255, 256})
				if took := time.Since(start); took != 0 {
					t.Errorf("%+v: %v passed with a card that needs no time", c, took)
				}
			})
		}
	}
}

// An ATR message of each length, with and without an empty packet behind it.
func TestATRLengths(t *testing.T) {
	for _, zlp := range []bool{false, true} {
		for n := range 16 {
			synctest.Test(t, func(t *testing.T) {
				c := readertest.Card(fmt.Sprintf("3B %02X", n) + strings.Repeat(" 00", n)) // n historical bytes
				_, _, l := connect(t, newConfig(t, emu.Config{Packet: 8, ZLP: zlp}, c))
				if !bytes.Equal(l.ATR().Bytes(), c.ATR()) {
					t.Errorf("ATR % X", l.ATR().Bytes())
				}
				readertest.Transmit(t, l, readertest.Challenge, readertest.Response)
			})
		}
	}
}

// USB 2.0 §9.6.1: the model, and bcdDevice as the version.
func TestIdentify(t *testing.T) {
	r, _ := open(t, emu.New("").Plug())
	if model, more := r.(reader.Identifier).Identify(); model != "Feitian ePass3000" || more["version"] != "1.00" {
		t.Errorf("%s %v", model, more)
	}
}

func TestNotUSB(t *testing.T) {
	if _, err := (Driver{}).Open(context.Background(), reader.Device{Address: "x"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// When the token is pulled, or its port reset, its card loses power.
func TestPowerLost(t *testing.T) {
	faulttest.PowerLost(t, Driver{}, func() faulttest.Device { return newToken(t, newCard()) })
}

func TestSuite(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		e := newToken(t, newCard())
		port := e.Plug()
		return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, true))
	})
}
