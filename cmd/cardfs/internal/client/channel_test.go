package client

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// A command is written only once, whatever its result. After an error the next command uses a
// new open.
func TestChannelError(t *testing.T) {
	for answer, words := range map[string]string{
		"":          "end of file in place of an answer",
		"90 00":     "end of file in place of an answer", // cut off
		"90\n":      "what came is no answer",
		"error x\n": "what came is no answer",
		"90 00 0\n": "what came is no answer",
	} {
		// A plain file: what is read lies behind what was written.
		const sent = "00 A4 00 00\n"
		m := &Mount{Dir: clienttest.Tree(t, map[string]string{"ctl": "", "0/status": "state powered\n", "0/apdu": sent + answer})}
		c := &Channel{Slot: m.Slot(0), Stderr: io.Discard, Wait: Forever}
		_, err := c.Exchange([]byte{0, 0xA4, 0, 0})
		clienttest.WantError(t, answer, err, exit.Error, words)
		if text, _ := os.ReadFile(m.Path("0/apdu")); string(text) != sent+answer {
			t.Errorf("%q: the file is %q", answer, text)
		}
		if c.file != nil {
			t.Errorf("%q: the open is still there", answer)
		}
		os.WriteFile(m.Path("0/apdu"), []byte(sent+"AA 6A 82\n"), 0o600)
		if rapdu, err := c.Exchange([]byte{0, 0xA4, 0, 0}); err != nil || string(rapdu) != "\xAA\x6A\x82" {
			t.Errorf("the next: % X, %v", rapdu, err)
		}
		c.Close()
		c.Close()
	}
}

// Without the transaction a channel begins anew after a reset. The holder of the transaction
// keeps its open.
func TestChannelReset(t *testing.T) {
	m := &Mount{Dir: clienttest.Tree(t, map[string]string{"ctl": "", "0/status": "state powered\n", "0/apdu": "", "0/power": ""})}
	c := &Channel{Slot: m.Slot(0), Stderr: io.Discard, Wait: Forever}
	if err := c.Reopen(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := c.file
	if err := c.Reset("cold"); err != nil || c.file == before || c.file == nil {
		t.Errorf("%v, the same open %v", err, c.file == before)
	}
	if c.Holds() {
		t.Error("the transaction is held from the beginning")
	}
	if err := c.Lock(); err != nil || !c.Holds() {
		t.Errorf("lock: %v", err)
	}
	before = c.file
	if err := c.Reset("reset"); err != nil || c.file != before {
		t.Errorf("%v, the same open %v", err, c.file == before)
	}
	if text, _ := os.ReadFile(m.Path("0/power")); string(text) != "reset\n" {
		t.Errorf("power: %q", text)
	}
	if err := c.Unlock(); err != nil || c.Holds() {
		t.Errorf("unlock: %v", err)
	}
	// Another open can tell.
	other, err := os.OpenFile(m.Path("0/apdu"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	free := func() bool {
		err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		unix.Flock(int(other.Fd()), unix.LOCK_UN)
		return err == nil
	}
	if !free() {
		t.Error("after unlock it is locked")
	}
	// A closed one locks anew, and with Locked every open does.
	c.Close()
	if err := c.Lock(); err != nil || !c.Holds() || free() {
		t.Errorf("lock of a closed one: %v", err)
	}
	if err := c.Reopen(); err != nil || !c.Holds() || free() {
		t.Errorf("opened anew: %v", err)
	}
	c.Close()
	if c.Holds() || !free() {
		t.Error("closed, and it holds the transaction")
	}
	os.Remove(m.Path("0/power"))
	clienttest.WantError(t, "no power", c.Reset("reset"), exit.None, "")
	c.Locked = false
	os.Remove(m.Path("0/apdu"))
	if err := c.Lock(); err == nil || c.Locked {
		t.Errorf("lock of what cannot be opened: %v, locked %v", err, c.Locked)
	}
}
