package icc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inserted is a contact with a memory card that was reset.
func inserted(t *testing.T, name string) (*Contact, *Memory) {
	t.Helper()
	c, m := new(Contact), NewMemory(name)
	if m == nil {
		t.Fatalf("no %s", name)
	}
	if err := c.Insert(m); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ActivateMemory(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c, m
}

// clock runs commands such as "38 20 AA" or "30 00 00/4", and returns what came in last.
func clock(t *testing.T, c *Contact, commands ...string) []byte {
	t.Helper()
	var in []byte
	for _, line := range commands {
		text, count, _ := strings.Cut(line, "/")
		out, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, d := range count {
			n = 10*n + int(d-'0')
		}
		var ok bool
		if in, ok = c.Clock(context.Background(), out, n); !ok {
			t.Fatalf("%s: no acknowledge", line)
		}
	}
	return in
}

// A memory card has no answer to the reset of a processor card, and a processor card none to
// a memory card's.
func TestMemoryIsNoProcessorCard(t *testing.T) {
	ctx := context.Background()
	for _, name := range MemoryNames() {
		var c Contact
		if _, err := c.ActivateMemory(ctx); !errors.Is(err, ErrNoCard) {
			t.Errorf("no card: %v", err)
		}
		m := NewMemory(name)
		c.Insert(m)
		if _, ok := c.Clock(ctx, []byte{0x30, 0, 0}, 4); ok {
			t.Errorf("%s: a command without power", name)
		}
		if _, err := c.Activate(ctx, false); !errors.Is(err, ErrMute) {
			t.Errorf("%s, as a processor card: %v", name, err)
		}
		if _, ok := c.Clock(ctx, []byte{0x30, 0, 0}, 4); ok {
			t.Errorf("%s: a command before its own reset", name)
		}
		if c.APDU(ctx, []byte{0, 0xB0, 0, 0, 4}) != nil || c.TPDU(ctx, []byte{0, 0xB0, 0, 0, 4}) != nil {
			t.Errorf("%s answers commands", name)
		}
		h, err := c.ActivateMemory(ctx)
		want := m.Contents()[:4]
		if strings.HasPrefix(name, "at24") {
			want = []byte{0xFF, 0xFF, 0xFF, 0xFF}
		}
		if err != nil || !bytes.Equal(h, want) {
			t.Errorf("%s: % X, %v", name, h, err)
		}
	}
	if NewMemory("sle9999") != nil {
		t.Error("an unknown chip")
	}
}

// SLE 4442: "the PSC must be presented in the order: burn a bit of the counter, compare bytes
// 1, 2, 3, erase the counter". Anything else leaves the chip closed, and burned tries stay burned.
func TestOrderOfVerification2Wire(t *testing.T) {
	const burn, p1, p2, p3, erase, write = "39 00 06", "33 01 FF", "33 02 FF", "33 03 FF", "39 00 FF", "38 40 55"
	for _, tt := range []struct {
		name    string
		steps   []string
		written bool
		counter byte
	}{
		{"right", []string{burn, p1, p2, p3, erase, write}, true, 0x07},
		{"not erased", []string{burn, p1, p2, p3, write}, true, 0x06},
		{"nothing presented", []string{write}, false, 0x07},
		{"nothing burned", []string{p1, p2, p3, erase, write}, false, 0x07},
		{"burned after", []string{p1, p2, p3, burn, erase, write}, false, 0x06},
		{"a byte left out", []string{burn, p1, p3, erase, write}, false, 0x06},
		{"order of bytes", []string{burn, p2, p1, p3, erase, write}, false, 0x06},
		{"wrong", []string{burn, p1, "33 02 FE", p3, erase, write}, false, 0x06},
		{"again without burning", []string{burn, "33 01 00", p1, p2, p3, erase, write}, false, 0x06},
		{"two bits burned", []string{"39 00 04", p1, p2, p3, erase, write}, false, 0x04},
		{"three times", []string{burn, "39 00 04", "39 00 00", "39 00 00", p1, p2, p3, erase, write}, false, 0x00},
		{"the counter gets no bit back", []string{burn, erase, "39 00 07"}, false, 0x06},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, m := inserted(t, "sle4442")
			clock(t, c, tt.steps...)
			if got := m.Contents()[0x40] == 0x55; got != tt.written {
				t.Errorf("%s: written %v", tt.name, got)
			}
			if got := m.Bits().Counter; got != tt.counter {
				t.Errorf("%s: counter %02X, want %02X", tt.name, got, tt.counter)
			}
		})
	}
}

