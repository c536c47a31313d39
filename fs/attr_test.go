package fs

import (
	"context"
	"slices"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
)

// "The kernel enforces modes": whoever may read the files may enter the directories, which
// belong to the mount's user and do not change.
func TestDirectories(t *testing.T) {
	d := newDesk(t, "t1")
	d.mnt.gid = 77
	for mode, want := range map[uint32]uint32{0o600: 0o700, 0o640: 0o750, 0o660: 0o750, 0o644: 0o755, 0o666: 0o755, 0o604: 0o705} {
		d.mnt.mode = mode
		for name, dir := range map[string]fs.NodeGetattrer{
			"/": &root{mount: d.mnt}, "/by-id": &byID{mount: d.mnt}, "/0": &slotDir{mount: d.mnt, slot: d.m.Slot(0)},
		} {
			var out fuse.AttrOut
			if errno := dir.Getattr(bg, nil, &out); errno != 0 {
				t.Errorf("%s: %v", name, errno)
			}
			if out.Mode != syscall.S_IFDIR|want || out.Uid != 1000 || out.Gid != 77 || out.Nlink != 1 || out.Timeout() != long {
				t.Errorf("--mode %#o: %s has %#o, %+v, kept %v", mode, name, out.Mode, out.Attr, out.Timeout())
			}
		}
	}
}

// Each directory lists what can be looked up in it, with the kind of each.
func TestListings(t *testing.T) {
	d := newDesk(t, "t1")
	for name, c := range map[string]struct {
		dir  fs.NodeReaddirer
		want []string
		mode uint32
	}{
		"/":      {&root{mount: d.mnt}, []string{"0", "by-id", "ctl", "event"}, 0},
		"/0":     {&slotDir{mount: d.mnt, slot: d.m.Slot(0)}, []string{"apdu", "atr", "control", "ctbcs", "event", "power", "protocol", "stats", "status", "trace"}, syscall.S_IFREG},
		"/by-id": {&byID{mount: d.mnt}, nil, syscall.S_IFLNK},
	} {
		stream, errno := c.dir.Readdir(bg)
		if errno != 0 {
			t.Fatalf("%s: %v", name, errno)
		}
		var got []string
		numbers := map[uint64]string{}
		for stream.HasNext() {
			e, _ := stream.Next()
			got = append(got, e.Name)
			want := c.mode
			if name == "/" {
				want = map[string]uint32{"0": syscall.S_IFDIR, "by-id": syscall.S_IFDIR, "ctl": syscall.S_IFREG, "event": syscall.S_IFREG}[e.Name]
			}
			if e.Mode != want {
				t.Errorf("%s/%s: %#o", name, e.Name, e.Mode)
			}
			if c.mode != syscall.S_IFLNK {
				if other, ok := numbers[e.Ino]; ok || e.Ino <= fuse.FUSE_ROOT_ID {
					t.Errorf("%s: %s has number %d, as %q", name, e.Name, e.Ino, other)
				}
				numbers[e.Ino] = e.Name
			}
		}
		slices.Sort(got)
		if c.want != nil && !slices.Equal(got, c.want) || len(got) == 0 {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// "Text files: always readable"; those that may be written are also writable.
func TestTextFilesReady(t *testing.T) {
	d := newDesk(t, "t1")
	for name, want := range map[string]uint32{
		"status": fused.Readable, "atr": fused.Readable,
		"power": fused.Readable | fused.Writable, "protocol": fused.Readable | fused.Writable,
	} {
		h := d.mustOpen(as(1000, self), name, syscall.O_RDONLY).(*textFile)
		if got := h.Ready(); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
		h.Release(bg)
	}
	top, err := openCtl(bg, &file{mount: d.mnt, spec: &specCtl}, syscall.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if got := top.(*textFile).Ready(); got != fused.Readable|fused.Writable {
		t.Errorf("ctl: %#x", got)
	}
}

// lostCard is a card whose reader left while a lock was waited for.
type lostCard struct{ *lockingCard }

func (lostCard) lock(context.Context, bool, bool) error { return reader.ErrGone }

// A lock line answers `ok` only if the lock was granted.
func TestLockLineFails(t *testing.T) {
	c := openLocking(t, new(advisory), rdwr)
	c.to = lostCard{c.to.(*lockingCard)}
	c.mustWrite("lock\n")
	if s, errno := c.read(100); s != "" || errno != syscall.ENODEV {
		t.Errorf("%q, %v", s, errno)
	}
	c.mustWrite("unlock\n")
	c.wantRead("ok\n")
}
