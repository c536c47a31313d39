package wbeiuu

import (
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/wbeiuu/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/link"
	"github.com/cardfs/cardfs/reader/readertest"
)

var (
	unhex    = readertest.Hex
	pattern  = readertest.Pattern
	newLink  = readertest.NewLink
	powerUp  = readertest.PowerUp
	transmit = readertest.Transmit
)

type card = readertest.Card

const (
	plain   = card("3B 02 14 50")
	fast    = card("3B 95 18 40 FF 62 01 02 01 04")                // T=0, 12/372
	inverse = card("3F 65 00 00 01 02 03 04 05")                   // T=0
	block   = card("3B 80 81 31 FE 45 8B")                         // T=1, IFSC 254, BWI 4, CWI 5
	quick   = card("3B F2 98 00 FF C1 10 31 FE 55 C8 03 15")       // T=1, 12/512
	mirror  = card("3F 97 94 80 31 FE 45 53 49 4D 44 55 90 00 DF") // inverse, T=0 and T=1
	guarded = card("3B C0 14 00")                                  // TC1 20
	top     = card("3B B6 96 00 81 31 FE 45 53 49 4D 43 90 00 AF") // T=1, 32/512
)

var (
	challenge = readertest.Challenge
	response  = readertest.Response
)

func newReader(t testing.TB, c icc.Card) *emu.Reader {
	t.Helper()
	e := emu.New("")
	if c != nil {
		readertest.Insert(t, &e.Contact, c)
	}
	return e
}

func device(link usb.Opener) reader.Device {
	return reader.Device{Driver: "wbeiuu", Address: "usb:1-2", Link: link}
}

func open(t testing.TB, link usb.Opener) (reader.Reader, reader.Slot) {
	t.Helper()
	return readertest.Open(t, Driver{}, device(link))
}

// plug opens a reader as the core does. It leaves at the end.
func plug(t testing.TB, c icc.Card) (*emu.Reader, reader.Slot, *link.Link) {
	t.Helper()
	e := newReader(t, c)
	_, s := open(t, e.Plug())
	t.Cleanup(e.Unplug)
	return e, s, newLink(s)
}

func TestSuite(t *testing.T) {
	for _, c := range []card{plain, block} {
		t.Run(string(c), func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, c)
				port := e.Plug()
				return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}
