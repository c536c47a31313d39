package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	cardfsUnit = "cardfs.service"
	pcscdUnit  = "pcscd.service"
	// ourGroup is the group that cardfs.service gives the files to.
	ourGroup = "cardfs"
)

// fuse looks at the device by which file systems are served. udev gives it mode 0666
// (systemd, rules.d/50-udev-default.rules).
func (e *exam) fuse() {
	const node, make = "/dev/fuse", "mknod --mode=666 /dev/fuse c 10 229"
	var st unix.Stat_t
	err := unix.Stat(e.path(node), &st)
	there := strings.Contains(e.read("/proc/filesystems")+"\n", "\tfuse\n")
	isFuse := err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(10, 229)
	switch {
	case err == unix.ENOENT && !there:
		e.wrong(e.sudo("modprobe fuse"), "there is no %s: the kernel has not loaded FUSE; in a container, start it with --device %[1]s", node)
	case err == unix.ENOENT:
		e.wrong(e.sudo(make), "there is no %s, though the kernel has FUSE; in a container, start it with --device %[1]s", node)
	case err != nil:
		e.wrong("", "%s: %v", node, err)
	case !isFuse:
		e.wrong(e.sudo("rm "+node, make), "%s is not the device of FUSE", node)
	case !there:
		e.wrong(e.sudo("modprobe fuse"), "%s is there, but the kernel has not loaded FUSE", node)
	case st.Mode&0o666 != 0o666 && !e.User.Root && !e.mayUse(st.Uid, st.Gid, st.Mode, 6):
		e.wrong(e.sudo("chmod 666 "+node), "%s has mode %04o: %s may not mount", node, st.Mode&0o7777, e.User.Name)
	default:
		e.ok("%s is there, and %s may open it", node, e.User.Name)
	}
}

// mayUse reports whether the user has these permissions (4 read, 2 write) by a file's mode.
func (e *exam) mayUse(uid, gid, mode uint32, want uint32) bool {
	switch {
	case e.User.UID == 0:
		return true
	case e.User.UID == int(uid):
		return mode>>6&want == want
	case e.inGroup(int(gid)) == member:
		return mode>>3&want == want
	}
	return mode&want == want
}

