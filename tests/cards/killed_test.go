package cards

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/gnupg"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// gpgKilled: what a program saw is in the state file, whatever becomes of the daemon: tries
// that were used up, keys, the signature counter. Passwords are neither there nor in the log.
func gpgKilled(t *testing.T, part string, w way) {
	file := filepath.Join(t.TempDir(), "state")
	d := newGPG(t, part, w, "-v", "--attach", "sim openpgp state="+file)
	gpg := func(action, script, want string) {
		t.Helper()
		d.do(row{client: "gpg", action: action, script: script, want: want})
	}
	kill := func() {
		t.Helper()
		d.run(gnupg.Forget) // scdaemon would go on with the mount that is dead
		d.restart()
	}
	wrong := gnupg.Password("user", "999999") + "gpg -o again -s message || true\n" + gnupg.Forget + gnupg.Status
	gpg("generate on the card", gnupg.Edit("admin "+gnupg.Curve25519+" "+gnupg.Alice), `KEY_CREATED B`)
	gpg("a wrong PIN", wrong, `retry counter : 2 0 3`)
	kill()
	gpg("tries and keys after kill -9", gnupg.Status, `ed25519 cv25519 ed25519.*retry counter : 2 0 3.*Signature counter : 4.*Signature key \.*: [0-9A-F]{4} `)
	gpg("another wrong PIN", wrong, `retry counter : 1 0 3`)
	kill()
	gpg("the last wrong PIN", wrong, `retry counter : 0 0 3`)
	kill()
	cat := exec.Command("cat", d.daemon.Path("0/trace")) // it can be killed
	var trace proc.Log
	follow, err := proc.Start(cat, &trace)
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Kill()
	gpg("blocked after kill -9", gnupg.Status, `retry counter : 0 0 3`)
	gpg("unblock with the admin PIN", gnupg.Password("new-user", "123456")+gnupg.Password("user", "123456")+gnupg.Edit("admin passwd 2 q")+gnupg.Status, `retry counter : 3 0 3`)
	gpg("sign with the key of before", gnupg.Sign+gnupg.Status, `Good signature.*Signature counter : 5`)
	state, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Await(t.Context(), "00 2A 9E 9A"); err != nil {
		t.Error(err)
	}
	log := d.daemon.Log.String() + d.daemon.Read("0/status") + trace.String()
	for _, secret := range []string{"123456", "999999", "313233343536", "31 32 33 34 35 36"} {
		if bytes.Contains(state, []byte(secret)) || strings.Contains(log, secret) {
			t.Errorf("%s is in the state file, the log, status or trace", secret)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	second := daemon.Command(program, daemon.MountPoint(t), "--usb=off", "--attach", "sim openpgp state="+file)
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another card has it open") {
		t.Errorf("a second daemon: %v\n%s", err, out)
	}
}

// What the card has answered holds after kill -9; the state file belongs to one daemon; and no
// PIN is in the file or in the log.
func TestPIVKilled(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	d := daemon.New(t, program, daemon.MountPoint(t), "--usb=off", "-v", "--sim", "piv state="+state)
	send := func(capdu, want string) {
		t.Helper()
		out, err := exec.Command(program, "send", "--mount", d.Dir, "0", capdu).CombinedOutput()
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("%.8s…: %s, %v; want %s", capdu, got, err, want)
		}
	}
	for _, x := range []struct{ capdu, want string }{
		{"0024008010313233343536FFFF343731313437FFFF", "90 00"}, // the PIN is 471147 now
		{"0020008008393939393939FFFF", "63 C2"},
		{"0020008008393939393939FFFF", "63 C1"},
		{"0020008008393939393939FFFF", "63 C0"},
		{"0020008008343731313437FFFF", "69 83"},
		{"002C0080103132333435363738343731313437FFFF", "90 00"},
		{"0020008008343731313437FFFF", "90 00"},
	} {
		d.Start()
		d.Await("0/status", "state p")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		second := exec.CommandContext(ctx, program, "mount", "--usb=off", "--sim", "piv state="+state, t.TempDir())
		if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another card has it open") {
			t.Errorf("a second daemon: %v\n%s", err, out)
		}
		cancel()
		send(x.capdu, x.want)
		d.Kill()
	}
	kept, err := os.ReadFile(state)
	if err != nil || !strings.Contains(string(kept), "no place for keys that matter") {
		t.Errorf("%v\n%s", err, kept)
	}
	for where, text := range map[string]string{"state": string(kept), "log": string(d.Log.Tail(1 << 20))} {
		for _, pin := range []string{"471147", "343731313437", "34 37 31 31 34 37", "NDcxMTQ3"} {
			if strings.Contains(text, pin) {
				t.Errorf("%s: has the PIN, as %s", where, pin)
			}
		}
	}
}
