package fs

import (
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// The first Access whose pattern matches decides group and mode of a slot's files. What it
// leaves out comes from the mount. Whoever may enter one slot may enter the directories above
// it. The files at the top keep the mount's group and mode.
func TestAccess(t *testing.T) {
	d := newDesk(t, "t1")
	d.mnt.gid, d.mnt.mode = 77, 0o640
	slot := d.m.Slot(0)
	name := slot.ByID()
	if name == "" || d.m.Named(name) != slot {
		t.Fatalf("the name is %q", name)
	}
	type modes struct{ gid, top, dir, apdu, status, trace uint32 }
	usual := modes{77, 0o750, 0o750, 0o600, 0o440, 0o400}
	for _, c := range []struct {
		access []Access
		want   modes
	}{
		{nil, usual},
		{[]Access{{ByID: "no-*", GID: 78, Mode: 0o660}}, modes{77, 0o755, 0o750, 0o600, 0o440, 0o400}},
		{[]Access{{ByID: "*", GID: 78, Mode: 0o660}}, modes{78, 0o755, 0o750, 0o660, 0o440, 0o400}},
		{[]Access{{ByID: "*", GID: 77, Mode: 0o660}}, modes{77, 0o750, 0o750, 0o660, 0o440, 0o400}},
		{[]Access{{ByID: name, GID: 78}}, modes{78, 0o755, 0o750, 0o600, 0o440, 0o400}},
		{[]Access{{ByID: name, GID: -1, Mode: 0o666}}, modes{77, 0o755, 0o755, 0o666, 0o444, 0o400}},
		{[]Access{{ByID: name, GID: 78, Mode: 0o600}}, modes{78, 0o750, 0o700, 0o600, 0o400, 0o400}},
		{[]Access{{ByID: name, GID: 0, Mode: 0o600}, {ByID: "*", GID: 78, Mode: 0o666}}, modes{0, 0o755, 0o700, 0o600, 0o400, 0o400}},
		{[]Access{{ByID: "no-*", GID: 78, Mode: 0o606}}, modes{77, 0o755, 0o750, 0o600, 0o440, 0o400}},
		{[]Access{{ByID: "no-*", GID: 78, Mode: 0o620}}, modes{77, 0o750, 0o750, 0o600, 0o440, 0o400}},
	} {
		d.mnt.access.Store(&c.access)
		attr := func(node fs.NodeGetattrer) fuse.Attr {
			var out fuse.AttrOut
			if errno := node.Getattr(bg, nil, &out); errno != 0 {
				t.Fatal(errno)
			}
			return out.Attr
		}
		of := func(name string) fuse.Attr {
			for i := range slotFiles {
				if slotFiles[i].name == name {
					return attr(&file{mount: d.mnt, slot: slot, spec: &slotFiles[i]})
				}
			}
			t.Fatal(name)
			return fuse.Attr{}
		}
		dir, apdu := attr(&slotDir{mount: d.mnt, slot: slot}), of("apdu")
		got := modes{dir.Gid, attr(&root{mount: d.mnt}).Mode & 0o777, dir.Mode & 0o777, apdu.Mode & 0o777, of("status").Mode & 0o777, of("trace").Mode & 0o777}
		if got != c.want || apdu.Gid != dir.Gid {
			t.Errorf("%+v: %o, want %o; apdu's group %d", c.access, got, c.want, apdu.Gid)
		}
		byID, ctl := attr(&byID{mount: d.mnt}), attr(&file{mount: d.mnt, spec: &specCtl})
		if byID.Mode != syscall.S_IFDIR|c.want.top || byID.Gid != 77 || ctl.Mode != syscall.S_IFREG|0o640 || ctl.Gid != 77 {
			t.Errorf("%+v: by-id %o of %d, ctl %o of %d", c.access, byID.Mode, byID.Gid, ctl.Mode, ctl.Gid)
		}
	}
}