func TestOrderOfVerification3Wire(t *testing.T) {
	const burn, p1, p2, erase, write = "F2 FD FE", "CD FE FF", "CD FF FF", "F3 FD FF", "73 40 55"
	for _, tt := range []struct {
		name    string
		steps   []string
		written bool
		counter byte
	}{
		{"right", []string{burn, p1, p2, erase, write}, true, 0xFF},
		{"nothing presented", []string{write, erase}, false, 0xFF},
		{"nothing burned", []string{p1, p2, erase, write}, false, 0xFF},
		{"order of bytes", []string{burn, p2, p1, erase, write}, false, 0xFE},
		{"wrong", []string{burn, p1, "CD FF 00", erase, write}, false, 0xFE},
		{"the counter by an ordinary write", []string{"F3 FD 00", write}, false, 0xFF},
		{"two bits burned", []string{"F2 FD FC", p1, p2, erase, write}, false, 0xFC},
		{"burned by an ordinary write once open", []string{burn, p1, p2, erase, "F3 FD 0F"}, false, 0x0F},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, m := inserted(t, "sle4428")
			clock(t, c, tt.steps...)
			if got := m.Contents()[0x140] == 0x55; got != tt.written {
				t.Errorf("%s: written %v", tt.name, got)
			}
			if got := m.Bits().Counter; got != tt.counter {
				t.Errorf("%s: counter %02X, want %02X", tt.name, got, tt.counter)
			}
		})
	}
}

// "PSC: read 00 until verified"; "verified state lasts until power-off"; the chip without PSC
// has no security memory, and is always writable.
func TestWhatTheChipsShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := inserted(t, "sle4442")
		verify := []string{"39 00 06", "33 01 FF", "33 02 FF", "33 03 FF", "39 00 FF"}
		if got := clock(t, c, "31 00 00/4"); !bytes.Equal(got, []byte{7, 0, 0, 0}) {
			t.Errorf("closed: % X", got)
		}
		clock(t, c, "39 02 AB")
		clock(t, c, verify...)
		if got := clock(t, c, "31 00 00/4"); !bytes.Equal(got, []byte{7, 0xFF, 0xFF, 0xFF}) {
			t.Errorf("open: % X", got)
		}
		if _, err := c.ActivateMemory(context.Background()); err != nil || !m.Bits().Verified {
			t.Errorf("a reset without power off: %v, %+v", err, m.Bits())
		}
		clock(t, c, "39 02 AB")
		c.Deactivate()
		if _, ok := c.Clock(context.Background(), []byte{0x31, 0, 0}, 4); ok {
			t.Error("a command without power")
		}
		c.ActivateMemory(context.Background())
		if b := m.Bits(); b.Verified || !bytes.Equal(b.PSC, []byte{0xFF, 0xAB, 0xFF}) {
			t.Errorf("%+v", b)
		}

		c, m = inserted(t, "sle4432")
		if got := clock(t, c, "31 00 00/4"); !bytes.Equal(got, []byte{0xFF, 0xFF, 0xFF, 0xFF}) {
			t.Errorf("SLE 4432: % X", got)
		}
		if clock(t, c, "38 20 12"); m.Contents()[0x20] != 0x12 {
			t.Error("SLE 4432: not written")
		}

		c, _ = inserted(t, "sle4428")
		verify = []string{"F2 FD FE", "CD FE FF", "CD FF FF", "F3 FD FF"}
		if got := clock(t, c, "CE FC 00/5"); !bytes.Equal(got, []byte{0xFF, 0xFF, 0, 0, 0xFF}) {
			t.Errorf("closed: % X", got)
		}
		clock(t, c, append(verify, "F3 FE 12")...)
		if got := clock(t, c, "CE FD 00/3"); !bytes.Equal(got, []byte{0xFF, 0x12, 0xFF}) {
			t.Errorf("open: % X", got)
		}
		c, m = inserted(t, "sle4418")
		if clock(t, c, "33 20 12", "F3 FE 34"); m.Contents()[0x20] != 0x12 || m.Contents()[1022] != 0x34 {
			t.Error("SLE 4418: not written")
		}
	})
}

