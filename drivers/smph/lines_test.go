package smph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// What `attach` takes, and what it refuses in words.
func TestAttach(t *testing.T) {
	d := Driver{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, x := range []struct {
		params string
		want   settings
		model  string
	}{
		{"", settings{false, 3_579_545, serial.CTS, false}, "Phoenix interface"},
		{"type=phoenix detect=cts-on", settings{false, 3_579_545, serial.CTS, true}, "Phoenix interface"},
		{"type=smartmouse clock=6", settings{true, 6_000_000, serial.CTS, false}, "SmartMouse interface"},
		{"clock=3.57 detect=cd-on", settings{false, 3_570_000, serial.CD, true}, "Phoenix interface"},
		{"clock=3.579545 detect=dsr-off", settings{false, 3_579_545, serial.DSR, false}, "Phoenix interface"},
		{"clock=1 detect=ri-on", settings{false, 1_000_000, serial.RI, true}, "Phoenix interface"},
		{"clock=20 detect=none", settings{false, 20_000_000, 0, false}, "Phoenix interface"},
	} {
		dev, err := d.Attach(device(nil, x.params))
		if err != nil || dev.ID.Model != x.model || dev.Bus != "serial" || dev.Link == nil {
			t.Errorf("%q: %+v, %v", x.params, dev, err)
		}
		got, err := parse(dev.Params)
		if err != nil || got != x.want {
			t.Errorf("%q: %+v, %v", x.params, got, err)
		}
	}
	for params, want := range map[string]string{
		"speed=9600": "no parameter speed; there is type, clock, detect", "type=mouse": "phoenix or smartmouse", "type=": "",
		"clock=": "MHz", "clock=0.9": "MHz", "clock=20.1": "MHz", "clock=3579545": "MHz", "clock=NaN": "MHz", "clock=x": "MHz",
		"detect=": "none, or cts", "detect=cts": "-on or -off", "detect=rts-on": "none, or cts", "detect=cts-": "-on or -off", "detect=none-on": "none, or cts", "detect=cd-on-off": "-on or -off",
	} {
		_, err := d.Attach(device(nil, params))
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", params, err)
			}
			continue
		}
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(fmt.Sprint(err), want) || !strings.HasPrefix(err.Error(), "smph: ") {
			t.Errorf("%q: %v", params, err)
		}
		if key, _, _ := strings.Cut(params, "="); key != "speed" {
			if _, err := d.Open(t.Context(), device(nil, params)); !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("open with %q: %v", params, err)
			}
		}
	}
	if d.IDs() != nil {
		t.Error("it has IDs")
	}
}

// What the lines say, of which only one matters.
func TestPresent(t *testing.T) {
	for value, want := range map[string]func(serial.Lines) bool{
		"":        func(l serial.Lines) bool { return l&serial.CTS == 0 },
		"cts-off": func(l serial.Lines) bool { return l&serial.CTS == 0 },
		"cts-on":  func(l serial.Lines) bool { return l&serial.CTS != 0 },
		"cd-off":  func(l serial.Lines) bool { return l&serial.CD == 0 },
		"cd-on":   func(l serial.Lines) bool { return l&serial.CD != 0 },
		"dsr-off": func(l serial.Lines) bool { return l&serial.DSR == 0 },
		"dsr-on":  func(l serial.Lines) bool { return l&serial.DSR != 0 },
		"ri-off":  func(l serial.Lines) bool { return l&serial.RI == 0 },
		"ri-on":   func(l serial.Lines) bool { return l&serial.RI != 0 },
		"none":    func(serial.Lines) bool { return true },
	} {
		params := map[string]string{"detect": value}
		if value == "" {
			params = nil
		}
		s, err := parse(params)
		if err != nil {
			t.Fatal(err)
		}
		for l := range serial.Lines(64) {
			if got := s.present(l); got != want(l) {
				t.Errorf("%s: with %v %v", value, l, got)
			}
		}
	}
}

// "ClockHz: the card's clock, for waiting times."
func TestTraits(t *testing.T) {
	for params, hz := range map[string]int{"": 3_579_545, "clock=6": 6_000_000} {
		s := open(t, plugged(t), params)
		if got := s.Traits(); got != (reader.Traits{Level: reader.Character, ClockHz: hz, Slack: slack}) {
			t.Errorf("%+v", got)
		}
	}
}

