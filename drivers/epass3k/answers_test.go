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

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/epass3k/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

const (
	selectMF  = "00 A4 00 00 02 3F 00"
	challenge = "00 84 00 00 08"
	getATR    = "OUT 02 10s | 52 36 00 01 00 00"
	sendTPDU  = "OUT 02 10s | 52 36 00 02 00 05 00 84 00 00 08"
)

// play opens the driver on a token that does the lines, with packets of that size.
func play(t testing.TB, packet uint8, lines ...string) (*usbtest.Player, reader.Slot) {
	t.Helper()
	session, err := usbtest.Parse(strings.Join(lines, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := usbtest.NewPlayer(t, session).Describe(emu.NewConfig("", emu.Config{Packet: packet}).Descriptors())
	_, s := open(t, p)
	return p, s
}

// What the token answers, and what the driver makes of it. Errors say the lengths and the
// status, of which nobody knows the values, but not the bytes.
func TestAnswers(t *testing.T) {
	long := strings.Repeat(" 5A", 58) // 64 bytes with the header
	for _, x := range []struct {
		name   string
		packet uint8
		answer []string
		want   string
		is     error
		says   string
	}{
		{"SW1 SW2", 64, []string{"IN 81 0040 1m | 52 36 00 00 00 02 90 00"}, "90 00", nil, ""},
		{"any status", 64, []string{"IN 81 0040 | 52 36 6F 12 00 02 90 00"}, "90 00", nil, ""},
		{"any tag", 64, []string{"IN 81 0040 | 00 00 00 00 00 02 90 00"}, "90 00", nil, ""},
		{"one byte, which the core refuses", 64, []string{"IN 81 0040 | 52 36 00 00 00 01 90"}, "90", nil, ""},
		{"a full packet", 64, []string{"IN 81 0040 1m | 52 36 00 00 00 3A" + long}, long, nil, ""},
		{"a full packet, and an empty one before", 64, []string{"IN 81 0040 1m |", "IN 81 0040 1m | 52 36 00 00 00 3A" + long}, long, nil, ""},
		{"a packet and a byte", 64, []string{"IN 81 0040 1m | 52 36 00 00 00 3B" + long, "IN 81 0040 1s | 01"}, long + " 01", nil, ""},
		{"a packet of 8", 8, []string{"IN 81 0008 1m | 52 36 00 00 00 02 90 00"}, "90 00", nil, ""},
		{"two packets of 8", 8, []string{"IN 81 0008 1m | 52 36 00 00 00 0A 01 02", "IN 81 0008 1s | 03 04 05 06 07 08 90 00"}, "01 02 03 04 05 06 07 08 90 00", nil, ""},
		{"more than two packets of 8", 8, []string{"IN 81 0008 1m | 52 36 00 00 00 0B 01 02", "IN 81 0010 1s | 03 04 05 06 07 08 09 90 00"}, "01 02 03 04 05 06 07 08 09 90 00", nil, ""},
		{"packets of 16", 16, []string{"IN 81 0010 1m | 52 36 00 00 00 0A 01 02 03 04 05 06 07 08 90 00"}, "01 02 03 04 05 06 07 08 90 00", nil, ""},
		{"the longest", 64, []string{"IN 81 0040 1m | 52 36 00 00 01 02" + long, "IN 81 0100 1s |" + strings.Repeat(" 5A", 200)}, strings.Repeat("5A", 258), nil, ""},

		{"two empty packets", 64, []string{"IN 81 |", "IN 81 |"}, "", reader.ErrProtocol, "TPDU: answer: 0 bytes came, a header has 6"},
		{"no whole header", 64, []string{"IN 81 | 52 36 00 00 00"}, "", reader.ErrProtocol, "5 bytes came"},
		{"a header alone", 64, []string{"IN 81 | 52 36 69 85 00 00"}, "", reader.ErrProtocol, "0 bytes announced, 1 to 258 are possible (status 6985)"},
		{"too long", 64, []string{"IN 81 | 52 36 00 00 01 03" + long}, "", reader.ErrProtocol, "259 bytes announced, 1 to 258 are possible (status 0000)"},
		{"the longest length", 64, []string{"IN 81 | 52 36 00 00 FF FF" + long}, "", reader.ErrProtocol, "65535 bytes announced"},
		{"a byte is missing", 64, []string{"IN 81 | 52 36 00 00 00 03 90 00"}, "", reader.ErrProtocol, "9 bytes announced, 8 came"},
		{"a byte too many", 64, []string{"IN 81 | 52 36 00 00 00 02 90 00 00"}, "", reader.ErrProtocol, "8 bytes announced, 9 came"},
		{"a full packet too many", 16, []string{"IN 81 | 52 36 00 00 00 02 90 00 00 00 00 00 00 00 00 00"}, "", reader.ErrProtocol, "8 bytes announced, 16 came"},
		{"the rest is short", 8, []string{"IN 81 | 52 36 00 00 00 0A 01 02", "IN 81 | 03 04 05 06 07 08 90"}, "", reader.ErrProtocol, "16 bytes announced, 15 came"},
		{"the rest is long", 8, []string{"IN 81 | 52 36 00 00 00 09 01 02", "IN 81 | 03 04 05 06 07 08 90 00"}, "", reader.ErrProtocol, "15 bytes announced, 16 came"},
		{"the rest does not come", 8, []string{"IN 81 | 52 36 00 00 00 0A 01 02", "IN 81 1s | timeout"}, "", reader.ErrTimeout, "TPDU: answer: endpoint 81: "},
		{"no answer", 64, []string{"IN 81 1m | timeout"}, "", reader.ErrTimeout, "TPDU: answer: endpoint 81: "},
		{"a stall", 64, []string{"IN 81 | stall"}, "", reader.ErrProtocol, "TPDU: answer: endpoint 81: "},
		{"gone", 64, []string{"IN 81 | gone"}, "", reader.ErrGone, "TPDU: answer: endpoint 81: "},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := append([]string{sendTPDU}, x.answer...)
				if x.is != nil && x.is != reader.ErrGone {
					// Nothing more is sent until the port was reset.
					lines = append(lines, "== failed", "reset", getATR)
					if x.packet == 8 {
						lines = append(lines, "IN 81 | 52 36 00 00 00 08 ?? ??", "IN 81 | 3B 01 FF ?? ?? ??")
					} else {
						lines = append(lines, "IN 81 | 52 36 00 00 00 08 ?? ?? 3B 01 FF ?? ?? ??")
					}
				}
				p, s := play(t, x.packet, lines...)
				dst := []byte("kept")
				got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(challenge), Wait: time.Minute}, dst)
				if !bytes.HasPrefix(got, dst) || !errors.Is(err, x.is) {
					t.Fatalf("%q, %v; want %v", got, err, x.is)
				}
				if x.is == nil {
					if !bytes.Equal(got[len(dst):], unhex(x.want)) {
						t.Errorf("% X", got[len(dst):])
					}
					return
				}
				if len(got) != len(dst) || !strings.HasPrefix(err.Error(), "epass3k usb:1-2: ") || !strings.Contains(err.Error(), x.says) {
					t.Errorf("%q, want %q", err, x.says)
				}
				if x.is == reader.ErrGone {
					return
				}
				if got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(challenge), Wait: time.Minute}, dst); !errors.Is(err, reader.ErrStale) || len(got) != len(dst) {
					t.Errorf("the next command: %v", err)
				}
				if st, _ := s.Status(t.Context()); st != reader.Present {
					t.Errorf("status %v", st)
				}
				p.Step("failed")
				if got, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(got, unhex("3B 01 FF")) {
					t.Errorf("ATR % X, %v", got, err)
				}
			})
		})
	}
}