// "Lower 32 bytes can be write-protected one by one, irreversibly"; "3C: byte must equal the stored one".
func TestProtectBits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := inserted(t, "sle4432")
		clock(t, c, "3C 08 00", "3C 20 FF", "3C 09 FF", "38 08 01", "38 09 02", "38 20 03")
		b := m.Contents()
		if b[8] != 1 || b[9] != 0xFF || b[0x20] != 3 {
			t.Errorf("% X", b[:0x21])
		}
		if got := clock(t, c, "34 00 00/4"); !bytes.Equal(got, []byte{0xF0, 0xFD, 0xFF, 0xFF}) {
			t.Errorf("% X", got)
		}
		c.Deactivate()
		c.ActivateMemory(context.Background())
		if clock(t, c, "38 09 02", "3C 09 02"); m.Contents()[9] != 0xFF || !m.Bits().Locked[9] {
			t.Error("power unlocked it")
		}

		c, m = inserted(t, "sle4418")
		clock(t, c, "70 00 00", "70 01 FF", "71 02 05", "73 01 07", "73 02 07", "73 00 07")
		if b := m.Contents()[0x100:]; b[0] != 7 || b[1] != 0xFF || b[2] != 5 {
			t.Errorf("% X", b[:3])
		}
		if got := clock(t, c, "4C 00 00/2"); !bytes.Equal(got, []byte{0xF9, 0xFF}) {
			t.Errorf("% X", got)
		}
		c, m = inserted(t, "sle4442")
		if clock(t, c, "3C 10 FF"); m.Bits().Locked[0x10] {
			t.Error("locked without the PSC")
		}
	})
}

// "2.5 ms for an erase, 2.5 ms for a write; an update that needs both takes both". I2C: "write
// cycle; poll ACK".
func TestWriteCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := inserted(t, "sle4432")
		for _, tt := range []struct {
			command string
			want    time.Duration
		}{
			{"38 20 F0", cycle}, {"38 20 F0", 0}, {"38 20 0F", 2 * cycle}, {"38 20 FF", cycle}, {"30 20 00/1", 0}, {"3C 08 FF", cycle},
		} {
			start := time.Now()
			if clock(t, c, tt.command); time.Since(start) != tt.want {
				t.Errorf("%s takes %v, want %v", tt.command, time.Since(start), tt.want)
			}
		}
		c, m := inserted(t, "at24c02")
		ctx := context.Background()
		clock(t, c, "A0 10 01 02")
		for _, out := range [][]byte{{0xA0}, {0xA0, 0x10}, {0xA0, 0x11, 0x05}} {
			if _, ok := c.Clock(ctx, out, 0); ok {
				t.Errorf("% X: acknowledged while busy", out)
			}
		}
		time.Sleep(writeTime)
		if got := clock(t, c, "A0 0F/3"); !bytes.Equal(got, []byte{0xFF, 1, 2}) || m.Contents()[0x11] != 2 {
			t.Errorf("% X", got)
		}
	})
}

