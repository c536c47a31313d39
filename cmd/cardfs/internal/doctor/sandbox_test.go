package doctor

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

func TestSandbox(t *testing.T) {
	drop := func(settings string) string {
		return "\n> sudo mkdir -p /etc/systemd/system/pcscd.service.d && printf '%s\\n' [Service] " + settings +
			" | sudo tee --append /etc/systemd/system/pcscd.service.d/cardfs-local.conf >/dev/null"
	}
	const bad = "wrong pcscd.service may not use the readers: "
	for _, c := range []struct{ unit, want string }{
		{"", "ok pcscd runs as root without a sandbox, and may use /mnt/cards"},
		{"ProtectSystem=full\n", "ok pcscd runs as root in a sandbox (ProtectSystem=full), and may use /mnt/cards"},
		{"ProtectSystem=strict\n", bad + "ProtectSystem=strict makes /mnt/cards read-only" + drop("ReadWritePaths=-/mnt/cards")},
		{"ProtectSystem=strict\nReadWritePaths=/mnt/cards2 /run\n", bad + "ProtectSystem=strict makes /mnt/cards read-only" + drop("ReadWritePaths=-/mnt/cards")},
		{"ProtectSystem=strict\nReadWritePaths=/run -/mnt/cards\n", "ok pcscd runs as root in a sandbox (ProtectSystem=strict), and may use /mnt/cards"},
		{"ProtectSystem=strict\nReadWritePaths=/mnt\n", "ok pcscd runs as root in a sandbox (ProtectSystem=strict), and may use /mnt/cards"},
		{"User=pcscd\n", bad + "it runs as pcscd, who is not in group cardfs" + drop("SupplementaryGroups=cardfs")},
		{"User=pcscd\nSupplementaryGroups=a cardfs\n", "ok pcscd runs as pcscd without a sandbox, and may use /mnt/cards"},
		{"User=pcscd\nGroup=cardfs\n", "ok pcscd runs as pcscd without a sandbox, and may use /mnt/cards"},
		{"User=member\n", "ok pcscd runs as member without a sandbox, and may use /mnt/cards"},
		{"User=pcscd\nProtectSystem=strict\n", bad + "ProtectSystem=strict makes /mnt/cards read-only; it runs as pcscd, who is not in group cardfs" +
			drop("ReadWritePaths=-/mnt/cards SupplementaryGroups=cardfs")},
	} {
		w := newWorld(t)
		w.pcscd()
		w.handler()
		w.group("cardfs", 900, "member")
		w.file("/lib/systemd/system/pcscd.service", "[Service]\n"+c.unit)
		w.finds("sandbox", c.want)
	}
}

// "It must not be below /home, /root, /run/user or /tmp, which the sandbox hides."
func TestSandboxHides(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.finds("sandbox", "ok pcscd does not have the readers of cardfs (no libifdcardfs.so), so that it need not get in")
	w.file(library, "IFDHCreateChannel")
	w.finds("sandbox", "ok pcscd has no systemd unit, and so no sandbox")
	w.file("/lib/systemd/system/pcscd.service", "[Service]\nProtectHome=yes\nPrivateTmp=true\n")
	w.file("/etc/reader.conf.d/f", "DEVICENAME cardfs:/home/ann/it's/0\nLIBPATH "+library+"\nFRIENDLYNAME \"x\"\nDEVICENAME cardfs:/tmp/c/by-id/z\nLIBPATH "+library+"\nFRIENDLYNAME \"y\"\n"+
		"DEVICENAME cardfs:/tmpfs/0\nLIBPATH "+library+"\nFRIENDLYNAME \"z\"\n")
	w.finds("sandbox", "wrong pcscd.service may not use the readers: ProtectHome=yes hides /home/ann/it's; PrivateTmp= hides /tmp/c\n"+
		"> sudo mkdir -p /etc/systemd/system/pcscd.service.d && printf '%s\\n' [Service] PrivateTmp=no ProtectHome=no | sudo tee --append /etc/systemd/system/pcscd.service.d/cardfs-local.conf >/dev/null")
	w.file("/lib/systemd/system/pcscd.service", "[Service]\nProtectSystem=strict\n")
	w.finds("sandbox", "wrong pcscd.service may not use the readers: ProtectSystem=strict makes /home/ann/it's read-only; ProtectSystem=strict makes /tmp/c read-only; ProtectSystem=strict makes /tmpfs read-only\n"+
		"> sudo mkdir -p /etc/systemd/system/pcscd.service.d && printf '%s\\n' [Service] 'ReadWritePaths=-/home/ann/it'\\''s -/tmp/c -/tmpfs' | sudo tee --append /etc/systemd/system/pcscd.service.d/cardfs-local.conf >/dev/null")
}

