package smartboard

import (
	"bytes"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/reader"
)

// A reader is attached by the name of its port. A pseudo-terminal is one of the kernel, without lines and parity.
func TestPort(t *testing.T) {
	e := newReader(t, emu.Options{}, t0)
	p := serialtest.Plug(e)
	defer p.Unplug()
	pty, err := serialtest.OpenPTY(p)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	dev, err := Driver{}.Attach(reader.Device{Driver: "smartboard", Address: pty.Name})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Driver{}.Open(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := r.Slots()[0]
	if st, err := s.Status(t.Context()); st != reader.Present || err != nil {
		t.Errorf("status %v, %v", st, err)
	}
	l := connect(t, s)
	for n := 1; n <= 252; n += 50 {
		got, err := l.Transmit(t.Context(), []byte{0x80, 0xE2, 0, 0, byte(n)}, nil)
		if err != nil || !bytes.Equal(got, append(pattern(n), 0x90, 0x00)) {
			t.Errorf("%d bytes: % X, %v", n, got, err)
		}
	}
}
