package usbtest

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// The standard requests of USB 2.0 §9.4, as a session.
const standardRequests = `
	IN  80 06 0100 0000 0008 | 12 01 00 02 00 00 00 40                # the first bytes of the device descriptor
	IN  80 06 0100 0000 0040 | 12 01 00 02 00 00 00 40 09 12 01 00 00 01 01 02 00 01
	IN  80 06 0200 0000 0009 | 09 02 30 00 02 01 00 80 32
	IN  80 06 0201 0000 0009 | stall                                  # there is one configuration
	IN  80 06 0300 0000 00FF | 04 03 09 04                            # in English
	IN  80 06 0302 0409 00FF | 0E 03 6D 00 69 00 72 00 72 00 6F 00 72 00
	IN  80 06 0303 0409 00FF | stall
	IN  80 06 0600 0000 000A | stall                                  # no device qualifier: it is full speed
	IN  80 00 0000 0000 0002 | 00 00
	OUT 00 09 0001 0000 0000
	IN  80 08 0000 0000 0001 | 01
	OUT 00 09 0002 0000 0000 | stall                                  # no such configuration
	IN  80 08 0000 0000 0001 | 01
	OUT 01 0B 0000 0001 0000
	OUT 01 0B 0001 0001 0000 | stall                                  # no such setting
	IN  81 0A 0000 0001 0001 | 00
	OUT 02 03 0000 0081 0000                                          # ENDPOINT_HALT
	IN  82 00 0000 0081 0002 | 01 00
	IN  81 | stall
	OUT 02 01 0000 0081 0000
	IN  82 00 0000 0081 0002 | 00 00
	OUT 02 | 07
	IN  81 | 07
	IN  80 55 0000 0000 0001 | stall
`

// transfers exercises the mirror.
const transfers = `
	claim 0
	== control
	OUT 40 01 0000 0000 0003 10s | 01 02 03
	IN  C0 02 0000 0000 0010 1s  | 01 ?? 03
	IN  C0 09 0000 0000 0010     | stall
	== bulk
	OUT 02 5s | 01 02 03 04
	          | 05
	IN  81 0040 | 01 02 03 04 05
	OUT 02 zlp | 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F
	       | 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F
	IN  81 0040 | 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F
	       | 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F
	OUT 02 | 01 02
	IN  81 0001 | overflow
	IN  81 2s | timeout
	== interrupt
	IN  83 100ms | timeout
	OUT 40 03 0000 0000 0000
	IN  83 | 01
	* something happens
	wait 100ms
	IN  83 0008 | 01
	== ends
	reset
	clear 81
	IN  C0 04 0000 0000 0001 2s | timeout
	release 0
	unplug
	OUT 02 | 65 gone
	IN  C0 02 0000 0000 0001 | gone
`

func parse(t *testing.T, text string) Session {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A session means the same after it was printed and parsed again.
func TestNotation(t *testing.T) {
	for _, text := range []string{standardRequests, transfers} {
		s := parse(t, text)
		again := parse(t, s.String())
		if d := s.Diff(again); d != "" || again.String() != s.String() {
			t.Errorf("%s\n%v\n%v", d, s, again)
		}
		if got := parse(t, s[0].String()); !s[0].Same(&got[0]) {
			t.Errorf("%v", got)
		}
	}
}

func TestNotationErrors(t *testing.T) {
	for _, tt := range []struct{ line, says string }{
		{"IN 02 | 00", "other direction"},
		{"OUT 81 | 00", "other direction"},
		{"IN 41 16 0000 0000 0000", "other direction"},
		{"OUT 41 16 0000 0000 0001 | 00 01", "wLength is 1, and there are 2 bytes"},
		{"OUT 41 16 0000 0000 0001", "there are 0 bytes"},
		{"IN C1 16 0000 0000 0001 | 00 01", "more than the 1"},
		{"IN 81 0001 | 00 01", "more than the 1"},
		{"OUT 41 16 0000 | 00", "3 numbers"},
		{"OUT 02 0040 | 00", "2 numbers"},
		{"IN 81 | 0", "neither bytes nor a failure"},
		{"IN 81 | stalled", "neither bytes nor a failure"},
		{"IN 81 | stall 00", "behind the failure"},
		{"IN 81 3 seconds | 00", "3"},
		{"read 81 | 00", "no direction"},
		{"| 00", "without a transfer"},
		{"reset\n| 00", "line 2"},
		{"wait", "invalid duration"},
		{"wait 3", "missing unit"},
		{"*", "no name"},
		{"claim x", "invalid syntax"},
		{"clear 181", "out of range"},
	} {
		if s, err := Parse(tt.line); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v, %v; want %q", tt.line, s, err, tt.says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(standardRequests)
	f.Add(transfers)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%v\n%v\n%v", err, s, again)
		}
	})
}

