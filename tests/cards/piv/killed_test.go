package piv

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// What the card has answered holds after kill -9; the state file belongs to one daemon; and no
// PIN is in the file or in the log.
func TestKilled(t *testing.T) {
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
