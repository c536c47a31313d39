package openpgp

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func newCard(t testing.TB, s applet.Settings) *applet.Card {
	t.Helper()
	s.Cost = applet.Cheap
	if s.Serial == "" {
		s.Serial = "TEST"
	}
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(c *applet.Card, command string) string {
	return strings.ToUpper(hex.EncodeToString(c.Process(unhex(command))))
}

// data sends a command that must succeed, by extended length.
func data(t testing.TB, c *applet.Card, head string, body []byte) []byte {
	t.Helper()
	k := append(unhex(head), 0)
	if len(body) > 0 {
		k = append(append(k, byte(len(body)>>8), byte(len(body))), body...)
	}
	k = append(k, 0, 0)
	r := bytes.Clone(c.Process(k))
	if n := len(r); r[n-2] != 0x90 || r[n-1] != 0 {
		t.Fatalf("%s, %d bytes: % X", head, len(body), r[n-2:])
	}
	return r[:len(r)-2]
}

// script sends the commands of lines "command → answer". "…" in an answer stands for anything.
func script(t testing.TB, c *applet.Card, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		line, _, _ = strings.Cut(line, "#")
		command, want, found := strings.Cut(strings.TrimSpace(line), " → ")
		if !found {
			continue
		}
		got := send(c, command)
		want = strings.ToUpper(strings.ReplaceAll(want, " ", ""))
		begin, end, open := strings.Cut(want, "…")
		if got != want && !(open && strings.HasPrefix(got, begin) && strings.HasSuffix(got, end) && len(got) >= len(begin)+len(end)) {
			t.Errorf("%s\n got %s\nwant %s", command, got, want)
		}
	}
}

// Passwords in their initial state.
const (
	verifySign  = "00200081 06 313233343536"
	verifyUser  = "00200082 06 313233343536"
	verifyAdmin = "00200083 08 3132333435363738"
)

// 4.4.1 and 7.2.6: "GET DATA"; the initial values.
func TestObjects(t *testing.T) {
	script(t, newCard(t, applet.Settings{}), `
		00A40400 06 D27600012401 → 9000
		00A40400 06 D27600012401 00 → 9000
		00A4040C 06 D27600012401 → 9000
		00A40400 06 D27600012402 → 6A82
		00CA004F 00 → D27600012401 0304 FFFF … 0000 9000
		00CA5F52 00 → 00 31C5 73C001E0 05 9000 9000
		00CA005E 00 → 9000
		00CA5F50 00 → 9000
		00CA0065 00 → 5B00 5F2D02656E 5F350139 9000
		00CA007A 00 → 9303000000 9000
		00CA0093 00 → 000000 9000
		00CA7F66 00 → 02022000 02022000 9000
		00CA7F74 00 → 810120 9000
		00CA00C0 00 → 7F00 0800 1000 0800 00 01 9000
		00CA00C1 00 → 010800002000 9000
		00CA00C2 00 → 010800002000 9000
		00CA00C3 00 → 010800002000 9000
		00CA00C4 00 → 00 7F7F7F 03 00 03 9000
		00CA00C5 00 → `+strings.Repeat("00", 60)+` 9000
		00CA00C6 00 → `+strings.Repeat("00", 60)+` 9000
		00CA00CD 00 → `+strings.Repeat("00", 12)+` 9000
		00CA00D6 00 → 0020 9000
		00CA00DE 00 → 010002000300 9000
		00CA00F9 00 → 810100 9000
		00CA7F21 00 → 9000
		00CA006E 00 → 4F10 D27600012401 … 9000
		00CA0101 00 → 9000
		00CA0102 00 → 9000
		00CA0103 00 → 6982
		00CA0104 00 → 6982
		00CA00D3 00 → 6A88    # the resetting code is written only
		00CA00D5 00 → 6A88    # and so is the AES key
		00CA004D 00 → 6A88
		00CA0000 00 → 6A88
		00CA004F 01 AA 00 → 6700
		00F10000 00 → 6D00
		80CA004F 00 → 6E00
	`)
}

