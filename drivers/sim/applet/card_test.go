package applet

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// plain answers 01 with its data, 02 nnnn with nnnn bytes, 03 with a change of its state.
type plain struct {
	aid   string
	store *Store
	state struct{ N int }
	log   []string
}

func (p *plain) AID() []byte                 { return unhex(p.aid) }
func (p *plain) Reset()                      { p.log = append(p.log, "reset") }
func (p *plain) Incoming(ins byte) bool      { return ins == 0x01 }
func (p *plain) Takes(Command) time.Duration { return time.Second }

func (p *plain) Select() Answer { return Data(p.AID()) }

func (p *plain) Process(k Command) Answer {
	switch k.INS {
	case 0x01:
		return Data(bytes.Clone(k.Data))
	case 0x02:
		return Data(counting(k.P1P2()))
	case 0x03:
		p.state.N++
		p.store.Changed()
		return Status(SWTries(p.state.N))
	}
	return Status(SWINS)
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// atrT1 and atrT0 are Answers to Reset with nothing special in them.
var atrT1, atrT0 = unhex("3B 80 01 81"), unhex("3B 00")

func newTest(t *testing.T) (*Card, *plain, *plain) {
	s, err := OpenStore("")
	if err != nil {
		t.Fatal(err)
	}
	a, b := &plain{aid: "A00000000101", store: s}, &plain{aid: "A00000000202", store: s}
	return NewCard(atrT1, s, a, b), a, b
}

// script sends the commands of lines "command → answer"; an answer may end in "…", or be a length.
func script(t *testing.T, c *Card, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		send, want, found := strings.Cut(strings.TrimSpace(line), " → ")
		if !found {
			continue
		}
		if got := hex.EncodeToString(c.Process(unhex(send))); got != strings.ToLower(strings.ReplaceAll(want, " ", "")) {
			t.Errorf("%s: %s, want %s", send, got, want)
		}
	}
}

// ISO/IEC 7816-4:2013 §11.1.1: an application is selected by its DF name, or the beginning of it.
func TestSelect(t *testing.T) {
	c, a, b := newTest(t)
	script(t, c, `
		00A4040006A00000000202 → A00000000202 9000
		00A4040006A00000000202 → A00000000202 9000
		00A4040005A0000000FF → 6A82
		00A4040006A00000000202 → A00000000202 9000
		00A4040005A000000001 → A00000000101 9000
		00A4040007A0000000010101 → 6A82
		00A40400 → 6A80
		00A4040C05A000000001 → A00000000101 9000
		00A4040105A000000001 → 6A86
		01A4040005A000000001 → 6881
		04A4040005A000000001 → 6882
		20A4040005A000000001 → 6E00
		00A4040005A0 → 6700
		00A400000 23F00 → 6D00
	`)
	if len(a.log) != 1 || len(b.log) != 1 {
		t.Errorf("resets: %v, %v; each application was left once", a.log, b.log)
	}
	c.Reset(false)
	script(t, c, "00A4040005A000000001 → A00000000101 9000")
}

// ISO/IEC 7816-4:2013 §5.3.3.1: the data of the commands of a chain, in their order, is that of
// one command.
func TestChain(t *testing.T) {
	c, _, _ := newTest(t)
	script(t, c, `
		10010000020102 → 9000
		10010000020304 → 9000
		00010000010500 → 0102030405 9000
		000100000106 00 → 06 9000
		10010000020102 → 9000
		10010001020304 → 9000
		000100010105 00 → 030405 9000
		10010000020102 → 9000
		00020001 00 → 00 9000
		000100000105 00 → 05 9000
		10010000020102 → 9000
		100100000201 → 6700
		000100000105 00 → 05 9000
		10010000020102 → 9000
		0C010000020102 → 6882
		000100000105 00 → 05 9000
		10010000020102 → 9000
		00010000 → 0102 9000
	`)
	c.Process(unhex("10010000020102"))
	c.Reset(true)
	script(t, c, "000100000105 00 → 05 9000")
}

// What a chain may bring is bounded; nothing of what was too much stays.
func TestChainBound(t *testing.T) {
	c, _, _ := newTest(t)
	part := append(unhex("10010000 00 8000"), make([]byte, 0x8000)...)
	for i, want := range []string{"9000", "9000", "6700", "9000"} {
		if got := hex.EncodeToString(c.Process(part)); got != want {
			t.Errorf("part %d: %s, want %s", i, got, want)
		}
	}
	if cap(c.chain) > 2*MaxData {
		t.Errorf("%d bytes kept", cap(c.chain))
	}
}

