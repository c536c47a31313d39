package doctor

import (
	"os"
	"strings"
	"testing"
)

func TestFuse(t *testing.T) {
	w := newWorld(t)
	w.finds("fuse", `wrong there is no /dev/fuse, though the kernel has FUSE; in a container, start it with --device /dev/fuse
		> sudo mknod --mode=666 /dev/fuse c 10 229`)
	w.file("/proc/filesystems", "nodev\tfusectl\n\text4\n")
	w.finds("fuse", `wrong there is no /dev/fuse: the kernel has not loaded FUSE; in a container, start it with --device /dev/fuse
		> sudo modprobe fuse`)
	w.User.Root, w.User.UID = true, 0
	w.file("/dev/fuse", "")
	w.finds("fuse", `wrong /dev/fuse is not the device of FUSE
		> rm /dev/fuse && mknod --mode=666 /dev/fuse c 10 229`)
}

func TestFusermount(t *testing.T) {
	w := newWorld(t)
	w.packages()
	w.finds("fusermount3", `wrong fusermount3 is not installed, and only root can mount without it
		> sudo apt-get install fuse3`)
	w.packages("fuse3")
	w.finds("fusermount3", `wrong fusermount3 is not installed, and only root can mount without it
		> sudo apt-get install --reinstall fuse3`)
	w.programs("fusermount3")
	w.finds("fusermount3", `wrong /usr/bin/fusermount3 is not setuid root, so that only root can mount
		> sudo chown root /usr/bin/fusermount3 && sudo chmod u+s,a+rx /usr/bin/fusermount3`)
	w.User = User{Name: "root", Root: true}
	w.finds("fusermount3", `warn /usr/bin/fusermount3 is not setuid root: only root can mount
		> chown root /usr/bin/fusermount3 && chmod u+s,a+rx /usr/bin/fusermount3`)

	w = newWorld(t)
	w.programs("dnf")
	w.finds("fusermount3", `wrong fusermount3 is not installed, and only root can mount without it
		> sudo dnf install fuse3`)

	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root makes a program setuid root")
	}
	w = newWorld(t)
	w.programs("fusermount3")
	w.must(os.Chmod(w.path("/usr/bin/fusermount3"), 0o755|os.ModeSetuid))
	w.finds("fusermount3", `ok /usr/bin/fusermount3 is there and setuid root; mount --allow-other would need the line user_allow_other in /etc/fuse.conf`)
	w.file("/etc/fuse.conf", "#user_allow_other\nmount_max = 9\n")
	w.finds("fusermount3", `ok /usr/bin/fusermount3 is there and setuid root; mount --allow-other would need the line user_allow_other in /etc/fuse.conf`)
	w.file("/etc/fuse.conf", "# others\n user_allow_other\n")
	w.finds("fusermount3", `ok /usr/bin/fusermount3 is there and setuid root`)
}

func TestRequestTimeout(t *testing.T) {
	const ok = `ok the kernel lets opens and commands wait as long as they need`
	w := newWorld(t)
	w.finds("request-timeout", ok) // an older kernel
	w.file("/proc/sys/fs/fuse/default_request_timeout", "0\n")
	w.file("/proc/sys/fs/fuse/max_request_timeout", "0\n")
	w.finds("request-timeout", ok)
	w.file("/proc/sys/fs/fuse/max_request_timeout", "90\n")
	w.finds("request-timeout", `wrong the kernel ends a mount where an open or a command waits longer than 90 s; mounts that are there keep that limit
		> sudo sysctl --write fs.fuse.max_request_timeout=0`)
}

func TestGroup(t *testing.T) {
	w := newWorld(t)
	w.finds("group", `ok there is no group cardfs; only cardfs.service needs it, which is not installed`)
	w.group("cardfs", 900)
	w.finds("group", `ok ann is not in group cardfs; only what cardfs.service mounts needs it, which is not installed`)
	w.file("/usr/lib/systemd/system/cardfs.service", "[Service]\n")
	w.finds("group", `wrong ann is not in group cardfs, and may not use what cardfs.service mounts; it takes effect at the next login
		> sudo usermod --append --groups cardfs ann`)
	w.group("cardfs", 900, "ann")
	w.finds("group", `wrong ann is in group cardfs, but not since this login: log out and in again, or open a shell that has it
		> newgrp cardfs`)
	w.User.Groups = []int{stranger, 900}
	w.finds("group", `ok ann is in group cardfs`)
	w.User.Groups = nil // under sudo nobody knows the groups of the login
	w.finds("group", `ok ann is in group cardfs`)
	w.User = User{Name: "root", Root: true}
	w.finds("group", `ok group cardfs is there; root needs no group`)
	delete(w.says, "getent group cardfs")
	w.finds("group", `wrong there is no group cardfs, and cardfs.service does not start without it
		> groupadd --system cardfs`)
}

