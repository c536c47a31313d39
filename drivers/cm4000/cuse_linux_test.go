package cm4000

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest/cuse"
	"github.com/cardfs/cardfs/drivers/cm4000/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// The calls on a device file go through the kernel. CUSE has it in a virtual machine.
func TestInMachine(t *testing.T) {
	machine.RunSelf(t, "^TestCUSE", machine.Config{Modules: []string{"cuse"}})
}

const patience = time.Minute

const file = "/dev/cmm0"

// serve makes /dev/cmm0. There is one at a time.
func serve(t *testing.T, e *emu.Reader) *cuse.File {
	t.Helper()
	copies := map[uint]int{ioStatus: 4, ioATR: 76}
	f, err := cuse.Serve(strings.TrimPrefix(file, "/dev/"), e, func(request uint) int { return copies[request] })
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return f
		}
		if time.Now().After(end) {
			t.Fatal("the kernel has made no file")
		}
	}
}

func attach(t *testing.T) reader.Device {
	t.Helper()
	dev, err := Driver{}.Attach(reader.Device{Driver: "cm4000", Address: file})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// The session, with the kernel's copies of what the ioctls have.
func TestCUSESession(t *testing.T) {
	machine.NeedGuest(t)
	e := emu.New()
	f := serve(t, e)
	n, err := chardev.OpenFile(t.Context(), file, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	replay(t, n, map[string]func(){
		"the card comes": func() { e.Contact.Insert(bare) }, "the card leaves": func() { e.Contact.Remove() }, "unplug": f.Close,
	}, loadSession(t))
}

func TestCUSEDriver(t *testing.T) {
	machine.NeedGuest(t)
	for _, c := range []card{bare, t1} {
		e := newReader(t, c)
		f := serve(t, e)
		r, err := Driver{}.Open(t.Context(), attach(t))
		if err != nil {
			t.Fatal(err)
		}
		s := r.Slots()[0]
		l := readertest.Connect(t, s)
		for _, n := range []int{1, 200, 256} {
			got, err := l.Transmit(t.Context(), []byte{0x80, 0xE2, byte(n >> 8), byte(n), byte(n)}, nil)
			if err != nil || !bytes.Equal(got, append(pattern(n), 0x90, 0)) {
				t.Errorf("answer of %d bytes: %d, %v", n, len(got), err)
			}
		}
		if _, err := (Driver{}).Open(t.Context(), attach(t)); !errors.Is(err, reader.ErrClaimed) {
			t.Errorf("opened twice: %v", err)
		}
		// A command that is left ends in the kernel when the card answers, or not.
		readertest.Contact(&e.Contact, false).Silent(true)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 08")}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a silent card: %v", err)
		}
		cancel()
		readertest.Contact(&e.Contact, false).Silent(false)
		if st, err := s.Status(t.Context()); st != reader.Powered || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		if err := l.PowerUp(t.Context(), reader.Cold, -1); err != nil {
			t.Error(err)
		}
		e.Contact.Remove()
		if st, err := s.Status(t.Context()); st != reader.Absent || err != nil {
			t.Errorf("status %v, %v", st, err)
		}
		f.Close()
		select {
		case <-r.Gone():
		case <-time.After(patience):
			t.Error("nobody noticed that the reader left")
		}
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrGone) {
			t.Errorf("status without a reader: %v", err)
		}
		r.Close()
	}
}