// ISO/IEC 7816-4:2013 §5.3.4: 61xx says how many bytes are left, 00 for 256 or more, and GET
// RESPONSE fetches them. An extended Le has room for all.
func TestGetResponse(t *testing.T) {
	c, _, _ := newTest(t)
	data := counting(0x0250)
	for _, x := range []struct {
		send     string
		from, to int
		sw       string
	}{
		{"00020250 00", 0, 256, "6100"},
		{"00C00000 00", 256, 512, "6150"},
		{"00C00000 10", 512, 528, "6140"},
		{"00C00000 00", 528, 592, "9000"},
		{"00C00000 00", 0, 0, "6985"},
		{"00020250", 0, 256, "6100"}, // without Le
		{"00C00000 00", 256, 512, "6150"},
		{"00C00100 00", 0, 0, "6A86"}, // the rest is gone
		{"00C00000 00", 0, 0, "6985"},
		{"00020250 000000", 0, 592, "9000"},
		{"00C00000 00", 0, 0, "6985"},
		{"00020250 000100", 0, 256, "6100"},
		{"00C00000 000000", 256, 592, "9000"},
		{"00020101 00", 0, 256, "6101"},
		{"00C00000 00", 256, 257, "9000"},
		{"00020100 00", 0, 256, "9000"},
		{"00020101 FF", 0, 255, "6102"},
		{"00030000 00", 0, 0, "63C1"},
		{"00C00000 00", 0, 0, "6985"},
		{"00020200 00", 0, 256, "6100"},
		{"00C00000 00", 256, 512, "9000"},
		{"00020250 00", 0, 256, "6100"},
		{"00C00000 01 00 00", 0, 0, "6700"},
	} {
		got := c.Process(unhex(x.send))
		if want := append(bytes.Clone(data[x.from:x.to]), unhex(x.sw)...); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes %X, want %d and %s", x.send, len(got)-2, got[len(got)-2:], x.to-x.from, x.sw)
		}
	}
	c.Process(unhex("00020250 00"))
	c.Reset(false)
	script(t, c, "00C0000000 → 6985")
}

// In T=0, 61xx and GET RESPONSE are the protocol's, and each command reaches the card once.
func TestT0(t *testing.T) {
	c, a, _ := newTest(t)
	c.atr = atrT0
	var contact icc.Contact
	contact.Insert(c)
	if _, err := contact.Activate(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	data := counting(0x0250)
	for _, x := range []struct {
		send     string
		from, to int
		sw       string
	}{
		{"0002025000", 0, 256, "6100"},
		{"00C0000000", 256, 512, "6150"},
		{"00C0000050", 512, 592, "9000"},
		{"1001000002 0001", 0, 0, "9000"},
		{"0001000001 02", 0, 0, "6103"},
		{"00C0000003", 0, 3, "9000"},
		{"0003000000", 0, 0, "63C1"},
	} {
		got := contact.TPDU(t.Context(), unhex(x.send))
		if want := append(bytes.Clone(data[x.from:x.to]), unhex(x.sw)...); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes %X, want %d and %s", x.send, len(got), got[max(0, len(got)-2):], x.to-x.from, x.sw)
		}
	}
	if a.state.N != 1 {
		t.Errorf("a command ran %d times", a.state.N)
	}
}

// A card takes time only when it is told to.
func TestSlow(t *testing.T) {
	c, _, _ := newTest(t)
	c.Process(unhex("00030000"))
	if c.Busy(nil) != 0 {
		t.Error("takes time")
	}
	c.Slow = true
	if c.Process(unhex("00020005")); c.Busy(nil) != time.Second {
		t.Error("takes no time")
	}
	if c.Process(unhex("00030000")); c.Busy(nil) != TimeCommand {
		t.Error("what is refused takes as long as what is not")
	}
	for _, send := range []string{"00C0000000", "00", "10010000"} {
		if c.Process(unhex(send)); c.Busy(nil) != 0 {
			t.Errorf("%s takes time", send)
		}
	}
}

// What cannot be written does not count as done, and grants nothing.
func TestFlushFails(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir + "/state")
	if err != nil {
		t.Fatal(err)
	}
	a := &plain{aid: "A0", store: s}
	s.Bind("plain", &a.state)
	c := NewCard(atrT1, s, a)
	script(t, c, "00030000 → 63C1")
	s.path = dir + "/no such directory/state"
	script(t, c, "00030000 → 6581")
	if len(a.log) != 1 {
		t.Error("the security state stayed")
	}
	s.path = dir + "/state"
	script(t, c, "00030000 → 63C3")
	c.Close()
}

func FuzzCard(f *testing.F) {
	f.Add([]byte("\x04\x00\x02\x02\x50\x05\x00\xC0\x00\x00\x00"))
	f.Add([]byte("\x07\x10\x01\x00\x00\x02\x01\x02\x05\x00\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, _ := OpenStore("")
		a := &plain{aid: "A00000000101", store: s}
		c := NewCard(atrT1, s, a, &plain{aid: "A00000000102", store: s})
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			rx := c.Process(in[1 : 1+n])
			if len(rx) < 2 {
				t.Fatal("no status")
			}
			if k, ok := Parse(in[1 : 1+n]); ok && !k.Extended && len(rx) > 258 {
				t.Fatalf("%d bytes to a short command", len(rx))
			}
			in = in[1+n:]
		}
	})
}
