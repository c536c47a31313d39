package openpgp

import (
	"bytes"
	"testing"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// check sends a command, and holds the rules that any answer and any state follow.
func check(t *testing.T, c *applet.Card, a *App, command []byte) {
	t.Helper()
	before := a.state
	r := c.Process(command)
	if len(r) < 2 || r[len(r)-2]&0xF0 != 0x60 && r[len(r)-2] != 0x90 {
		t.Fatalf("% X: % X", command, r)
	}
	if !a.state.valid() {
		t.Fatalf("% X: the state is not one that a file may have", command)
	}
	for _, secret := range [][]byte{[]byte(initialPW1), []byte(initialPW3)} {
		if k, ok := applet.Parse(command); ok && k.INS != 0xDA && k.INS != 0xCA && bytes.Contains(r, secret) {
			t.Fatalf("% X: a password in the answer", command)
		}
	}
	if before.PW3.Tries < a.PW3.Tries && r[len(r)-2] != 0x90 && a.PW3.Tries != a.PW3.Max {
		t.Fatalf("% X: a try came back", command)
	}
}

// fuzzCard has keys that are quick, and both passwords verified.
func fuzzCard(t *testing.T) (*applet.Card, *App) {
	store, err := applet.OpenStore("")
	if err != nil {
		t.Fatal(err)
	}
	s := applet.Settings{Seed: "fuzz", Cost: applet.Cheap}
	a, err := newApp(store, s)
	if err != nil {
		t.Fatal(err)
	}
	c := applet.NewCard(atr("t1"), store, a)
	for i, id := range []byte{algECDSA, algECDH, algECDSA} {
		a.Slots[i].Attributes = append([]byte{id}, oidP256...)
	}
	a.signs, a.user, a.admin = true, true, true
	return c, a
}

// slow reports commands that make or check an RSA key, which a fuzzer has no time for.
func slow(a *App, command []byte) bool {
	return len(command) > 2 && (command[1] == 0x47 || command[1] == 0xDB) &&
		(a.Slots[0].Attributes[0] == algRSA || a.Slots[1].Attributes[0] == algRSA || a.Slots[2].Attributes[0] == algRSA)
}

var seeds = []string{
	"00A4040006D27600012401", "0020008106313233343536", "00200083 08 3132333435363738", "00CA006E00", "00CA00FA00",
	"0047800002B60000", "0047810002A40000", "002A9E9A0401020304", "008800000401020304",
	"00DA00C109132A8648CE3D030107", "00DA00F903810100", "00DA00D3083837363534333231", "002C028106363534333231",
	"00240081 0C 313233343536 363534333231", "00A5010406 60045C027F21", "00CC7F2100", "002241B803830103",
	"00DB3FFF 0E 4D0C B600 7F4803920101 5F480101", "002A8086 07 A6057F49028600", "00E60000", "00440000", "10DA7F21 01 41", "00DA7F21 01 42",
	"00C0000000", "0084000008",
}

func FuzzCommand(f *testing.F) {
	for _, s := range seeds {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		c, a := fuzzCard(t)
		if !slow(a, command) {
			check(t, c, a, command)
		}
	})
}

// FuzzSequence sends commands one after another; each begins with its length.
func FuzzSequence(f *testing.F) {
	var all []byte
	for _, s := range seeds {
		b := unhex(s)
		all = append(append(all, byte(len(b))), b...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, all []byte) {
		c, a := fuzzCard(t)
		for n := 0; len(all) > 0 && n < 50; n++ {
			length := min(int(all[0]), len(all)-1)
			command := all[1 : 1+length]
			all = all[1+length:]
			if !slow(a, command) {
				check(t, c, a, command)
			}
		}
	})
}

// FuzzImport has any bytes as an extended header list.
func FuzzImport(f *testing.F) {
	f.Add(byte(0), header("B600", []byte{0x92}, make([]byte, 32)))
	f.Add(byte(1), header("B800", []byte{0x92}, bytes.Repeat([]byte{7}, 32), []byte{0x99}, make([]byte, 65)))
	f.Fuzz(func(t *testing.T, slot byte, list []byte) {
		if len(list) > 5000 {
			return
		}
		c, a := fuzzCard(t)
		a.Slots[1].Attributes = []byte{algECDH, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01}
		k := append([]byte{0, 0xDB, 0x3F, 0xFF, 0, byte(len(list) >> 8), byte(len(list))}, list...)
		check(t, c, a, k)
		check(t, c, a, unhex("002A9E9A 04 01020304 00"))
	})
}
