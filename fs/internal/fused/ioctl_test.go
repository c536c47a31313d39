package fused

import (
	"bytes"
	"strings"
	"testing"
)

// The numbers of cardfs.h, which programs are compiled with.
func TestIoctlNumbers(t *testing.T) {
	if IoctlExchange != 0xC000CF01 || IoctlBinary != 0xCF02 || IoctlCTAPI != 0xCF03 || IoctlConnect != 0xC0C8CF04 || IoctlBegin != 0xCF05 || IoctlEnd != 0xCF06 {
		t.Errorf("%#x, %#x, %#x, %#x, %#x, %#x", uint32(IoctlExchange), IoctlBinary, IoctlCTAPI, uint32(IoctlConnect), IoctlBegin, IoctlEnd)
	}
	for cmd, want := range map[uint32]bool{
		0xC000CF01: true, 0xC004CF01: true, 0xFFFFCF01: true, // the size is the caller's choice
		0xCF02: false, 0xCF03: false, 0xC0C8CF04: false, 0xC000CF02: false, 0x8000CF01: false, 0x4000CF01: false, 0xC000CE01: false, 0x5401: false,
	} {
		if got := IsExchange(cmd); got != want {
			t.Errorf("%#x: %v", cmd, got)
		}
	}
}

// "in: length and command bytes, out: length and answer bytes".
func TestExchangeIn(t *testing.T) {
	for _, c := range []struct {
		in   string
		room int
		ok   bool
		want string
	}{
		{"", 100, false, ""},
		{"\x00\x00\x00", 100, false, ""},
		{"\x00\x00\x00\x00", 3, false, ""},
		{"\x00\x00\x00\x00", 4, true, ""},
		{"\x02\x00\x00\x00ab", 6, true, "ab"},
		{"\x02\x00\x00\x00abc", 7, true, "ab"},
		{"\x03\x00\x00\x00ab", 100, false, ""},
		{"\xff\xff\xff\xffab", 100, false, ""},
		{"\x00\x00\x00\x80ab", 100, false, ""},
	} {
		out := make([]byte, c.room)
		command, room, ok := ExchangeIn([]byte(c.in), out)
		if ok != c.ok || string(command) != c.want {
			t.Errorf("%q, room %d: %q, %v", c.in, c.room, command, ok)
		}
		if ok && (len(room) != 0 || cap(room) != c.room-4) {
			t.Errorf("%q, room %d: %d of %d bytes for the answer", c.in, c.room, len(room), cap(room))
		}
		if ok && c.room > 4 {
			if _ = append(room, 7); out[4] != 7 {
				t.Errorf("%q: the answer is not in its place", c.in)
			}
		}
	}
}

// Of an answer that does not fit only the length is returned. The rest of the buffer holds
// none of its old bytes.
func TestExchangeOut(t *testing.T) {
	for n, want := range map[int]string{
		0:     "\x00\x00\x00\x00\x00\x00\x00",
		2:     "\x02\x00\x00\x00zz\x00",
		3:     "\x03\x00\x00\x00zzz",
		4:     "\x04\x00\x00\x00\x00\x00\x00",
		65538: "\x02\x00\x01\x00\x00\x00\x00",
	} {
		out := bytes.Repeat([]byte("z"), 7)
		if ExchangeOut(out, n); string(out) != want {
			t.Errorf("%d bytes: %q, want %q", n, out, want)
		}
	}
}

// For any other ioctl the whole buffer is copied back, as the kernel expects.
func TestCopiedBack(t *testing.T) {
	for _, c := range []struct {
		cmd               uint32
		result, room, out int
	}{
		{IoctlExchange, 0, 100, 4}, {IoctlExchange, 96, 100, 100}, {IoctlExchange, 97, 100, 4},
		{IoctlExchange, 0, 4, 4}, {IoctlExchange, 0, 3, 3}, {IoctlExchange, 5, 0, 0},
		{IoctlBinary, 0, 0, 0}, {0x5401, 0, 100, 100}, {0x5401, 7, 100, 100},
	} {
		if got := copiedBack(c.cmd, c.result, c.room); got != c.out {
			t.Errorf("%#x, answer of %d, room for %d: %d", c.cmd, c.result, c.room, got)
		}
	}
}

// struct cardfs_connection: nine numbers, 36 bytes for the ATR, 128 for the name.
func TestConnect(t *testing.T) {
	if connectionSize != 200 {
		t.Errorf("%d bytes", connectionSize)
	}
	in := append([]byte{2, 0, 0, 0}, make([]byte, 196)...)
	for _, c := range []struct {
		in, out int
		want    bool
	}{{200, 200, true}, {199, 200, false}, {200, 199, false}, {0, 0, false}} {
		share, ok := ConnectIn(in[:c.in], make([]byte, c.out))
		if ok != c.want || ok && share != 2 {
			t.Errorf("%d bytes, room for %d: %d, %v", c.in, c.out, share, ok)
		}
	}

	out := bytes.Repeat([]byte{0xEE}, 200)
	ConnectOut(out, &Connection{Share: 1, Card: 2, Active: 3, Offered: 4, Changes: 5, Epoch: 6, Connections: 7, Locked: true, Prefix: []byte{0x3B, 4}, ATR: []byte{6, 7, 8}, Reader: "R 00 01"})
	want := []byte{1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0x3B, 4, 6, 7, 8}
	want = append(want, make([]byte, 31)...)
	want = append(append(want, "R 00 01"...), make([]byte, 121)...)
	if !bytes.Equal(out, want) {
		t.Errorf("% X", out)
	}
	// What is too long is cut, and the name ends with a NUL.
	ConnectOut(out, &Connection{ATR: bytes.Repeat([]byte{9}, 99), Reader: strings.Repeat("n", 999)})
	if out[28] != 0 || out[32] != 36 || out[71] != 9 || out[72] != 'n' || out[198] != 'n' || out[199] != 0 {
		t.Errorf("% X", out)
	}
}
