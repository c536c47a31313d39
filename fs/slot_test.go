package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// "apdu, control and ctbcs have read permission only where they have write permission:
// whoever can open them may lock." The others have what --mode gives; `trace` is the
// owner's, and so is writing to `ctl`.
func TestModes(t *testing.T) {
	for mode, want := range map[uint32]map[string]uint32{
		0o600: {"apdu": 0o600, "control": 0o600, "ctbcs": 0o600, "power": 0o600, "protocol": 0o600, "status": 0o400, "trace": 0o400, "ctl": 0o600},
		0o644: {"apdu": 0o600, "control": 0o600, "ctbcs": 0o600, "power": 0o644, "protocol": 0o644, "status": 0o444, "trace": 0o400, "ctl": 0o644},
		0o664: {"apdu": 0o660, "control": 0o660, "ctbcs": 0o660, "power": 0o664, "status": 0o444, "trace": 0o400, "ctl": 0o644},
		0o660: {"apdu": 0o660, "control": 0o660, "ctbcs": 0o660, "power": 0o660, "status": 0o440, "trace": 0o400, "ctl": 0o640},
		0o666: {"apdu": 0o666, "control": 0o666, "ctbcs": 0o666, "power": 0o666, "status": 0o444, "trace": 0o400, "ctl": 0o644},
		0o620: {"apdu": 0o620, "control": 0o620, "ctbcs": 0o620, "power": 0o620, "status": 0o400, "ctl": 0o600},
		0o446: {"apdu": 0o006, "power": 0o446},
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
