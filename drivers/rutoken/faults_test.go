package rutoken

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/rutoken/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

// whole is a power-up and two commands.
func whole(t *testing.T, l *link.Link) {
	t.Helper()
	readertest.PowerUp(t, l, -1)
	readertest.Transmit(t, l, readertest.SelectMF, unhex(fcp+"90 00"))
	readertest.Transmit(t, l, unhex("00 CA 01 81 04"), unhex("12 34 56 78 90 00"))
}

func linked(t *testing.T, e *emu.Token) *link.Link {
	port := e.Plug()
	t.Cleanup(e.Unplug)
	_, s := open(t, port)
	return readertest.NewLink(s)
}

// Each transfer may fail in each way.
func TestFaults(t *testing.T) {
	faulttest.Session{
		Driver: Driver{}, New: func() faulttest.Device { return emu.New("") }, Card: func() icc.Card { return session() },
		Commands:  [][2]string{{"00 A4 00 00 02 3F 00", fcp + "90 00"}, {"00 CA 01 81 04", "12 34 56 78 90 00"}},
		Transfers: 25, Limit: 5 * time.Minute,
		// Nothing tells that data of the card are wrong, or fewer.
		Unseen: func(_ usbtest.Line, f usbtest.Fault) bool {
			return f.Kind == usbtest.Garbage || f.Kind == usbtest.Short || f.Kind == usbtest.Long || f.When == usbtest.During
		},
	}.Run(t)
}

// A card that is slow is waited for, and one that is mute is a time-out that takes a reset
// to end.
func TestSlowAndMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newToken(t, session())
		l := linked(t, e)
		l.Limit = time.Hour
		whole(t, l)
		e.Contact.SetFaults(icc.Faults{Slow: 90 * time.Second})
		start := time.Now()
		if got, err := l.Transmit(t.Context(), unhex("00 CA 01 81 04"), nil); err != nil || len(got) != 6 {
			t.Errorf("% X, %v", got, err)
		}
		if took := time.Since(start); took < 90*time.Second || took > 91*time.Second {
			t.Errorf("it took %v", took)
		}
		e.Contact.SetFaults(icc.Faults{Mute: true})
		for _, want := range []error{reader.ErrTimeout, reader.ErrProtocol} {
			if got, err := l.Transmit(t.Context(), unhex("00 CA 01 81 04"), nil); !errors.Is(err, want) || !l.Dead() {
				t.Errorf("% X, %v", got, err)
			}
		}
		e.Contact.SetFaults(icc.Faults{})
		whole(t, l)
	})
}

