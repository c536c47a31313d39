package wbeiuu

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader/readertest"
	"github.com/cardfs/cardfs/tests/vm/machine"
	"github.com/cardfs/cardfs/tests/witness"
)

// The emulator is right if a driver of other authors agrees: the kernel's iuu_phoenix, with a
// program on its terminal. Then the same reader, other cards and more commands through this
// driver, over the kernel's USB, from which it has to detach iuu_phoenix.
func TestKernelInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestWitness", machine.Config{Modules: []string{"iuu_phoenix"}})
}

// heard is what the reader was sent, without what is repeated: the LED, and queries for
// characters and the state.
type heard struct {
	mu  sync.Mutex
	out []string
	led string // the last
}

func (h *heard) add(l usbtest.Line) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case l.Kind != usbtest.Transfer:
	case l.Control && l.Setup.RequestType == 0x03:
		h.out = append(h.out, l.String())
	case !l.Control && !l.In && len(l.Data) > 0:
		switch l.Data[0] {
		case 0x04:
			h.led = fmt.Sprintf("% X", l.Data)
		case 0x03, 0x56:
		default:
			h.out = append(h.out, fmt.Sprintf("% X", l.Data))
		}
	}
}

func (h *heard) take() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := strings.Join(h.out, "; ")
	h.out = nil
	return s
}

// iuu_phoenix was observed before: testdata/kernel.txt. It does the same with this emulator,
// and gets ATR and answers from it.
func TestWitnessKernel(t *testing.T) {
	machine.NeedGuest(t)
	e := newReader(t, readertest.Fast)
	var h heard
	e.Observe(h.add)
	witness.Plug(t, e.Plug())
	// iuu_phoenix's own settings of the terminal will do: 9600 bit/s, even parity, raw.
	tty := witness.OpenTerminal(t)
	set := func(request uint) {
		t.Helper()
		tty.Control(func(fd int) error { return unix.IoctlSetPointerInt(fd, request, unix.TIOCM_RTS) })
	}
	lines := func() (bits int) {
		t.Helper()
		tty.Control(func(fd int) (err error) {
			bits, err = unix.IoctlGetInt(fd, unix.TIOCMGET)
			return err
		})
		return bits
	}
	opened := h.take()
	t.Logf("opened: %s", opened)
	if want := strings.Join([]string{
		"OUT 03 02 0002 0000 0000", "49 02 98 21",
		"4C D2 09 20 4C D2 0C 64 4C D2 12 00 4C D2 13 6B 4C D2 40 D2 4C D2 41 50 4C D2 42 A6 4C D2 44 FF 4C D2 45 FE 4C D2 46 7F 4C D2 47 84",
		"5E 02 02 98 01",
	}, "; "); opened != want {
		t.Errorf("iuu_phoenix sent %s", opened)
	}
	read := func(what, want string) { t.Helper(); tty.Want(what, unhex(want)) }
	write := func(p string) { t.Helper(); tty.Send(unhex(p)) }
	set(unix.TIOCMBIC)
	set(unix.TIOCMBIS) // resets the card
	read("ATR", "3B 95 18 40 FF 62 01 02 01 04")
	write("00 84 00 00 08")
	read("GET CHALLENGE", "84 11 12 13 14 15 16 17 18 90 00")
	write("00 A4 00 00 02")
	read("SELECT, procedure byte", "A4")
	write("3F 00")
	read("SELECT", "90 00")
	write("00 B0 00 00 FA")
	read("READ BINARY", fmt.Sprintf("B0 % X 90 00", pattern(250)))
	did := h.take()
	t.Logf("commands: %s", did)
	if want := "52 06 0C 53; 5E 04 05 00 84 00 00 08; 5E 04 05 00 A4 00 00 02; 5E 04 02 3F 00; 5E 04 05 00 B0 00 00 FA"; did != want {
		t.Errorf("iuu_phoenix sent %s", did)
	}
	// It shows the state register as modem lines.
	before := lines()
	e.Contact.Remove()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if now := lines(); now != before {
			t.Logf("modem lines %#x with a card, %#x without", before, now)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("modem lines %#x with and without a card", before)
		}
	}
	tty.Close()
	closed := h.take()
	t.Logf("closed: %s; LED %s", closed, h.led)
	if closed != "4A" {
		t.Errorf("iuu_phoenix sent %s", closed)
	}
}

func TestWitnessCardfs(t *testing.T) {
	machine.NeedGuest(t)
	for _, transport := range witness.Transports {
		for _, c := range []card{readertest.Fast, readertest.Block, readertest.Dual, readertest.Top} {
			t.Run(fmt.Sprintf("%s %s", transport, c), func(t *testing.T) {
				witness.Device{Driver: Driver{}, Port: newReader(t, c).Plug(), ATR: c.ATR(), Exchanges: witness.Character()}.Cardfs(t, transport)
			})
		}
	}
}
