package eutron

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/eutron/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Each transfer may fail in each way. T=0 has no check of what the card sends.
func TestFaults(t *testing.T) {
	for _, c := range []card{cardOS, t0} {
		faulttest.Session{
			Driver: Driver{}, New: func() faulttest.Device { return emu.New("") }, Card: func() icc.Card { return c },
			Commands:  [][2]string{{"00 A4 00 00 02 3F 00", "90 00"}, {"00 84 00 00 08", "11 12 13 14 15 16 17 18 90 00"}},
			Transfers: 14, Limit: 90 * time.Second,
			Unseen: func(_ usbtest.Line, f usbtest.Fault) bool { return c == t0 && f.Kind == usbtest.Garbage },
		}.Run(t)
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
				usbtest.Fuzz(t, port, in, time.Second)
			})
		}
	})
}