// 4.4.3.1: the order and content of application related data.
func TestApplicationRelatedData(t *testing.T) {
	c := newCard(t, applet.Settings{})
	all, err := applet.Objects(data(t, c, "00CA006E", nil))
	if err != nil {
		t.Fatal(err)
	}
	var tags []int
	for _, o := range all {
		tags = append(tags, o.Tag)
	}
	inner, _ := applet.Find(all, tagDiscretion)
	parts, err := applet.Objects(inner)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range parts {
		tags = append(tags, o.Tag)
		if got := data(t, c, "00CA00"+hex.EncodeToString([]byte{byte(o.Tag)}), nil); !bytes.Equal(got, o.Value) {
			t.Errorf("%X: alone % X, in 6E % X", o.Tag, got, o.Value)
		}
	}
	want := []int{0x4F, 0x5F52, 0x7F66, 0x7F74, 0x73, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xCD, 0xDE, 0xD6, 0xD7, 0xD8}
	if len(tags) != len(want) {
		t.Fatalf("%X, want %X", tags, want)
	}
	for i := range want {
		if tags[i] != want[i] {
			t.Fatalf("%X, want %X", tags, want)
		}
	}
}

// 4.4.2: who may write, and what.
func TestPutData(t *testing.T) {
	c := newCard(t, applet.Settings{})
	script(t, c, `
		00DA005B 01 41 → 6982
		00DA0101 01 41 → 6982
		00DA0102 01 41 → 6982
		00DA7F21 01 41 → 6982
		00DA00C7 01 41 → 6982
		00DA00CA 01 41 → 6982
		00DA00D0 01 41 → 6982
		00DA00C1 01 41 → 6982
		00DA00C4 01 01 → 6982
		00DA00D3 08 3132333435363738 → 6982
		00DA00D8 02 0020 → 6982
		00DA00F9 03 810100 → 6982
		00DB3FFF 01 4D → 6982
		00DA00CD 01 41 → 6A88
		00DA00D1 01 41 → 6A88
		00DA004F 01 41 → 6A88
		`+verifyUser+` → 9000
		00DA0101 01 41 → 9000
		00DA0102 01 42 → 6982
		00DA0103 01 43 → 9000
		00CA0103 00 → 439000
		00DA0104 01 44 → 6982
		00CA0104 00 → 6982
		00DA005B 01 41 → 6982
		`+verifyAdmin+` → 9000
		00DA0102 01 42 → 9000
		00DA0104 01 44 → 9000
		00CA0101 00 → 419000
		00CA0102 00 → 429000
		00CA0104 00 → 449000
		00DA005B 03 414243 → 9000
		00DA005B 27 `+strings.Repeat("41", 39)+` → 9000
		00DA005B 28 `+strings.Repeat("41", 40)+` → 6A80
		00DA5F2D 02 6465 → 9000
		00DA5F2D 01 64 → 6A80
		00DA5F2D 08 6465656E66726974 → 9000
		00DA5F2D 09 6465656E6672697400 → 6A80
		00DA5F35 01 31 → 9000
		00DA5F35 01 33 → 6A80
		00DA5F35 02 3132 → 6A80
		10DA5F50 02 6162 → 9000
		00DA5F50 02 6364 → 9000
		00CA5F50 00 → 616263649000   # the chain's buffer is not what is kept
		00DA005E 02 6364 → 9000
		00CA005E 00 → 63649000
		00CA0065 00 → 5B27 …5F350131 9000
		00DA00C7 14 0101010101010101010101010101010101010101 → 9000
		00DA00C9 14 0303030303030303030303030303030303030303 → 9000
		00DA00CB 14 0202020202020202020202020202020202020202 → 9000
		00DA00C8 13 01010101010101010101010101010101010101 → 6A80
		00CA00C5 00 → 0101010101010101010101010101010101010101 0000000000000000000000000000000000000000 0303030303030303030303030303030303030303 9000
		00CA00C6 00 → 0000000000000000000000000000000000000000 0202020202020202020202020202020202020202 0000000000000000000000000000000000000000 9000
		00DA00CE 04 01020304 → 9000
		00DA00D0 04 05060708 → 9000
		00DA00CF 03 050607 → 6A80
		00CA00CD 00 → 01020304 00000000 05060708 9000
		00DA00CD 0C 010203040102030401020304 → 6A88
		00DA00D6 02 0120 → 9000
		00DA00D6 02 0020 → 9000
		00DA00D6 02 0320 → 6A80
		00DA00D6 02 0100 → 6A80
		00DA00D7 02 0220 → 9000
		00DA00D7 02 0020 → 6985  # on for good
		00DA00D7 02 0220 → 9000
		00CA00D7 00 → 02209000
		00DA00D5 0F 000102030405060708090A0B0C0D0E → 6A80
		00DA0093 03 000001 → 6A88
		00DA004F 01 41 → 6A88
	`)
}

