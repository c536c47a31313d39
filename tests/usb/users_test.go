package usb

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

const rulesFile = "/run/udev/rules.d/70-cardfs.rules"

// The rules that `cardfs udev-rules` prints, installed in udev: a user in their
// group, not root, mounts and uses a reader; a user outside is refused with the
// rule that would help.
func TestGuestUsers(t *testing.T) {
	g := machine.NeedGuest(t)
	rules := run(t, nil, built("cardfs"), "udev-rules")
	group := groupID(t, rules)
	addUsers(t)
	alice := &syscall.Credential{Uid: 4001, Gid: 4001, Groups: []uint32{group}}
	bob := &syscall.Credential{Uid: 4002, Gid: 4002}

	// Without rules only root may.
	plug(t, g, "r1")
	a := mount(t, alice)
	rule := a.refusedByPermission(alice)
	b := mount(t, bob)
	b.refusedByPermission(bob)

	// The rule that status names, installed where status says, does help. Nothing has to be
	// restarted.
	install(t, rule+"\n")
	a.answers(alice)
	b.refusedByPermission(bob)
	a.Stop()
	b.Stop()
	if err := os.Remove(rulesFile); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "udevadm", "control", "--reload")
	unplug(t, g, "r1")

	// All the rules, and a reader that arrives later. QEMU's is matched by its class.
	install(t, rules)
	defer os.Remove(rulesFile)
	a, b = mount(t, alice), mount(t, bob)
	plug(t, g, "r2")
	a.answers(alice)
	b.refusedByPermission(bob)
}

// as runs a command as a user: nobody else, not even root, may enter the mount.
func (d *mounted) as(who *syscall.Credential, script string) (string, error) {
	d.t.Helper()
	cmd := shell(d.t, script, d.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (d *mounted) refusedByPermission(who *syscall.Credential) (rule string) {
	d.t.Helper()
	var status string
	daemon.Eventually(d.t, "the slot has failed", func() bool {
		var err error
		status, err = d.as(who, `cat "$1/0/status"`)
		return err == nil && strings.HasPrefix(status, "state failed")
	})
	m := regexp.MustCompile(`SUBSYSTEM=="usb", .*?TAG\+="uaccess"`).FindString(status)
	if m == "" || !strings.Contains(status, "no permission") {
		d.t.Fatalf("uid %d: status names no rule that would help:\n%s", who.Uid, status)
	}
	d.t.Logf("uid %d, groups %v: %s", who.Uid, who.Groups, status)
	return m
}

func (d *mounted) answers(who *syscall.Credential) {
	d.t.Helper()
	var said string
	daemon.Eventually(d.t, "the reader works", func() bool {
		var err error
		said, err = d.as(who, `cat "$1/0/atr" && { echo `+selectPKI+` >&3; cat <&3; } 3<>"$1/0/apdu"`)
		return err == nil
	})
	if said != cardATR+"\n61 0D" {
		d.t.Errorf("uid %d: %s", who.Uid, said)
	}
	owner, err := d.as(who, `id -un; stat -c %U "$1/0/atr"; ls -l /dev/bus/usb/*/* | grep -v root.*root; fusermount3 -V`)
	d.t.Logf("uid %d, groups %v: the card answers; %s %v", who.Uid, who.Groups, owner, err)
}

func install(t *testing.T, rules string) {
	t.Helper()
	if err := os.WriteFile(rulesFile, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "udevadm", "control", "--reload")
	run(t, nil, "udevadm", "trigger", "--subsystem-match=usb", "--settle")
}

// groupID returns the number of the group that the rules name.
func groupID(t *testing.T, rules string) uint32 {
	t.Helper()
	m := regexp.MustCompile(`GROUP="(\w+)"`).FindStringSubmatch(rules)
	if m == nil {
		t.Fatalf("the rules name no group:\n%s", rules)
	}
	f := strings.Split(strings.TrimSpace(run(t, nil, "getent", "group", m[1])), ":")
	if len(f) < 3 {
		t.Fatalf("no group %s: the rules would do nothing", m[1])
	}
	n, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// addUsers gives the machine, whose /etc is the host's and read-only, alice and
// bob: fusermount3 wants a name for who mounts.
func addUsers(t *testing.T) {
	t.Helper()
	old, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "passwd")
	text := string(old) + "alice:x:4001:4001::/tmp:/bin/sh\nbob:x:4002:4002::/tmp:/bin/sh\n"
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "mount", "--bind", name, "/etc/passwd")
	t.Cleanup(func() { _ = exec.Command("umount", "/etc/passwd").Run() })
	// The machine's udevd has received events of USB devices only.
	run(t, nil, "udevadm", "trigger", "--sysname-match=fuse", "--settle")
}
