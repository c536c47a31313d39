package fs

import (
	"context"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs/internal/fused"
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

// Whether `memory` is there, how long it is and whether it may be written: "with no memory card
// absent", "at their true length", "counter cards: read only".
func TestMemoryIsThere(t *testing.T) {
	for _, tt := range []struct {
		attach             string
		unpowered, powered bool
		size               uint64
		mode               uint32
	}{
		{"memory", true, true, 256, 0o600},
		{"memory card=at24c512", true, true, 65536, 0o600},
		{"memory card=sle4406", true, true, 13, 0o400},
		{"memory card=token", true, false, 0, 0},
		{"t1 card=sle4428", true, true, 1024, 0o600},
		{"t1", false, false, 0, 0},
	} {
		d := newDesk(t, tt.attach)
		s := d.m.Slot(0)
		d.mnt.mode = 0o600
		at := func(want bool, size uint64, mode uint32) {
			t.Helper()
			f := &file{mount: d.mnt, slot: s, spec: specOf("memory")}
			var out fuse.EntryOut
			f.entry(&out)
			if got := f.spec.fits(s); got != want || want && (out.Size != size || out.Mode&0o777 != mode || out.AttrValid != 0) {
				t.Errorf("%s: there %v, %d bytes, mode %o", tt.attach, got, out.Size, out.Mode&0o777)
			}
		}
		at(tt.unpowered, streamSize, 0o600)
		h, err := d.open(as(1000, self), "memory", syscall.O_RDONLY)
		if (err == nil) != tt.powered || err != nil && toErrno(err) != syscall.EOPNOTSUPP {
			t.Errorf("%s: open: %v", tt.attach, err)
		}
		at(tt.powered, tt.size, tt.mode)
		if err != nil {
			continue
		}
		if bits := h.(fused.Pollable).Ready(); bits != fused.Readable|fused.Writable {
			t.Errorf("poll: %x", bits)
		}
		s.Power(bg, core.PowerDown, core.Caller{Owner: t})
		at(true, streamSize, 0o600)
		if _, errno := h.(fs.FileReader).Read(bg, make([]byte, 4), 0); errno != syscall.ESTALE {
			t.Errorf("read without power: %v", errno)
		}
		if _, errno := h.(fs.FileReader).Read(bg, make([]byte, 4), 1<<40); errno != syscall.ESTALE {
			t.Errorf("read behind the end, without power: %v", errno)
		}
		Ctl(d.m, "detach 0")
		if bits := h.(fused.Pollable).Ready(); bits != fused.HungUp {
			t.Errorf("poll of what left: %x", bits)
		}
		if _, errno := h.(fs.FileReader).Read(bg, make([]byte, 4), 0); errno != syscall.ENODEV {
			t.Errorf("read of what left: %v", errno)
		}
		if _, errno := h.(fs.FileWriter).Write(bg, make([]byte, 4), 0); errno != syscall.ENODEV {
			t.Errorf("write to what left: %v", errno)
		}
		h.(fs.FileReleaser).Release(bg)
	}
}

func specOf(name string) *spec {
	for i := range slotFiles {
		if slotFiles[i].name == name {
			return &slotFiles[i]
		}
	}
	return nil
}

// "memory: waits for a card, powered; with O_NONBLOCK EAGAIN while starting, ENOMEDIUM with no card".
func TestMemoryOpenWaits(t *testing.T) {
	d := newDesk(t, "memory card=none")
	if _, err := d.open(as(1000, self), "memory", syscall.O_RDONLY|syscall.O_NONBLOCK); toErrno(err) != syscall.ENOMEDIUM {
		t.Errorf("no card: %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := d.open(as(1000, self), "memory", syscall.O_RDONLY)
		opened <- err
	}()
	if err := Ctl(d.m, "sim 0 insert sle4442"); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if err := Ctl(d.m, "attach sim memory start=1h"); err != nil {
		t.Fatal(err)
	}
	spec := specOf("memory")
	if s := d.m.Slot(1); !spec.fits(s) {
		t.Error("a client can be too early")
	} else if _, err := spec.open(as(1000, self), &file{mount: d.mnt, slot: s, spec: spec}, syscall.O_RDONLY|syscall.O_NONBLOCK); toErrno(err) != syscall.EAGAIN {
		t.Errorf("starting: %v", err)
	}
}

// A verification belongs to the process that made the open: newOpening says which.
func TestMemoryProcess(t *testing.T) {
	d := newDesk(t, "memory")
	a := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR).(*apduFile)
	b := d.mustOpen(as(1000, self), "memory", syscall.O_RDWR).(*memoryFile)
	if a.by.Process == nil || a.by.Process != b.by.Process {
		t.Errorf("%v, %v", a.by.Process, b.by.Process)
	}
	if o := d.mustOpen(as(1000, 0), "memory", syscall.O_RDWR).(*memoryFile); o.by.Process != nil {
		t.Errorf("pid 0 is %v", o.by.Process)
	}
}

// Reads and writes at the end, and behind it; what an open leaves when it is closed.
func TestMemoryEnds(t *testing.T) {
	d := newDesk(t, "memory card=sle4432")
	h := d.mustOpen(as(1000, self), "memory", syscall.O_RDWR)
	for _, tt := range []struct {
		off  int64
		room int
		n    int
	}{{0, 4, 4}, {0, 300, 256}, {250, 300, 6}, {255, 1, 1}, {255, 2, 1}, {256, 4, 0}, {1 << 40, 4, 0}} {
		r, errno := h.(fs.FileReader).Read(bg, make([]byte, tt.room), tt.off)
		if errno != 0 || r.Size() != tt.n {
			t.Errorf("read %d at %d: %d, %v", tt.room, tt.off, r.Size(), errno)
		}
	}
	for _, tt := range []struct {
		off   int64
		n     int
		done  uint32
		errno syscall.Errno
	}{{64, 4, 4, 0}, {254, 4, 2, 0}, {255, 1, 1, 0}, {256, 1, 0, syscall.ENOSPC}, {257, 1, 0, syscall.ENOSPC}, {1 << 40, 4, 0, syscall.ENOSPC}, {0, 1, 0, syscall.EPERM}} {
		if n, errno := h.(fs.FileWriter).Write(bg, make([]byte, tt.n), tt.off); n != tt.done || errno != tt.errno {
			t.Errorf("write %d at %d: %d, %v", tt.n, tt.off, n, errno)
		}
	}
	s := d.m.Slot(0)
	if n := s.Info().Sessions; n != 1 {
		t.Errorf("%d sessions", n)
	}
	h.(fs.FileReleaser).Release(bg)
	if n := s.Info().Sessions; n != 0 {
		t.Errorf("%d sessions after the close", n)
	}
	d = newDesk(t, "memory card=token")
	if _, err := d.open(as(1000, self), "memory", syscall.O_RDWR); toErrno(err) != syscall.EOPNOTSUPP || d.m.Slot(0).Info().Sessions != 0 {
		t.Errorf("%v, %d sessions", err, d.m.Slot(0).Info().Sessions)
	}
	if err := Ctl(d.m, "sim 0 unplug"); err != nil || mayHaveMemory(s) != true {
		t.Errorf("%v", err)
	}
	gone := d.m.Slot(0)
	if gone != nil && mayHaveMemory(gone) {
		t.Error("of a reader that left")
	}
}