// The answer to a reset.
func TestPowerOn(t *testing.T) {
	for _, x := range []struct {
		name, answer string
		want         string
		is           error
		says         string
	}{
		{"as seen", "52 36 00 00 00 16 00 00 " + atr + " 00 00 00", atr, nil, ""},
		{"other bytes around it", "52 36 12 34 00 16 FF FF " + atr + " FF FF FF", atr, nil, ""},
		{"none", "52 36 00 00 00 05 00 00 00 00 00", "", reader.ErrMute, "get ATR: answer: it has none"},
		{"less than none", "52 36 00 00 00 04 00 00 00 00", "", reader.ErrProtocol, "a value of 4 bytes has no ATR in it"},
		{"one byte", "52 36 00 00 00 01 00", "", reader.ErrProtocol, "a value of 1 bytes"},
		{"no value", "52 36 00 07 00 00", "", reader.ErrProtocol, "0 bytes announced, 1 to 69 are possible (status 0007)"},
		{"too long", "52 36 00 00 00 46", "", reader.ErrProtocol, "70 bytes announced"},
		{"cut", "52 36 00 00 00 16 00 00 " + atr, "", reader.ErrProtocol, "28 bytes announced, 25 came"},
		{"the answer to a command", "52 36 00 00 00 0A 11 12 13 14 15 16 17 18 90 00", "", reader.ErrProtocol, "5 bytes that are no ATR"},
		{"an ATR and a byte", "52 36 00 00 00 17 00 00 " + atr + " 00 00 00 00", "", reader.ErrProtocol, "18 bytes that are no ATR"},
		{"silence", "timeout", "", reader.ErrMute, "get ATR: answer: endpoint 81"},
		{"a stall", "stall", "", reader.ErrProtocol, "get ATR: answer: endpoint 81"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := []string{getATR, "IN 81 0040 10s | " + x.answer}
				if x.is != nil {
					lines = append(lines, "reset", getATR, "IN 81 | 52 36 00 00 00 08 ?? ?? 3B 01 FF ?? ?? ??")
				}
				_, s := play(t, 64, lines...)
				got, err := s.PowerOn(t.Context(), reader.Warm)
				if !errors.Is(err, x.is) || !bytes.Equal(got, unhex(x.want)) {
					t.Fatalf("% X, %v; want %v", got, err, x.is)
				}
				if err == nil {
					return
				}
				if !strings.HasPrefix(err.Error(), "epass3k usb:1-2: ") || !strings.Contains(err.Error(), x.says) {
					t.Errorf("%q, want %q", err, x.says)
				}
				if got, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !bytes.Equal(got, unhex("3B 01 FF")) {
					t.Errorf("again: ATR % X, %v", got, err)
				}
			})
		})
	}
}