// What the emulated token refuses: everything that is not due.
func TestTokenRefuses(t *testing.T) {
	const (
		off    = "OUT 41 63 0000 0000 0000 |\n"
		on     = off + "IN C1 62 0000 0000 0013 | " + atr + "\n"
		header = "OUT 41 65 0000 0000 0005 | "
		data   = on + header + "00 CA 01 81 04\n"
		due    = on + header + "00 A4 00 00 02\n"
		swDue  = data + "IN C1 6F 0000 0000 0004 | 78 56 34 12\n"
		stat   = "IN C1 A0 0000 0000 0001 | "
	)
	for name, s := range map[string]string{
		"no power":               stat + "00\n" + "IN C1 62 0000 0000 0013 | stall",
		"an ATR twice":           on + stat + "00\nIN C1 62 0000 0000 0013 | stall",
		"the ATR is due":         off + stat + "10\n" + header + "00 CA 01 81 04 stall",
		"a header of 4 bytes":    on + "OUT 41 65 0000 0000 0004 | 00 CA 01 81 stall",
		"header and data":        on + "OUT 41 65 0000 0000 0007 | 00 A4 00 00 02 3F 00 stall",
		"no answer is due":       on + "IN C1 6F 0000 0000 0002 | stall",
		"a header for data":      data + stat + "10\n" + header + "00 CA 01 81 04 stall",
		"fewer data":             due + stat + "10\nOUT 41 65 0000 0000 0001 | 3F stall",
		"more data":              due + "OUT 41 65 0000 0000 0003 | 3F 00 00 stall",
		"data the wrong way":     due + "IN C1 6F 0000 0000 0002 | stall",
		"SW1 alone":              swDue + stat + "20\nIN C1 6F 0000 0000 0001 | stall",
		"a header for SW1 SW2":   swDue + header + "00 CA 01 81 04 stall",
		"SW1 SW2 twice":          swDue + "IN C1 6F 0000 0000 0002 | 90 00\n" + stat + "00\nIN C1 6F 0000 0000 0002 | stall",
		"another value":          "OUT 41 63 0001 0000 0000 | stall",
		"another interface":      "OUT 41 63 0000 0001 0000 | stall",
		"power off with data":    "OUT 41 63 0000 0000 0001 | 00 stall",
		"the class's request":    "OUT 21 63 0000 0000 0000 | stall",
		"to the device":          "IN C0 A0 0000 0000 0001 | stall",
		"an unknown request":     "IN C1 81 0000 0000 0003 | stall",
		"power off ends it all":  data + off + stat + "10\nIN C1 62 0000 0000 0013 | " + atr + "\n" + stat + "00",
		"so does a reset":        data + "reset\n" + stat + "00\nIN C1 6F 0000 0000 0004 | stall",
		"GET RESPONSE too early": on + header + "00 C0 00 00 00\n" + stat + "20\nIN C1 6F 0000 0000 0002 | 69 85",
		"for more than there is": due + "OUT 41 65 0000 0000 0002 | 00 3F\n" + stat + "20\nIN C1 6F 0000 0000 0002 | 90 00\n" +
			header + "00 C0 00 00 21\nIN C1 6F 0000 0000 0002 | 6C 20\n" + header + "00 C0 00 00 02\nIN C1 6F 0000 0000 0002 | 00 10\n" + stat + "20",
	} {
		t.Run(name, func(t *testing.T) {
			lines, err := usbtest.Parse("claim 0\n" + s + "\n")
			if err != nil {
				t.Fatal(err)
			}
			usbtest.Replay(t, lines, newToken(t, session()).Plug(), nil)
		})
	}
}

// A token that is busy takes nothing but a power-off, and counts.
func TestTokenIsBusy(t *testing.T) {
	e := newToken(t, session())
	e.Linger(-1)
	lines, err := usbtest.Parse("claim 0\nOUT 41 63 0000 0000 0000 |\nIN C1 62 0000 0000 0013 | " + atr + `
OUT 41 65 0000 0000 0005 | 00 CA 01 81 04
IN C1 A0 0000 0000 0001 | 41
IN C1 A0 0000 0000 0001 | 42
IN C1 6F 0000 0000 0004 | stall
OUT 41 65 0000 0000 0005 | 00 CA 01 81 04 stall
IN C1 A0 0000 0000 0001 | 43
OUT 41 63 0000 0000 0000 |
IN C1 A0 0000 0000 0001 | 10
`)
	if err != nil {
		t.Fatal(err)
	}
	usbtest.Replay(t, lines, e.Plug(), nil)
}

