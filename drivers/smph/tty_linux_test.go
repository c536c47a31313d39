package smph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smph/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
	"github.com/cardfs/cardfs/tests/vm/machine"
	"github.com/cardfs/cardfs/tests/witness"
)

// A port without modem lines cannot reset a card, and the reader fails in words.
func TestPseudoTerminal(t *testing.T) {
	p := serialtest.Plug(newInterface(t, emu.Config{}, readertest.Plain))
	defer p.Unplug()
	pty, err := serialtest.OpenPTY(p)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	m := witness.OnPort(t, Driver{}, pty.Name, nil)
	err = m.Await(core.StateFailed).Info().Err
	if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(fmt.Sprint(err), "the card's reset is on RTS, and this port has none") {
		t.Error(err)
	}
	port, err := serial.OpenTTY(t.Context(), pty.Name, serial.Mode{Baud: 9600, Frame: serial.Frame8E2}, nil)
	if err != nil {
		t.Fatalf("the driver still has the port: %v", err)
	}
	port.Close()
}

// What a pseudo-terminal does not have needs an adapter: parity, speeds of all kinds, and the lines
// for reset, supply and card switch.
func TestInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestFTDI", machine.Config{Modules: []string{"ftdi_sio"}})
}

// resets counts those that a card has seen, and does something when it gets the next command.
type resets struct {
	card
	warm, cold atomic.Int32
	command    atomic.Pointer[func()]
}

func (r *resets) Reset(warm bool) {
	if warm {
		r.warm.Add(1)
	} else {
		r.cold.Add(1)
	}
}

func (r *resets) Process(p []byte) []byte {
	if f := r.command.Swap(nil); f != nil {
		(*f)()
	}
	return r.card.Process(p)
}

func TestFTDI(t *testing.T) {
	machine.NeedGuest(t)
	for _, x := range []struct {
		rig  string
		card card
		baud int // that was agreed on
	}{
		{"phoenix", readertest.Fast, 115200},
		{"smartmouse", readertest.Inverse, 9600},
		{"smartmouse", readertest.Quick, 83896},
		{"phoenix", readertest.Dual, 55930},
		{"6 MHz", readertest.Plain, 16129},
		{"6 MHz", readertest.Dual, 93750},
		{"on CD", readertest.Block, 9600},
		{"fed", readertest.Top, 223722},
		{"phoenix", readertest.Guarded, 9600},
	} {
		t.Run(x.rig+" "+string(x.card), func(t *testing.T) { throughFTDI(t, rigs[x.rig], x.card, x.baud) })
	}
}

func throughFTDI(t *testing.T, r rig, c card, baud int) {
	card := &resets{card: c}
	e := newInterface(t, r.Config, card)
	a := witness.PlugAdapter(t, e, "S1")
	m := witness.OnPort(t, Driver{}, a.TTY, parameters(r.params))
	m.Await(core.StatePresent)
	some, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	check := func() {
		t.Helper()
		m.Open(0, c.ATR()).Exchange(witness.Character())
	}
	check()
	info := m.Slot(0).Info()
	t.Logf("the line is at %v", a.Line().HostMode())
	frame := direct
	if c.ATR()[0] == 0x3F {
		frame = inverse
	}
	if got := a.Line().HostMode(); got.Frame != frame || max(got.Baud-baud, baud-got.Baud)*100 > baud || info.Fallback != "" {
		t.Errorf("the line is at %v, want %d %s; %s", got, baud, frame, info.Fallback)
	}
	// RST and the supply, which the card notices.
	warm, cold := card.warm.Load(), card.cold.Load()
	for how, n := range map[core.Action]*atomic.Int32{core.ResetWarm: &card.warm, core.ResetCold: &card.cold} {
		before := n.Load()
		if err := m.Slot(0).Power(some, how, core.Caller{Owner: t, Wait: true}); err != nil {
			t.Errorf("%v: %v", how, err)
		}
		if n.Load() != before+1 {
			t.Errorf("%v: %d resets", how, n.Load()-before)
		}
		check()
	}
	if card.warm.Load() != warm+1 || card.cold.Load() != cold+1 {
		t.Errorf("%d warm and %d cold resets", card.warm.Load()-warm, card.cold.Load()-cold)
	}
	// A character with wrong parity: T=1 mends it, T=0 cannot. The card has the command once.
	s := m.Open(0, nil)
	before := e.Contact.APDUs()
	noise := func() { a.Line().SendWrong(0x55) }
	card.command.Store(&noise)
	got, err := s.Transmit(some, challenge, nil)
	if n := e.Contact.APDUs() - before; n != 1 {
		t.Errorf("the card had %d commands", n)
	}
	if info.Params.T == 1 {
		if err != nil || !bytes.Equal(got, response) {
			t.Errorf("wrong parity: % X, %v", got, err)
		}
	} else if !errors.Is(err, reader.ErrProtocol) {
		t.Errorf("wrong parity: % X, %v", got, err)
	}
	// The card switch.
	e.Contact.Remove()
	m.Await(core.StateEmpty)
	e.Contact.Insert(card)
	m.Await(core.StatePresent)
	check()
	a.Unplug()
	m.Await(core.StateStarting)
}
