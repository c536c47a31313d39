package main

import "testing"

// Each emulator has a kind of its name, but for the one that QEMU has as well, and the
// levels of CCID have theirs.
func TestKinds(t *testing.T) {
	all := kinds()
	for _, name := range []string{
		"ikey3k", "ikey2k", "egate", "epass3k", "sim-ccid", "twoslot", "pinpad", "iccd",
		"ccid-character", "ccid-tpdu", "ccid-short", "ccid-extended", "ccid-two-slots", "ccid-pinpad", "iccd-a", "iccd-b",
	} {
		if all[name].New == nil {
			t.Errorf("no kind %s", name)
		}
	}
	if _, ok := all["ccid"]; ok {
		t.Error("ccid is QEMU's")
	}
}