// 7.2.5, 7.2.7: three certificates, for authentication, decryption, signatures.
func TestCertificates(t *testing.T) {
	script(t, newCard(t, applet.Settings{}), verifyAdmin+` → 9000
		00DA7F21 01 A1 → 9000
		00A50104 06 60045C027F21 → 9000
		00DA7F21 01 A2 → 9000
		00A50204 06 60045C027F21 → 9000
		00DA7F21 01 A3 → 9000
		00CA7F21 00 → A39000
		00CC7F21 00 → 6A88
		00A50004 06 60045C027F21 → 9000
		00CA7F21 00 → A19000
		00CC7F21 00 → A29000
		00CC7F21 00 → A39000
		00CC7F21 00 → 6A88
		00CC0065 00 → 6A88
		00A50304 06 60045C027F21 → 6A88
		00A50004 06 60045C020065 → 6A88
		00A50004 05 60045C027F → 6A80
		00A50004 07 60045C027F2100 → 6A80
		00A50000 06 60045C027F21 → 6A86
		00CA7F21 00 → A39000
		00A40400 06 D27600012401 → 9000
		00CA7F21 00 → A19000
	`)
}

// 7.7, 4.1.3.1: a long certificate by chaining and by extended length, read with GET RESPONSE.
func TestLong(t *testing.T) {
	c := newCard(t, applet.Settings{})
	script(t, c, verifyAdmin+" → 9000")
	cert := make([]byte, maxCertificate)
	for i := range cert {
		cert[i] = byte(i % 251)
	}
	for rest := cert; len(rest) > 0; {
		n := min(len(rest), 200)
		cla := byte(0x10)
		if n == len(rest) {
			cla = 0
		}
		if r := c.Process(append([]byte{cla, 0xDA, 0x7F, 0x21, byte(n)}, rest[:n]...)); string(r) != "\x90\x00" {
			t.Fatalf("% X", r)
		}
		rest = rest[n:]
	}
	if got := data(t, c, "00CA7F21", nil); !bytes.Equal(got, cert) {
		t.Errorf("extended: %d bytes", len(got))
	}
	var got []byte
	for r := c.Process(unhex("00CA7F2100")); ; r = c.Process(unhex("00C0000000")) {
		got = append(got, r[:len(r)-2]...)
		if r[len(r)-2] == 0x61 {
			continue
		}
		break
	}
	if !bytes.Equal(got, cert) {
		t.Errorf("GET RESPONSE: %d bytes", len(got))
	}
	over := append([]byte{0, 0xDA, 0x7F, 0x21, 0, byte((maxCertificate + 1) >> 8), byte((maxCertificate + 1) & 0xFF)}, make([]byte, maxCertificate+1)...)
	if r := c.Process(over); string(r) != "\x6A\x80" {
		t.Errorf("% X", r)
	}
}

// 6: the historical bytes of the ATR are those of DO 5F52; the same in three shapes.
func TestATR(t *testing.T) {
	for kind, want := range map[string]string{
		"":            "3BDA18FF81B1FE751F03 0031C573C001E0059000 A9",
		"t0":          "3B1A18 0031C573C001E0059000",
		"contactless": "3B8A8001 0031C573C001E0059000 38",
	} {
		c := newCard(t, applet.Settings{ATR: kind})
		if got := c.ATR(); !bytes.Equal(got, unhex(want)) {
			t.Errorf("%s: % X", kind, got)
		}
	}
}

