package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

// device is a USB reader that a driver of cardfs would serve.
type device struct {
	port   string // "1-1.4"
	id     string // "04b9:1300"
	name   string // by the driver, or of its product string
	driver string
	node   string            // "/dev/bus/usb/001/004"
	bound  map[string]string // drivers of the kernel by interface: "1-1.4:1.0" to "usbfs"
}

func (d device) String() string { return fmt.Sprintf("%s (%s, at USB %s)", d.name, d.id, d.port) }

const sysDevices = "/sys/bus/usb/devices"

// findDevices lists the USB readers that are plugged in.
func (e *exam) findDevices() (list []device) {
	entries, _ := os.ReadDir(e.path(sysDevices))
	for _, entry := range entries {
		dir := filepath.Join(sysDevices, entry.Name())
		vendor := e.read(dir + "/idVendor")
		if vendor == "" || strings.Contains(entry.Name(), ":") {
			continue
		}
		d := device{port: entry.Name(), id: vendor + ":" + e.read(dir+"/idProduct"), bound: map[string]string{}}
		var classes []uint8
		for _, file := range e.glob(filepath.Join(dir, entry.Name()+":*")) {
			if class, err := strconv.ParseUint(e.read(file+"/bInterfaceClass"), 16, 8); err == nil {
				classes = append(classes, uint8(class))
			}
			if to, err := os.Readlink(e.path(file + "/driver")); err == nil {
				d.bound[filepath.Base(file)] = filepath.Base(to)
			}
		}
		if !e.serves(&d, classes) {
			continue
		}
		bus, _ := strconv.Atoi(e.read(dir + "/busnum"))
		number, _ := strconv.Atoi(e.read(dir + "/devnum"))
		d.node = fmt.Sprintf("/dev/bus/usb/%03d/%03d", bus, number)
		if product := e.read(dir + "/product"); product != "" {
			d.name = product
		}
		list = append(list, d)
	}
	return list
}

// serves finds the driver of a device as cardfs does.
func (e *exam) serves(d *device, classes []uint8) bool {
	var vendor, product uint16
	if _, err := fmt.Sscanf(d.id, "%x:%x", &vendor, &product); err != nil {
		return false
	}
	driver, id, ok := hotplug.Find(e.Drivers, vendor, product, classes)
	if ok {
		d.driver, d.name = driver.Name(), cmp.Or(id.Model, driver.Name())
	}
	return ok
}

// rulesDirs are where udev looks, the first wins (udev(7)).
var rulesDirs = []string{"/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"}

// udevRules looks whether the rules are there that let others than root open the readers.
func (e *exam) udevRules() {
	var files []string
	for _, dir := range rulesDirs {
		files = append(files, filepath.Join(dir, filepath.Base(hotplug.RulesFile)))
	}
	file := e.first(files...)
	mend := "cardfs udev-rules | " + e.write(hotplug.RulesFile)
	if dir := filepath.Dir(hotplug.RulesFile); !e.exists(dir) {
		mend = e.sudo("mkdir -p "+dir) + " && " + mend
	}
	if e.udevRuns() {
		mend += " && " + e.sudo("udevadm control --reload", "udevadm trigger --subsystem-match=usb")
	}
	switch {
	case file != "" && e.read(file) != strings.TrimSpace(hotplug.UdevRules(e.Drivers)):
		e.warn(mend, "%s is of another version of cardfs", file)
	case file != "":
		e.ok("the udev rules are there: %s", file)
	case e.User.UID == 0:
		e.ok("the udev rules are not installed; a cardfs that runs as root needs none")
	case slices.ContainsFunc(e.devices, func(d device) bool { return !e.opens(d) && !e.served(d) }):
		e.wrong(mend, "the udev rules are not installed, so that a cardfs of %s cannot open USB readers", e.User.Name)
	default:
		e.warn(mend, "the udev rules are not installed; a cardfs that %s mounts would need them for USB readers", e.User.Name)
	}
}

func (e *exam) udevRuns() bool { return e.exists("/run/udev/control") }

// opens reports whether the user may open a device.
func (e *exam) opens(d device) bool {
	if e.User.Groups == nil && e.User.UID != 0 { // not this process's user: an ACL is not seen
		var st unix.Stat_t
		return unix.Stat(e.path(d.node), &st) == nil && e.mayUse(st.Uid, st.Gid, st.Mode, 6)
	}
	return unix.Access(e.path(d.node), unix.R_OK|unix.W_OK) == nil
}

// served reports whether a cardfs that the user can see has the device.
func (e *exam) served(d device) bool {
	for _, m := range e.mounts {
		for _, s := range m.slots {
			if s.status.Value("usb") != "" && "/dev/bus/usb/"+s.status.Value("usb") == d.node && s.status.Value("state") != "failed" {
				return true
			}
		}
	}
	return false
}

