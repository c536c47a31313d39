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
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/epass3k/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

var unhex = readertest.Hex

const atr = "3B 0F 00 65 46 53 05 16 05 71 DF 00 00 00 80 6A 82"

// card is an ePass3000's, which has answers to a few commands.
type card struct {
	answers map[string]string
	busy    time.Duration
}

func newCard() *card {
	return &card{answers: map[string]string{
		"00A40000023F0000": "90 00",
		"0084000008":       "11 12 13 14 15 16 17 18 90 00",
	}}
}

func (c *card) ATR() []byte               { return unhex(atr) }
func (c *card) Reset(bool)                {}
func (c *card) Busy([]byte) time.Duration { return c.busy }
func (c *card) Process(command []byte) []byte {
	if a, ok := c.answers[fmt.Sprintf("%X", command)]; ok {
		return unhex(a)
	}
	return unhex("6D 00")
}

func newToken(t testing.TB, c icc.Card) *emu.Token {
	t.Helper()
	e := emu.New("")
	if err := e.Contact.Insert(c); err != nil {
		t.Fatal(err)
	}
	return e
}

func newConfig(t testing.TB, config emu.Config, c icc.Card) *emu.Token {
	t.Helper()
	e := emu.NewConfig("", config)
	if err := e.Contact.Insert(c); err != nil {
		t.Fatal(err)
	}
	return e
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, reader.Device{Driver: "epass3k", Address: "usb:1-2", Link: link})
}

// connect opens the token and powers its card up, as the core does.
func connect(t testing.TB, e *emu.Token) (*usbtest.Port, reader.Slot, *link.Link) {
	t.Helper()
	port := e.Plug()
	t.Cleanup(port.Unplug)
	_, s := open(t, port)
	return port, s, readertest.Connect(t, s)
}

// responding is the card of testdata/response.txt.
func responding() *card {
	return &card{answers: map[string]string{
		"0084000008":       "11 12 13 14 15 16 17 18 90 00",
		"00A40000023F0000": "01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 90 00",
	}}
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
				session, err := usbtest.Load("testdata/" + tt.file + ".txt")
				if err != nil {
					t.Fatal(err)
				}
				p := usbtest.NewPlayer(t, session).Describe(emu.New("").Descriptors())
				_, s := open(t, p)
				l := readertest.NewLink(s)
				p.Step("power on")
				if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil || !bytes.Equal(l.ATR().Bytes(), unhex(atr)) {
					t.Fatal(err)
				}
				p.Step(tt.step)
				for _, c := range tt.commands {
					got, err := l.Transmit(t.Context(), unhex(c[0]), nil)
					if err != nil || !bytes.Equal(got, unhex(c[1])) {
						t.Errorf("%s: % X, %v", c[0], got, err)
					}
				}
				p.Step("unplugged")
				if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrGone) {
					t.Errorf("status after the token left: %v", err)
				}
			})
		})
	}
}

// The emulated token answers the sessions' hosts as the sessions' devices do.
func TestTokenPlaysSession(t *testing.T) {
	for file, c := range map[string]*card{"session": newCard(), "response": responding()} {
		synctest.Test(t, func(t *testing.T) {
			session, err := usbtest.Load("testdata/" + file + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			usbtest.Replay(t, session, newToken(t, c).Plug(), nil)
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

// t1Card is a card that the token cannot serve.
type t1Card struct{ card }

func (*t1Card) ATR() []byte { return unhex("3B 80 81 31 FE 45 8F") }

// "T=0 only": a card with T=1 is refused in words, and nothing is sent to it.
func TestT1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t, &t1Card{})
		_, s := open(t, e.Plug())
		l := readertest.NewLink(s)
		if err := l.PowerUp(t.Context(), reader.Cold, -1); !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "T=[1]") {
			t.Error(err)
		}
	})
}