func plugged(t *testing.T) *serialtest.Plugged {
	p := serialtest.Plug(newInterface(t, emu.Config{}, readertest.Plain))
	t.Cleanup(p.Unplug)
	return p
}

// watch collects the host's lines, with the time since the line before.
type watch struct {
	log  []string
	last time.Time
}

func (w *watch) see(e serialtest.Entry) {
	if e.Kind == serialtest.HostLines {
		w.log = append(w.log, fmt.Sprintf("%v %v", time.Since(w.last).Round(time.Millisecond), e))
		w.last = time.Now()
	}
}

// A cold reset takes the supply away, if the card had it and was released; a warm one does not. The
// supply is on from the start. A power-off holds the card in reset, and takes the supply.
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newInterface(t, emu.Config{}, readertest.Plain)
		p := serialtest.Plug(e)
		defer p.Unplug()
		w := &watch{last: time.Now()}
		p.Observe(w.see)
		s := open(t, p, "")
		check := func(what, want string) {
			t.Helper()
			if got := strings.Join(w.log, ", "); got != want {
				t.Errorf("%s: %s\nwant %s", what, got, want)
			}
			synctest.Wait()
			w.log, w.last = nil, time.Now()
		}
		power := func(how reader.Reset) {
			t.Helper()
			if _, err := s.PowerOn(t.Context(), how); err != nil {
				t.Error(err)
			}
		}
		off := func() {
			t.Helper()
			if err := s.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
		}
		check("open", "0s host DTR RTS")
		power(reader.Cold)
		check("cold", "300ms host DTR")
		power(reader.Warm)
		check("warm", "0s host DTR RTS, 50ms host DTR")
		power(reader.Cold)
		check("cold", "0s host RTS, 300ms host DTR RTS, 300ms host DTR")
		off()
		check("off", "0s host RTS")
		power(reader.Warm)
		check("warm from off", "0s host DTR RTS, 300ms host DTR")
		off()
		off()
		check("off twice", "0s host RTS")
		power(reader.Cold)
		check("cold from off", "0s host DTR RTS, 300ms host DTR")
		// The card leaves: the contacts are in reset for the next.
		e.Contact.Remove()
		synctest.Wait()
		if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
			t.Error(st, err)
		}
		check("card out", "0s host DTR RTS")
		off()
		s.Status(t.Context())
		check("off without a card", "")
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrNoCard) {
			t.Error(err)
		}
		check("cold without a card", "0s host RTS, 300ms host DTR RTS")
		e.Contact.Insert(readertest.Fast)
		synctest.Wait()
		power(reader.Warm)
		check("next card", "300ms host DTR")
		s.Close()
		check("close", "0s host -")
	})
}

// A card switch that is fed by DTR says "no card" as soon as DTR is off: "an adapter that switched it
// off would never see a card again". Such an interface keeps its supply.
func TestFedSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p, s := connected(t, rigs["fed"], readertest.Plain)
		for range 2 {
			if err := s.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
			if l := p.Line().Lines(); l&serial.DTR == 0 || l&serial.RTS != 0 {
				t.Errorf("lines %v", l)
			}
			if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
				t.Error(st, err)
			}
		}
		e.Contact.Remove()
		synctest.Wait()
		if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
			t.Error(st, err)
		}
		e.Contact.Insert(readertest.Fast)
		synctest.Wait()
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Error(st, err)
		}
		l := newLink(s)
		powerUp(t, l, -1)
		transmit(t, l, challenge, response)
	})
}

// Without a card switch there is always a card, which may be mute.
func TestNoSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, l := plug(t, rig{emu.Config{NoDetect: true}, "detect=none"}, readertest.Plain)
		powerUp(t, l, -1)
		transmit(t, l, challenge, response)
		if err := s.PowerOff(t.Context()); err != nil {
			t.Error(err)
		}
		e.Contact.Remove()
		synctest.Wait()
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Error(st, err)
		}
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrMute) {
			t.Error(err)
		}
	})
}