func TestSandboxOfTheRunning(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.handler()
	w.group("cardfs", 900)
	w.systemd("pcscd.service", "LoadState=loaded User=pcscd SupplementaryGroups=cardfs NeedDaemonReload=yes")
	w.finds("sandbox", "wrong the files of pcscd.service have changed, and systemd has not read them\n> sudo systemctl daemon-reload && sudo systemctl try-restart pcscd.service")
	w.systemd("pcscd.service", "LoadState=loaded User=pcscd SupplementaryGroups=cardfs")
	w.finds("sandbox", "ok pcscd runs as pcscd without a sandbox, and may use /mnt/cards")

	e := &exam{Host: &w.Host, ctx: t.Context()}
	e.look()
	e.pcscd.running = &process{pid: 50, uid: 110, name: "pcscd"}
	e.mounts = []mount{{dir: "/mnt/cards", uid: 0, allowOther: true, answer: answer{gid: 900}}}
	for groups, want := range map[string]string{
		"Gid:\t7\t7\t7\t7\nGroups:\t5 900 \n":    "[]",
		"Gid:\t900\t900\t900\t900\nGroups:\t5\n": "[]",
		"Gid:\t7\t7\t7\t7\nGroups:\t5 90\n":      "[{ wrong pcscd (pid 50) runs without group cardfs, which may use /mnt/cards: its groups are those of its start sudo systemctl restart pcscd.service}]",
	} {
		w.file("/proc/50/status", "Name:\tpcscd\n"+groups)
		e.Findings = []Finding{}
		e.mayEnter("pcscd", false)
		if got := fmt.Sprint(e.Findings); got != want {
			t.Errorf("%q: %s", groups, got)
		}
	}
}

// A FUSE mount without allow_other is closed to root, too.
func TestSandboxPrivateMount(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.file(library, "IFDHCreateChannel")
	w.file("/lib/systemd/system/pcscd.service", "[Service]\n")
	w.account("ann", stranger)
	w.mount("/home/ann/c", "user_id=54321", "state powered\n")
	w.file("/etc/reader.conf.d/f", "DEVICENAME cardfs:/home/ann/c/0\nLIBPATH "+library+"\nFRIENDLYNAME \"x\"\n")
	const closed = "wrong /home/ann/c belongs to ann, who lets nobody else in, not even pcscd"
	w.finds("sandbox", closed+"\n> echo user_allow_other | sudo tee --append /etc/fuse.conf >/dev/null && fusermount3 -u -z /home/ann/c && cardfs mount --background --allow-other /home/ann/c")
	w.file("/etc/fuse.conf", "user_allow_other\n")
	w.finds("sandbox", closed+"\n> fusermount3 -u -z /home/ann/c && cardfs mount --background --allow-other /home/ann/c")
	w.User.UID = 54322
	w.finds("sandbox", closed)
}

// The group is that of the existing mount.
func TestSandboxGroup(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.handler()
	w.group("scard", 77)
	w.file("/lib/systemd/system/pcscd.service", "[Service]\nUser=pcscd\nSupplementaryGroups=cardfs\n")
	e := &exam{Host: &w.Host, ctx: t.Context()}
	e.look()
	e.mounts = []mount{{dir: "/mnt/cards", allowOther: true, answer: answer{gid: 77}}, {dir: "/srv/c", allowOther: true, answer: answer{gid: 78}}}
	e.sandbox()
	if f := e.Findings; len(f) != 1 || f[0].State != Wrong || !strings.HasSuffix(f[0].Text, ": it runs as pcscd, who is not in group scard") ||
		!strings.Contains(f[0].Mend, " [Service] SupplementaryGroups=scard |") {
		t.Errorf("%+v", f)
	}
}

// A mount that pcscd does not use is not its business, nor is its own; the next may be.
func TestSandboxOtherMounts(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.handler()
	w.account("root", 0)
	w.account("ann", stranger)
	e := &exam{Host: &w.Host, ctx: t.Context()}
	e.look()
	e.mounts = []mount{{dir: "/srv/c", uid: stranger}, {dir: "/mnt/cards", uid: stranger}}
	e.mayEnter("root", false)
	if f := e.Findings; len(f) != 1 || f[0].Text != "/mnt/cards belongs to ann, who lets nobody else in, not even pcscd" {
		t.Errorf("%+v", f)
	}
	e.Findings = nil
	e.mounts = []mount{{dir: "/mnt/cards", uid: 0}, {dir: "/mnt/cards", uid: stranger, answer: answer{err: syscall.ENOTCONN}}}
	e.mayEnter("root", false)
	if f := e.Findings; len(f) != 0 {
		t.Errorf("%+v", f)
	}
}
