package cyberjack

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/cyberjack/emu"
	"github.com/cardfs/cardfs/tests/vm/machine"
	"github.com/cardfs/cardfs/tests/witness"
)

// The kernel's module cyberjack knows frames and notices, and nothing of what is in a frame. So
// it is a witness for the endpoints and for those alone: it sends as much as a frame's head says,
// and reads as much as a notice announced. The blocks are this project's. Then the same reader through
// this driver, over the kernel's USB, from which it has to detach the module.
func TestKernelInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestWitness", machine.Config{Modules: []string{"cyberjack"}})
}

// heard is what crossed the bus.
type heard struct {
	mu      sync.Mutex
	out, in []string
	control []string
}

func (h *heard) add(l usbtest.Line) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case l.Kind == usbtest.ClearHalt, l.Kind == usbtest.Transfer && l.Control && !l.In:
		h.control = append(h.control, l.String())
	case l.Kind != usbtest.Transfer || l.Control || l.Err != nil:
	case l.In:
		h.in = append(h.in, transfer(l.Endpoint, l.Data))
	default:
		h.out = append(h.out, transfer(l.Endpoint, l.Data))
	}
}

func (h *heard) take() (out, in, control []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out, in, control = h.out, h.in, h.control
	h.out, h.in, h.control = nil, nil, nil
	return out, in, control
}

func transfer(ep uint8, p []byte) string { return fmt.Sprintf("%02X | % X", ep, p) }

// pieces are the transfers of a frame: the kernel's have 64 bytes.
func pieces(ep uint8, frame []byte) (list []string) {
	for p := range slices.Chunk(frame, 64) {
		list = append(list, transfer(ep, p))
	}
	return list
}

// terminal is the kernel's ttyUSB, with what has to cross the bus.
type terminal struct {
	*testing.T
	witness.Terminal
	heard
	out, in []string
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	y := witness.OpenTerminal(t)
	y.Control(func(fd int) error {
		s, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		s.Iflag, s.Oflag, s.Lflag = 0, 0, 0
		return unix.IoctlSetTermios(fd, unix.TCSETS, s)
	})
	return &terminal{T: t, Terminal: y}
}

func (y *terminal) send(frame []byte) {
	y.Helper()
	y.Send(frame)
	y.out = append(y.out, pieces(bulkOut, frame)...)
}

func (y *terminal) want(frame []byte) {
	y.Helper()
	y.Want("frame", frame)
	n := len(frame) - headSize
	y.in = append(append(y.in, transfer(notices, []byte{1, 0, byte(n), byte(n >> 8)})), pieces(bulkIn, frame)...)
}

// done compares what crossed the bus: nothing but the frames that were written, and the answers
// with a notice before each.
func (y *terminal) done(what string, show bool) {
	y.Helper()
	out, in, control := y.take()
	if show {
		for _, x := range out {
			y.Logf("%s: %s", what, x)
		}
	}
	if !slices.Equal(out, y.out) || !slices.Equal(in, y.in) || len(control) != 0 {
		y.Errorf("%s: the kernel sent\n%q, and %q\nwant\n%q\nand read\n%q\nwant\n%q", what, out, control, y.out, in, y.in)
	}
	y.out, y.in = nil, nil
}

const (
	notices = 0x81
	bulkIn  = 0x82
	bulkOut = 0x02
)

func frame(nad, pcb byte, inf ...byte) []byte {
	return appendFrame(nil, appendBlock(nil, nad, pcb, inf...))
}

func TestWitnessKernel(t *testing.T) {
	machine.NeedGuest(t)
	session, err := usbtest.Load(session)
	if err != nil {
		t.Fatal(err)
	}
	c := t0()
	c.busy = 8 * time.Second
	e := newReader(t, emu.Config{Patience: 5 * time.Second}, c)
	witness.Plug(t, e.Plug())
	y := openTerminal(t)
	e.Observe(y.add)
	// The session's frames, and its answers.
	step := ""
	for _, l := range session {
		switch {
		case l.Kind == usbtest.Step:
			if step != "" {
				y.done(step, true)
			}
			step = l.Name
		case l.Kind == usbtest.Event && l.Name == "the card leaves":
			e.Contact.Remove()
		case l.Kind == usbtest.Event:
			e.Type("1")
		case l.Kind == usbtest.Transfer && l.In:
			y.want(l.Data)
		case l.Kind == usbtest.Transfer:
			y.send(l.Data)
		}
	}
	// Frames of more than one packet. The kernel's buffer has 256 bytes to the reader; and a frame
	// has to be written at once: after a part of one the module was seen to take nothing more.
	if err := e.Contact.Insert(t1()); err != nil {
		t.Fatal(err)
	}
	y.send(frame(control, resync))
	y.want(frame(swap(control), resynced))
	y.send(frame(0x12, 0x00, requestCard...))
	y.want(frame(0x21, 0x00, append(t1().ATR(), 0x90, 0x01)...))
	long := frame(0x02, 0x40, append(append(unhex("80 EE 00 00 F0"), pattern(240)...), 0)...)
	y.done("again", false)
	y.send(long)
	y.want(frame(0x20, 0x40, append(pattern(240), 0x90, 0x00)...))
	y.done("long", false)
	y.send(frame(0x02, 0x00, unhex("80 E2 00 FC FC")...))
	y.want(frame(0x20, 0x00, append(pattern(252), 0x90, 0x00)...))
	y.done("longest", false)
	y.Close()
	if out, in, control := y.take(); len(out)+len(in)+len(control) > 0 {
		t.Errorf("closed: the kernel sent %q and %q, and read %q", out, control, in)
	}
}

func TestWitnessCardfs(t *testing.T) {
	machine.NeedGuest(t)
	for _, transport := range witness.Transports {
		for _, k := range kinds {
			t.Run(transport+" "+k.name, func(t *testing.T) {
				witness.Device{
					Driver: Driver{}, Port: newReader(t, k.cfg, k.card()).Plug(), Module: true, ATR: k.card().ATR(),
					Exchanges: []witness.Exchange{
						{Command: "00 A4 00 00 02 3F 00", Answer: "90 00"},
						{Command: "00 84 00 00 08", Answer: "11 12 13 14 15 16 17 18 90 00"},
						{Command: "80 E2 01 00 00", Answer: fmt.Sprintf("% X 90 00", pattern(256))},
						{Command: fmt.Sprintf("80 EE 00 00 FF % X 00", pattern(255)), Answer: fmt.Sprintf("% X 90 00", pattern(255))},
					},
				}.Cardfs(t, transport)
			})
		}
	}
}
