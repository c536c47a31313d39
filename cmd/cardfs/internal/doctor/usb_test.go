package doctor

import (
	"os"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

func TestUdevRules(t *testing.T) {
	w := newWorld(t)
	w.User.Groups = nil // as under sudo: only the mode counts, whoever runs the test
	const install = "sudo mkdir -p /etc/udev/rules.d && cardfs udev-rules | sudo tee /etc/udev/rules.d/70-cardfs.rules >/dev/null"
	w.finds("udev-rules", "warn the udev rules are not installed; a cardfs that ann mounts would need them for USB readers\n> "+install)
	w.usb("1-2", "04b9", "1300", "ff")
	w.finds("udev-rules", "wrong the udev rules are not installed, so that a cardfs of ann cannot open USB readers\n> "+install)
	w.must(os.Chmod(w.path("/dev/bus/usb/001/002"), 0o666))
	w.finds("udev-rules", "warn the udev rules are not installed; a cardfs that ann mounts would need them for USB readers\n> "+install)
	w.dir("/etc/udev/rules.d")
	w.file("/run/udev/control", "")
	w.finds("udev-rules", `warn the udev rules are not installed; a cardfs that ann mounts would need them for USB readers
		> cardfs udev-rules | sudo tee /etc/udev/rules.d/70-cardfs.rules >/dev/null && sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=usb`)
	w.file("/lib/udev/rules.d/70-cardfs.rules", hotplug.UdevRules(w.Drivers))
	w.finds("udev-rules", "ok the udev rules are there: /lib/udev/rules.d/70-cardfs.rules")
	w.file("/etc/udev/rules.d/70-cardfs.rules", "old")
	w.finds("udev-rules", `warn /etc/udev/rules.d/70-cardfs.rules is of another version of cardfs
		> cardfs udev-rules | sudo tee /etc/udev/rules.d/70-cardfs.rules >/dev/null && sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=usb`)

	w = newWorld(t)
	w.User = User{Name: "root", Root: true}
	w.finds("udev-rules", "ok the udev rules are not installed; a cardfs that runs as root needs none")
}

func TestUSBAccess(t *testing.T) {
	w := newWorld(t)
	w.User.Groups = nil
	w.usb("1-1", "1d6b", "0002", "09") // a hub
	w.usb("2-4", "046d", "c31c", "03") // a keyboard
	w.finds("usb-access", "ok no USB reader that cardfs knows is plugged in")
	w.usb("1-2", "04b9", "1300", "ff")
	const name = "Rainbow iKey 3000 (04b9:1300, at USB 1-2): "
	w.finds("usb-access", "wrong "+name+`ann may not open /dev/bus/usb/001/002, and no udev runs that would apply its rules
		> sudo chown :plugdev /dev/bus/usb/001/002 && sudo chmod 660 /dev/bus/usb/001/002`)
	w.file("/run/udev/control", "")
	w.finds("usb-access", "wrong "+name+`ann may not open /dev/bus/usb/001/002: the udev rules were not applied to it
		> sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=usb`)
	w.mount("/mnt/cards", "user_id=0,allow_other", "state powered\nusb 001/002\n")
	w.finds("usb-access", "ok "+name+"ann may not open /dev/bus/usb/001/002, and a cardfs that runs has it already")
	w.mount("/mnt/cards", "user_id=0,allow_other", "state failed\nusb 001/002\n")
	w.finds("usb-access", "wrong "+name+`ann may not open /dev/bus/usb/001/002: the udev rules were not applied to it
		> sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=usb`)
	w.must(os.Chmod(w.path("/dev/bus/usb/001/002"), 0o666))
	w.finds("usb-access", "ok "+name+"ann may open /dev/bus/usb/001/002")
	w.must(os.Remove(w.path("/dev/bus/usb/001/002")))
	w.finds("usb-access", "wrong "+name+"/dev/bus/usb/001/002: no such file or directory\n> sudo udevadm trigger --subsystem-match=usb")
	w.must(os.Remove(w.path("/run/udev/control")))
	w.finds("usb-access", "wrong "+name+"/dev/bus/usb/001/002: no such file or directory; in a container, start it with --device /dev/bus/usb")
}

func TestUSBAccessByGroup(t *testing.T) {
	w := newWorld(t)
	w.User.Groups = nil
	w.usb("1-2", "04b9", "1300", "ff")
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root gives a file to a group")
	}
	w.must(os.Chown(w.path("/dev/bus/usb/001/002"), 0, 46))
	w.must(os.Chmod(w.path("/dev/bus/usb/001/002"), 0o660))
	w.group("plugdev", 46)
	w.finds("usb-access", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): /dev/bus/usb/001/002 is for group plugdev, and ann is not in it; it takes effect at the next login
		> sudo usermod --append --groups plugdev ann`)
	w.group("plugdev", 46, "ann")
	w.finds("usb-access", `ok Rainbow iKey 3000 (04b9:1300, at USB 1-2): ann may open /dev/bus/usb/001/002`)
	w.must(os.Chmod(w.path("/dev/bus/usb/001/002"), 0o640))
	w.finds("usb-access", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): ann may not open /dev/bus/usb/001/002, and no udev runs that would apply its rules
		> sudo chown :plugdev /dev/bus/usb/001/002 && sudo chmod 660 /dev/bus/usb/001/002`)
}

