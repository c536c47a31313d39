package smph

import (
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
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
	selectMF  = readertest.SelectMF
	challenge = readertest.Challenge
	response  = readertest.Response
)

// rig is an emulated interface with the parameters that it is attached with.
type rig struct {
	emu.Config
	params string // type=smartmouse clock=6
}

var rigs = map[string]rig{
	"phoenix":    {},
	"smartmouse": {emu.Config{SmartMouse: true}, "type=smartmouse"},
	"6 MHz":      {emu.Config{ClockHz: 6_000_000}, "clock=6"},
	"on CD":      {emu.Config{Detect: serial.CD, DetectOn: true}, "detect=cd-on"},
	"fed":        {emu.Config{Detect: serial.DSR, DetectOn: true, Fed: true, SmartMouse: true}, "type=smartmouse detect=dsr-on"},
	"blind":      {emu.Config{Port: emu.Blind}, ""},
	"drops":      {emu.Config{Port: emu.Drops}, "type=phoenix clock=3.57 detect=cts-off"},
	"paced":      {emu.Config{Paced: true}, ""},
}

func newInterface(t testing.TB, c emu.Config, in icc.Card) *emu.Interface {
	t.Helper()
	e := emu.New(c)
	if in != nil {
		readertest.Insert(t, &e.Contact, in)
	}
	return e
}

func device(link serial.Opener, params string) reader.Device {
	return reader.Device{Driver: "smph", Address: "/dev/ttyS0", Link: link, Params: parameters(params)}
}

// parameters reads "clock=6 detect=none".
func parameters(text string) map[string]string {
	m := map[string]string{}
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		m[key] = value
	}
	return m
}

func open(t testing.TB, link serial.Opener, params string) *slot {
	t.Helper()
	_, s := readertest.Open(t, Driver{}, device(link, params))
	return s.(*slot)
}

// plug opens an interface as the core does. It leaves at the end.
func plug(t testing.TB, r rig, c icc.Card) (*emu.Interface, *slot, *link.Link) {
	t.Helper()
	e := newInterface(t, r.Config, c)
	p := serialtest.Plug(e)
	t.Cleanup(p.Unplug)
	s := open(t, p, r.params)
	return e, s, newLink(s)
}

func TestSuite(t *testing.T) {
	for _, name := range []string{"phoenix", "smartmouse", "fed", "drops"} {
		for _, c := range []card{readertest.Plain, readertest.Dual, readertest.Quick} {
			t.Run(name+" "+string(c), func(t *testing.T) {
				r := rigs[name]
				readertest.PausingSuite(t, func(t *testing.T) *readertest.Fixture {
					e := newInterface(t, r.Config, c)
					p := serialtest.Plug(e)
					return readertest.Emulated(Driver{}, device(p, r.params), p.Unplug, readertest.Contact(&e.Contact, false))
				})
			})
		}
	}
}
