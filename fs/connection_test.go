package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
)

// ioctler is a handle that has ioctls.
type ioctler interface {
	Ioctl(ctx context.Context, cmd uint32, arg uint64, input, output []byte) (int32, syscall.Errno)
}

// connection is what CARDFS_CONNECT returns.
type connection struct {
	share, card, active, offered, changes uint32

	atr    []byte
	reader string
}

// connectionSize is that of struct cardfs_connection.
const connectionSize = fused.IoctlConnect >> 16 & 0x3FFF

// connects does CARDFS_CONNECT.
func connects(h any, share core.Share) (c connection, errno syscall.Errno) {
	in, out := make([]byte, connectionSize), make([]byte, connectionSize)
	binary.NativeEndian.PutUint32(in, uint32(share))
	if _, errno = h.(ioctler).Ioctl(bg, fused.IoctlConnect, 0, in, out); errno != 0 {
		return c, errno
	}
	n := [9]uint32{}
	for i := range n {
		n[i] = binary.NativeEndian.Uint32(out[4*i:])
	}
	name, _, _ := strings.Cut(string(out[72:]), "\x00")
	return connection{n[0], n[1], n[2], n[3], n[4], out[36 : 36+n[8]], name}, 0
}

// "One ioctl, on control alone: ENOTTY elsewhere. It needs an open for reading and writing,
// else EBADF."
func TestConnectWhere(t *testing.T) {
	d := newDesk(t, "t1")
	for _, tt := range []struct {
		name  string
		flags uint32
		want  syscall.Errno
	}{
		{"control", syscall.O_RDWR, 0},
		{"control", syscall.O_RDWR | syscall.O_NONBLOCK, 0},
		{"control", syscall.O_RDONLY, syscall.EBADF},
		{"control", syscall.O_WRONLY, syscall.EBADF},
		{"apdu", syscall.O_RDWR, syscall.ENOTTY},
		{"apdu", syscall.O_RDONLY, syscall.ENOTTY},
		{"ctbcs", syscall.O_RDWR, syscall.ENOTTY},
	} {
		h := d.mustOpen(as(1000, self), tt.name, tt.flags)
		if _, errno := connects(h, core.ShareShared); errno != tt.want {
			t.Errorf("%s, flags %#x: %v, want %v", tt.name, tt.flags, errno, tt.want)
		}
		h.(fs.FileReleaser).Release(bg)
	}
	h := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	defer h.Release(bg)
	for name, in := range map[string][]byte{"too short": make([]byte, connectionSize-1), "no mode": append([]byte{4, 0, 0, 0}, make([]byte, connectionSize-4)...)} {
		if _, errno := h.Ioctl(bg, fused.IoctlConnect, 0, in, make([]byte, connectionSize)); errno != syscall.EINVAL {
			t.Errorf("%s: %v", name, errno)
		}
	}
	for _, cmd := range []uint32{fused.IoctlConnect + 1, fused.IoctlConnect &^ (1 << 30), fused.IoctlConnect - 4<<16, fused.IoctlConnect - 1<<8, 0xCF03} {
		if _, errno := h.Ioctl(bg, cmd, 0, make([]byte, connectionSize), make([]byte, connectionSize)); errno != syscall.ENOTTY {
			t.Errorf("another ioctl, %#x: %v", cmd, errno)
		}
	}
}

