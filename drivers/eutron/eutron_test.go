package eutron

import (
	"bytes"
	"context"
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
	"github.com/cardfs/cardfs/drivers/eutron/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex    = readertest.Hex
	newLink  = readertest.NewLink
	powerUp  = readertest.PowerUp
	transmit = readertest.Transmit
)

type card = readertest.Card

const (
	cardOS = card("3B F2 98 00 FF C1 10 31 FE 55 C8 03 15")
	t0     = card("3B 65 00 00 01 02 03 04 05")
	both   = card("3B 80 80 01 01")
)

var (
	challenge = readertest.Challenge
	response  = readertest.Response
)

func newToken(t testing.TB, c icc.Card) *emu.Token {
	t.Helper()
	e := emu.New("")
	readertest.Insert(t, &e.Contact, c)
	return e
}

func device(link usb.Opener) reader.Device {
	return reader.Device{Driver: "eutron", Address: "usb:1-2", Link: link}
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, device(link))
}

// plug opens a token as the core does. The token leaves at the end.
func plug(t testing.TB, c icc.Card) (*emu.Token, reader.Slot, *link.Link) {
	t.Helper()
	e := newToken(t, c)
	_, s := open(t, e.Plug())
	t.Cleanup(e.Unplug)
	return e, s, newLink(s)
}

// message sends a T=1 block and receives one, as the core does at character level.
func message(s reader.Slot, tx string, wait time.Duration) ([]byte, error) {
	rx, err := s.Exchange(context.Background(), reader.Transfer{Out: unhex(tx), Want: 3, Wait: wait, CharWait: time.Second}, nil)
	if err != nil || len(rx) < 3 {
		return rx, err
	}
	return s.Exchange(context.Background(), reader.Transfer{Want: int(rx[2]) + 1, Wait: time.Second, CharWait: time.Second}, rx)
}

func load(t *testing.T, file string) usbtest.Session {
	t.Helper()
	return readertest.Load(t, usbtest.Load, "testdata/"+file)
}

// pieces are in which the tokens of the sessions send.
var pieces = map[string][]int{
	"session.txt": {0, 8, 99, 0, 99, 99, 99, 8},
	"removal.txt": {0},
}

// The sessions in testdata: the driver sends what the session's host sends, with the same
// time-outs and pauses, and accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	for file := range pieces {
		t.Run(file, func(t *testing.T) {
			session := load(t, file)
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				p := usbtest.NewPlayer(t, session).Describe(emu.New("").Descriptors())
				r, s := open(t, p)
				h := readertest.NewHost(t, p, r)
				h.PowerOn("power on", reader.Cold, string(cardOS))
				pps, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("FF 01 FE"), Want: 2, Wait: 20 * time.Second}, nil)
				if err == nil {
					pps, err = s.Exchange(t.Context(), reader.Transfer{Want: 1, Wait: 20 * time.Second}, pps)
				}
				if err != nil || !bytes.Equal(pps, unhex("FF 01 FE")) {
					t.Fatalf("PPS % X, %v", pps, err)
				}
				set, _ := reader.As[reader.ParamSetter](s)
				if err := set.SetParams(t.Context(), iso7816.DefaultParams(1)); err != nil {
					t.Fatal(err)
				}
				exchange := func(tx, rx string) {
					t.Helper()
					got, err := message(s, tx, 20*time.Second)
					if err != nil || !bytes.Equal(got, unhex(rx)) {
						t.Errorf("%s: % X, %v", tx, got, err)
					}
				}
				exchange("00 C1 01 FE 3E", "00 E1 01 FE 1E")
				p.Step("commands")
				exchange("00 00 07 00 A4 00 00 02 3F 00 9E", "00 00 02 90 00 92")
				exchange("00 40 05 00 84 00 00 08 C9", "00 40 0A 11 12 13 14 15 16 17 18 90 00 D2")
				h.Gone("unplugged")
				if file == "removal.txt" {
					if _, err := message(s, "00 00 01 00 01", time.Second); !errors.Is(err, reader.ErrGone) {
						t.Errorf("a command: %v", err)
					}
					if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrGone) {
						t.Errorf("a reset: %v", err)
					}
				}
				waited := time.Duration(0)
				for _, l := range session {
					if l.Kind == usbtest.Wait {
						waited += l.Held
					}
				}
				if took := time.Since(start); took != waited {
					t.Errorf("it took %v, the session's pauses are %v", took, waited)
				}
			})
		})
	}
}

// The emulated token answers the sessions' hosts as the sessions' devices do.
func TestTokenPlaysSession(t *testing.T) {
	for file, sizes := range pieces {
		t.Run(file, func(t *testing.T) {
			session := load(t, file)
			synctest.Test(t, func(t *testing.T) {
				e := newToken(t, cardOS)
				e.Pieces(sizes...)
				usbtest.Replay(t, session, e.Plug(), nil)
			})
		})
	}
}

