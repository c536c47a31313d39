package usb

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// The system sleeps, which begins by freezing every process (Linux
// Documentation/power/freezing-of-tasks.rst). A process that waits in a call to a FUSE file
// system cannot be frozen, as its answer would have to come from a frozen server; so who
// follows events waits in epoll_wait(2), as pcscd's handler, `cardfs watch` and event loops
// do: poll(2) and select(2) ask the server once more when they are woken for it.
func TestGuestSleep(t *testing.T) {
	machine.NeedGuest(t)
	// It thaws again after 5 s, without putting devices to sleep, of which the root of
	// this machine is one.
	if err := os.WriteFile("/sys/power/pm_test", []byte("freezer"), 0); err != nil {
		t.Fatalf("the kernel cannot test suspend: %v", err)
	}
	defer os.WriteFile("/sys/power/pm_test", []byte("none"), 0)
	suspend := func() error { return os.WriteFile("/sys/power/state", []byte("mem"), 0) }

	d := mount(t, nil, "--usb=false", "--sim", "apdu card=none", "--sim", "apdu")
	conf := t.TempDir()
	server, err := pcscd.Start(t.Context(), conf, `FRIENDLYNAME "cardfs"
DEVICENAME cardfs:`+d.Path("1")+`
LIBPATH `+built("libifdcardfs.so")+"\n")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var followers []*proc.Process
	awake := filepath.Join(t.TempDir(), "awake")
	for _, script := range []string{
		`exec ` + built("cardfs") + ` watch --mount "$1" 0 --until removed`,
		`{ while ! [ -e "$2" ]; do sleep 0.1; done; } | ` + built("filebench") + ` follow 2 "$1"`,
	} {
		follower, err := proc.Start(shell(t, script, d.Dir, awake), new(proc.Log))
		if err != nil {
			t.Fatal(err)
		}
		followers = append(followers, follower)
		// They have read how things stand, and wait.
		first := "reader ready"
		if len(followers) == 2 {
			first = "at rest"
		}
		if err := follower.Await(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	if err := suspend(); err != nil {
		console, _ := exec.Command("dmesg").Output()
		t.Errorf("suspend, with followers of events in epoll: %v\n%s", err, tail(string(console), 4000))
	}
	d.Ctl("sim 0 insert token")
	if err := followers[0].Await(t.Context(), "inserted"); err != nil { // else they may see neither
		t.Error(err)
	}
	d.Ctl("sim 0 remove")
	if err := os.WriteFile(awake, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, follower := range followers {
		if err := follower.Wait(); err != nil {
			t.Errorf("%s, after it: %v", follower.Cmd, err)
		}
	}
	exchange := server.Command(t.Context(), built("pcscsh"))
	if got := output(t, exchange, []byte("list\n")); !strings.Contains(got, "cardfs") {
		t.Errorf("pcscd, after it: %s", got)
	}

	// What waits in a call keeps Linux 6.1 from it for 20 s, and is then as it was; newer
	// kernels may do better.
	if soak(t, 0) == 0 {
		return
	}
	open := shell(t, `exec cat "$1/0/atr"`, d.Dir)
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err = suspend()
	t.Logf("suspend, with an open that waits for a card: %v after %v", err, time.Since(begin))
	if err != nil && !errors.Is(err, syscall.EBUSY) {
		t.Error(err)
	}
	_ = open.Process.Kill()
	_ = open.Wait()
	if got, err := d.as(nil, `{ echo 00A4000C023F00 >&3; cat <&3; } 3<>"$1/1/apdu"`); err != nil || got != "90 00" {
		t.Errorf("an exchange after it: %q, %v", got, err)
	}
}
