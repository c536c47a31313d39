package fs

import (
	"context"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// memoryDriver is the sim driver with a synchronous card in its slot.
type memoryDriver struct{ *sim.Driver }

type memoryReader struct{ reader.Reader }

type memorySlot struct{ reader.Slot }

func (d memoryDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := d.Driver.Open(ctx, dev)
	return memoryReader{r}, err
}

func (r memoryReader) Slots() []reader.Slot { return []reader.Slot{memorySlot{r.Reader.Slots()[0]}} }

func (memorySlot) Traits() reader.Traits { return reader.Traits{Level: reader.Synchronous} }

func (s memorySlot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	_, err := s.Slot.PowerOn(ctx, how)
	return []byte{0xA2, 0x13, 0x10, 0x91}, err
}

// "atr: its four bytes H1 to H4"; "protocol says memory"; a command is refused with
// EOPNOTSUPP.
func TestMemoryCard(t *testing.T) {
	d := newDesk(t, "t1", memoryDriver{sim.New()})
	read := func(name string) string {
		b := make([]byte, 1000)
		h := d.mustOpen(as(1000, self), name, syscall.O_RDONLY)
		r, errno := h.(fs.FileReader).Read(bg, b, 0)
		if errno != 0 {
			t.Fatalf("%s: %v", name, errno)
		}
		text, _ := r.Bytes(nil)
		return string(text)
	}
	for _, tt := range []struct{ name, want string }{{"atr", "A2 13 10 91\n"}, {"protocol", "memory\n"}, {"power", "on\n"}} {
		if got := read(tt.name); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	p := d.mustOpen(as(1000, self), "protocol", syscall.O_RDWR)
	if _, errno := p.(fs.FileWriter).Write(bg, []byte("T=0\n"), 0); errno != syscall.EOPNOTSUPP {
		t.Errorf("T=0 to protocol: %v", errno)
	}
	s, err := d.m.Slot(0).Open(bg, core.Caller{Owner: t})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = s.Transmit(bg, []byte{0, 0xB0, 0, 0, 4}, nil); toErrno(err) != syscall.EOPNOTSUPP {
		t.Errorf("a command: %v", err)
	}
}
