package client

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/reader"
)

// "with the reason in words where it is refused": the reason that the file gives, unless the
// errno tells as much.
func TestRefused(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl": "", "0/status": "state powered\nerror it hurts\n", "1/status": "state failed\nerror no power\n",
	})
	for _, x := range []struct {
		slot   int
		errno  syscall.Errno
		reason string
		code   int
		words  string
	}{
		{0, syscall.EIO, "power up: it broke", 1, "slot 0: power cold: power up: it broke"},
		{0, syscall.EIO, "cold: it broke", 1, "slot 0: power cold: it broke"},
		{0, syscall.EIO, "power cold: it broke", 1, "slot 0: power cold: it broke"},
		{0, syscall.EIO, "", 1, "slot 0: it failed: it hurts"},
		{0, syscall.EOPNOTSUPP, "cold: " + reader.ErrUnsupported.Error(), 1, "slot 0: this reader or card cannot do that"},
		{0, syscall.EOPNOTSUPP, "code 1: " + reader.ErrUnsupported.Error(), 1, "slot 0: power cold: code 1: not supported"},
		{0, syscall.EBUSY, reader.ErrLocked.Error(), 1, "another program holds the transaction"},
		{0, syscall.EBUSY, "in use: " + reader.ErrLocked.Error(), 1, "slot 0: power cold: in use"},
		{0, syscall.EINVAL, "too short: " + reader.ErrInvalid.Error(), 1, "slot 0: power cold: too short"},
		{0, syscall.EINVAL, reader.ErrInvalid.Error(), 1, "invalid argument"},
		{0, syscall.EACCES, reader.ErrNoPermission.Error(), 1, "the mount belongs to"},
		{0, syscall.ENOMEDIUM, "no card in the slot", 3, "no card in slot 0"},
		{0, syscall.ENODEV, "it left", 3, "reader 0 is gone"},
		{0, syscall.ESTALE, "it was reset", 1, "begin again"},
		{1, syscall.EIO, "it broke", 1, "reader 1 failed to start: no power"},
	} {
		got := c.Slot(x.slot).refused(x.errno, "power cold", x.reason)
		clienttest.WantError(t, x.errno.Error()+" "+x.reason, got, x.code, x.words)
	}
}

// A hint ends the error, and does not change its exit code.
func TestSay(t *testing.T) {
	c := tree(t, map[string]string{"ctl": "", "0/status": "state powered\n", "0/power": "", "0/protocol": "T=1\n"})
	hints := map[syscall.Errno]string{syscall.ENOSPC: "delete something", syscall.EIO: "nothing"}
	s := c.Slot(0)
	if err := s.Say(io.Discard, "power", "off", hints); err != nil {
		t.Error(err)
	}
	if text, err := s.Text(io.Discard, "power"); string(text) != "off\n" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	os.Remove(s.Path("power"))
	if err := os.Symlink("/dev/full", s.Path("power")); err != nil {
		t.Fatal(err)
	}
	clienttest.WantError(t, "a write that fails", s.Say(io.Discard, "power", "off", hints), exit.Error, "no space left on device; delete something")
	clienttest.WantError(t, "no reader", c.Slot(1).Say(io.Discard, "power", "off", hints), exit.None, "no reader 1; there is 0")
	_, err := c.Slot(1).Text(io.Discard, "power")
	clienttest.WantError(t, "no reader", err, exit.None, "no reader 1; there is 0")
	os.Remove(c.Path("ctl"))
	if err := os.Symlink("/dev/full", c.Path("ctl")); err != nil {
		t.Fatal(err)
	}
	clienttest.WantError(t, "ctl", c.Ctl("rescan"), exit.Error, "no space left on device")
}

// The names are those of the manual pages, of which x/sys has some otherwise.
func TestErrnoOf(t *testing.T) {
	for name, want := range map[string]error{
		"EOPNOTSUPP": syscall.EOPNOTSUPP, "EINVAL": syscall.EINVAL, "ENOMEDIUM": syscall.ENOMEDIUM,
		"EPERM": syscall.EPERM, "EHWPOISON": syscall.Errno(0x85), "": syscall.EIO, "NOSUCH": syscall.EIO,
	} {
		if got := errnoOf(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// A file of the reader is not waited for as one of the card is.
func TestNeedsCard(t *testing.T) {
	c := tree(t, map[string]string{"ctl": "", "0/status": "state empty\n", "1/status": "state starting\n"})
	for _, name := range []string{"atr", "apdu", "memory"} {
		if got := c.Slot(0).waitingFor(name); got != "a card in slot 0" {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, name := range []string{"power", "protocol", "control", "ctbcs"} {
		if got := c.Slot(0).waitingFor(name); got != "" {
			t.Errorf("%s: %q", name, got)
		}
		if got := c.Slot(1).waitingFor(name); got != "reader 1 to start" {
			t.Errorf("%s: %q", name, got)
		}
		// Behind sshfs only status shows the state.
		if err := c.Slot(0).await(io.Discard, name, nil, Forever); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	clienttest.WantError(t, "no card", c.Slot(0).await(io.Discard, "apdu", nil, 0), exit.None, "no card in slot 0")
}

// What --json prints of a slot that was bound alone, and of counters.
func TestInfo(t *testing.T) {
	c := tree(t, map[string]string{"ctl": "", "7/status": "state empty\n"})
	alone := Slot{Dir: c.Path("7"), Name: c.Path("7")}
	if i := alone.Info([]byte("state empty\nby-id x y\n")); i.Number != -1 || i.Path != alone.Dir || i.ByID != "x y" || i.Card == nil || i.Siblings == nil {
		t.Errorf("%+v", i)
	}
	if i := c.Slot(7).Info(nil); i.Number != 7 {
		t.Errorf("%+v", i)
	}
	n, err := c.Slot(7).Counters([]byte("a 18446744073709551615\nb 0\n"))
	if err != nil || n.Number != 7 || n.Path != alone.Dir || len(n.Stats) != 2 || n.Stats["a"] != 1<<64-1 {
		t.Errorf("%+v, %v", n, err)
	}
	for _, text := range []string{"a\n", "a -1\n", "a x\n"} {
		if _, err := c.Slot(7).Counters([]byte(text)); err == nil {
			t.Errorf("%q is no counter", text)
		}
	}
}