// The core does the PPS and T=1: core and driver together send what the sessions' hosts
// send, in the same time.
func TestCoreSendsSession(t *testing.T) {
	for file, sizes := range pieces {
		t.Run(file, func(t *testing.T) {
			session := load(t, file)
			for i := range session {
				session[i].Timeout = 0 // T=1's are the card's
			}
			synctest.Test(t, func(t *testing.T) {
				e := newToken(t, cardOS)
				e.Pieces(sizes...)
				var got usbtest.Session
				e.Observe(func(l usbtest.Line) {
					l.Data = bytes.Clone(l.Data)
					got = append(got, l)
				})
				_, s := open(t, e.Plug())
				l := newLink(s)
				powerUp(t, l, -1)
				transmit(t, l, unhex("00 A4 00 00 02 3F 00"), unhex("90 00"))
				transmit(t, l, challenge, response)
				e.Unplug()
				end := slices.IndexFunc(session, func(l usbtest.Line) bool { return l.Kind == usbtest.Unplug })
				if diff := session[:end+1].Diff(got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// What the core relies on.
func TestTraits(t *testing.T) {
	_, s := open(t, newToken(t, cardOS).Plug())
	want := reader.Traits{Level: reader.Character, AlwaysPPS: true, IFSD: 254, Slack: 1500 * time.Millisecond, Fixed: true}
	if got := s.Traits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	f := reader.FeaturesOf(s)
	for ta1 := range 256 {
		if f.RateLimiter.Supports(byte(ta1)) != (ta1 == 0x11) {
			t.Errorf("rate %02X", ta1)
		}
	}
	if f.ProtocolSelector != nil || f.ProtocolLister != nil {
		t.Error("the core leaves the PPS to the token")
	}
}

// "Active protocol first, then those offered; write T=0/T=1 negotiates": the card's first
// protocol is used unless another is asked for, and a PPS says which. PPS1 is never there,
// whatever rate the card offers.
func TestProtocols(t *testing.T) {
	for _, x := range []struct {
		card card
		want int
		pps  string
		says string // in the error
	}{
		{cardOS, -1, "FF 01 FE", ""}, {cardOS, 1, "FF 01 FE", ""}, {cardOS, 0, "", "T=0"},
		{t0, -1, "FF 00 FF", ""}, {t0, 0, "FF 00 FF", ""}, {t0, 1, "", "T=1"},
		{both, -1, "FF 00 FF", ""}, {both, 0, "FF 00 FF", ""}, {both, 1, "FF 01 FE", ""},
		{"3B 90 94 80 01 05", 1, "FF 01 FE", ""}, // another rate
		{"3B 80 10 00", -1, "", ""},              // specific mode: no PPS
		{"3B 90 98 10 80", -1, "", "TA1=98"},     // at another rate, for good
	} {
		synctest.Test(t, func(t *testing.T) {
			e, _, l := plug(t, x.card)
			var pps []string
			e.Observe(func(l usbtest.Line) {
				if !l.In && len(l.Data) > 0 && l.Data[0] == 0xFF {
					pps = append(pps, fmt.Sprintf("% X", l.Data))
				}
			})
			err := l.PowerUp(t.Context(), reader.Cold, x.want)
			if x.says == "" && err != nil || x.says != "" && (!errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), x.says)) {
				t.Fatalf("%s, T=%d: %v, want %q", x.card, x.want, err, x.says)
			}
			if got := strings.Join(pps, ", "); got != x.pps {
				t.Errorf("%s, T=%d: PPS %s, want %s", x.card, x.want, got, x.pps)
			}
			if err == nil {
				transmit(t, l, challenge, response)
			}
		})
	}
}

// Answers come in any pieces, and reads that bring nothing stand between them.
func TestPieces(t *testing.T) {
	for _, c := range []card{cardOS, t0} {
		for size := 1; size <= 16; size++ {
			for empty := range 3 {
				synctest.Test(t, func(t *testing.T) {
					e, _, l := plug(t, c)
					var sizes []int
					for range 200 {
						sizes = append(sizes, size)
						for range empty {
							sizes = append(sizes, 0)
						}
					}
					e.Pieces(sizes...)
					powerUp(t, l, -1)
					for range 2 {
						transmit(t, l, unhex("00 A4 00 00 02 3F 00"), unhex("90 00"))
						transmit(t, l, challenge, response)
					}
					if n := e.Contact.APDUs(); n != 4 {
						t.Errorf("%s, pieces of %d, %d empty: the card had %d commands", c, size, empty, n)
					}
				})
			}
		}
	}
}

// ISO/IEC 7816-3:2006 §11.3.2.3: LEN is 254 at the most, and that is what the card is told.
// All answers of T=0 come whole, too.
func TestLongAnswers(t *testing.T) {
	for _, c := range []card{cardOS, t0} {
		synctest.Test(t, func(t *testing.T) {
			e, _, l := plug(t, c)
			powerUp(t, l, -1)
			longest := 0
			e.Observe(func(l usbtest.Line) {
				if l.In {
					longest = max(longest, len(l.Data))
				}
			})
			for _, n := range []int{1, 251, 252, 253, 255} {
				transmit(t, l, []byte{0, 0xB0, 0, 0, byte(n)}, append(readertest.Pattern(n), 0x90, 0x00))
			}
			if c == cardOS && longest != 3+254+1 {
				t.Errorf("the longest block has %d bytes", longest)
			}
		})
	}
}

// A command of the card may take minutes: in T=1 it asks for the time by S(WTX request), in
// T=0 by NULL. The driver reads ten times a second meanwhile.
func TestLongCommand(t *testing.T) {
	for _, c := range []card{cardOS, t0} {
		synctest.Test(t, func(t *testing.T) {
			e, _, l := plug(t, c)
			powerUp(t, l, -1)
			const takes = 5 * time.Minute
			l.Limit = 2 * takes
			e.Contact.SetFaults(icc.Faults{Slow: takes})
			reads := 0
			e.Observe(func(l usbtest.Line) {
				if l.In {
					reads++
				}
			})
			start := time.Now()
			transmit(t, l, challenge, response)
			if took := time.Since(start); took < takes || took > takes+takes/10 {
				t.Errorf("%s: it took %v", c, took)
			}
			if most := int((takes + takes/10) / (100 * time.Millisecond)); reads > most {
				t.Errorf("%s: %d reads", c, reads)
			}
			if n := e.Contact.APDUs(); n != 1 {
				t.Errorf("%s: the card had %d commands", c, n)
			}
		})
	}
}

// When a token is pulled, or its port reset, its card loses power.
func TestPowerLost(t *testing.T) {
	faulttest.PowerLost(t, Driver{}, func() faulttest.Device { return newToken(t, cardOS) })
}

func TestIdentify(t *testing.T) {
	r, _ := open(t, newToken(t, cardOS).Plug())
	model, more := r.(reader.Identifier).Identify()
	if model != "Eutron CryptoIdentity IT-SEC" || more["version"] != "1.20" {
		t.Errorf("%s %v", model, more)
	}
	if ids := (Driver{}).IDs(); len(ids) != 1 || ids[0].Vendor != 0x073D || ids[0].Product != 0x0005 || (Driver{}).Name() != "eutron" {
		t.Errorf("%s %v", Driver{}.Name(), ids)
	}
	if _, err := (Driver{}).Open(context.Background(), reader.Device{Address: "x"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// Requests that the token serves and refuses, beside those of the sessions.
func TestRequests(t *testing.T) {
	for _, x := range []struct {
		name         string
		rt, rq       uint8
		value, index uint16
		n            int
		want         string
	}{
		{"device descriptor", 0x80, 6, 0x0100, 0, 64, "12 01 00 01 FF 00 00 08 3D 07 05 00 20 01 01 02 03 01"},
		{"configuration", 0x80, 6, 0x0200, 0, 255, "09 02 12 00 01 01 00 80 32 09 04 00 00 00 FF 00 00 00"},
		{"serial number", 0x80, 6, 0x0303, 0x0409, 255, "06 03 53 00 31 00"},
		{"read before a reset", 0xC2, 2, 0, 0, 499, ""},
		{"read, as the first drivers did", 0xC1, 2, 0, 0, 499, ""},
		{"speed of an earlier driver", 0x42, 0x65, 0x0098, 0, 0, ""},
		{"no speed", 0x42, 0x65, 0, 0, 0, usb.ErrStall.Error()},
		{"write nothing", 0x42, 1, 0, 0, 0, usb.ErrStall.Error()},
		{"write with a value", 0x42, 1, 1, 0, 3, usb.ErrStall.Error()},
		{"read with an index", 0xC2, 2, 0, 1, 3, usb.ErrStall.Error()},
		{"read to the token", 0x42, 2, 0, 0, 3, usb.ErrStall.Error()},
		{"reset with data", 0x42, 9, 0, 0, 1, usb.ErrStall.Error()},
		{"A0 with a value", 0x42, 0xA0, 1, 0, 0, usb.ErrStall.Error()},
		{"A4", 0x42, 0xA4, 0, 0, 0, usb.ErrStall.Error()},
		{"request of the class", 0x22, 0xA0, 0, 0, 0, usb.ErrStall.Error()},
		{"request to the device", 0x40, 0xA0, 0, 0, 0, usb.ErrStall.Error()},
	} {
		setup := usb.Setup{RequestType: x.rt, Request: x.rq, Value: x.value, Index: x.index}
		if got := emu.New("S1").Plug().Ask(setup, x.n); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

func TestSuite(t *testing.T) {
	for _, c := range []card{cardOS, t0} {
		t.Run(string(c), func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newToken(t, c)
				port := e.Plug()
				return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, true))
			})
		})
	}
}
