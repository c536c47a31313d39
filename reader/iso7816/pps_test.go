package iso7816

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"testing"
)

func TestPPSRequest(t *testing.T) {
	for _, c := range []struct {
		t    int
		ta1  byte
		want string
	}{
		{0, 0x11, "FF 00 FF"},
		{1, 0x11, "FF 01 FE"},
		{0, 0x94, "FF 10 94 7B"},
		{1, 0x95, "FF 11 95 7B"},
		{1, 0x96, "FF 11 96 78"},
		{1, 0x18, "FF 11 18 F6"},
	} {
		if got := PPSRequest(c.t, c.ta1); !bytes.Equal(got, unhex(t, c.want)) {
			t.Errorf("T=%d %02X: % X, want %s", c.t, c.ta1, got, c.want)
		}
	}
}

// ISO/IEC 7816-3:2006 §9.3: PPSS and the protocol must be echoed; PPS1..PPS3 are
// echoed or absent, which means the default; PCK makes the XOR of all bytes 00.
func TestCheckPPS(t *testing.T) {
	for _, c := range []struct {
		name, req, resp string
		ta1             byte // 0: an error
	}{
		{"echoed", "FF 11 95 7B", "FF 11 95 7B", 0x95},
		{"echoed without PPS1", "FF 01 FE", "FF 01 FE", 0x11},
		{"PPS1 absent: the card wants 11", "FF 11 95 7B", "FF 01 FE", 0x11},
		{"PPS2 echoed", "FF 31 95 01 5A", "FF 31 95 01 5A", 0x95},
		{"PPS2 absent", "FF 31 95 01 5A", "FF 11 95 7B", 0x95},
		{"PPS1 absent, PPS2 echoed", "FF 31 95 01 5A", "FF 21 01 DF", 0x11},
		{"PPS3 echoed", "FF 51 95 02 39", "FF 51 95 02 39", 0x95},
		{"all echoed", "FF 71 95 01 02 18", "FF 71 95 01 02 18", 0x95},
		{"empty", "FF 11 95 7B", "", 0},
		{"too short", "FF 11 95 7B", "FF 11", 0},
		{"PPSS wrong", "FF 11 95 7B", "FE 11 95 7A", 0},
		{"other protocol", "FF 11 95 7B", "FF 10 95 7A", 0},
		{"other protocol, PPS1 absent", "FF 11 95 7B", "FF 00 FF", 0},
		{"PPS1 differs", "FF 11 95 7B", "FF 11 94 7A", 0},
		{"PPS1 not asked for", "FF 01 FE", "FF 11 95 7B", 0},
		{"PPS2 not asked for", "FF 11 95 7B", "FF 31 95 01 5A", 0},
		{"PPS2 differs", "FF 31 95 01 5A", "FF 31 95 02 59", 0},
		{"PPS3 differs", "FF 51 95 02 39", "FF 51 95 03 38", 0},
		{"PPS3 not asked for", "FF 11 95 7B", "FF 51 95 02 39", 0},
		{"PCK wrong", "FF 11 95 7B", "FF 11 95 7A", 0},
		{"PCK wrong, PPS1 absent", "FF 11 95 7B", "FF 01 FF", 0},
		{"bit 8 of PPS0", "FF 11 95 7B", "FF 91 95 FB", 0},
		{"PPS1 announced, missing", "FF 11 95 7B", "FF 11 EE", 0},
		{"one byte too many", "FF 11 95 7B", "FF 11 95 7B 00", 0},
		{"cut", "FF 11 95 7B", "FF 11 95", 0},
		// With T=0, where no other check sees them.
		{"T=0, too short", "FF 10 95 7A", "FF 00", 0},
		{"T=0, PPSS wrong", "FF 10 95 7A", "FE 00 FE", 0},
		{"T=0, bit 8 of PPS0", "FF 10 95 7A", "FF 80 7F", 0},
		{"T=0, PCK wrong", "FF 10 95 7A", "FF 00 FE", 0},
		{"T=0, cut", "FF 10 95 7A", "FF 10 95", 0},
		{"T=0, one byte too many", "FF 10 95 7A", "FF 00 00 FF", 0},
		{"T=0, PPS1 differs", "FF 10 95 7A", "FF 10 94 7B", 0},
		{"T=0, PPS1 not asked for", "FF 00 FF", "FF 10 95 7A", 0},
		{"the request is none", "FF 10 95", "FF 10 95 7A", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ta1, err := CheckPPS(unhex(t, c.req), unhex(t, c.resp))
			if c.ta1 == 0 {
				if !errors.Is(err, ErrProtocol) {
					t.Fatalf("got %02X, error %v", ta1, err)
				}
				// An error never has bytes that a card sent.
				for _, b := range unhex(t, c.resp) {
					if b > 0x11 && !bytes.Contains(unhex(t, c.req), []byte{b}) && regexp.MustCompile(fmt.Sprintf(`\b%02X\b`, b)).MatchString(err.Error()) {
						t.Errorf("%v: the card's byte %02X", err, b)
					}
				}
				if regexp.MustCompile(`\b[0-9A-F]{2} [0-9A-F]{2}\b`).MatchString(err.Error()) {
					t.Errorf("%v: bytes", err)
				}
				return
			}
			if err != nil || ta1 != c.ta1 {
				t.Errorf("got %02X, %v; want %02X", ta1, err, c.ta1)
			}
			if n := PPSLength(unhex(t, c.resp)); n != len(unhex(t, c.resp)) {
				t.Errorf("PPSLength %d", n)
			}
		})
	}
}

// FuzzPPS: go test -fuzz FuzzPPS ./reader/iso7816
func FuzzPPS(f *testing.F) {
	f.Add(byte(1), byte(0x95), []byte{0xFF, 0x11, 0x95, 0x7B})
	f.Add(byte(1), byte(0x95), []byte{0xFF, 0x01, 0xFE})
	f.Add(byte(0), byte(0x11), []byte{0xFF, 0x00, 0xFF})
	f.Add(byte(1), byte(0x95), []byte{0xFF, 0x71, 0x95, 0x01, 0x02, 0x18})
	f.Fuzz(func(t *testing.T, proto, ta1 byte, resp []byte) {
		req := PPSRequest(int(proto&0x0F), ta1)
		got, err := CheckPPS(req, resp)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if got != ta1 && got != DefaultTA1 {
			t.Fatalf("% X after % X: %02X is neither asked for nor the default", resp, req, got)
		}
		// What was agreed, asked for at once, is agreed at once.
		again := PPSRequest(int(proto&0x0F), got)
		if ta1, err := CheckPPS(again, again); err != nil || ta1 != got {
			t.Fatalf("% X: %02X, %v", again, ta1, err)
		}
	})
}
