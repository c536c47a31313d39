package hotplug

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An entry of sysfs that makes no sense is no device, and does no harm.
func TestBadSysfs(t *testing.T) {
	good := madeup(0x1209, 1, 0xFF)
	for name, attrs := range map[string]map[string]string{
		"no number":           {"devnum": ""},
		"number 0":            {"devnum": "0\n"},
		"number out of range": {"devnum": "99999999999\n"},
		"negative":            {"devnum": "-1\n"},
		"NULs":                {"devnum": "\x00\x00\x00"},
		"huge number":         {"devnum": strings.Repeat("1", 1<<17)},
		"no descriptors":      {"descriptors": ""},
		"cut descriptors":     {"descriptors": string(good[:20])},
		"descriptors of NULs": {"descriptors": strings.Repeat("\x00", 4096)},
		"huge descriptors":    {"descriptors": string(good) + strings.Repeat("\x00", 2*maxSysfs)},
		"no such config":      {"bConfigurationValue": "7\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTree(t)
			d := d1
			d.attrs = attrs
			f.plug(d)
			f.plug(d2)
			f.start("uevents")
			f.say(d.event("add"), d.event("bind"))
			if r := f.next(); r.Address != "usb:3-2" {
				t.Errorf("announced %s", r.Address)
			}
			f.none("nothing else is a device")
		})
	}
	for name, attrs := range map[string]map[string]string{
		"config of NULs": {"bConfigurationValue": "\x00"},
		"huge config":    {"bConfigurationValue": strings.Repeat("1", 4096)},
		"no strings":     {"serial": "\n", "product": "", "manufacturer": "\n"},
		"strings":        {"serial": "a\x00b\nstate gone\n", "product": "p\nq\x1b[0m\n", "manufacturer": "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTree(t)
			d := d1
			d.desc, d.attrs = madeup(0x08E6, 1, 0x0B), attrs
			f.plug(d)
			f.start("uevents")
			r := f.next()
			if strings.ContainsAny(r.Serial+r.ID.Model, "\x00\n\x1b") {
				t.Errorf("serial %q, model %q", r.Serial, r.ID.Model)
			}
			want := map[string]string{"strings": "p q [0m"}[name]
			if want == "" {
				want = "a class"
			}
			if r.ID.Model != want {
				t.Errorf("model %q, want %q", r.ID.Model, want)
			}
		})
	}
}

// A device whose directory is not complete is looked at again.
func TestIncomplete(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	desc := filepath.Join(f.root, "sys/devices", d1.name, "descriptors")
	f.must(os.Rename(desc, desc+"-"))
	f.start("inotify")
	f.none("incomplete")
	f.must(os.Rename(desc+"-", desc))
	f.next()

	// It has had all its looks; the next event starts them again.
	f.plug(d2)
	desc = filepath.Join(f.root, "sys/devices", d2.name, "descriptors")
	f.must(os.Rename(desc, desc+"-"))
	f.quiet()
	f.w.mu.Lock()
	f.w.early["3-2"] = laterMost
	f.w.mu.Unlock()
	f.w.scan(false, true)
	f.quiet()
	f.w.mu.Lock()
	if n := f.w.early["3-2"]; n > 2 {
		t.Errorf("looked at %d times", n)
	}
	f.w.mu.Unlock()
	f.must(os.Rename(desc+"-", desc))
	f.w.Rescan()
	f.next()
}

// An unreadable sysfs does not mean that all devices left.
func TestUnreadable(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("uevents")
	r := f.next()
	f.must(os.Rename(f.w.sys, f.w.sys+"-"))
	f.must(os.WriteFile(f.w.sys, nil, 0o600)) // ENOTDIR
	f.w.Rescan()
	f.stays(r, "sysfs cannot be read")
	f.must(os.Remove(f.w.sys))
	f.must(os.Rename(f.w.sys+"-", f.w.sys))

	// Neither does an attribute that cannot be read now: EISDIR stands for EMFILE.
	for _, attr := range []string{"devnum", "descriptors", "bConfigurationValue"} {
		name := filepath.Join(f.root, "sys/devices", d1.name, attr)
		f.must(os.Rename(name, name+"-"))
		f.must(os.Mkdir(name, 0o700))
		f.w.Rescan()
		f.stays(r, attr+" cannot be read")
		f.must(os.Remove(name))
		f.must(os.Rename(name+"-", name))
	}
	f.must(os.RemoveAll(f.w.sys))
	f.w.Rescan() // the module usbcore is gone
	f.gone(r)
}
