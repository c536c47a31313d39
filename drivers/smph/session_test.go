package smph

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/reader"
)

func load(t *testing.T, file string) serialtest.Session {
	t.Helper()
	session, err := serialtest.Load("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// steps tells the player that the PPS begins.
type steps struct {
	reader.Slot
	p *serialtest.Player
}

func (s steps) Unwrap() reader.Slot { return s.Slot }

func (s steps) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if len(x.Out) > 0 && x.Out[0] == 0xFF {
		s.p.Step("PPS")
	}
	return s.Slot.Exchange(ctx, x, dst)
}

// The driver sends what the session's host sends, with the same pauses, switches the lines as it
// does, and accepts what comes.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "session.txt"))
		p.Step("open")
		s := open(t, p, "")
		if name, more := s.Identify(); name != "Phoenix interface" || more["clock"] != "3.579545 MHz" {
			t.Errorf("%s, %v", name, more)
		}
		status := func(step string, want reader.Status) {
			t.Helper()
			p.Step(step)
			if got, err := s.Status(t.Context()); got != want || err != nil {
				t.Errorf("%s: %v, %v", step, got, err)
			}
		}
		status("status", reader.Present)
		p.Step("reset")
		l := newLink(steps{s, p})
		powerUp(t, l, -1)
		if got := l.ATR().Bytes(); !bytes.Equal(got, fast.ATR()) {
			t.Errorf("ATR % X", got)
		}
		p.Step("commands")
		transmit(t, l, selectMF, unhex("90 00"))
		transmit(t, l, challenge, response)
		for _, how := range []reader.Reset{reader.Warm, reader.Cold} {
			p.Step(how.String())
			if got, err := s.PowerOn(t.Context(), how); !bytes.Equal(got, fast.ATR()) || err != nil {
				t.Errorf("%v: % X, %v", how, got, err)
			}
		}
		p.Step("power off")
		if err := l.PowerOff(t.Context()); err != nil {
			t.Error(err)
		}
		status("card out", reader.Absent)
		p.Step("close")
		s.Close()
	})
}

func TestDriverPlaysSmartMouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serialtest.NewPlayer(t, load(t, "smartmouse.txt"))
		p.Step("open")
		s := open(t, p, "type=smartmouse clock=6 detect=cd-on")
		if name, more := s.Identify(); name != "SmartMouse interface" || more["clock"] != "6 MHz" {
			t.Errorf("%s, %v", name, more)
		}
		if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		p.Step("reset")
		l := newLink(s)
		powerUp(t, l, -1)
		if got := l.ATR().Bytes(); !bytes.Equal(got, inverted.ATR()) {
			t.Errorf("ATR % X", got)
		}
		p.Step("commands")
		transmit(t, l, selectMF, unhex("90 00"))
		transmit(t, l, challenge, response)
		p.Step("reset again")
		if got, err := s.PowerOn(t.Context(), reader.Warm); !bytes.Equal(got, inverted.ATR()) || err != nil {
			t.Errorf("% X, %v", got, err)
		}
		p.Step("card out")
		if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
			t.Errorf("%v, %v", st, err)
		}
		p.Step("close")
		s.Close()
	})
}

// The emulated interface is to the sessions' hosts what the sessions' devices are.
func TestInterfacePlaysSessions(t *testing.T) {
	for file, x := range map[string]struct {
		emu.Config
		card
	}{
		"session.txt":    {emu.Config{}, fast},
		"smartmouse.txt": {emu.Config{SmartMouse: true, ClockHz: 6_000_000, Detect: serial.CD, DetectOn: true}, inverted},
		"openct.txt":     {emu.Config{}, plain},
	} {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newInterface(t, x.Config, slow{x.card})
				p := serialtest.Plug(e)
				defer p.Unplug()
				serialtest.Replay(t, load(t, file), p, map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
			})
		})
	}
}

// slow is a card that computes for longer than half its work waiting time over the command for
// which it sends NULL in session.txt.
type slow struct{ card }

func (s slow) Busy(command []byte) time.Duration {
	if s.card == fast && command[1] == 0x84 {
		return 13 * time.Second
	}
	return 0
}
