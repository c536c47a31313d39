package fs

import (
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// "apdu, control and ctbcs have read permission only where they have write permission:
// whoever can open them may lock." The other files have the permissions of --mode. Only the
// owner may read `trace` or write `ctl`.
func TestModes(t *testing.T) {
	for mode, want := range map[uint32]map[string]uint32{
		0o600: {"apdu": 0o600, "memory": 0o600, "control": 0o600, "ctbcs": 0o600, "power": 0o600, "protocol": 0o600, "status": 0o400, "trace": 0o400, "ctl": 0o600},
		0o644: {"apdu": 0o600, "memory": 0o600, "control": 0o600, "ctbcs": 0o600, "power": 0o644, "protocol": 0o644, "status": 0o444, "trace": 0o400, "ctl": 0o644},
		0o664: {"apdu": 0o660, "memory": 0o660, "control": 0o660, "ctbcs": 0o660, "power": 0o664, "status": 0o444, "trace": 0o400, "ctl": 0o644},
		0o660: {"apdu": 0o660, "control": 0o660, "ctbcs": 0o660, "power": 0o660, "status": 0o440, "trace": 0o400, "ctl": 0o640},
		0o666: {"apdu": 0o666, "control": 0o666, "ctbcs": 0o666, "power": 0o666, "status": 0o444, "trace": 0o400, "ctl": 0o644},
		0o620: {"apdu": 0o620, "control": 0o620, "ctbcs": 0o620, "power": 0o620, "status": 0o400, "ctl": 0o600},
		0o446: {"apdu": 0o006, "memory": 0o006, "power": 0o446},
	} {
		m := &mount{mode: mode}
		specs := append([]spec{specCtl}, slotFiles...)
		for i := range specs {
			f := &file{mount: m, spec: &specs[i]}
			var a fuse.Attr
			f.attr(&a)
			if w, ok := want[f.spec.name]; ok && a.Mode&0o777 != w {
				t.Errorf("--mode %04o: %s has %04o, want %04o", mode, f.spec.name, a.Mode&0o777, w)
			}
		}
	}
}

// "Text files show their true length; attributes of text files are not cached." The other
// files always show 4096, and the kernel caches attributes that do not change. It caches names
// for a long time, because it is notified when one goes.
func TestLengths(t *testing.T) {
	d := newDesk(t, "t1")
	specs := append([]spec{specCtl, specRootEvent}, slotFiles...)
	for i := range specs {
		f := &file{mount: d.mnt, slot: d.m.Slot(0), spec: &specs[i]}
		size, keep := uint64(streamSize), long
		if f.spec.text != nil && f.spec.name != "stats" { // which counts by itself
			keep = 0
			if n := len(f.spec.text(f)); n > 0 || !f.spec.powers {
				size = uint64(n)
			}
		}
		if f.spec.name == "memory" { // not known yet, as that of atr
			keep = 0
		}
		var entry fuse.EntryOut
		f.entry(&entry)
		if entry.EntryTimeout() != long || f.spec.name != "stats" && (entry.Size != size || entry.AttrTimeout() != keep) {
			t.Errorf("%s: %d bytes, the name is kept %v, attributes %v", f.spec.name, entry.Size, entry.EntryTimeout(), entry.AttrTimeout())
		}
		var attr fuse.AttrOut
		if errno := f.Getattr(bg, nil, &attr); errno != 0 || f.spec.name != "stats" && (attr.Size != size || attr.Timeout() != keep) {
			t.Errorf("%s: %v, %d bytes, kept %v", f.spec.name, errno, attr.Size, attr.Timeout())
		}
		if attr.Nlink != 1 || attr.Uid != 1000 || attr.Mode&syscall.S_IFMT != syscall.S_IFREG || attr.Mtime == 0 || attr.Mode != entry.Mode {
			t.Errorf("%s: %+v", f.spec.name, attr.Attr)
		}
	}
}
