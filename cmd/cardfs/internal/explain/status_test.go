package explain

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// The meaning of SW1 SW2 depends on the command.
func TestStatus(t *testing.T) {
	const read, verify, ask, gsm, desfire, status = "00B0000000", "0020000101AA", "00200001", "A0B0000000", "9060000000", "80F2400000"
	for _, x := range []struct {
		command string
		sw      uint16
		want    string
	}{
		{read, 0x9000, "done"},
		{read, 0x6100, "done; 256 bytes or more to fetch with GET RESPONSE"},
		{read, 0x6101, "done; 1 byte to fetch with GET RESPONSE"},
		{read, 0x61FF, "done; 255 bytes to fetch with GET RESPONSE"},
		{read, 0x6C00, "wrong Le; the card has 256 bytes"},
		{read, 0x6C01, "wrong Le; the card has 1 byte"},
		{read, 0x63C5, "warning; a counter is 5"},
		{read, 0x63C0, "warning; a counter is 0"},
		{verify, 0x63C0, "wrong; no try left: blocked"},
		{verify, 0x63C1, "wrong; 1 try left"},
		{verify, 0x63CF, "wrong; 15 tries left"},
		{ask, 0x63C3, "not verified; 3 tries left"},
		{ask, 0x63C0, "not verified; no try left: blocked"},
		{verify, 0x6300, "wrong; how many tries are left is not told"},
		{read, 0x6300, "warning, without further information; non-volatile memory may have changed"},
		{verify, 0x63B1, "warning; non-volatile memory may have changed"},
		{verify, 0x63D1, "warning; non-volatile memory may have changed"},
		{read, 0x6202, "warning; non-volatile memory is unchanged; the card has a query of 2 bytes for the host"},
		{read, 0x6280, "warning; non-volatile memory is unchanged; the card has a query of 128 bytes for the host"},
		{read, 0x6201, "warning; non-volatile memory is unchanged"},
		{read, 0x6290, "warning; non-volatile memory is unchanged"},
		{read, 0x6402, "execution error; non-volatile memory is unchanged; the card has a query of 2 bytes for the host"},
		{read, 0x6401, "the card wants an immediate response"},
		{read, 0x6502, "execution error; non-volatile memory may have changed"},
		{read, 0x66FF, "execution error; a matter of security"},
		{read, 0x6A82, "file or application not found"},
		{read, 0x6AFF, "wrong parameters P1 P2"},
		{read, 0x6E01, "CLA is not supported"},
		{read, 0x9110, "done; the card has a proactive command of 16 bytes (ETSI TS 102 221)"},
		{gsm, 0x9110, "done; the card has a proactive command of 16 bytes (ETSI TS 102 221)"},
		{gsm, 0x9F00, "done; 256 bytes to fetch with GET RESPONSE (GSM 11.11)"},
		{gsm, 0x9404, "file or pattern not found"},
		{read, 0x9404, "defined by the card's application"},
		{read, 0x9203, "done after 3 internal retries (ETSI TS 102 221)"},
		{read, 0x9210, "defined by the card's application"},
		{gsm, 0x9240, "memory problem"},
		{desfire, 0x9100, "done"},
		{desfire, 0x91AE, "authentication error"},
		{desfire, 0x9101, "defined by the card's application"},
		{desfire, 0x9000, "done"},
		{status, 0x6310, "more data: GET STATUS, the next"},
		{read, 0x6310, "warning; non-volatile memory may have changed"},
		{read, 0x9001, "defined by the card's application"},
		{read, 0x1234, "no status word: SW1 is 6X or 9X"},
		{read, 0x0000, "no status word: SW1 is 6X or 9X"},
		{read, 0x7000, "no status word: SW1 is 6X or 9X"},
		{read, 0xA000, "no status word: SW1 is 6X or 9X"},
	} {
		c, err := iso7816.ParseCommand(unhex(t, x.command))
		if err != nil {
			t.Fatal(err)
		}
		if got := Status(c, x.sw); got != x.want {
			t.Errorf("%s, %04X: %q, want %q", x.command, x.sw, got, x.want)
		}
	}
}