// A wrong type or clock makes every card mute, and the error says what may be wrong.
func TestWrongParameters(t *testing.T) {
	for params, c := range map[string]emu.Config{"type=smartmouse": {}, "": {SmartMouse: true}, "clock=6": {}, "clock=3.57": {ClockHz: 6_000_000}} {
		synctest.Test(t, func(t *testing.T) {
			e, s, l := plug(t, rig{c, params}, readertest.Plain)
			start := time.Now()
			err := l.PowerUp(t.Context(), reader.Cold, -1)
			if err == nil || e.Contact.APDUs() > 0 {
				t.Errorf("%q, %+v: %v", params, c, err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%q: after %v", params, took)
			}
			if errors.Is(err, reader.ErrMute) && !strings.Contains(err.Error(), "type= or clock= may be others") {
				t.Error(err)
			}
			if !errors.Is(err, reader.ErrMute) && !errors.Is(err, reader.ErrProtocol) {
				t.Error(err)
			}
			if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
				t.Error(st, err)
			}
		})
	}
}

// Characters of the ATR with wrong parity are noise, unless all of them have it: then the card has the
// other convention.
func TestParityInATR(t *testing.T) {
	for _, c := range []card{readertest.Plain, readertest.Inverse} {
		for at := range len(c.ATR()) {
			synctest.Test(t, func(t *testing.T) {
				e := newInterface(t, emu.Config{}, c)
				p := serialtest.Plug(e)
				defer p.Unplug()
				s := open(t, p, "")
				p.Inject(serialtest.Fault{ToHost: true, At: at, Kind: serialtest.Parity})
				if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, serial.ErrParity) || !strings.Contains(err.Error(), "ATR") {
					t.Errorf("%s, character %d: %v", c, at, err)
				}
				if p.Line().Lines()&serial.RTS == 0 {
					t.Error("the card is not in reset")
				}
				if got, err := s.PowerOn(t.Context(), reader.Cold); string(got) != string(c.ATR()) || err != nil {
					t.Errorf("%s, character %d: then % X, %v", c, at, got, err)
				}
			})
		}
	}
}

// An ATR that breaks the standard counts when it came twice; another card's does not count for it.
func TestOddATRTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const odd = card("3B 05 11 22 33")
		e := newInterface(t, emu.Config{}, odd)
		p := serialtest.Plug(e)
		defer p.Unplug()
		s := open(t, p, "")
		try := func(want string) {
			t.Helper()
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if want == "" {
				if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "it is read again") {
					t.Errorf("% X, %v", got, err)
				}
				if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
					t.Error(st, err)
				}
				if p.Line().Lines()&serial.RTS == 0 {
					t.Error("the card is not in reset")
				}
			} else if string(got) != string(unhex(want)) || err != nil {
				t.Errorf("% X, %v", got, err)
			}
		}
		try("")
		try(string(odd))
		try(string(odd))
		for _, c := range []card{odd, "3B 80 01", "3B 80 01", odd} {
			e.Contact.Remove()
			synctest.Wait()
			s.Status(t.Context())
			e.Contact.Insert(c)
			synctest.Wait()
			try("")
			try(string(c))
		}
	})
}

// calls is a port that notes what is done to it.
type calls struct {
	serial.Port
	did []string
}

func (c *calls) SetMode(ctx context.Context, m serial.Mode) error {
	c.did = append(c.did, "drain")
	return c.Port.SetMode(ctx, m)
}

func (c *calls) Flush() error {
	c.did = append(c.did, "flush")
	return c.Port.Flush()
}

func (c *calls) SetLines(ctx context.Context, on, off serial.Lines) error {
	c.did = append(c.did, fmt.Sprintf("%v on, %v off", on, off))
	return c.Port.SetLines(ctx, on, off)
}

// The rest of a command that was cancelled must not reach a card behind its reset, nor its echo be
// taken for an ATR: it has left, and is dropped, before the card is released.
func TestResetDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, s := connected(t, rig{}, readertest.Plain)
		c := &calls{Port: s.port}
		s.port = c
		if _, err := s.PowerOn(t.Context(), reader.Warm); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(c.did, "; "), "DTR RTS on,  off; drain; flush;  on, RTS off; drain"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}