func TestHolders(t *testing.T) {
	w := newWorld(t)
	dir := w.usb("1-2", "1234", "5678", "03", "0b")
	const name = "CCID reader (1234:5678, at USB 1-2): "
	w.finds("holders", "ok "+name+"no program has claimed it")
	w.User.UID = 0
	w.finds("holders", "ok "+name+"no other program has it open")
	w.User.UID = stranger
	w.file(dir+"/product", "Evil \x1b[2J reader\n")
	w.finds("holders", "ok Evil ?[2J reader (1234:5678, at USB 1-2): no program has claimed it")
	w.must(os.Remove(w.path(dir + "/product")))

	w.link(dir+"/1-2:1.0/driver", "../../../../bus/usb/drivers/usbhid")
	w.finds("holders", "ok "+name+"the kernel's usbhid has it, and cardfs takes it from there")
	w.link(dir+"/1-2:1.1/driver", "../../../../bus/usb/drivers/usbfs")
	w.finds("holders", "unknown "+name+"a program has it, but only root sees which\n> sudo cardfs doctor")
	w.mount("/mnt/cards", "user_id=0,allow_other", "state powered\nusb 001/002\n")
	w.finds("holders", "ok "+name+"cardfs has it")
	w.file("/proc/self/mountinfo", "")

	w.process(30, "cardfs", "/dev/bus/usb/001/002", "/dev/null")
	w.finds("holders", "ok "+name+"cardfs has it")
	w.process(31, "other", "/dev/bus/usb/001/003")
	w.process(32, "openct", "/dev/bus/usb/001/002", "/dev/bus/usb/001/002")
	w.finds("holders", "wrong "+name+"openct (pid 32) has it; end it, or have it let go of the reader\n> sudo kill 32")
	w.process(33, "x\x1by", "/dev/bus/usb/001/002")
	w.finds("holders", "wrong "+name+"openct (pid 32) has it; end it, or have it let go of the reader\n> sudo kill 32\n"+
		"wrong "+name+"x?y (pid 33) has it; end it, or have it let go of the reader\n> sudo kill 33")
}

// scdaemon's configuration is changed as its own user: links in a home may lead anywhere.
func TestHolderScdaemon(t *testing.T) {
	w := newWorld(t)
	w.usb("1-2", "04b9", "1300", "ff")
	w.process(40, "scdaemon", "/dev/bus/usb/001/002")
	uid := os.Getuid()
	w.account("bob", uid)
	w.finds("holders", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): GnuPG's scdaemon (pid 40) has it; it can go by pcscd instead
		> sudo runuser -u bob -- sh -c 'echo disable-ccid >>/home/bob/.gnupg/scdaemon.conf && kill 40'`)
	w.User.UID = uid
	w.finds("holders", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): GnuPG's scdaemon (pid 40) has it; it can go by pcscd instead
		> echo disable-ccid >>/home/bob/.gnupg/scdaemon.conf && kill 40`)
	w.file("/proc/40/cmdline", "scdaemon\x00--homedir\x00/srv/a b\x00--multi-server\x00")
	w.finds("holders", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): GnuPG's scdaemon (pid 40) has it; it can go by pcscd instead
		> echo disable-ccid >>'/srv/a b/scdaemon.conf' && kill 40`)
}

// A driver that names the IDs comes before one that names the class of an interface.
func TestDevices(t *testing.T) {
	w := newWorld(t)
	w.usb("1-2", "04b9", "1300", "0b")
	w.usb("3-1", "04b9", "1301", "ff")
	w.usb("2-7", "076b", "3021", "0b")
	e := &exam{Host: &w.Host}
	var got []string
	for _, d := range e.findDevices() {
		got = append(got, d.driver+" "+d.node)
	}
	if s := strings.Join(got, ", "); s != "ikey3k /dev/bus/usb/001/002, ccid /dev/bus/usb/002/007" {
		t.Error(s)
	}
}