// Another reader has a card with another serial number, and the same reader the same.
func TestSerial(t *testing.T) {
	aid := func(serial string) string { return send(newCard(t, applet.Settings{Serial: serial}), "00CA004F00") }
	a, again, b := aid("A"), aid("A"), aid("B")
	if a != again || a == b {
		t.Error(a, again, b)
	}
}

// 7.2.16, 7.2.17: what ends the card's life, and begins a new one.
func TestLifeCycle(t *testing.T) {
	c := newCard(t, applet.Settings{Seed: "s"})
	script(t, c, `
		00E60000 → 6982
		00440000 → 9000    # nothing to do
		`+verifyUser+` → 9000
		00E60000 → 6982
		`+verifyAdmin+` → 9000
		00DA005B 01 41 → 9000
		00DA00C1 09 132A8648CE3D030107 → 9000
		00478000 02 B600 00 → 7F4943…9000
		00E60001 → 6A86
		00E60000 01 00 → 6700
		00440100 → 6A86
		00440000 01 00 → 6700
		00440000 → 9000    # nothing to do yet
		00CA005B 00 → 419000
		00E60000 → 9000
		00CA0103 00 → 6982
		00A40400 06 D27600012401 → 6285
		00CA5F52 00 → 0031C573C001E0039000 9000
		`+verifyAdmin+` → 6985
		00DA005B 01 42 → 6985
		00440000 → 9000
		00200083 → 63C3
		00A40400 06 D27600012401 → 9000
		00CA5F52 00 → 0031C573C001E0059000 9000
		00CA005B 00 → 9000
		00CA00C1 00 → 010800002000 9000
		00CA00DE 00 → 010002000300 9000
		00DA005B 01 42 → 6982
		00200081 06 303030303030 → 6982
		00200081 06 303030303030 → 6982
		00200081 06 303030303030 → 6982
		00E60000 → 6982
		00200083 08 3030303030303030 → 6982
		00200083 08 3030303030303030 → 6982
		00E60000 → 6982
		00200083 08 3030303030303030 → 6982
		00E60000 → 9000    # both are blocked
		00440000 → 9000
		`+verifySign+` → 9000
		`+verifyAdmin+` → 9000
	`)
}

// A state file keeps all of it, and neither passwords nor the resetting code in clear.
func TestState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "card")
	s := applet.Settings{State: file}
	c := newCard(t, s)
	script(t, c, verifyAdmin+` → 9000
		00DA00D3 09 726573657474696E67 → 9000
		00DA005B 01 41 → 9000
		00DA00C1 0A 162B06010401DA470F01 → 9000
		00478000 02 B600 00 → …9000
		00240081 10 313233343536 73657276616E747331 32 → 9000
		00200081 06 303030303030 → 6982
	`)
	public := send(c, "0047810002B60000")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"resetting", "servants", "123456", hex.EncodeToString([]byte("resetting")), "cmVzZXR0aW5n", "c2VydmFudH"} {
		if bytes.Contains(bytes.ReplaceAll(text, []byte("resetting_code"), nil), []byte(secret)) {
			t.Errorf("%s is in the state file", secret)
		}
	}
	c.Close()
	c = newCard(t, s)
	script(t, c, `
		00CA00C4 00 → 00 7F7F7F 02 03 03 9000
		00CA005B 00 → 41 9000
		00CA00DE 00 → 010102000300 9000
		00478100 02 B600 00 → `+public+`
		00200081 0A 73657276616E74733132 → 9000
	`)
}

func TestDamagedState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "card")
	newCard(t, applet.Settings{State: file}).Close()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range [][2]string{
		{`"Tries": 3`, `"Tries": 4`},
		{`"attributes": "AQgAACAA"`, `"attributes": "AQgAACAB"`},
		{`"time": "AAAAAA=="`, `"time": "AAAA"`},
		{`"objects": {}`, `"objects": null`},
		{`"signatures": 0`, `"signatures": -1`},
	} {
		bad := bytes.Replace(text, []byte(edit[0]), []byte(edit[1]), 1)
		if bytes.Equal(bad, text) {
			t.Fatalf("%s is not in the file:\n%s", edit[0], text)
		}
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := New(applet.Settings{State: file, Cost: applet.Cheap}); err == nil {
			c.Close()
			t.Errorf("%s: taken", edit[1])
		}
	}
}