// Opens of the client's process pass, an open of another process does not. "Mere opens of files
// do not count": they do not hinder it.
func TestExclusiveConnection(t *testing.T) {
	d := newDesk(t, "t1")
	select7 := []byte{0, 0xA4, 0, 12, 2, 0x3F, 0}
	mine := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR).(*apduFile)
	theirs := d.mustOpen(as(1000, 1), "apdu", syscall.O_RDWR).(*apduFile)
	c := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	now, errno := connects(c, core.ShareExclusive)
	if errno != 0 || now.share != uint32(core.ShareExclusive) || now.card != 2 || now.active != 2 || now.offered&2 == 0 {
		t.Fatalf("%+v, %v", now, errno)
	}
	status := string(statusText(mine.file))
	if !strings.Contains(status, "\npcsc "+now.reader+"\n") || !strings.Contains(status, fmt.Sprintf("\nexclusive pid %d\n", self)) {
		t.Errorf("%q, and status is\n%s", now.reader, status)
	}
	if _, err := mine.exchange(bg, select7, 0, nil); err != nil {
		t.Errorf("the client's open: %v", err)
	}
	if _, err := theirs.exchange(bg, select7, 0, nil); toErrno(err) != syscall.EBUSY {
		t.Errorf("another's open: %v", err)
	}
	c.Release(bg)
	if _, err := theirs.exchange(bg, select7, 0, nil); err != nil {
		t.Errorf("after the close: %v", err)
	}
	if _, errno := connects(c, core.ShareShared); errno != syscall.ENODEV || d.m.Slot(0).Info().Connections != 0 {
		t.Errorf("a call that the close overtook: %v", errno)
	}
	mine.Release(bg)
	theirs.Release(bg)
	d.wantEmpty()
}

// An exclusive connection of a process that cannot be known would keep out its own opens.
func TestConnectionOfAnUnknownProcess(t *testing.T) {
	d := newDesk(t, "t1")
	c := d.mustOpen(as(1000, 0), "control", syscall.O_RDWR).(*controlFile)
	defer c.Release(bg)
	if _, errno := connects(c, core.ShareExclusive); errno != syscall.EOPNOTSUPP {
		t.Errorf("%v", errno)
	}
	if said := d.log.String(); !strings.Contains(said, "exclusive connection refused") || !strings.Contains(said, "another pid namespace") {
		t.Errorf("the log says %q", said)
	}
	for _, share := range []core.Share{core.ShareShared, core.ShareDirect, core.ShareNone} {
		if _, errno := connects(c, share); errno != 0 {
			t.Errorf("%d: %v", share, errno)
		}
	}
}

// "A memory card's as pcscd gets it: 3B 04 H1 H2 H3 H4", and "memory card: 1".
func TestConnectMemoryCard(t *testing.T) {
	d := newDesk(t, "memory")
	c := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	defer c.Release(bg)
	d.mustOpen(as(1000, self), "atr", syscall.O_RDONLY)
	now, errno := connects(c, core.ShareShared)
	want := append([]byte{0x3B, 0x04}, d.m.Slot(0).Info().ATR...)
	if errno != 0 || len(want) != 6 || !bytes.Equal(now.atr, want) || now.active != 1 || now.offered != 1 {
		t.Errorf("%+v, %v", now, errno)
	}
}

// A client that dies closes its opens in any order. Its card is reset, with a lock that
// flock(2) or a line took.
func TestConnectedClientDies(t *testing.T) {
	for _, first := range []string{"apdu", "control"} {
		d := newDesk(t, "t1")
		other := d.mustOpen(as(1000, 1), "apdu", syscall.O_RDWR).(*apduFile)
		mine := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR).(*apduFile)
		c := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
		if _, errno := connects(c, core.ShareShared); errno != 0 {
			t.Fatal(errno)
		}
		if err := mine.lock(bg, false, true); err != nil {
			t.Fatal(err)
		}
		if first == "apdu" {
			mine.Release(bg)
			c.Release(bg)
		} else {
			c.Release(bg)
			mine.Release(bg)
		}
		if err := other.lock(bg, false, true); err != nil {
			t.Fatal(err)
		}
		if err := other.session.Err(); toErrno(err) != syscall.ESTALE {
			t.Errorf("%s first: another's session: %v", first, err)
		}
		other.Release(bg)
	}
}

