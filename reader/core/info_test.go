package core

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// where is a Link that reports the device's location.
type where map[string]string

func (w where) Gone() <-chan struct{} { return nil }

func (w where) Describe() map[string]string { return w }

// slowDriver's readers never become ready.
type slowDriver struct{}

func (slowDriver) Name() string     { return "slow" }
func (slowDriver) IDs() []reader.ID { return nil }
func (slowDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// status shows a device's location from its announcement on. A program that learned of the
// device elsewhere, such as pcscd's hotplug, finds its directory before it is ready.
func TestLinkTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(Options{Drivers: []reader.Driver{slowDriver{}}})
		defer m.Close(t.Context())
		err := m.Announce(reader.Device{Driver: "slow", Address: "usb:3-1", Bus: "usb", Link: where{"usb": "003/007", "interface": "1"}})
		if err != nil {
			t.Fatal(err)
		}
		i := m.Slots()[0].Info()
		if i.State != StateStarting || i.More["usb"] != "003/007" || i.More["interface"] != "1" {
			t.Errorf("state %s, %v", i.State, i.More)
		}
	})
}

// A device's names cannot add a line or a word, and no byte of them reaches the terminal as a
// command.
func TestDeviceNamesItself(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		all := r.Follow()
		model := "A\tB\nstate gone\x1b[2J\u009b1m\u0085C\u2028D\u00a0lost=9\x7f\xff"
		_, b := r.plug(reader.Device{Address: "x", ID: reader.ID{Model: model}}, newFakeSlot(t))
		const want = "A B state gone [2J 1m C D lost=9 \ufffd"
		if got := b.Info().Model; got != want {
			t.Errorf("model %q, want %q", got, want)
		}
		const event = "0 0 arrived driver=fake device=x reader=A_B_state_gone_[2J_1m_C_D_lost=9_\ufffd by-id=fake-A_B_state_gone_2J_1m_C_D_lost=9__x-slot0\n"
		if text := lines(all); !strings.HasPrefix(text, event) {
			t.Errorf("events %q, want %q first", text, event)
		}
	})
}