// "A write page: behind its end it goes on at its beginning"; "device byte A0 OR (address bits
// 10..8)<<1", "A0, address 2 bytes, high first".
func TestI2CAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name, out string
			at        int
		}{
			{"at24c01", "A0 7F 5A", 0x7F}, {"at24c02", "A0 FF 5A", 0xFF}, {"at24c04", "A2 12 5A", 0x112},
			{"at24c16", "AE FF 5A", 0x7FF}, {"at24c32", "A0 0F FF 5A", 0xFFF}, {"at24c512", "A0 FF FE 5A", 0xFFFE},
		} {
			c, m := inserted(t, tt.name)
			clock(t, c, tt.out)
			want := high(len(m.Contents()))
			want[tt.at] = 0x5A
			if !bytes.Equal(m.Contents(), want) {
				t.Errorf("%s: %s went elsewhere", tt.name, tt.out)
			}
		}
		c, m := inserted(t, "at24c02")
		clock(t, c, "A0 06 01 02 03 04")
		if got := m.Contents()[:9]; !bytes.Equal(got, []byte{3, 4, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 0xFF}) {
			t.Errorf("% X", got)
		}
		time.Sleep(writeTime)
		if got := clock(t, c, "A0 FF/3"); !bytes.Equal(got, []byte{0xFF, 3, 4}) {
			t.Errorf("% X", got)
		}
		for _, out := range [][]byte{nil, {0xA1, 0}, {0xA2, 0}, {0xB0, 0}} {
			if _, ok := c.Clock(context.Background(), out, 0); ok {
				t.Errorf("% X: acknowledged", out)
			}
		}
	})
}

// What waits for a chip ends when the card leaves or loses its power.
func TestMemoryLeaves(t *testing.T) {
	for name, leave := range map[string]func(*Contact){
		"removed": func(c *Contact) { c.Remove() }, "power off": (*Contact).Deactivate,
	} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := inserted(t, "sle4432")
			c.SetFaults(Faults{Slow: time.Hour})
			time.AfterFunc(time.Second, func() { leave(c) })
			start := time.Now()
			if _, ok := c.Clock(context.Background(), []byte{0x38, 0x20, 0}, 0); ok || time.Since(start) != time.Second {
				t.Errorf("%s: %v after %v", name, ok, time.Since(start))
			}
		})
	}
}

// "Counter cards: reading is by bit clock from address 0"; nothing writes.
func TestCounterCard(t *testing.T) {
	c, m := inserted(t, "sle4406")
	before := m.Contents()
	if got := clock(t, c, "/13"); !bytes.Equal(got, before) || len(before) != 13 {
		t.Errorf("% X", got)
	}
	if clock(t, c, "38 00 00", "73 00 00", "A0 00 00"); !bytes.Equal(m.Contents(), before) {
		t.Error("written")
	}
	if n := len(NewMemory("sle4436").Contents()); n != 30 {
		t.Errorf("SLE 4436: %d bytes", n)
	}
}

func FuzzMemory(f *testing.F) {
	f.Add(byte(1), []byte{0x39, 0, 6, 0x33, 1, 0xFF}, 4)
	f.Fuzz(func(t *testing.T, kind byte, out []byte, n int) {
		name := MemoryNames()[int(kind)%len(chips)]
		m := NewMemory(name)
		counter := m.Bits().Counter
		for len(out) > 0 {
			k := min(len(out), 3+int(out[0]>>7))
			in, _, ok := m.command(out[:k], n&0x1FFF, time.Time{})
			if ok && len(in) != n&0x1FFF && len(in) != 0 {
				t.Fatalf("%s: %d bytes of %d", name, len(in), n&0x1FFF)
			}
			out = out[k:]
			if b := m.Bits(); !b.Verified && b.Counter&^counter != 0 {
				t.Fatalf("%s: the counter got bits back without the PSC", name)
			} else {
				counter = b.Counter
			}
		}
	})
}