// Start times of processes are read where a transaction asks for them. No open of a file that
// never waits does.
func TestOpensThatReadNoProcess(t *testing.T) {
	d := newDesk(t, "t1")
	for _, name := range []string{"status", "stats", "event", "trace"} {
		d.mustOpen(as(1000, self), name, syscall.O_RDONLY)
		if pids := d.mnt.openers.pids(); len(pids) != 0 {
			t.Errorf("%s: %v", name, pids)
		}
	}
	d.mustOpen(as(1000, self), "control", syscall.O_RDWR)
	if pids := d.mnt.openers.pids(); len(pids) != 1 {
		t.Errorf("control: %v", pids)
	}
	d.mnt.openers.drop()
}

// CARDFS_BEGIN and CARDFS_END on an open of apdu are flock(2) for a client that remembers the
// epoch; "ENOTTY on other files".
func TestBeginEnd(t *testing.T) {
	d := newDesk(t, "t1")
	opens := map[string]fs.FileHandle{}
	for _, name := range []string{"apdu", "control", "ctbcs"} {
		opens[name] = d.mustOpen(as(1000, self), name, syscall.O_RDWR)
	}
	opens["apdu, read-only"] = d.mustOpen(as(1000, self), "apdu", syscall.O_RDONLY)
	opens["apdu, write-only"] = d.mustOpen(as(1000, self), "apdu", syscall.O_WRONLY)
	other := d.mustOpen(as(1000, 1), "apdu", syscall.O_RDWR).(*apduFile)
	now, err := opens["control"].(*controlFile).connection.Share(bg, core.ShareShared, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	do := func(h fs.FileHandle, cmd uint32, epoch uint32) syscall.Errno {
		_, errno := h.(ioctler).Ioctl(bg, cmd, uint64(epoch), nil, nil)
		return errno
	}
	for name, h := range opens {
		want := map[string]syscall.Errno{"apdu": 0, "apdu, read-only": syscall.EBADF, "apdu, write-only": syscall.EBADF, "control": syscall.ENOTTY, "ctbcs": syscall.ENOTTY}[name]
		for _, cmd := range []uint32{fused.IoctlBegin, fused.IoctlEnd} {
			if errno := do(h, cmd, now.Epoch); errno != want {
				t.Errorf("%s, %#x: %v, want %v", name, cmd, errno, want)
			}
		}
	}
	mine := opens["apdu"].(*apduFile)
	if errno := do(mine, fused.IoctlBegin, now.Epoch+1); errno != syscall.ESTALE {
		t.Errorf("begin in another epoch: %v", errno)
	}
	if errno := do(mine, fused.IoctlBegin, now.Epoch); errno != 0 {
		t.Fatal(errno)
	}
	if errno := do(other, fused.IoctlBegin, now.Epoch); errno != syscall.EBUSY {
		t.Errorf("another's begin: %v", errno)
	}
	// "A lock on a read-write open lets that open pass, and the same process's opens of control,
	// ctbcs, power and protocol", but not its other opens of apdu.
	slot := d.m.Slot(0)
	if err := slot.SelectProtocol(bg, 1, opens["control"].(*controlFile).by); err != nil {
		t.Errorf("the client's own process: %v", err)
	}
	second := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR|syscall.O_NONBLOCK).(*apduFile)
	if _, err := second.exchange(bg, []byte{0, 0xA4, 0, 12, 2, 0x3F, 0}, 0, nil); toErrno(err) != syscall.EBUSY {
		t.Errorf("another open of apdu of the process: %v", err)
	}
	if errno := do(mine, fused.IoctlEnd, now.Epoch+1); errno != syscall.ESTALE || !slot.Info().Locked {
		t.Errorf("end in another epoch: %v", errno)
	}
	if errno := do(mine, fused.IoctlEnd, now.Epoch); errno != 0 || slot.Info().Locked {
		t.Errorf("end: %v", errno)
	}
	// The close of a client that died ends it too.
	if errno := do(mine, fused.IoctlBegin, now.Epoch); errno != 0 {
		t.Fatal(errno)
	}
	mine.Release(bg)
	if err := other.lock(bg, false, true); err != nil {
		t.Fatal(err)
	}
	if err := other.session.Err(); toErrno(err) != syscall.ESTALE {
		t.Errorf("another's session after the client died: %v", err)
	}
}