// Both tokens are what their drivers' IDs say, and the model is told.
func TestModels(t *testing.T) {
	for i, e := range []*emu.Token{emu.New("42"), emu.NewUaToken("")} {
		id := Driver{}.IDs()[i]
		d := e.Descriptors()
		if v, p := uint16(d[8])|uint16(d[9])<<8, uint16(d[10])|uint16(d[11])<<8; v != id.Vendor || p != id.Product {
			t.Errorf("%04X:%04X, want %04X:%04X", v, p, id.Vendor, id.Product)
		}
		dev := device(e.Plug())
		dev.ID = id
		r, err := Driver{}.Open(context.Background(), dev)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if model, more := r.(reader.Identifier).Identify(); model != id.Model || more["version"] != "1.00" {
			t.Errorf("%s %v, want %s", model, more, id.Model)
		}
	}
	r, _ := open(t, emu.New("").Plug())
	if model, _ := r.(reader.Identifier).Identify(); model != "Aktiv Rutoken S" {
		t.Errorf("without an ID: %s", model)
	}
	if _, err := (Driver{}).Open(t.Context(), reader.Device{Driver: "rutoken", Address: "x"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// chatter is a token that says anything.
type chatter struct {
	usb.Conn
	said []byte
}

func (c *chatter) OpenUSB(context.Context, uint8) (usb.Conn, error) { return c, nil }
func (c *chatter) Descriptors() []byte                              { return nil }
func (c *chatter) Gone() <-chan struct{}                            { return nil }
func (c *chatter) Close() error                                     { return nil }

// Control answers with the next of what there is: a length, then that many bytes.
func (c *chatter) Control(ctx context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	if !s.In() {
		return len(data), ctx.Err()
	}
	if len(c.said) == 0 {
		return 0, usb.ErrStall
	}
	n := min(int(c.said[0]), len(data), len(c.said)-1)
	copy(data, c.said[1:1+n])
	c.said = c.said[1+n:]
	return n, ctx.Err()
}

// No token makes the driver panic, wait for ever, or tell of a command.
func FuzzToken(f *testing.F) {
	start := "01 10 13 " + atr
	f.Add(false, unhex("00 CA 01 81 04"), unhex(start+"01 10 01 10 04 78 56 34 12 01 20 01 20 02 90 00 01 00"))
	f.Add(true, unhex("00 A4 00 00 02 3F 00"), unhex(start+"01 10 01 10 01 20 01 20 02 90 00 01 00 01 10 01 10 20"+record+"01 20 01 20 02 90 00 01 00"))
	f.Add(true, unhex("80 30 00 00 00"), unhex(start+"01 10 01 10 21"+record+"AA 01 20 01 20 02 90 00 01 00"))
	f.Add(true, unhex("00 20 00 02 04 31 32 33 34"), unhex(start+"01 41 01 42 01 10 01 10 01 80 01 80"))
	f.Fuzz(func(t *testing.T, rewrite bool, command, said []byte) {
		if len(said) > 2000 || bytes.Count(said, []byte{0x01, 0x43}) > 20 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			params := "rewrite=off"
			if rewrite {
				params = "rewrite=on"
			}
			_, s := open(t, &chatter{said: said}, params)
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
				return
			}
			rx, err := s.Exchange(t.Context(), reader.Transfer{Out: bytes.Clone(command), Until: time.Now().Add(time.Minute)}, nil)
			switch {
			case err == nil && (len(rx) < 2 || len(rx) > 600):
				t.Errorf("% X", rx)
			case err != nil && !strings.HasPrefix(err.Error(), "rutoken usb:1-2: "):
				t.Error(err)
			}
			clean(t, s.(interface{ Unwrap() reader.Slot }).Unwrap().(*dialect))
		})
	})
}

// The emulated token survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("41 63 00 C1 62 13 41 65 05 00 CA 01 81 04 C1 A0 01 C1 6F 04 C1 6F 02"))
	f.Add(unhex("41 63 00 C1 62 13 41 65 05 00 A4 00 00 02 41 65 02 00 3F C1 6F 02 41 65 05 00 C0 00 00 00 C1 6F FF C1 6F 02"))
	f.Add(unhex("41 63 00 C1 62 13 41 65 05 80 8A 00 00 00 C1 6F 02 41 65 05 00 E4 00 00 00 C1 6F 02 41 65 05 00 A4 03 00 20 C1 6F 02"))
	f.Fuzz(func(t *testing.T, in []byte) {
		e := newToken(t, emu.NewCard("1"))
		port := e.Plug()
		defer e.Unplug()
		for len(in) >= 3 {
			s := usb.Setup{RequestType: in[0], Request: in[1]}
			data := make([]byte, in[2])
			in = in[3:]
			if !s.In() {
				in = in[copy(data, in):]
			}
			if n, err := port.Control(t.Context(), s, data, time.Second); n < 0 || n > len(data) || err != nil && n != 0 {
				t.Fatalf("%v: %d, %v", s, n, err)
			}
		}
	})
}