// 63CX counts tries after these commands, and after no other that has a name.
func TestCountsTries(t *testing.T) {
	tries := map[string]bool{}
	for cla := range 256 {
		for ins := range 256 {
			if c := (iso7816.Command{CLA: byte(cla), INS: byte(ins)}); strings.HasPrefix(Status(c, 0x63C2), "not verified; 2 tries") {
				tries[iso7816.CommandName(c.CLA, c.INS)] = true
				if got := Status(c, 0x6300); !strings.HasPrefix(got, "wrong;") {
					t.Errorf("%02X %02X, 6300: %s", cla, ins, got)
				}
			}
		}
	}
	want := "CHANGE CHV|CHANGE REFERENCE DATA|DISABLE CHV|DISABLE VERIFICATION REQUIREMENT|ENABLE CHV|ENABLE VERIFICATION REQUIREMENT|" +
		"EXTERNAL AUTHENTICATE|GENERAL AUTHENTICATE|PERFORM BIOMETRIC OPERATION|PIN CHANGE/UNBLOCK|RESET RETRY COUNTER|UNBLOCK CHV|VERIFY|VERIFY CHV"
	if got := strings.Join(slices.Sorted(maps.Keys(tries)), "|"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Every value of ISO/IEC 7816-4:2020 tables 6 to 9 has words of its own; every other SW1 of
// 6X has those of its class.
func TestStatusTable(t *testing.T) {
	const defined = `6281 6282 6283 6284 6285 6286 6287 6340 6381 6401 6481 6482 6581 6701 6702 6881 6882 6883 6884
		6981 6982 6983 6984 6985 6986 6987 6988 6A80 6A81 6A82 6A83 6A84 6A85 6A86 6A87 6A88 6A89 6A8A`
	seen := make(map[string]string)
	for _, sw := range strings.Fields(defined) {
		b := unhex(t, sw)
		words := Status(iso7816.Command{INS: 0xB0}, uint16(b[0])<<8|uint16(b[1]))
		if other := seen[words]; other != "" || words == classWords[b[0]] {
			t.Errorf("%s: %q, as %s", sw, words, other)
		}
		seen[words] = sw
	}
	for sw := 0x6000; sw < 0xA000; sw++ {
		words := Status(iso7816.Command{INS: 0xB0}, uint16(sw))
		if none := strings.HasPrefix(words, "no status word"); words == "" || none != (sw>>12 == 7 || sw>>12 == 8) {
			t.Errorf("%04X: %q", sw, words)
		}
	}
}

// An application is found by its name, and named by what its AID begins with.
func TestApplications(t *testing.T) {
	names := make(map[string]bool)
	for _, a := range Applications {
		if got, ok := LookUp(strings.ToUpper(a.Name)); !ok || string(got.AID) != string(a.AID) {
			t.Errorf("%s: %v, %v", a.Name, got, ok)
		}
		if got := aidWords(append(a.AID, 1)); got != a.Words {
			t.Errorf("%s: %q, want %q", a.Name, got, a.Words)
		}
		if n := len(a.AID); names[a.Name] || n < 5 || n > 16 {
			t.Errorf("%s: twice, or an AID of %d bytes", a.Name, n)
		}
		names[a.Name] = true
	}
	if _, ok := LookUp("nosuch"); ok {
		t.Error("an application without a name")
	}
	for aid, want := range map[string]string{"": "", "A00000030": "", "A000000308FF": "of NIST", "A0000003080000100001": "of NIST", "FF00000000": ""} {
		if got := aidWords(unhex(t, aid+strings.Repeat("0", len(aid)%2))); got != want {
			t.Errorf("%s: %q, want %q", aid, got, want)
		}
	}
}
