package remote

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// sshfs serves ten calls at once. Of the first mount four are for cards, of others eight.
const inFirst, inOthers = 4, 8

// cards is a machine with n cards, and the flags for it.
func cards(t *testing.T, n int) *there {
	t.Helper()
	return machineThere(t, slices.Repeat([]string{"--sim", "t1"}, n)...)
}

// send has `cardfs send` send a command that the card echoes.
func send(t *testing.T, d *daemon.Daemon, slot int, data string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "send", "--mount", d.Dir, "--wait", "0", strconv.Itoa(slot), "80EE000001"+data+"00").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(data)) {
		t.Errorf("slot %d: %q, %v", slot, out, err)
	}
}

// exchanges fails if not each of the first n cards got so many commands.
func (m *there) exchanges(t *testing.T, n, want int) {
	t.Helper()
	for slot := range n {
		if stats := m.Read(fmt.Sprintf("%d/stats", slot)); !strings.HasPrefix(stats, fmt.Sprintf("exchanges %d\n", want)) {
			t.Errorf("card %d did not get %d commands:\n%s", slot, want, stats)
		}
	}
}

// "A mount's calls that wait each take one": however many cards wait at a machine, its other
// files answer, and each command gets to its card once, when its turn has come.
func TestManyCardsWait(t *testing.T) {
	at := runtimeDir(t)
	const n = 20
	far := cards(t, n)
	here := machineHere(t, far, far.sshd.Port)
	for slot := range n {
		here.Await(fmt.Sprintf("%d/status", slot), "state present")
	}
	if m := mounts(t, at); len(m) != 1 {
		t.Errorf("before a card is used there is %q", m)
	}
	// Somebody there has all of the cards.
	var held []int
	for slot := range n {
		fd, err := daemon.Open(far.Path(fmt.Sprintf("%d/apdu", slot)), unix.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		held = append(held, fd)
	}
	var log proc.Log
	var clients []*proc.Process
	for slot := range n {
		c, err := proc.Start(exec.Command("bash", "-ec", `exec 3<>"$0/apdu"; echo "$1" >&3; echo "written $1"; read -r answer <&3; echo "$answer"`,
			here.Path(strconv.Itoa(slot)), fmt.Sprintf("80EE000002E0%02X00", slot)), &log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Kill)
		clients = append(clients, c)
	}
	for slot, c := range clients {
		if err := c.Await(t.Context(), fmt.Sprintf("written 80EE000002E0%02X00", slot)); err != nil {
			t.Fatal(err)
		}
	}
	if m, want := mounts(t, at), 1+(n-inFirst)/inOthers; len(m) != want {
		t.Errorf("%d mounts for %d cards, want %d", len(m), n, want)
	}

	// The first mount still carries events and text files: a reader that comes now is served.
	far.Ctl("attach sim t0")
	here.Await(fmt.Sprintf("%d/status", n), "state present")
	send(t, here, n, "42")
	for slot := range n {
		if status := here.Read(fmt.Sprintf("%d/status", slot)); !strings.Contains(status, "state powered") {
			t.Errorf("status of slot %d: %q", slot, status)
		}
	}
	far.exchanges(t, n, 0)

	for slot, fd := range held {
		if err := unix.Flock(fd, unix.LOCK_UN); err != nil {
			t.Error(slot, err)
		}
	}
	for slot, c := range clients {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
		if answer := fmt.Sprintf("E0 %02X 90 00\n", slot); strings.Count(log.String(), answer) != 1 {
			t.Errorf("the answer %q is not there", answer)
		}
	}
	far.exchanges(t, n, 1)
	here.Ctl("detach %s", strings.Join(strings.Fields(far.attach(far.sshd.Port))[:2], " "))
	daemon.Eventually(t, "its mounts are gone", func() bool { return len(mounts(t, at)) == 0 })
	left(t, at)
}

// sshfsAt is the process of the sshfs whose mount is a line of the table.
func sshfsAt(t *testing.T, line string) int {
	t.Helper()
	dir := strings.Fields(line)[4]
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		words, _ := os.ReadFile(name)
		if bytes.HasPrefix(words, []byte("sshfs\x00")) && bytes.HasSuffix(words, []byte("\x00"+dir+"\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no sshfs for %s", dir)
	return 0
}

// A further mount that ends by itself ends the sessions of its cards, and a command under way
// in it is in doubt. The other cards notice nothing.
func TestFurtherMountEnds(t *testing.T) {
	at := runtimeDir(t)
	far := cards(t, inFirst+1)
	here := machineHere(t, far, far.sshd.Port)
	for slot := range inFirst + 1 {
		here.Await(fmt.Sprintf("%d/status", slot), "state present")
		send(t, here, slot, "01")
	}
	all := mounts(t, at)
	if len(all) != 2 {
		t.Fatalf("mounts: %q", all)
	}
	const last = inFirst // the only card in the second
	others := here.Read("0/status")
	trace := far.follow(t, last)
	far.Ctl("sim %d slow 3s", last)
	var log proc.Log
	client, err := proc.Start(exec.Command("bash", "-ec", `exec 3<>"$0/apdu"; echo 80EE0000010200 >&3; read -r answer <&3 || exit 5`, here.Path(strconv.Itoa(last))), &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if err := trace.Wait(ctx, "> C-APDU 80 EE 00 00 01 02 00", 0); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(sshfsAt(t, all[1]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := client.Wait(); err == nil || !strings.Contains(log.String(), "Input/output error") {
		t.Errorf("a command that is in doubt: %v: %s", err, &log)
	}
	if now := here.Read("0/status"); now != others {
		t.Errorf("slot 0 before:\n%s\nafter:\n%s", others, now)
	}
	far.Ctl("sim %d normal", last)
	here.Await(fmt.Sprintf("%d/status", last), "state present")
	for slot := range inFirst + 1 {
		send(t, here, slot, "03")
	}
	far.exchanges(t, inFirst, 2)
	if m := mounts(t, at); len(m) != 1 {
		t.Errorf("mounts: %q", m)
	}
	if n := strings.Count(trace.String(), "> C-APDU 80 EE 00 00 01 02 00"); n != 1 {
		t.Errorf("the card got the command in doubt %d times", n)
	}
}
