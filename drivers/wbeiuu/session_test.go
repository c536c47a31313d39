package wbeiuu

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/wbeiuu/emu"
	"github.com/cardfs/cardfs/reader"
)

func load(t *testing.T, file string) usbtest.Session {
	t.Helper()
	session, err := usbtest.Load("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// The driver sends what the session's host sends, with the same time-outs and pauses, and
// accepts what its device answers.
func TestDriverPlaysSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usbtest.NewPlayer(t, load(t, "session.txt")).Describe(emu.New("").Descriptors())
		p.Step("open")
		r, s := open(t, p)
		if name, more := r.(reader.Identifier).Identify(); name != model || more["version"] != "1.00" {
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
		// The link does both at once.
		l := newLink(steps{s, p})
		powerUp(t, l, -1)
		if got := l.ATR().Bytes(); !bytes.Equal(got, fast.ATR()) {
			t.Errorf("ATR % X", got)
		}
		p.Step("commands")
		transmit(t, l, unhex("00 A4 00 00 02 3F 00"), unhex("90 00"))
		transmit(t, l, challenge, response)
		p.Step("power off")
		if err := l.PowerOff(t.Context()); err != nil {
			t.Error(err)
		}
		status("card out", reader.Absent)
		p.Step("close")
		r.Close()
	})
}

// steps tells the player that the PPS begins.
type steps struct {
	reader.Slot
	p *usbtest.Player
}

func (s steps) Unwrap() reader.Slot { return s.Slot }

func (s steps) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if len(x.Out) > 0 && x.Out[0] == 0xFF {
		s.p.Step("PPS")
	}
	return s.Slot.Exchange(ctx, x, dst)
}

// The emulated reader answers the sessions' hosts as the sessions' devices do.
func TestReaderPlaysSession(t *testing.T) {
	for file, c := range map[string]card{"session.txt": fast, "kernel.txt": fast, "openct.txt": plain} {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newReader(t, c)
				usbtest.Replay(t, load(t, file), e.Plug(), map[string]func(){"the card leaves": func() { e.Contact.Remove() }})
				e.Unplug()
			})
		})
	}
}
