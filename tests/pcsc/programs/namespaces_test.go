package programs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// The group whose users may use the readers, one of them, and one who may not.
const group = 4003

var (
	alice = &syscall.Credential{Uid: 4001, Gid: 4001, Groups: []uint32{group}}
	bob   = &syscall.Credential{Uid: 4002, Gid: 4002}
)

// container is a mount namespace in which the slots' mount is away, and a slot's directory
// is /mnt/cards/0.
const container = `set -e
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/cards/0
mount --bind $D/1 /mnt/cards/0
`

// opensc-tool in namespaces, as users who may use the readers and as one who may not.
func TestNamespaces(t *testing.T) {
	d := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off", "--allow-other", "--group", "4003", "--mode", "0660",
		"--sim", "t0", "--sim", "t1", "--sim", "t1 card=none")
	const use = "opensc-tool -l; opensc-tool -a; opensc-tool -s 80EE000002010200"
	const list, card = "Yes             Simulated T=1 reader 01 00", tokenATR
	const refused = "Access denied"
	for _, tt := range []struct {
		name   string
		who    *syscall.Credential
		unset  bool // CARDFS_MOUNT
		by     []string
		script string
		want   []string
	}{
		{"a user of the group", alice, false, nil, use, []string{list, "3b:77:94", "01 02"}},
		{"a user namespace", alice, false, []string{"unshare", "--user", "--map-root-user", "--mount"}, "id -u; " + use,
			[]string{"0\n", list, "3b:77:94", "01 02"}},
		{"a user namespace with one slot", alice, true, []string{"unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"}, container + use,
			[]string{list, card, "01 02"}},
		{"a mount namespace with one slot", nil, true, []string{"unshare", "--mount", "--pid", "--fork"}, container + "umount -l $D\n! ls $D/1 2>&1\n" + use,
			[]string{list, card, "01 02"}},
		{"pcsc_scan with one slot", nil, true, []string{"unshare", "--mount"}, container + "umount -l $D\npcsc_scan -c -n",
			[]string{"Reader 0: Simulated T=1 reader 01 00", "Card inserted"}},
		// It has no words for it; the library does.
		{"another user, opensc-tool", bob, false, nil, "PCSCLITE_DEBUG=2 opensc-tool -l", []string{"No smart card readers found", "SCardEstablishContext(scope 0): " + refused}},
		{"another user, pcsc_scan", bob, false, nil, "pcsc_scan -r", []string{refused}},
		{"another user, libpcsc-perl", bob, false, nil, "PCSCLITE_DEBUG=2 scriptor /dev/null", []string{"Could not create Chipcard::PCSC object", refused}},
		{"another user, pyscard", bob, false, nil, "echo 'establish()' | /usr/bin/python3 $TESTDATA/say.py", []string{"SECURITY_VIOLATION"}},
		{"another user with one slot", nil, true, []string{"unshare", "--mount"},
			container + "umount -l $D\nexec setpriv --reuid=4002 --regid=4002 --clear-groups pcsc_scan -r", []string{refused}},
		{"nobody's mount", alice, true, nil, "CARDFS_MOUNT=/nonexistent pcsc_scan -r", []string{"Service not available"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			words := append(tt.by[:len(tt.by):len(tt.by)], "sh", "-c", tt.script)
			cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
			cmd.Dir = "/"
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/", "D=" + d.Dir,
				"LD_LIBRARY_PATH=" + filepath.Dir(library), "TESTDATA=" + filepath.Join(built, "testdata")}
			if !tt.unset {
				cmd.Env = append(cmd.Env, "CARDFS_MOUNT="+d.Dir)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: tt.who}
			out, _ := cmd.CombinedOutput()
			t.Logf("%s\n%s", tt.script, bytes.TrimSpace(out))
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("it does not say %q", want)
				}
			}
		})
	}
}

// A program that cardfs does not see, as it is in another pid namespace, waits for others'
// transactions like any other, and asleep.
func TestOtherPidNamespace(t *testing.T) {
	hidden := filepath.Join(t.TempDir(), "cardfs")
	script := "#!/bin/sh\nexec unshare --pid --fork --kill-child " + program + ` "$@"` + "\n"
	if err := os.WriteFile(hidden, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d := daemon.Start(t, hidden, daemon.MountPoint(t), "--usb=off", "--allow-other", "--sim", "t1")
	defer d.Kill()
	s := &side{t: t, daemon: d, env: []string{"PATH=/usr/bin:/bin", "TESTDATA=" + filepath.Join(built, "testdata"),
		"CARDFS_MOUNT=" + d.Dir, "LD_LIBRARY_PATH=" + filepath.Dir(library)}}
	const name = `"Simulated T=1 reader 00 00"`
	const connect, direct = "connect(" + name + ")", "connect(" + name + ", SCARD_SHARE_DIRECT)"
	trace := filepath.Join(t.TempDir(), "trace")
	holder, waiter := s.client(), s.clientBy("exec strace -f -qq -e trace=flock -o "+trace+" /usr/bin/python3 $TESTDATA/say.py")
	for _, c := range []*client{holder, waiter} {
		c.say("establish()", "SUCCESS")
		c.say(connect, "SUCCESS")
	}
	for _, call := range []string{"status()", "send()", "begin()", connect, direct, "reset()"} {
		holder.say("begin()", "SUCCESS")
		waiter.start(call)
		for range 20 {
			holder.say("send()", answer)
		}
		waiter.waits(call)
		holder.say("end()", "SUCCESS")
		if call == "send()" {
			waiter.result(call, answer)
		} else {
			waiter.result(call, "SUCCESS")
		}
		if call == "begin()" {
			waiter.say("end()", "SUCCESS")
		}
	}
	waiter.kill()
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(calls, []byte("flock")); n > 30 {
		t.Errorf("it tried the lock %d times", n)
	}
}
