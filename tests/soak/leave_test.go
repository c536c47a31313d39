package soak

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// "SIGTERM with a thousand opens blocked: exit 0, mount gone, in under two
// seconds."
func TestTermWithAThousandOpens(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--attach", "sim t1 card=none", "--attach", "sim ikey3k start=1h", "--attach", "sim ikey3k")
	const each = 500
	clients := []*process{run(t, "blocked", dir+"/0/atr", each), run(t, "blocked", dir+"/1/apdu", each)}
	for _, c := range clients {
		daemon.Eventually(t, "all opens wait", func() bool { return proc.InCall(c.cmd.Process.Pid, unix.SYS_OPENAT) == each })
	}
	g := measure(t, d.Pid())
	// They delay nobody.
	if commandsHad(t, dir2(t, dir)) == 0 {
		t.Error("the third reader does not count")
	}
	took := d.Stop()
	t.Logf("1000 opens wait: the daemon has %v", g)
	t.Logf("SIGTERM to exit 0 and no mount: %v", took)
	if took > 2*time.Second {
		t.Logf("that is more than two seconds: is the machine busy?")
	}
	if took > 5*2*time.Second {
		t.Errorf("SIGTERM took %v", took)
	}
	for _, c := range clients {
		r := c.end()
		t.Logf("the opens ended with %v", r.Counts)
		if r.Counts["ENODEV"] != each {
			t.Error("each should say ENODEV")
		}
	}
}

// dir2 makes the third reader look like the first, for commandsHad.
func dir2(t *testing.T, dir string) string {
	t.Helper()
	links := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "2"), filepath.Join(links, "0")); err != nil {
		t.Fatal(err)
	}
	return links
}

// "kill -9 of the daemon, then a new mount at the same place works", with
// clients that wait and sit in the old tree; what waited ends at once.
func TestKilledDaemon(t *testing.T) {
	dir := daemon.MountPoint(t)
	for round := range 3 {
		d := daemon.Start(t, program, dir, "--attach", "sim t1 card=none", "--attach", "sim ikey3k")
		waiting := run(t, "blocked", dir+"/0/atr", 20)
		daemon.Eventually(t, "all opens wait", func() bool { return proc.InCall(waiting.cmd.Process.Pid, unix.SYS_OPENAT) == 20 })
		// This process has its working directory in the tree, and a file open, and stays.
		cwd, err := daemon.Open(dir+"/1", syscall.O_RDONLY|syscall.O_DIRECTORY)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(cwd)
		apdu, err := daemon.Open(dir+"/1/apdu", syscall.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(apdu)
		d.Kill()
		r := waiting.end()
		if r.Counts["ECONNABORTED"]+r.Counts["ENOTCONN"] != 20 {
			t.Errorf("what waited ended with %v", r.Counts)
		}
		if _, err := ioctl(apdu, echo([]byte{1})); err != syscall.ENOTCONN && err != syscall.ECONNABORTED {
			t.Errorf("an exchange with the killed daemon: %v", err)
		}
		begin := time.Now()
		again := daemon.Start(t, program, dir, "--sim", "ikey3k")
		if atr, err := os.ReadFile(dir + "/0/atr"); err != nil || string(atr) != slots[0].atr {
			t.Errorf("the new mount: %q, %v", atr, err)
		}
		t.Logf("round %d: what waited ended with %v; mounted again and an ATR read in %v", round, r.Counts, time.Since(begin))
		if _, err := ioctl(apdu, echo([]byte{1})); err == nil {
			t.Error("an open of the old mount works in the new one")
		}
		if fd, err := syscall.Openat(cwd, "atr", syscall.O_RDONLY, 0); err == nil {
			t.Error("the old working directory works in the new mount")
			syscall.Close(fd)
		}
		again.Stop()
	}
}
