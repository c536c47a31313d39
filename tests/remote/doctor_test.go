package remote

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// What ssh says of a machine becomes a finding of cardfs doctor with a command that mends it:
// the words that driver and doctor have for it are the same.
func TestDoctor(t *testing.T) {
	runtimeDir(t)
	far := machineThere(t)
	d := daemon.Start(t, program, daemon.MountPoint(t), "--usb=off")
	url := far.sshd.URL(far.sshd.Port, far.Dir)
	login := fmt.Sprintf("-p %d %s@127.0.0.1", far.sshd.Port, far.sshd.User)
	none := filepath.Join(t.TempDir(), "known")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	far.sshd.Key(t, "stranger")
	for _, x := range []struct{ identity, known, state, text, mend string }{
		{far.sshd.Identity, none, "wrong", "compare its fingerprint", "ssh -o UserKnownHostsFile=" + none + " " + login + " exit"},
		{far.sshd.File("stranger"), far.sshd.KnownHosts, "wrong", "does not accept the key", "ssh-copy-id -i " + far.sshd.File("stranger") + " " + login},
		{far.sshd.Identity, far.sshd.KnownHosts, "ok", "is connected", ""},
	} {
		d.Ctl("attach remote %s identity=%s known-hosts=%s", url, x.identity, x.known)
		var text, mend, state string
		daemon.Eventually(t, "something is known of the machine", func() bool {
			state, text, mend = examine(t, d.Dir)
			return state != "unknown"
		})
		if state != x.state || !strings.Contains(text, x.text) || mend != x.mend {
			t.Errorf("%s: %s\n> %s\nwant %s: …%s…\n> %s", state, text, mend, x.state, x.text, x.mend)
		}
		d.Ctl("detach remote %s", url)
	}
}

// examine returns what doctor finds of the one machine that is attached to a mount.
func examine(t *testing.T, dir string) (state, text, mend string) {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), program, "doctor", "--json").Output() // 1 if something is wrong
	var found []struct{ Check, State, Text, Mend string }
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, f := range found {
		if f.Check == "machines" && strings.HasPrefix(f.Text, dir+": ") {
			return f.State, f.Text, f.Mend
		}
	}
	t.Fatalf("no finding of the machine:\n%s", out)
	return
}
