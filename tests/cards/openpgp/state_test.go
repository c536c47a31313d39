package openpgp

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// What a program saw is in the state file, whatever becomes of the daemon: tries that were
// used up, keys, the signature counter. Passwords are neither there nor in the log.
func TestKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	b := newGPG(t, "--usb=off", "-v", "--attach", "sim openpgp state="+file)
	restart := func() {
		t.Helper()
		b.run("gpgconf --kill all") // scdaemon would go on with the mount that is dead
		b.daemon.Kill()
		b.daemon.Start()
	}
	wrong := password("user", "999999") + "gpg -o again -s message || true; gpgconf --kill all; gpg --card-status"
	b.steps([]step{
		{"gpg", "generate on the card", `printf '%s\n' admin key-attr 2 1 2 1 2 1 generate n 0 'Alice Sample' alice@example.org '' quit | say --card-edit`, `KEY_CREATED B`, false},
		{"gpg", "a wrong PIN", wrong, `retry counter : 2 0 3`, false},
	})
	restart()
	b.steps([]step{
		{"gpg", "tries after kill -9", `gpg --card-status`, `ed25519 cv25519 ed25519.*retry counter : 2 0 3.*Signature counter : 4.*Signature key \.*: [0-9A-F]{4} `, false},
		{"gpg", "another", wrong, `retry counter : 1 0 3`, false},
	})
	restart()
	b.steps([]step{
		{"gpg", "the last", wrong, `retry counter : 0 0 3`, false},
	})
	restart()
	cat := exec.Command("cat", b.daemon.Path("0/trace")) // it can be killed
	var trace proc.Log
	follow, err := proc.Start(cat, &trace)
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Kill()
	b.steps([]step{
		{"gpg", "blocked after kill -9", `gpg --card-status`, `retry counter : 0 0 3`, false},
		{"gpg", "unblock with the admin PIN", password("new-user", "123456") + password("user", "123456") + `printf '%s\n' admin passwd 2 q quit | say --card-edit; gpg --card-status`, `retry counter : 3 0 3`, false},
		{"gpg", "sign with the key of before", `gpg -o signed -s message; gpg --verify signed; gpg --card-status`, `Good signature.*Signature counter : 5`, false},
	})
	state, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Await(t.Context(), "00 2A 9E 9A"); err != nil {
		t.Error(err)
	}
	log := b.daemon.Log.String() + b.daemon.Read("0/status") + trace.String()
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