// ISO/IEC 7816-3:2006 §12.2: all lengths that the four short cases have. Nobody knows the size
// of the token's packets, whether an empty one follows an answer that fills its last, and which
// interface is the token's. Newer tokens return data where others say 61xx.
func TestLengths(t *testing.T) {
	for _, packet := range []uint8{8, 16, 32, 64} {
		for _, c := range []emu.Config{{}, {ZLP: true}, {Interface: 1}, {Direct: true}, {ZLP: true, Direct: true}} {
			c.Packet = packet
			synctest.Test(t, func(t *testing.T) {
				e := newConfig(t, c, &mirror{})
				e.Observe(func(l usbtest.Line) {
					if l.In && l.Endpoint == in && l.Asked%int(packet) != 0 {
						t.Errorf("%d bytes asked for in packets of %d", l.Asked, packet)
					}
				})
				_, _, l := connect(t, e)
				start := time.Now()
				for _, nc := range []int{0, 1, 2, 3, 7, 8, 63, 64, 65, 254, 255} {
					for _, ne := range []int{0, 1, 2, 7, 8, 9, 24, 56, 63, 64, 65, 120, 248, 254, 255, 256} {
						command, want := exchangeOf(nc, ne)
						got, err := l.Transmit(t.Context(), command, nil)
						if err != nil || !bytes.Equal(got, want) {
							t.Fatalf("%+v, %d bytes, %d wanted: %d bytes, %v", c, nc, ne, len(got), err)
						}
					}
				}
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
				c := &historical{n: n}
				_, _, l := connect(t, newConfig(t, emu.Config{Packet: 8, ZLP: zlp}, c))
				if !bytes.Equal(l.ATR().Bytes(), c.ATR()) {
					t.Errorf("ATR % X", l.ATR().Bytes())
				}
				if got, err := l.Transmit(t.Context(), unhex("00 84 00 00 08"), nil); err != nil || len(got) != 2 {
					t.Errorf("% X, %v", got, err)
				}
			})
		}
	}
}

// historical is a card with n historical bytes.
type historical struct {
	card
	n int
}

func (h *historical) ATR() []byte { return append([]byte{0x3B, byte(h.n)}, make([]byte, h.n)...) }

// mirror answers with as many bytes as P1 P2 say, which count up from the sum of the data.
type mirror struct{ card }

func (*mirror) Incoming(_, ins byte) bool { return ins == 0x12 }

func (*mirror) Process(command []byte) []byte {
	ne := int(command[2])<<8 | int(command[3])
	var data []byte
	if command[1] == 0x12 {
		data = command[5 : 5+int(command[4])]
	}
	return mirrored(data, ne)
}

func mirrored(data []byte, ne int) []byte {
	var sum byte
	for i, b := range data {
		sum += b + byte(i)
	}
	var out []byte
	for i := range ne {
		out = append(out, sum+byte(i))
	}
	return append(out, 0x90, byte(len(data)))
}

// exchangeOf is a command of nc bytes with ne bytes wanted, and what mirror answers.
func exchangeOf(nc, ne int) (command, want []byte) {
	command = []byte{0x00, 0x10, byte(ne >> 8), byte(ne)}
	var data []byte
	if nc > 0 {
		command[1] = 0x12
		for i := range nc {
			data = append(data, byte(i*3+nc))
		}
		command = append(append(command, byte(nc)), data...)
	}
	if ne > 0 {
		command = append(command, byte(ne))
	}
	return command, mirrored(data, ne)
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
	for what, lose := range map[string]func(*usbtest.Port){
		"unplugged": (*usbtest.Port).Unplug, "reset": (*usbtest.Port).Reset,
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newToken(t, newCard())
			port, _, _ := connect(t, e)
			lose(port)
			if e.Contact.Powered() {
				t.Errorf("%s: the card has power", what)
			}
		})
	}
}

func TestSuite(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		e := newToken(t, newCard())
		port := e.Plug()
		return &readertest.Fixture{
			Driver:  Driver{},
			Device:  reader.Device{Driver: "epass3k", Address: "usb:1-2", Link: port},
			Slots:   []readertest.Slot{readertest.Contact(&e.Contact, true)},
			Command: unhex("00 84 00 00 08"),
			Answer:  unhex("11 12 13 14 15 16 17 18 90 00"),
			Unplug:  port.Unplug,
		}
	})
}