// fusermount looks at the program that mounts for users other than root.
func (e *exam) fusermount() {
	const name = "fusermount3"
	program := e.program(name)
	if program == "" {
		mend := e.install("fuse3")
		if e.User.UID == 0 {
			e.warn(mend, "%s is not installed: only root can mount and unmount", name)
			return
		}
		e.wrong(mend, "%s is not installed, and only root can mount without it", name)
		return
	}
	info, err := os.Stat(e.path(program))
	if err != nil {
		e.unknown("", "%s: %v", program, err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	setuid := info.Mode()&fs.ModeSetuid != 0 && st.Uid == 0
	switch mend := e.sudo("chown root "+program, "chmod u+s,a+rx "+program); {
	case !setuid && e.User.UID == 0:
		e.warn(mend, "%s is not setuid root: only root can mount", program)
	case !setuid:
		e.wrong(mend, "%s is not setuid root, so that only root can mount", program)
	case e.User.UID != 0 && !e.allowsOthers():
		e.ok("%s is there and setuid root; mount --allow-other would need the line user_allow_other in /etc/fuse.conf", program)
	default:
		e.ok("%s is there and setuid root", program)
	}
}

// allowsOthers reports whether users may mount with allow_other.
func (e *exam) allowsOthers() bool {
	for line := range strings.Lines(e.read("/etc/fuse.conf")) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}

// requestTimeout looks whether the kernel is told to end a mount where one request takes
// long (Linux 6.15, Documentation/admin-guide/sysctl/fs.rst). Waiting is what files do here.
func (e *exam) requestTimeout() {
	bad := false
	for _, name := range []string{"default_request_timeout", "max_request_timeout"} {
		if seconds := e.read("/proc/sys/fs/fuse/" + name); seconds != "" && seconds != "0" {
			bad = true
			e.wrong(e.sudo("sysctl --write fs.fuse."+name+"=0"),
				"the kernel ends a mount where an open or a command waits longer than %s s; mounts that are there keep that limit", seconds)
		}
	}
	if !bad {
		e.ok("the kernel lets opens and commands wait as long as they need")
	}
}

// group looks whether the user may use what cardfs.service mounts.
func (e *exam) group() {
	gid := e.groupID(ourGroup)
	needed := e.unit(cardfsUnit).found
	switch {
	case gid < 0 && needed:
		e.wrong(e.sudo("groupadd --system "+ourGroup), "there is no group %s, and cardfs.service does not start without it", ourGroup)
		return
	case gid < 0:
		e.ok("there is no group %s; only cardfs.service needs it, which is not installed", ourGroup)
		return
	case e.User.UID == 0:
		e.ok("group %s is there; root needs no group", ourGroup)
		return
	}
	join := e.sudo("usermod --append --groups " + ourGroup + " " + quote(e.User.Name))
	switch how := e.inGroup(gid); {
	case how == member:
		e.ok("%s is in group %s", e.User.Name, ourGroup)
	case how == stale:
		e.wrong("newgrp "+ourGroup, "%s is in group %s, but not since this login: log out and in again, or open a shell that has it", e.User.Name, ourGroup)
	case needed:
		e.wrong(join, "%s is not in group %s, and may not use what cardfs.service mounts; it takes effect at the next login", e.User.Name, ourGroup)
	default:
		e.ok("%s is not in group %s; only what cardfs.service mounts needs it, which is not installed", e.User.Name, ourGroup)
	}
}

// confFile is what mount --config is given by who has one for the whole machine.
const confFile = "/etc/cardfs.conf"

// conf looks whether the configuration file is taken.
func (e *exam) conf() {
	f, err := os.Open(e.path(confFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		e.unknown("", "%v", err)
		return
	}
	f.Close()
	bad := strings.TrimSpace(e.CheckConf(e.path(confFile)))
	for fault := range strings.Lines(bad) {
		edit := "${EDITOR:-vi} "
		if rest, ok := strings.CutPrefix(fault, e.path(confFile)+":"); ok {
			if line, _, ok := strings.Cut(rest, ":"); ok && strings.Trim(line, "0123456789") == "" {
				edit += "+" + line + " "
			}
		}
		e.wrong(e.sudo(edit+confFile), "%s", strings.TrimSpace(fault))
	}
	if bad == "" {
		e.ok("%s has no fault", confFile)
	}
}

// service looks at cardfs.service.
func (e *exam) service() {
	u := e.unit(cardfsUnit)
	if !u.found {
		e.ok("cardfs.service is not installed: you mount yourself, with cardfs mount")
		return
	}
	const log = "journalctl --unit=cardfs tells more"
	// Each of them gives the service a mount namespace (systemd.exec(5)).
	for _, key := range namespaceKeys {
		if v := u.get(key); v != "" && v != "no" && v != "false" && v != "0" {
			e.wrong(e.sudo("systemctl revert "+cardfsUnit, "systemctl restart "+cardfsUnit),
				"cardfs.service has %s=%s, so that nobody else sees its mount; a drop-in has it: %s", key, v, strings.Join(u.dropIns, ", "))
			return
		}
	}
	if !e.systemd {
		e.unknown("", "cardfs.service is installed, but systemd does not run here")
		return
	}
	if !u.shown {
		e.unknown(e.sudo("systemctl status "+cardfsUnit), "systemd does not tell %s whether cardfs.service runs; without D-Bus it tells root alone", e.User.Name)
		return
	}
	// After some failures in a row systemd starts nothing until it is told to forget them.
	start := e.sudo("systemctl reset-failed "+cardfsUnit, "systemctl restart "+cardfsUnit)
	switch active, enabled := u.get("ActiveState"), u.get("UnitFileState"); {
	case u.get("LoadState") == "masked":
		e.wrong(e.sudo("systemctl unmask "+cardfsUnit, "systemctl enable --now "+cardfsUnit), "cardfs.service is masked")
	case active == "failed":
		e.wrong(start, "cardfs.service has failed (%s); %s", u.get("Result"), log)
	case active == "activating":
		e.wrong(start, "cardfs.service does not become ready (%s); %s", u.get("Result"), log)
	case active != "active" && enabled == "enabled":
		e.wrong(e.sudo("systemctl start "+cardfsUnit), "cardfs.service does not run; %s", log)
	case active != "active":
		e.warn(e.sudo("systemctl enable --now "+cardfsUnit), "cardfs.service is installed, but it is not enabled")
	case u.get("NeedDaemonReload") == "yes":
		e.warn(e.sudo("systemctl daemon-reload", "systemctl restart "+cardfsUnit), "the files of cardfs.service have changed since it started")
	default:
		e.ok("cardfs.service runs")
	}
}

// ctapi looks whether programs find the CT-API library.
func (e *exam) ctapi() {
	const name = "libctapi-cardfs.so.1"
	var there []string
	for _, dir := range []string{"/usr/local/lib", "/usr/lib", "/usr/local/lib64", "/usr/lib64", "/usr/local/lib/*-linux-*", "/usr/lib/*-linux-*"} {
		there = append(there, e.glob(filepath.Join(dir, name))...)
	}
	known, err := e.run("ldconfig", "-p")
	switch {
	case len(there) == 0:
		e.ok("the CT-API library is not installed")
	case errors.Is(err, errNoProgram):
		e.unknown("", "%v", err)
	case !strings.Contains(known, name+" "):
		e.wrong(e.sudo("ldconfig"), "programs do not find %s: it is not in the cache of the dynamic linker", there[0])
	default:
		e.ok("programs find the CT-API library %s", name)
	}
}

// namespaceKeys are the settings that give a service a mount namespace of its own.
var namespaceKeys = []string{
	"PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem", "ProtectHome",
	"ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
}

// unit is a systemd unit: what systemd says of it, or what its files say where it does not run.
type unit struct {
	found    bool
	shown    bool // by systemd, so that its state is known
	settings map[string]string
	dropIns  []string
}

func (u unit) get(key string) string { return u.settings[key] }

// unit finds a unit.
func (e *exam) unit(name string) unit {
	if e.systemd {
		if u, ok := e.shownUnit(name); ok {
			return u
		}
	}
	return e.unitFiles(name)
}

func (e *exam) shownUnit(name string) (unit, bool) {
	out, err := e.run("systemctl", "show", name)
	if err != nil {
		return unit{}, false
	}
	u := unit{shown: true, settings: map[string]string{}}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		u.settings[key] = value
	}
	u.dropIns = strings.Fields(u.get("DropInPaths"))
	u.found = u.get("LoadState") != "not-found" && u.get("LoadState") != ""
	return u, true
}

// unitDirs are where units are, the first wins (systemd.unit(5)).
var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// unitFiles reads a unit's file and its drop-ins, whose names are sorted over all directories.
func (e *exam) unitFiles(name string) unit {
	u := unit{settings: map[string]string{}}
	for _, dir := range unitDirs {
		if file := filepath.Join(dir, name); e.exists(file) {
			u.found = true
			u.parse(e.read(file))
			break
		}
	}
	byName := map[string]string{}
	for _, dir := range unitDirs {
		for _, file := range e.glob(filepath.Join(dir, name+".d", "*.conf")) {
			if _, has := byName[filepath.Base(file)]; !has {
				byName[filepath.Base(file)] = file
			}
		}
	}
	for _, base := range sortedKeys(byName) {
		u.dropIns = append(u.dropIns, byName[base])
		u.parse(e.read(byName[base]))
	}
	return u
}

// parse adds the settings of one file. A second value of a list is added; an empty one
// begins it anew.
func (u *unit) parse(text string) {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") || strings.HasPrefix(key, ";") {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if list := key == "ReadWritePaths" || key == "SupplementaryGroups"; list && value != "" {
			value = strings.TrimSpace(u.settings[key] + " " + value)
		}
		u.settings[key] = value
	}
}