// An answer may take the time that the protocol gives the card, and 200 s at most.
func TestTimeouts(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, 260 * time.Second: 200 * time.Second, 0: 200 * time.Second, -1: 200 * time.Second, 1: 1} {
		synctest.Test(t, func(t *testing.T) {
			_, s := play(t, 64, sendTPDU, fmt.Sprintf("IN 81 0040 %v | timeout", want))
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(challenge), Wait: given}, nil); !errors.Is(err, reader.ErrTimeout) {
				t.Errorf("%v: %v", given, err)
			}
		})
	}
}

// The answer to a command that was given up is never taken for that to another one, whenever
// it comes and whatever it says; and the command is not sent again.
func TestLateAnswer(t *testing.T) {
	// To the eye it is an ATR of another card.
	trap := "AA BB 3B 01 FF CC 90 00"
	for _, zlp := range []bool{false, true} {
		for _, pause := range []time.Duration{0, 500 * time.Millisecond, 5 * time.Second, time.Hour} {
			for _, how := range []string{"time-out", "cancelled"} {
				synctest.Test(t, func(t *testing.T) {
					c := newCard()
					c.Answers["00 84 00 00 08"] = trap
					c.Answers["00 CA 00 00 02"] = "01 02 90 00"
					e := newConfig(t, emu.Config{Packet: 8, ZLP: zlp}, c)
					_, s, l := connect(t, e)
					e.Contact.SetFaults(icc.Faults{Slow: 2 * time.Second})
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					wait, want := time.Minute, context.DeadlineExceeded
					if how == "time-out" {
						ctx, wait, want = t.Context(), time.Second, reader.ErrTimeout
					}
					if _, err := s.Exchange(ctx, reader.Transfer{Out: unhex(challenge), Wait: wait}, nil); !errors.Is(err, want) {
						t.Errorf("%s: %v", how, err)
					}
					e.Contact.SetFaults(icc.Faults{})
					time.Sleep(pause)
					if got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 CA 00 00 02"), Wait: time.Minute}, nil); !errors.Is(err, reader.ErrStale) {
						t.Errorf("%s, %v: % X, %v", how, pause, got, err)
					}
					if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil || !bytes.Equal(l.ATR().Bytes(), unhex(atr)) {
						t.Fatalf("%s, %v: %v", how, pause, err)
					}
					if got, err := l.Transmit(t.Context(), unhex("00 CA 00 00 02"), nil); err != nil || !bytes.Equal(got, unhex("01 02 90 00")) {
						t.Errorf("%s, %v: % X, %v", how, pause, got, err)
					}
					if n := e.Contact.APDUs(); n != 2 {
						t.Errorf("the card had %d commands", n)
					}
				})
			}
		}
	}
}

// An answer that another program left in the token is not the first ATR.
func TestLeftOver(t *testing.T) {
	for _, packet := range []uint8{8, 64} {
		synctest.Test(t, func(t *testing.T) {
			e := newConfig(t, emu.Config{Packet: packet}, newCard())
			port := e.Plug()
			t.Cleanup(port.Unplug)
			for _, m := range []string{"52 36 00 01 00 00", "52 36 00 02 00 05 00 84 00 00 08"} {
				if _, err := port.Out(t.Context(), out, unhex(m), false, time.Second); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if m[10] == '1' {
					port.In(t.Context(), in, make([]byte, 64), time.Second)
				}
			}
			_, s := open(t, port)
			l := readertest.NewLink(s)
			if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil || !bytes.Equal(l.ATR().Bytes(), unhex(atr)) {
				t.Fatal(err)
			}
			if got, err := l.Transmit(t.Context(), unhex(selectMF), nil); err != nil || !bytes.Equal(got, unhex("90 00")) {
				t.Errorf("% X, %v", got, err)
			}
		})
	}
}