// usbAccess looks whether the rules were applied to the readers that are plugged in.
func (e *exam) usbAccess() {
	if len(e.devices) == 0 {
		e.ok("no USB reader that cardfs knows is plugged in")
	}
	for _, d := range e.devices {
		var st unix.Stat_t
		switch err := unix.Stat(e.path(d.node), &st); {
		case err != nil && e.udevRuns():
			e.wrong(e.sudo("udevadm trigger --subsystem-match=usb"), "%s: %s: %v", d, d.node, err)
		case err != nil:
			e.wrong("", "%s: %s: %v; in a container, start it with --device /dev/bus/usb", d, d.node, err)
		case e.opens(d):
			e.ok("%s: %s may open %s", d, e.User.Name, d.node)
		case e.served(d):
			e.ok("%s: %s may not open %s, and a cardfs that runs has it already", d, e.User.Name, d.node)
		case st.Mode&0o060 == 0o060 && st.Gid != 0 && e.inGroup(int(st.Gid)) == outside:
			group := e.groupName(int(st.Gid))
			e.wrong(e.sudo("usermod --append --groups "+quote(group)+" "+quote(e.User.Name)),
				"%s: %s is for group %s, and %s is not in it; it takes effect at the next login", d, d.node, group, e.User.Name)
		case st.Mode&0o060 == 0o060 && st.Gid != 0:
			group := e.groupName(int(st.Gid))
			e.wrong("newgrp "+quote(group), "%s: %s is for group %s, and %s is in it, but not since this login", d, d.node, group, e.User.Name)
		case e.udevRuns():
			e.wrong(e.sudo("udevadm control --reload", "udevadm trigger --subsystem-match=usb"),
				"%s: %s may not open %s: the udev rules were not applied to it", d, e.User.Name, d.node)
		default:
			e.wrong(e.sudo("chown :"+hotplug.Group+" "+d.node, "chmod 660 "+d.node),
				"%s: %s may not open %s, and no udev runs that would apply its rules", d, e.User.Name, d.node)
		}
	}
}

// process is a program that runs.
type process struct {
	pid  int
	uid  int
	name string
	open []string // files below /dev/bus/usb
}

func (p process) String() string { return fmt.Sprintf("%s (pid %d)", p.name, p.pid) }

// findProcesses lists the programs that run, with the USB devices that they have open if this
// user may see that.
func (e *exam) findProcesses() (list []process) {
	entries, _ := os.ReadDir(e.path("/proc"))
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + entry.Name()
		p := process{pid: pid, name: e.read(dir + "/comm")}
		var st unix.Stat_t
		if unix.Stat(e.path(dir), &st) != nil {
			continue
		}
		p.uid = int(st.Uid)
		if len(e.devices) > 0 {
			fds, _ := os.ReadDir(e.path(dir + "/fd"))
			for _, fd := range fds {
				to, _ := os.Readlink(e.path(filepath.Join(dir, "fd", fd.Name())))
				if strings.HasPrefix(to, "/dev/bus/usb/") {
					p.open = append(p.open, to)
				}
			}
		}
		list = append(list, p)
	}
	return list
}

// holders looks who has a reader, so that cardfs cannot.
func (e *exam) holders() {
	for _, d := range e.devices {
		var who []process
		for _, p := range e.processes {
			if slices.Contains(p.open, d.node) {
				who = append(who, p)
			}
		}
		foreign := slices.DeleteFunc(slices.Clone(who), func(p process) bool { return p.name == "cardfs" })
		kernel := ""
		for _, iface := range sortedKeys(d.bound) {
			if d.bound[iface] != "usbfs" {
				kernel = d.bound[iface]
			}
		}
		claimed := slices.Contains(sortedValues(d.bound), "usbfs")
		switch {
		case len(foreign) > 0:
			for _, p := range foreign {
				e.held(d, p)
			}
		case len(who) > 0 || e.served(d):
			e.ok("%s: cardfs has it", d)
		case claimed:
			e.unknown("sudo cardfs doctor", "%s: a program has it, but only root sees which", d)
		case kernel != "":
			e.ok("%s: the kernel's %s has it, and cardfs takes it from there", d, kernel)
		case e.User.UID != 0:
			e.ok("%s: no program has claimed it", d)
		default:
			e.ok("%s: no other program has it open", d)
		}
	}
}

func sortedValues(m map[string]string) (list []string) {
	for _, key := range sortedKeys(m) {
		list = append(list, m[key])
	}
	return list
}

// held is for a reader that another program has.
func (e *exam) held(d device, p process) {
	end := "kill " + strconv.Itoa(p.pid)
	if p.uid != e.User.UID {
		end = e.sudo(end)
	}
	switch p.name {
	case "pcscd":
		if mend := e.removeCCID(); mend != "" && e.pcscd != nil && e.pcscd.ccid[d.id] {
			e.wrong(mend, "%s: %s has it, by Debian's libccid: decide for one of them, or have cardfs leave USB alone (mount --usb=off)", d, p)
			return
		}
		e.wrong(e.restartPcscd(), "%s: %s has it, by a driver of its own", d, p)
	case "scdaemon":
		// It takes any CCID reader that it finds, unless told to go by PC/SC alone (scdaemon(1)).
		owner, home := e.userName(p.uid)
		conf := e.gnupgHome(p, home) + "/scdaemon.conf"
		mend := "echo disable-ccid >>" + quote(conf) + " && kill " + strconv.Itoa(p.pid)
		if p.uid != e.User.UID {
			// As that user: root must not follow links in another's directories.
			mend = e.sudo(fmt.Sprintf("runuser -u %s -- sh -c %s", quote(owner), quote(mend)))
		}
		e.wrong(mend, "%s: GnuPG's %s has it; it can go by pcscd instead", d, p)
	default:
		e.wrong(end, "%s: %s has it; end it, or have it let go of the reader", d, p)
	}
}

// gnupgHome is where a scdaemon has its configuration.
func (e *exam) gnupgHome(p process, home string) string {
	words := strings.Split(e.read(fmt.Sprintf("/proc/%d/cmdline", p.pid)), "\x00")
	if i := slices.Index(words, "--homedir"); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return filepath.Join(home, ".gnupg")
}