func TestService(t *testing.T) {
	w := newWorld(t)
	w.finds("service", `ok cardfs.service is not installed: you mount yourself, with cardfs mount`)
	w.file("/lib/systemd/system/cardfs.service", "[Service]\nType=notify\n")
	w.finds("service", `unknown cardfs.service is installed, but systemd does not run here`)
	w.systemd("pcscd.service", "")
	w.finds("service", `unknown systemd does not tell ann whether cardfs.service runs; without D-Bus it tells root alone
		> sudo systemctl status cardfs.service`)
	for properties, want := range map[string]string{
		"LoadState=not-found ActiveState=inactive":                     `ok cardfs.service is not installed: you mount yourself, with cardfs mount`,
		"LoadState=loaded ActiveState=active UnitFileState=enabled":    `ok cardfs.service runs`,
		"LoadState=loaded ActiveState=active UnitFileState=disabled":   `ok cardfs.service runs`,
		"LoadState=loaded ActiveState=inactive UnitFileState=disabled": "warn cardfs.service is installed, but it is not enabled\n> sudo systemctl enable --now cardfs.service",
		"LoadState=loaded ActiveState=inactive UnitFileState=enabled":  "wrong cardfs.service does not run; journalctl --unit=cardfs tells more\n> sudo systemctl start cardfs.service",
		"LoadState=masked ActiveState=inactive UnitFileState=masked":   "wrong cardfs.service is masked\n> sudo systemctl unmask cardfs.service && sudo systemctl enable --now cardfs.service",
		"LoadState=loaded ActiveState=failed UnitFileState=enabled Result=timeout": "wrong cardfs.service has failed (timeout); journalctl --unit=cardfs tells more\n" +
			"> sudo systemctl reset-failed cardfs.service && sudo systemctl restart cardfs.service",
		"LoadState=loaded ActiveState=activating Result=exit-code": "wrong cardfs.service does not become ready (exit-code); journalctl --unit=cardfs tells more\n" +
			"> sudo systemctl reset-failed cardfs.service && sudo systemctl restart cardfs.service",
		"LoadState=loaded ActiveState=active NeedDaemonReload=yes": "warn the files of cardfs.service have changed since it started\n" +
			"> sudo systemctl daemon-reload && sudo systemctl restart cardfs.service",
		"LoadState=loaded ActiveState=active PrivateTmp=no ProtectSystem=full DropInPaths=/etc/x.conf": "wrong cardfs.service has ProtectSystem=full, so that nobody else sees its mount; a drop-in has it: /etc/x.conf\n" +
			"> sudo systemctl revert cardfs.service && sudo systemctl restart cardfs.service",
	} {
		w.systemd("cardfs.service", properties)
		w.finds("service", want)
	}
}

// A drop-in of /etc takes the place of one with the same name elsewhere; all are sorted by name.
// "If the empty string is assigned the list is reset" (systemd.exec(5)).
func TestUnitFiles(t *testing.T) {
	w := newWorld(t)
	w.file("/etc/systemd/system/x.service", "[Service]\nUser=etc\n# User=comment\n; User=comment\nReadWritePaths=/a\n")
	w.file("/usr/lib/systemd/system/x.service", "[Service]\nUser=lib\n")
	w.file("/etc/systemd/system/x.service.d/20.conf", "[Service]\nReadWritePaths=-/c\n ProtectSystem = strict \n")
	w.file("/usr/lib/systemd/system/x.service.d/20.conf", "[Service]\nUser=hidden\n")
	w.file("/usr/lib/systemd/system/x.service.d/10.conf", "[Service]\nReadWritePaths=/b\nSupplementaryGroups=one\nProtectSystem=full\n")
	w.file("/run/systemd/system/x.service.d/30.conf", "[Service]\nSupplementaryGroups=\nSupplementaryGroups=two\nSupplementaryGroups=three\n")
	w.file("/run/systemd/system/x.service.d/40.txt", "[Service]\nUser=no\n")
	e := &exam{Host: &w.Host, ctx: t.Context()}
	u := e.unit("x.service")
	for key, want := range map[string]string{
		"User": "etc", "ReadWritePaths": "/a /b -/c", "SupplementaryGroups": "two three", "ProtectSystem": "strict",
	} {
		if got := u.get(key); got != want {
			t.Errorf("%s=%q, want %q", key, got, want)
		}
	}
	if got := strings.Join(u.dropIns, " "); got != "/usr/lib/systemd/system/x.service.d/10.conf /etc/systemd/system/x.service.d/20.conf /run/systemd/system/x.service.d/30.conf" {
		t.Error(got)
	}
	if !u.found || e.unit("y.service").found {
		t.Error("found: x, and not y")
	}
}

func TestConf(t *testing.T) {
	w := newWorld(t)
	var asked string
	w.CheckConf = func(file string) string {
		asked = file
		return file + ":12: bad\ncardfs: --mode: also bad\n"
	}
	w.finds("conf", "")
	w.file("/etc/cardfs.conf", "")
	w.finds("conf", "wrong "+w.path("/etc/cardfs.conf")+":12: bad\n> sudo ${EDITOR:-vi} +12 /etc/cardfs.conf\nwrong cardfs: --mode: also bad\n> sudo ${EDITOR:-vi} /etc/cardfs.conf")
	if asked != w.path("/etc/cardfs.conf") {
		t.Error(asked)
	}
	w.CheckConf = func(string) string { return "\n" }
	w.finds("conf", "ok /etc/cardfs.conf has no fault")
}

func TestCTAPI(t *testing.T) {
	w := newWorld(t)
	w.programs("ldconfig -p: \tlibctapi-cardfs.so.10 (libc6) => /x\n\tlibctapi.so.1 (libc6) => /y")
	w.finds("ctapi", "ok the CT-API library is not installed")
	w.file("/usr/local/lib/x86_64-linux-gnu/libctapi-cardfs.so.1", "")
	w.finds("ctapi", `wrong programs do not find /usr/local/lib/x86_64-linux-gnu/libctapi-cardfs.so.1: it is not in the cache of the dynamic linker
		> sudo ldconfig`)
	w.programs("ldconfig -p: \tlibctapi-cardfs.so.1 (libc6) => /x")
	w.finds("ctapi", "ok programs find the CT-API library libctapi-cardfs.so.1")
	delete(w.says, "ldconfig -p") // it fails where there is no cache
	w.finds("ctapi", "wrong programs do not find /usr/local/lib/x86_64-linux-gnu/libctapi-cardfs.so.1: it is not in the cache of the dynamic linker\n> sudo ldconfig")
}
