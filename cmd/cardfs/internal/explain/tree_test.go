package explain

import "testing"

// ISO/IEC 7816-4:2020 table 12: bit 7 shareable; 00 working, 08 internal EF, 38 DF, 39 and
// 3A EFs of data objects; bits 3 to 1 the structure.
func TestDescriptor(t *testing.T) {
	for b, want := range map[byte]string{
		0x00: "working EF", 0x01: "working EF, transparent", 0x02: "working EF, linear fixed", 0x04: "working EF, linear variable", 0x06: "working EF, cyclic",
		0x07: "working EF, cyclic, TLV", 0x09: "internal EF, transparent", 0x11: "EF, proprietary, transparent", 0x31: "EF, proprietary, transparent",
		0x38: "DF", 0x39: "BER-TLV EF", 0x3A: "SIMPLE-TLV EF", 0x78: "DF, shareable", 0x41: "working EF, transparent, shareable", 0x79: "BER-TLV EF, shareable",
		0x7A: "SIMPLE-TLV EF, shareable", 0x80: "", 0xC1: "",
	} {
		if got := descriptor(b); got != want {
			t.Errorf("%02X: %q, want %q", b, got, want)
		}
	}
}

// ISO/IEC 7816-4:2020 table 14.
func TestLifeCycle(t *testing.T) {
	for b, want := range map[byte]string{
		0: "no information", 1: "creation", 2: "", 3: "initialisation", 4: "operational, deactivated", 5: "operational, activated",
		6: "operational, deactivated", 7: "operational, activated", 8: "", 0x0B: "", 0x0C: "terminated", 0x0F: "terminated", 0x10: "proprietary", 0xFF: "proprietary",
		0x15: "proprietary", 0x1C: "proprietary",
	} {
		if got := lifeCycle(b); got != want {
			t.Errorf("%02X: %q, want %q", b, got, want)
		}
	}
}

// What short values say.
func TestValues(t *testing.T) {
	for _, x := range []struct {
		in    context
		tag   uint32
		value string
		want  string
	}{
		{anywhere, 0x02, "00", "0"}, {anywhere, 0x02, "80", "-128"}, {anywhere, 0x02, "0080", "128"}, {anywhere, 0x02, "FFFF", "-1"}, {anywhere, 0x02, "7FFFFFFFFFFFFFFF", "9223372036854775807"},
		{anywhere, 0x02, "010203040506070809", ""},
		{anywhere, 0x01, "FF", "true"}, {anywhere, 0x01, "00", "false"}, {inPIV, 0x01, "00", ""}, {anywhere, 0x01, "0000", ""},
		{anywhere, 0x06, "2A864886F70D010101", "1.2.840.113549.1.1.1"}, {anywhere, 0x06, "80", ""}, {anywhere, 0x06, "2A80", ""},
		{inFCP, 0x80, "0100", "256 bytes"}, {inFCP, 0x81, "01", "1 byte"}, {anywhere, 0x80, "0100", ""}, {inFCP, 0x80, "FFFFFFFFFFFFFFFF", "4294967296 bytes"},
		{inFCP, 0x88, "F0", "30"}, {inFCP, 0x88, "F000", ""}, {inFCP, 0x8A, "0500", ""},
		{anywhere, 0x4F, "A0000000041010", "Mastercard"}, {inFCP, 0x84, "A000000308FF", "of NIST"}, {inCRT, 0x84, "A0000000041010", ""},
		{anywhere, 0x5C, "4F5F50", "4F application identifier (AID); 5F50 issuer URL"}, {anywhere, 0x5C, "5F", ""},
		{inEMV, 0x8C, "9A039C01", "9A transaction date (3); 9C transaction type (1)"}, {anywhere, 0x8C, "9A03", ""}, {anywhere, 0x9F38, "9F3704", "9F37 unpredictable number (4)"},
		{inEMV, 0x8D, "9A", ""},
	} {
		if got := valueWords(x.in, Object{Tag: x.tag, Value: unhex(t, x.value)}); got != x.want {
			t.Errorf("%X %s: %q, want %q", x.tag, x.value, got, x.want)
		}
	}
}
