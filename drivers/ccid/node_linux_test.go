package ccid

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest/cuse"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// The calls on a device file go through the kernel. CUSE has it in a virtual machine.
func TestNodeInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestNodeCUSE", machine.Config{Modules: []string{"cuse"}})
}

const nodePatience = time.Minute

// serveNode makes a file in /dev. There is one of a name at a time.
func serveNode(t *testing.T, name string, e *emu.Node) *cuse.File {
	t.Helper()
	f, err := cuse.Serve(name, e, func(uint) int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(nodePatience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat("/dev/" + name); err == nil {
			return f
		}
		if time.Now().After(end) {
			t.Fatal("the kernel has made no file")
		}
	}
}

func TestNodeCUSE(t *testing.T) {
	machine.NeedGuest(t)
	for _, c := range []struct {
		file string
		make func() *emu.Node
		atr  []byte
	}{{"cmx0", emu.NewCM4040, atrT0}, {"cmx1", emu.NewCM4040, atrT1IFSC}, {"scr24x0", emu.NewSCR243, atrT1}} {
		e, card := newNode(t, c.make, c.atr)
		f := serveNode(t, c.file, e)
		dev, err := Driver{}.Attach(reader.Device{Driver: "ccid", Address: "/dev/" + c.file})
		if err != nil {
			t.Fatal(err)
		}
		m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
		if err := m.Announce(dev); err != nil {
			t.Fatal(err)
		}
		s := nodeSession(t, m)
		exercise(t, s, 255)
		if _, err := (Driver{}).Open(ctx, dev); !errors.Is(err, reader.ErrClaimed) {
			t.Errorf("opened twice: %v", err)
		}
		e.Contact(0).Remove()
		if _, err := s.Transmit(ctx, unhex("00 84 00 00 04"), nil); !errors.Is(err, reader.ErrNoCard) && !errors.Is(err, reader.ErrStale) {
			t.Errorf("without a card: %v", err)
		}
		e.Contact(0).Insert(card)
		transmit(t, nodeSession(t, m), unhex("00 84 00 00 02"), unhex("00 01 90 00"))
		f.Close()
		select {
		case <-dev.Link.Gone():
		case <-time.After(nodePatience):
			t.Error("nobody noticed that the reader left")
		}
		m.Close(context.Background())
	}
}

// A command that is left ends, and the next need not wait for the card: cm4040_cs can be
// polled, and so nobody is in a read that the kernel would end after 150 s.
func TestNodeCUSELeft(t *testing.T) {
	machine.NeedGuest(t)
	e, card := newNode(t, emu.NewCM4040, atrT0)
	f := serveNode(t, "cmx0", e)
	defer f.Close()
	n, err := chardev.OpenFile(ctx, "/dev/cmx0", nil)
	if err != nil {
		t.Fatal(err)
	}
	// The lengths that the kernel refuses, and no O_NONBLOCK.
	for _, size := range []int{1, 4, 513} {
		if _, err := n.Write(ctx, make([]byte, size), nodePatience); !errors.Is(err, syscall.EIO) {
			t.Errorf("a write of %d bytes: %v", size, err)
		}
	}
	n.Write(ctx, []byte{cmdSlotStatus, 0, 0, 0, 0, 0, 7, 0, 0, 0}, nodePatience)
	if _, err := n.Read(ctx, make([]byte, 9), nodePatience); !errors.Is(err, syscall.EFAULT) {
		t.Errorf("a read of 9 bytes: %v", err)
	}
	n.Close()
	if fd, err := syscall.Open("/dev/cmx0", syscall.O_RDWR|syscall.O_NONBLOCK, 0); !errors.Is(err, syscall.EAGAIN) {
		syscall.Close(fd)
		t.Errorf("O_NONBLOCK: %v", err)
	}
	dev, err := Driver{}.Attach(reader.Device{Driver: "ccid", Address: "/dev/cmx0"})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Link.(reader.Detacher).Detached()
	r, err := Driver{}.Open(ctx, dev)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := r.Slots()[0]
	if _, err := s.PowerOn(ctx, reader.Cold); err != nil {
		t.Fatal(err)
	}
	e.Inject(emu.Fault{Kind: emu.Silence, On: cmdXfrBlock})
	start := time.Now()
	left, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := s.Exchange(left, reader.Transfer{Out: unhex("00 20 00 01 04 31 32 33 34")}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent reader: %v", err)
	}
	got, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 04")}, nil)
	check(t, got, err, unhex("00 01 02 03 90 00"), nil)
	if took := time.Since(start); took > 100*time.Second || card.count() != 2 {
		t.Errorf("it took %v, and the card saw %d commands", took, card.count())
	}
}
