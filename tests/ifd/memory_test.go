package ifd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// systemPython is the one for which Debian has pyscard.
const systemPython = "/usr/bin/python3"

// One memory card, by every way: opensc-tool and pyscard through pcscd, a PC/SC client in C, a CT-API
// program, and the file. "pcscd gets 3B 04 H1 H2 H3 H4"; "with classes 00 and FF".
func TestMemoryCard(t *testing.T) {
	m := mount(t, "--attach", "sim memory", "--attach", "sim memory card=at24c32", "--attach", "sim memory card=sle4428")
	var entries string
	for i := range 3 {
		entries += conf(fmt.Sprintf("R%d", i), fmt.Sprintf("cardfs:%s/%d", m.Dir, i))
	}
	s := newPcscd(t, entries)
	out, err := s.Command(t.Context(), "opensc-tool", "-r", "0", "--atr", "-s", "FF B0 00 00 04", "-s", "00 B0 00 00 04").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "3b:04:a2:13:10:91") || strings.Count(string(out), "A2 13 10 91") != 2 || strings.Count(string(out), "SW1=0x90, SW2=0x00") != 2 {
		t.Errorf("opensc-tool: %v\n%s", err, out)
	}
	if err := exec.Command(systemPython, "-c", "import smartcard").Run(); err != nil {
		t.Fatalf("pyscard: %v: apt-get install python3-pyscard", err)
	}
	out, err = s.Command(t.Context(), systemPython, "testdata/memory.py").CombinedOutput()
	const want = "ATR 3B 04 A2 13 10 91\nFF B0 A2 13 10 91 90 00\nFF D6 69 82\nFF 20 90 00\nFF D6 90 00\nFF B0 FF 42 43 FF 90 00\n"
	if err != nil || string(out) != want {
		t.Errorf("pyscard: %v\n%s\nwant\n%s", err, out, want)
	}

	c := newClient(t, s)
	c.want("ok present 3B04A2131091", "state", name(0))
	c.want("ok present 3B0482331084", "state", name(1))
	c.want("ok present 3B0492231091", "state", name(2))
	c.want("ok T=0", "connect", name(0), "shared", "any")
	c.want("ok FF4243FF9000", "send", "FFB0004004")
	c.want("ok 63C2", "send", "FF20000003010203")
	c.want("ok", "disconnect", "unpower")
	c.want("PROTO_MISMATCH", "connect", name(0), "shared", "1")
	c.want("ok T=0", "connect", name(1), "exclusive", "0")
	c.want("ok 9000", "send", "FFD60FFE020102")
	c.want("ok 01026282", "send", "00B00FFE03")
	c.want("ok 6B00", "send", "FFB0100001")
	c.want("ok", "reconnect", "reset")
	c.want("ok 01029000", "send", "00B00FFE02")
	c.want("ok", "disconnect", "leave")

	// The same bytes by the file, and by a CT-API program: REQUEST ICC says 90 00 for a
	// synchronous card.
	memory, err := os.ReadFile(m.Path("0/memory"))
	if err != nil || len(memory) != 256 || !bytes.Equal(memory[0x40:0x44], []byte{0xFF, 0x42, 0x43, 0xFF}) {
		t.Errorf("memory: %d bytes, %v", len(memory), err)
	}
	m.Await("0/status", "psc-tries 2")
	ct := newCT(t, m.Dir)
	for _, step := range []struct{ want, do string }{
		{"0", "init 1 0"},
		{"0 2 1 A21310919000", "data 1 1 2012010100"},
		{"0 2 0 " + fmt.Sprintf("%X", memory) + "9000", "data 1 0 00B0000000"},
		{"0 2 0 6A82", "data 1 0 00A4040006D28000000101"},
		{"0 2 0 63C2", "data 1 0 00200000"},
		{"0", "close 1"},
	} {
		ct.ct(step.want, step.do)
	}
}
