// Package faulttest has tests of what each driver for a serial line must stand.
package faulttest

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
)

// Strangers is a port at whose end is no reader of Driver's.
type Strangers struct {
	Driver reader.Driver
	Device reader.Device // without its link
	Mode   serial.Mode   // the stranger's
	// Limit is how long Open may take.
	Limit time.Duration
	// What Open says of one that takes everything and says nothing, of one that sends back
	// what it gets, and of one that leaves with the first character.
	Mute, Echo, Leaves Refusal
	// Unplugged is what Open says of one that leaves at once.
	Unplugged string
	// More are at least one that babbles.
	More []Stranger
}

// Stranger is what is in the place of a reader.
type Stranger struct {
	Name  string
	Serve func(l *serialtest.Line)
	Refusal
}

// Refusal is an error: what it says behind the device's name, and its kind.
type Refusal struct {
	Says string
	Is   error
}

// kinds are those of errors from a line; a refusal is of one of them.
var kinds = []error{reader.ErrProtocol, reader.ErrTimeout, reader.ErrGone, reader.ErrStale, reader.ErrMute, reader.ErrNoCard, reader.ErrUnsupported}

// Run opens the port with each of them. Open ends within the limit, with an error that names
// the device and the reason, and leaves the port.
func (s Strangers) Run(t *testing.T) {
	if len(s.More) == 0 {
		t.Error("nobody babbles")
	}
	for _, x := range append([]Stranger{
		{"silence", serialtest.Mute, s.Mute},
		{"echo", serialtest.Echo, s.Echo},
		{"it leaves", func(l *serialtest.Line) { l.Char(); l.Drop() }, s.Leaves},
		{"it leaves at once", (*serialtest.Line).Drop, Refusal{s.Unplugged, reader.ErrGone}},
	}, s.More...) {
		t.Run(x.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { s.open(t, x) })
		})
	}
}

func (s Strangers) open(t *testing.T, x Stranger) {
	p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
		l.SetMode(s.Mode)
		x.Serve(l)
	}))
	defer p.Unplug()
	dev := s.Device
	dev.Link = p
	start := time.Now()
	r, err := s.Driver.Open(t.Context(), dev)
	if err == nil {
		r.Close()
		t.Fatal("it was opened")
	}
	for _, kind := range kinds {
		if errors.Is(err, kind) != (kind == x.Is) {
			t.Errorf("%v; is it %v?", err, kind)
		}
	}
	if says, ok := strings.CutPrefix(err.Error(), dev.Name()+": "); !ok || !strings.Contains(says, x.Says) {
		t.Errorf("%v; want %s: %s", err, dev.Name(), x.Says)
	}
	if took := time.Since(start); took > s.Limit {
		t.Errorf("it took %v", took)
	}
	if x.Is == reader.ErrGone {
		return
	}
	port, err := p.OpenSerial(t.Context(), s.Mode)
	if err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	port.Close()
}
