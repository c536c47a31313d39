package eutron

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Every transfer of a power-up and a command, in each of the ways of the menu: what the
// program gets is the right answer or an error that the core knows, in the time that the
// protocol allows; the card sees no command twice; and then a reset helps.
func TestFaults(t *testing.T) {
	for _, c := range []card{cardOS, t0} {
		transfers := 0
		session := func(t *testing.T, faults ...usbtest.Fault) {
			synctest.Test(t, func(t *testing.T) {
				e, s, l := plug(t, c)
				e.Inject(faults...)
				e.Observe(func(usbtest.Line) { transfers++ })
				fault := fmt.Sprint(faults)
				start := time.Now()
				err := l.PowerUp(t.Context(), reader.Cold, -1)
				if err == nil {
					var got []byte
					if got, err = l.Transmit(t.Context(), challenge, nil); err == nil && !bytes.Equal(got, response) {
						t.Errorf("%s: answer % X", fault, got)
					}
				}
				if took := time.Since(start); took > 90*time.Second {
					t.Errorf("%s: it took %v", fault, took)
				}
				if n := e.Contact.APDUs(); n > 1 {
					t.Errorf("%s: the card had %d commands", fault, n)
				}
				known := false
				for _, k := range []error{nil, reader.ErrGone, usb.ErrBus, reader.ErrMute, reader.ErrTimeout, reader.ErrProtocol} {
					known = known || errors.Is(err, k)
				}
				if !known || errors.Is(err, reader.ErrStale) {
					t.Errorf("%s: %v", fault, err)
				}
				unplugged := len(faults) > 0 && faults[0].Kind == usbtest.Unplugged
				if unplugged != errors.Is(err, reader.ErrGone) && err != nil {
					t.Errorf("%s: %v", fault, err)
				}
				e.Heal()
				synctest.Wait() // the card may have got a command that failed
				if unplugged {
					_, s = open(t, e.Plug())
				}
				again := e.Contact.APDUs()
				l = newLink(s)
				if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
					t.Fatalf("%s: then %v", fault, err)
				}
				transmit(t, l, challenge, response)
				if n := e.Contact.APDUs() - again; n != 1 {
					t.Errorf("%s: then the card had %d commands", fault, n)
				}
			})
		}
		session(t)
		n := transfers / 2
		if n < 14 {
			t.Fatalf("%d transfers", n)
		}
		for skip := range n {
			for _, f := range usbtest.Menu() {
				f.Skip = skip
				session(t, f)
			}
		}
	}
}

// A card that is silent, damages blocks, or is slow: T=1 overcomes it.
func TestNoise(t *testing.T) {
	// In T=0 the card asks for the command's data by single characters.
	synctest.Test(t, func(t *testing.T) {
		e, _, l := plug(t, t0)
		powerUp(t, l, -1)
		e.Contact.SetFaults(icc.Faults{Every: 2})
		for range 20 {
			transmit(t, l, unhex("00 A4 00 00 02 3F 00"), unhex("90 00"))
			transmit(t, l, challenge, response)
		}
	})
	for _, faults := range []icc.Faults{{Every: 3}, {Every: 5}, {Every: 7, RequestIFS: 32}, {Fraction: 0.03, Seed: 1}, {Slow: 7 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			e, _, l := plug(t, cardOS)
			powerUp(t, l, -1)
			e.Contact.SetFaults(faults)
			for i := range 20 {
				transmit(t, l, challenge, response)
				if n := e.Contact.APDUs(); t.Failed() || n != uint64(i+1) {
					t.Fatalf("%+v: the card had %d commands", faults, n)
				}
			}
		})
	}
}

// No answer of a token makes the driver panic, wait without an end, or accept bytes that did
// not arrive.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 13}, cardOS.ATR(), unhex("00 00 02 90 00 92"))
	f.Add([]byte{3, 0, 0, 2, 200, 11}, unhex("55 55 55 3B F2 98 00 FF C1 10 31 FE 55 C8 03 15"), unhex("FF 01 FE 00 E1 01 FE 1E"))
	f.Add([]byte{1, 0}, bytes.Repeat([]byte{0x80}, 400), []byte{})
	f.Fuzz(func(t *testing.T, sizes, atr, rest []byte) {
		synctest.Test(t, func(t *testing.T) {
			c := newFake()
			sent := append(bytes.Clone(atr), rest...)
			for all := sent; len(all) > 0; {
				n := len(all)
				if len(sizes) > 0 {
					n, sizes = min(n, int(sizes[0])), sizes[1:]
				}
				c.reads = append(c.reads, reply{data: all[:n]})
				all = all[n:]
			}
			_, s := open(t, c)
			start := time.Now()
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if err == nil && (len(got) != iso7816.ATRLength(got) || len(got) > 33 || !bytes.Contains(sent, got)) {
				t.Errorf("ATR % X of % X", got, sent)
			}
			l := newLink(s)
			l.PowerUp(t.Context(), reader.Cold, -1)
			l.Transmit(t.Context(), challenge, nil)
			for _, want := range []int{2, 3, 259} {
				rx, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 C1 01 FE 3E")[:want%3+2], Want: want, Wait: time.Second, CharWait: time.Second}, nil)
				if len(rx) > want || err == nil && len(rx) == 0 {
					t.Errorf("%d bytes and %v, %d were asked for", len(rx), err, want)
				}
			}
			if took := time.Since(start); took > time.Hour {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// The emulated token survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("42 A3 0000 0000 00 42 09 0000 0000 00 C2 02 0000 0000 40 42 01 0000 0000 03 FF 01 FE C2 02 0000 0000 07"))
	f.Add(unhex("42 09 0000 0000 00 42 01 0000 0000 05 00 C1 01 FE 3E C2 02 0000 0000 F3 42 01 0000 0000 09 00 00 05 00 84 00 00 08 89 42 09 0000 0000 00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, c := range []card{cardOS, t0} {
			in := in
			synctest.Test(t, func(t *testing.T) {
				e := newToken(t, c)
				e.Contact.SetFaults(icc.Faults{Slow: 20 * time.Millisecond})
				port := e.Plug()
				defer e.Unplug()
				for len(in) >= 7 {
					s := usb.Setup{RequestType: in[0], Request: in[1],
						Value: uint16(in[2]) | uint16(in[3])<<8, Index: uint16(in[4]) | uint16(in[5])<<8}
					data := make([]byte, in[6])
					in = in[7:]
					if !s.In() {
						in = in[copy(data, in):]
					}
					if n, err := port.Control(t.Context(), s, data, time.Second); n < 0 || n > len(data) || err != nil && n != 0 {
						t.Fatalf("%v: %d, %v", s, n, err)
					}
				}
			})
		}
	})
}