// No byte of a command or of an answer stays in the driver.
func TestWipe(t *testing.T) {
	for _, fault := range []usbtest.Fault{{}, {Kind: usbtest.Short, N: 20, On: "IN 81", Skip: 1}, {Kind: usbtest.Stalled, On: "OUT 02"}, {Kind: usbtest.Silent, When: usbtest.After, On: "IN 81"}} {
		synctest.Test(t, func(t *testing.T) {
			c := newCard()
			c.Answers["00 CA 00 00 20"] = strings.Repeat("5A", 32) + "90 00"
			e := newConfig(t, emu.Config{Packet: 16}, c)
			_, s, _ := connect(t, e)
			d := s.(interface{ Unwrap() reader.Slot }).Unwrap().(*dialect)
			if fault.Kind != 0 {
				e.Inject(fault)
			}
			for _, tpdu := range []string{"00 CA 00 00 20", "00 20 00 01 04 31 32 33 34"} {
				s.Exchange(t.Context(), reader.Transfer{Out: unhex(tpdu), Wait: time.Second}, nil)
				if left := append(append([]byte(nil), d.tx[headerLen:]...), d.rx[headerLen:]...); !bytes.Equal(left, make([]byte, len(left))) {
					t.Errorf("%v: the driver holds % X", fault, left)
				}
			}
		})
	}
}

func TestInvalidTPDU(t *testing.T) {
	_, s := play(t, 64)
	for _, tpdu := range []string{"", "00 84 00 00", "00 20 00 01 03 31 32 33 34", "00 20 00 01 05 31 32 33 34", "00 20 00 01 00 31"} {
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(tpdu)}, []byte("kept"))
		if !errors.Is(err, reader.ErrInvalid) || string(got) != "kept" {
			t.Errorf("%s: %v", tpdu, err)
		}
	}
}

// The interface that has both endpoints is claimed, whatever its number. A device without
// them is refused in words.
func TestInterface(t *testing.T) {
	head := "12 01 10 01 00 00 00 08 6E 09 01 04 00 01 01 02 00 01  09 02 %02X 00 02 01 00 80 32 "
	for name, x := range map[string]struct {
		interfaces string
		want       uint8
		packet     int
	}{
		"first":               {"09 04 00 00 02 FF 00 00 00  07 05 02 02 40 00 00  07 05 81 02 20 00 00", 0, 32},
		"second":              {"09 04 00 00 01 03 00 00 00  07 05 83 03 08 00 0A  09 04 01 00 02 FF 00 00 00  07 05 81 02 08 00 00  07 05 02 02 10 00 00", 1, 8},
		"more endpoints":      {"09 04 03 00 03 FF 00 00 00  07 05 83 03 08 00 0A  07 05 81 02 40 00 00  07 05 02 02 40 00 00", 3, 64},
		"in two interfaces":   {"09 04 00 00 01 FF 00 00 00  07 05 02 02 40 00 00  09 04 01 00 01 FF 00 00 00  07 05 81 02 40 00 00", 0, 0},
		"in two, IN first":    {"09 04 00 00 01 FF 00 00 00  07 05 81 02 40 00 00  09 04 01 00 01 FF 00 00 00  07 05 02 02 40 00 00", 0, 0},
		"no OUT":              {"09 04 00 00 01 FF 00 00 00  07 05 81 02 40 00 00", 0, 0},
		"packets of no bytes": {"09 04 00 00 02 FF 00 00 00  07 05 02 02 40 00 00  07 05 81 02 00 00 00", 0, 0},
		"none":                {"", 0, 0},
	} {
		desc := unhex(fmt.Sprintf(head, 9+len(unhex(x.interfaces))) + x.interfaces)
		got, packet, err := findInterface(desc)
		if x.packet == 0 {
			if !errors.Is(err, reader.ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
			_, err := Driver{}.Open(t.Context(), reader.Device{Driver: "epass3k", Address: "usb:1-2", Link: usbtest.New(usbtest.Model{Descriptors: desc}).Plug()})
			if err == nil || err.Error() != "epass3k usb:1-2: no interface has the endpoints 02 and 81: "+reader.ErrUnsupported.Error() {
				t.Errorf("%s: %v", name, err)
			}
		} else if got != x.want || packet != x.packet || err != nil {
			t.Errorf("%s: interface %d, packets of %d, %v", name, got, packet, err)
		}
	}
}

// The ATR in the public lists is one.
func TestATR(t *testing.T) {
	if a, err := iso7816.ParseATR(unhex(atr)); err != nil || a.Default() != 0 {
		t.Error(err)
	}
}
