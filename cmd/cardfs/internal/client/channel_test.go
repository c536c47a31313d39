package client

import (
	"io"
	"os"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// A command is written once, whatever comes of it; after an error the next one has an open
// of its own.
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

// Who does not hold the transaction begins anew after a reset; its holder keeps its open.
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
	if err := c.Lock(); err != nil || !c.Locked {
		t.Errorf("lock: %v", err)
	}
	before = c.file
	if err := c.Reset("reset"); err != nil || c.file != before {
		t.Errorf("%v, the same open %v", err, c.file == before)
	}
	if text, _ := os.ReadFile(m.Path("0/power")); string(text) != "reset\n" {
		t.Errorf("power: %q", text)
	}
	if err := c.Unlock(); err != nil || c.Locked {
		t.Errorf("unlock: %v", err)
	}
	os.Remove(m.Path("0/power"))
	clienttest.WantError(t, "no power", c.Reset("reset"), exit.None, "")
}