// The device does what its sessions say, and recording it gives the same sessions.
func TestReplay(t *testing.T) {
	for _, text := range []string{standardRequests, transfers} {
		synctest.Test(t, func(t *testing.T) {
			m := newMirror()
			var log Log
			m.Observe(log.Add)
			s := parse(t, text)
			events := map[string]func(){"something happens": func() {
				m.news++
				m.Wake()
			}}
			Replay(t, s, m.Plug(), events)
			m.Unplug()
			if text == transfers {
				want := s[:len(s)-2] // after unplugging the bus shows nothing
				if d := want.Diff(log.Session()); d != "" {
					t.Errorf("%s\n%v", d, log.Session())
				}
			}
		})
	}
}

// complaints collects what a test would fail with.
type complaints struct {
	testing.TB
	list     []string
	cleanups []func()
}

// A session replayed against its own player passes: the host and the device of one session
// fit.
func TestPlayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slices.DeleteFunc(parse(t, standardRequests), func(l Line) bool { return !l.standard() })
		s = append(s, parse(t, transfers)...)
		p := NewPlayer(t, s)
		if got := p.String(2); got != "mirror" || !bytes.Equal(p.Descriptors()[:18], mirrorDescriptors[:18]) {
			t.Errorf("%q, % X", got, p.Descriptors())
		}
		p.Describe(mirrorDescriptors)
		ctx := t.Context()
		c, err := p.OpenUSB(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.lines {
			var got Line
			h := host{conn: c}
			switch l.Kind {
			case Claim, Event, Unplug:
				continue
			case Step:
				p.Step(l.Name)
				continue
			case Transfer:
				got = l
				h.transfer(ctx, &l, &got)
			case Release:
				c.Close()
				continue
			case Wait:
				time.Sleep(l.Held)
				continue
			case ClearHalt:
				got = l
				got.Err = c.ClearHalt(ctx, l.Endpoint)
			case Reset:
				got = l
				got.Err = c.Reset(ctx)
			}
			if !l.Same(&got) {
				t.Errorf("got %v, want %v", got, l)
			}
		}
		if <-p.Gone(); p.at != len(p.lines) {
			t.Error(p.due())
		}
	})
}

// A host that deviates from the session is shown where.
func TestPlayerComplains(t *testing.T) {
	const session = "claim 0\nIN 83 | 50 03\nOUT 02 5s | 65 00\n== next\nwait 1s\nOUT 41 01 0000 0000 0000\nIN 81 held 2s | 81"
	for _, tt := range []struct {
		name string
		host func(p *Player)
		says string
	}{
		{"stops", func(p *Player) {}, "line 1 of the session never came: claim 0"},
		{"claims another interface", func(p *Player) { p.OpenUSB(ctx, 1) }, "the host does claim 1"},
		{"sends other bytes", func(p *Player) {
			p.at = 2
			if _, err := p.Out(ctx, 2, []byte{0x65, 1}, false, 5*time.Second); !errors.Is(err, usb.ErrBus) {
				t.Error(err)
			}
		}, "the host does OUT 02 5s | 65 01\nthe session is at line 3: OUT 02 5s | 65 00"},
		{"gives another time", func(p *Player) { p.at = 2; p.Out(ctx, 2, []byte{0x65, 0}, false, time.Second) }, "OUT 02 1s"},
		{"has no time for the device", func(p *Player) {
			p.at = 1
			p.Out(ctx, 2, []byte{0x65, 0}, false, 5*time.Second) // nobody reads the interrupt
		}, "and gives it up"},
		{"does another transfer", func(p *Player) { p.at = 2; p.Control(ctx, usb.Setup{RequestType: 0x41}, nil, 0) }, "OUT 41 00"},
		{"does not pause", func(p *Player) { p.at = 4; p.Control(ctx, usb.Setup{RequestType: 0x41, Request: 1}, nil, 0) }, "after 0s"},
		{"takes another step", func(p *Player) { p.at = 3; p.Step("last") }, `at the step "last" the session is at line 4: == next`},
		{"clears a halt", func(p *Player) { p.at = 2; p.ClearHalt(ctx, 0x81) }, "clear 81"},
		{"sends more", func(p *Player) { p.at = len(p.lines); p.Out(ctx, 2, nil, false, 0) }, "its end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &complaints{TB: t}
				p := NewPlayer(c, parse(t, session))
				tt.host(p)
				c.end()
				if len(c.list) == 0 || !strings.Contains(c.list[0], tt.says) {
					t.Errorf("%q, want %q", c.list, tt.says)
				}
			})
		})
	}
}
