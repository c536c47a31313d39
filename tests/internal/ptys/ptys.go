//go:build linux

// Package ptys puts emulated serial readers behind pseudo-terminals, for the real program.
package ptys

import (
	"fmt"
	"strings"

	acsemu "github.com/cardfs/cardfs/drivers/acs/emu"
	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	ccidemu "github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/drivers/emulators"
	gempcemu "github.com/cardfs/cardfs/drivers/gempc/emu"
	kaanemu "github.com/cardfs/cardfs/drivers/kaan/emu"
	"github.com/cardfs/cardfs/drivers/sim"
	towitokoemu "github.com/cardfs/cardfs/drivers/towitoko/emu"
)

// Kind is a kind of reader that works without parity and without modem lines, which a
// pseudo-terminal does not have.
type Kind struct {
	Driver, Params string // words of attach before and behind the port
	Card           string // in the words of package sim
	// Tells: the reader says by itself that a card has come or gone, and is not polled.
	Tells bool
	New   func() emulators.Serial
}

// Name is what `attach` needs but for the port.
func (k Kind) Name() string { return strings.TrimSpace(k.Driver + " " + k.Params) }

// Kinds are all kinds.
var Kinds = []Kind{
	{"gempc", "", "t0", false, func() emulators.Serial { return GemPC410() }},
	{"kaan", "", "token", false, func() emulators.Serial { return kaanemu.NewKAAN() }},
	{"b1", "", "t0", false, func() emulators.Serial { return kaanemu.NewB1() }},
	{"kaan", "speed=115200", "t0", false, func() emulators.Serial { return kaanemu.New(kaanemu.Config{Baud: 115200}) }},
	{"acr30", "", "t0", false, func() emulators.Serial { return acsemu.NewSerialACR30() }},
	{"towitoko", "", "t0", false, func() emulators.Serial { return towitokoemu.New() }},
	{"ccid", "model=twin", "token", true, func() emulators.Serial { return ccidemu.NewTwin() }},
	{"ccid", "model=pinpad", "t0", true, func() emulators.Serial { return ccidemu.NewPinPad() }},
	{"ccid", "model=gemcore", "token", false, func() emulators.Serial { return ccidemu.NewGemCore(5) }},
	{"ccid", "model=simpro", "t0", false, func() emulators.Serial { return ccidemu.NewGemCore(2) }},
	{"ccid", "model=simpro2", "token", false, func() emulators.Serial { return ccidemu.NewSIMPro2() }},
	{"ccid", "model=sec1210", "token", false, func() emulators.Serial { return ccidemu.NewSEC1210(2) }},
	{"ccid", "model=sec1210urt", "t0", false, func() emulators.Serial { return ccidemu.NewSEC1210(1) }},
}

// GemPC410 is one that understands every speed: a pseudo-terminal does not show how fast a
// character was.
func GemPC410() *gempcemu.Serial {
	return gempcemu.NewSerial(gempcemu.SerialConfig{Version: "OROS-R2.99-R1.21", AnyBaud: true})
}

// Reader is an emulated reader behind a pseudo-terminal.
type Reader struct {
	Kind
	Device  emulators.Serial
	Plugged *serialtest.Plugged
	pty     *serialtest.PTY
}

// Open makes a reader with its card.
func (k Kind) Open() (*Reader, error) {
	r := &Reader{Kind: k, Device: k.New()}
	card, ok := sim.NewCard(k.Card, k.Name())
	if !ok {
		return nil, fmt.Errorf("no card %s", k.Card)
	}
	if err := r.Device.Contacts()[0].Insert(card); err != nil {
		return nil, err
	}
	return r, r.plug()
}

func (r *Reader) plug() (err error) {
	r.Plugged = serialtest.Plug(r.Device)
	if r.pty, err = serialtest.OpenPTY(r.Plugged); err != nil {
		r.Plugged.Unplug()
		return err
	}
	if r.Driver == "b1" { // it starts, and the driver cannot see on a pseudo-terminal for how long
		l := r.Plugged.Line()
		for on := l.Lines(); on&serial.DSR == 0; {
			on, _ = l.AwaitLines(l.Context(), on)
		}
	}
	return nil
}

// Port is the name of the pseudo-terminal.
func (r *Reader) Port() string { return r.pty.Name }

// Attach is the line for `ctl`.
func (r *Reader) Attach() string {
	return strings.TrimSpace(strings.Join([]string{"attach", r.Driver, r.Port(), r.Params}, " "))
}

// Hang has the reader send nothing more, whatever it is asked, until it is closed.
func (r *Reader) Hang() {
	_, sent := r.Plugged.Sent()
	r.Plugged.Inject(serialtest.Fault{ToHost: true, At: sent, Kind: serialtest.Silence})
}

// Close takes reader and pseudo-terminal away.
func (r *Reader) Close() {
	r.Plugged.Unplug()
	r.pty.Close()
}
