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
	for _, c := range []card{readertest.Plain, readertest.Block} {
		t.Run(string(c), func(t *testing.T) {
			readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
				e := newReader(t, c)
				port := e.Plug()
				return readertest.Emulated(Driver{}, device(port), port.Unplug, readertest.Contact(&e.Contact, false))
			})
		})
	}
}
