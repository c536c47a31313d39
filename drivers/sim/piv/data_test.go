package piv

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// Part 2 §3.1.2: GET DATA; part 1 table 2: what is read after VERIFY alone.
func TestGetData(t *testing.T) {
	h := newHost(t, cheap)
	h.script(`
		00CB3FFF 03 5C017E 00 → 7E 12 4F 0B A000000308000010000100 5F2F 02 4000 9000
		00CB3FFF 05 5C035FC106 00 → 6A82
		00CB3FFF 05 5C035FC1FF 00 → 6A82
		00CB3F00 05 5C035FC102 00 → 6A86
		00CB3FFF 05 53035FC102 00 → 6A80
		00CB3FFF 04 5C035FC1 00 → 6A80
		00CB3FFF 06 5C035FC10200 00 → 6A80
		00CB3FFF 02 5C00 00 → 6A80
		00CB3FFF 06 5C045FC10201 00 → 6A80
		00CB3FFF 00 → 6A80
	`)
	chuid := h.must(insGetData, 0x3F, 0xFF, unhex("5C 03 5FC102"))
	if uuid := h.inner(chuid, 0x53, 0x34); len(uuid) != 16 || len(h.inner(chuid, 0x53, 0x30)) != 25 || len(h.inner(chuid, 0x53, 0x35)) != 8 {
		t.Errorf("CHUID %X", chuid)
	}
	if ccc := h.must(insGetData, 0x3F, 0xFF, unhex("5C 03 5FC107")); len(h.inner(ccc, 0x53, 0xF0)) != 21 {
		t.Errorf("CCC %X", ccc)
	}
	for _, slot := range []byte{slotAuth, slotSignature, slotKey, slotCard} {
		tag := container(slot)
		out := h.must(insGetData, 0x3F, 0xFF, applet.TLV(0x5C, []byte{byte(tag >> 16), byte(tag >> 8), byte(tag)}))
		c, err := x509.ParseCertificate(h.inner(out, 0x53, 0x70))
		if err != nil || c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
			t.Errorf("%02X: %v", slot, err)
		}
	}
	// Whether there is one is told after the PIN alone; a YubiKey tells anybody.
	h.script("00CB3FFF 05 5C035FC109 00 → 6982")
	newHost(t, yubi()).script("00CB3FFF 05 5C035FC109 00 → 6A82")
	h.manage()
	for _, tag := range []string{"5FC103", "5FC108", "5FC109", "5FC121", "5FC123"} {
		h.must(insPutData, 0x3F, 0xFF, unhex("5C 03"+tag+"53 02 AABB"))
		if _, sw := h.send(insGetData, 0x3F, 0xFF, unhex("5C 03"+tag)); sw != applet.SWSecurity {
			t.Errorf("%s without PIN: %04X", tag, sw)
		}
	}
	h.verify()
	for _, tag := range []string{"5FC103", "5FC108", "5FC109", "5FC121", "5FC123"} {
		if got := h.must(insGetData, 0x3F, 0xFF, unhex("5C 03"+tag)); !bytes.Equal(got, unhex("53 02 AABB")) {
			t.Errorf("%s: %X", tag, got)
		}
	}
}

// Part 2 §3.3.1: PUT DATA needs the management key.
func TestPutData(t *testing.T) {
	h := newHost(t, cheap)
	h.verify()
	h.script("00DB3FFF 08 5C035FC106 5301AA → 6982")
	h.manage()
	h.script(`
		00DB3FFF 08 5C035FC106 5301AA → 9000
		00CB3FFF 05 5C035FC106 00 → 5301AA 9000
		10DB3FFF 06 5C035FC10653 → 9000
		00DB3FFF 03 02BBCC → 9000
		00CB3FFF 05 5C035FC106 00 → 5302BBCC 9000
		00DB3FFF 07 5C035FC106 5300 → 9000
		00CB3FFF 05 5C035FC106 00 → 6A82
		00DB3F00 08 5C035FC106 5301AA → 6A86
		00DB3FFF 08 5C035FC100 5301AA → 6A81
		00DB3FFF 08 5C035FC124 5301AA → 6A81
		00DB3FFF 08 5C035FFF00 5301AA → 6A81
		00DB3FFF 08 5C035FC106 5401AA → 6A80
		00DB3FFF 08 5301AA 5C035FC106 → 6A80
		00DB3FFF 05 5C035FC106 → 6A80
		00DB3FFF 06 5C017E 5301AA → 6A80
		00DB3FFF 0A 5C035FC106 5301AA 5300 → 6A80
		00DB3FFF 08 5C035FC106 5302AA → 6A80
		00DB3FFF 06 7F6103 020100 → 9000
		00CB3FFF 04 5C027F61 00 → 7F6103 020100 9000
	`)
	long := make([]byte, maxObjectSize)
	rand.Read(long)
	h.must(insPutData, 0x3F, 0xFF, append(unhex("5C 03 5FC106"), applet.TLV(0x53, long)...))
	if got := h.must(insGetData, 0x3F, 0xFF, unhex("5C 03 5FC106")); !bytes.Equal(got, applet.TLV(0x53, long)) {
		t.Error("a long object comes back another")
	}
	if _, sw := h.send(insPutData, 0x3F, 0xFF, append(unhex("5C 03 5FC106"), applet.TLV(0x53, append(long, 0))...)); sw != applet.SWFull {
		t.Errorf("too long: %04X", sw)
	}
}

// A card comes back from its file with everything but the security state.
func TestStateComesBack(t *testing.T) {
	for _, model := range []string{"", yubikey, yubikey54} {
		s := cheap
		s.Model, s.State = model, filepath.Join(t.TempDir(), "state")
		h := newHost(t, s)
		h.manage()
		public := h.must(insGenerate, 0, slotAuth, unhex("AC 03 80 01 11"))
		h.must(insPutData, 0x3F, 0xFF, unhex("5C 03 5FC106 53 01 AA"))
		h.script("00240080 10 313233343536FFFF 343731313437FFFF → 9000\n00200080 08 313233343537FFFF → 63C2")
		text, err := os.ReadFile(s.State)
		if err != nil || bytes.Contains(text, []byte("343731313437")) || bytes.Contains(text, []byte("471147")) {
			t.Errorf("the PIN is in the file: %v", err)
		}
		h.card.Close()
		h = newHost(t, s)
		h.script("00200080 → 63C2\n00CB3FFF 05 5C035FC106 00 → 5301AA 9000\n00DB3FFF 08 5C035FC106 5301AA → 6982")
		if got := publicObjects(h.app.key(slotAuth).Private.Public()); !bytes.HasSuffix(public, got) {
			t.Error("another key")
		}
		h.script("00200080 08 343731313437FFFF → 9000")
		h.card.Close()
		s.Model = map[string]string{"": yubikey, yubikey: yubikey54, yubikey54: ""}[model]
		if _, err := New(s); err == nil || !strings.Contains(err.Error(), "of another model") {
			t.Errorf("another model: %v", err)
		}
	}
}

// Damaged state is refused, not used.
func TestStateDamaged(t *testing.T) {
	var good state
	h := newHost(t, cheap)
	text, err := json.Marshal(h.app.state)
	if err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(*state){
		"PIN":              func(s *state) { s.PIN.Cost = 3 },
		"PUK":              func(s *state) { s.PUK.Tries = 200 },
		"global":           func(s *state) { s.Global.Max = 0 },
		"management":       func(s *state) { s.Management.Key = s.Management.Key[:16] },
		"no management":    func(s *state) { s.Management = management{} },
		"no key":           func(s *state) { s.Keys["9A"] = nil },
		"no private key":   func(s *state) { s.Keys["9A"] = &key{Alg: algP256} },
		"algorithm":        func(s *state) { s.Keys["9A"].Alg = algP384 },
		"name of the slot": func(s *state) { s.Keys["9A0"] = s.Keys["9A"] },
	} {
		good = state{}
		if err := json.Unmarshal(text, &good); err != nil || !good.valid() {
			t.Fatal("not valid as it is")
		}
		if harm(&good); good.valid() {
			t.Errorf("%s: is taken", name)
		}
	}
}

// keys=DIR imports keys and certificates.
func TestImportFromFiles(t *testing.T) {
	dir := t.TempDir()
	from := newHost(t, applet.Settings{Serial: "OTHER", Cost: applet.Cheap})
	k := from.app.key(slotAuth).Private
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	x, _ := applet.Source{}.X25519("")
	xText, _ := x.MarshalText()
	for name, b := range map[string][]byte{"9a.pem": text, "82.pem": text, "95.pem": xText} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := cheap
	s.Keys, s.Model = dir, yubikey
	h := newHost(t, s)
	for _, slot := range []byte{slotAuth, 0x82, 0x95} {
		if key := h.app.key(slot); key == nil || !key.Imported {
			t.Errorf("%02X: no key", slot)
		}
	}
	if !bytes.Equal(publicObjects(h.app.key(slotAuth).Private.Public()), publicObjects(k.Public())) {
		t.Error("another key")
	}
	h.must(insGetData, 0x3F, 0xFF, unhex("5C 03 5FC105"))
	// With retired keys there has to be a Key History Object (SP 800-73-4 part 1 §3.3.3). One of the two
	// has its certificate on the card; one of X25519 has none.
	if got, want := h.must(insGetData, 0x3F, 0xFF, unhex("5C 03 5FC10C")), unhex("53 08 C1 01 01 C2 01 00 FE 00"); !bytes.Equal(got, want) {
		t.Errorf("key history % X; want % X", got, want)
	}
	os.WriteFile(filepath.Join(dir, "9c.pem"), []byte("no key"), 0o600)
	if _, err := New(s); err == nil || !strings.Contains(err.Error(), "9c.pem") {
		t.Errorf("%v", err)
	}
}

// A seed makes the same card again.
func TestSeed(t *testing.T) {
	a, b := newHost(t, cheap), newHost(t, cheap)
	other := cheap
	other.Seed = "another"
	c := newHost(t, other)
	for _, slot := range []byte{slotAuth, slotSignature} {
		x, y, z := publicObjects(a.app.key(slot).Private.Public()), publicObjects(b.app.key(slot).Private.Public()), publicObjects(c.app.key(slot).Private.Public())
		if !bytes.Equal(x, y) || bytes.Equal(x, z) {
			t.Errorf("%02X: same seed %v, another %v", slot, bytes.Equal(x, y), bytes.Equal(x, z))
		}
	}
	a.manage()
	first := a.must(insGenerate, 0, slotAuth, unhex("AC 03 80 01 11"))
	if bytes.Equal(first, a.must(insGenerate, 0, slotAuth, unhex("AC 03 80 01 11"))) {
		t.Error("a key was generated twice")
	}
}

// What Yubico added is not there without the model, and there as its documents have it.
func TestYubiKey(t *testing.T) {
	newHost(t, cheap).script(`
		00FD0000 00 → 6D00
		00F80000 00 → 6D00
		00F70080 00 → 6D00
		00FB0000 → 6D00
	`)
	h := newHost(t, yubi())
	h.script(`
		00FD0000 00 → 050701 9000
		00F70080 00 → 0101FF 050101 06020303 9000
		00F70081 00 → 0101FF 050101 06020303 9000
		00F7009B 00 → 01010A 02020001 050101 9000
		00F7009A 00 → 6A88
		00F70180 00 → 6A86
		00FB0000 → 6985
		00FA0505 → 6982
		00FFFFFF 03 0A9B18 → 6982
		00F69A9C → 6982
		00FE119A 00 → 6982
		00FC0000 → 6D00
		00200080 08 313233343537FFFF → 63C2
		00F70080 00 → 0101FF 050101 06020302 9000
		00240080 10 313233343536FFFF 4142434445464748 → 9000
		00F70080 00 → 0101FF 050100 06020303 9000
		002C0080 10 3132333435363738 313233343536FFFF → 9000
	`)
	if got := h.must(insSerial, 0, 0, nil); len(got) != 4 {
		t.Errorf("serial %X", got)
	}
	h.manage()
	h.script(`
		0020FF80 → 9000
		00FA0505 → 6982
		00200080 08 313233343536FFFF → 9000
		00FA0005 → 6A86
		00FA0504 → 9000
		00F70080 00 → 0101FF 050101 06020505 9000
		00F70081 00 → 0101FF 050101 06020404 9000
		00200080 → 63C5
		00FFFFFF 1B 039B18 010203040506070801020304050607080102030405060709 → 9000
		00F7009B 00 → 010103 02020001 050100 9000
		00FFFFFE 13 089B10 000102030405060708090A0B0C0D0E0F → 9000
		00F7009B 00 → 010108 02020002 050100 9000
		00FFFFFC 13 089B10 000102030405060708090A0B0C0D0E0F → 6A86
		00FFFFFF 13 089B11 000102030405060708090A0B0C0D0E0F → 6A80
		00FFFFFF 13 0A9B10 000102030405060708090A0B0C0D0E0F → 6A80
		00FFFFFF 13 089A10 000102030405060708090A0B0C0D0E0F → 6A80
		00FFFFFF 12 089B10 000102030405060708090A0B0C0D0E → 6A80
		00FFFFFF 02 089B → 6A80
	`)
	out := h.must(insGenerate, 0, slotAuth, unhex("AC 09 80 01 11 AA 01 01 AB 01 02"))
	point := h.inner(out, 0x7F49, 0x86)
	want := append(unhex("010111 02020102 030101 0443 8641"), point...)
	if got := h.must(insMetadata, 0, slotAuth, nil); !bytes.Equal(got, want) {
		t.Errorf("metadata %X", got)
	}
	for _, bad := range []string{"AC 06 80 01 11 AA 01 04", "AC 06 80 01 11 AB 01 04", "AC 07 80 01 11 AA 02 01 01"} {
		if _, sw := h.send(insGenerate, 0, slotAuth, unhex(bad)); sw != applet.SWData {
			t.Errorf("%s: %04X", bad, sw)
		}
	}
	h.script(`
		00F6829A → 9000
		00F7009A 00 → 6A88
		00F69A82 → 9000
		00F69A9A → 6A86
		00F69A82 → 6A88
		00F6F99A → 6A86
		00F6FF9A → 9000
		00F7009A 00 → 6A88
	`)
}

// Firmware 5.4 has 3DES, and not what came with 5.7.
func TestYubiKey54(t *testing.T) {
	s := cheap
	s.Model = yubikey54
	h := newHost(t, s)
	h.script("00FD0000 00 → 050403 9000\n00F7009B 00 → 010103 02020001 050101 9000")
	h.manage()
	for alg, want := range map[byte]int{algP256: applet.OK, algP384: applet.OK, algEd25519: applet.SWData, algX25519: applet.SWData, algRSA3072: applet.SWData, algRSA4096: applet.SWData} {
		if _, sw := h.send(insGenerate, 0, slotAuth, []byte{0xAC, 3, 0x80, 1, alg}); sw != want {
			t.Errorf("%02X: %04X", alg, sw)
		}
	}
	h.script("00F6829A → 6D00\n00FEE09A 22 0720" + strings.Repeat("11", 32) + " → 6A80")
}

// The reset of a YubiKey: only when PIN and PUK are blocked, and everything goes but the key of
// attestation.
func TestYubiKeyReset(t *testing.T) {
	h := newHost(t, yubi())
	h.manage()
	h.must(insGenerate, 0, slotAuth, unhex("AC 03 80 01 11"))
	attest := h.must(insMetadata, 0, slotAttest, nil)
	for range 3 {
		h.send(insVerify, 0, refPIN, unhex("3939393939393939"))
	}
	h.script("00FB0000 → 6985")
	for range 3 {
		h.send(insResetRetry, 0, refPIN, unhex("3939393939393939 313233343536FFFF"))
	}
	h.script(`
		00FB0100 → 6A86
		00FB0000 → 9000
		00200080 → 63C3
		00F7009A 00 → 6A88
		00DB3FFF 08 5C035FC106 5301AA → 6982
		00200080 08 313233343536FFFF → 9000
	`)
	if !bytes.Equal(attest, h.must(insMetadata, 0, slotAttest, nil)) {
		t.Error("the key of attestation changed")
	}
	h.must(insGetData, 0x3F, 0xFF, unhex("5C 03 5FFF01"))
}

// Attestation: signed by F9, for generated keys alone, with Yubico's extensions.
func TestAttest(t *testing.T) {
	h := newHost(t, yubi())
	h.manage()
	parent, ok := h.app.attestCertificate()
	if !ok {
		t.Fatal("no certificate of attestation")
	}
	for _, alg := range []byte{algP256, algP384, algEd25519, algX25519} {
		made := h.must(insGenerate, 0, slotAuth, []byte{0xAC, 6, 0x80, 1, alg, 0xAA, 1, 3})
		c, err := x509.ParseCertificate(h.must(insAttest, slotAuth, 0, nil))
		if err != nil {
			t.Errorf("%02X: %v", alg, err)
			continue
		}
		if err := c.CheckSignatureFrom(parent); err != nil {
			t.Errorf("%02X: %v", alg, err)
		}
		public, err := x509.ParsePKIXPublicKey(c.RawSubjectPublicKeyInfo)
		if got := applet.TLV(0x7F49, publicObjects(public)); err != nil || !bytes.Equal(got, made) {
			t.Errorf("%02X: attested is %X, made was %X: %v", alg, got, made, err)
		}
		found := map[int][]byte{}
		for _, e := range c.Extensions {
			if len(e.Id) == 9 && e.Id[:8].Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3}) {
				found[e.Id[8]] = e.Value
			}
		}
		var serial int
		asn1.Unmarshal(found[7], &serial)
		if !bytes.Equal(found[3], firmware57) || serial != int(h.app.serial()) || !bytes.Equal(found[8], []byte{3, 1}) || len(found[9]) != 1 {
			t.Errorf("%02X: %X", alg, found)
		}
	}
	// The owner may put a key of any kind into F9; its certificate is replaced along.
	for alg, secret := range map[byte]string{algEd25519: "07 20" + strings.Repeat("11", 32), algP384: "06 30" + strings.Repeat("11", 48)} {
		h.must(insImport, alg, slotAttest, unhex(secret))
		by := h.app.key(slotAttest).Private
		h.app.certify(slotAttest, by)
		c, err := x509.ParseCertificate(h.must(insAttest, slotAuth, 0, nil))
		if parent, ok := h.app.attestCertificate(); err != nil || !ok || c.CheckSignatureFrom(parent) != nil {
			t.Errorf("X25519 attested by %02X: %v", alg, err)
		}
	}
	h.script("00F99C00 00 → 6A80\n00F9F900 00 → 6A86\n00F99A01 00 → 6A86\n00F99B00 00 → 6A86")
	h.must(insImport, algP256, slotSignature, applet.TLV(0x06, bytes.Repeat([]byte{0x11}, 32)))
	h.script("00F99C00 00 → 6A80")
}

// IMPORT refuses what is no key.
func TestImport(t *testing.T) {
	h := newHost(t, yubi())
	h.manage()
	k, err := applet.Source{Seed: "x"}.RSA("x", 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := k.PrivateKey.(*rsa.PrivateKey)
	h.must(insImport, algRSA2048, slotKey, append(applet.TLV(0x01, private.Primes[0].Bytes()), applet.TLV(0x02, private.Primes[1].Bytes())...))
	if got := publicObjects(h.app.key(slotKey).Private.Public()); !bytes.Equal(got, publicObjects(k.Public())) {
		t.Error("RSA: another key")
	}
	for _, x := range []struct {
		alg, slot byte
		data      string
		want      int
	}{
		{algP256, slotAuth, "0620" + strings.Repeat("11", 32), applet.OK},
		{algP256, slotAuth, "061F" + strings.Repeat("11", 31), applet.OK}, // without its leading zero
		{algP256, slotAuth, "0621" + strings.Repeat("11", 33), applet.SWData},
		{algP256, slotAuth, "0620" + strings.Repeat("FF", 32), applet.SWData},
		{algP256, slotAuth, "0620" + strings.Repeat("00", 32), applet.SWData},
		{algP256, slotAuth, "0720" + strings.Repeat("11", 32), applet.SWData},
		{algP256, slotAuth, "", applet.SWData},
		{algP256, slotAuth, "0620", applet.SWData},
		{algP384, slotAuth, "0630" + strings.Repeat("11", 48) + "AA0103", applet.OK},
		{algP384, slotAuth, "0630" + strings.Repeat("11", 48) + "AA0109", applet.SWData},
		{algEd25519, slotAuth, "0720" + strings.Repeat("11", 32), applet.OK},
		{algEd25519, slotAuth, "071F" + strings.Repeat("11", 31), applet.SWData},
		{algX25519, slotAuth, "0820" + strings.Repeat("11", 32), applet.OK},
		{algX25519, slotAuth, "081F" + strings.Repeat("11", 31), applet.SWData},
		{algRSA2048, slotAuth, "01818011" + strings.Repeat("11", 127) + "02818011" + strings.Repeat("11", 127), applet.SWData},
		{0x06, slotAuth, "0620" + strings.Repeat("11", 32), applet.SWData}, // RSA 1024
		{algP256, slotManagement, "0620" + strings.Repeat("11", 32), applet.SWP1P2},
		{algP256, slotAttest, "0620" + strings.Repeat("11", 32), applet.OK},
	} {
		if _, sw := h.send(insImport, x.alg, x.slot, unhex(x.data)); sw != x.want {
			t.Errorf("%02X %.12s: %04X, want %04X", x.alg, x.data, sw, x.want)
		}
	}
}

// No sequence of commands makes the card panic, answer without a status, or hand out a
// private key; after each the state can be written and read.
func FuzzAPDUs(f *testing.F) {
	f.Add(true, []byte("\x05\x00\xFD\x00\x00\x00\x0D\x00\x20\x00\x80\x08123456\xFF\xFF"))
	f.Add(false, []byte("\x09\x00\x87\x03\x9B\x04\x7C\x02\x81\x00\x09\x00\x87\x03\x9B\x04\x7C\x02\x80\x00"))
	f.Add(true, []byte("\x0A\x00\x47\x00\x9A\x05\xAC\x03\x80\x01\x11\x05\x00\xF9\x9A\x00\x00"))
	f.Add(false, []byte("\x0B\x00\xCB\x3F\xFF\x05\x5C\x03\x5F\xC1\x05\x00\x05\x00\xC0\x00\x00\x00"))
	f.Add(true, []byte("\x06\x10\xDB\x3F\xFF\x01\x5C\x0D\x00\xDB\x3F\xFF\x07\x03\x5F\xC1\x06\x53\x01\xAA"))
	f.Fuzz(func(t *testing.T, yubico bool, in []byte) {
		s := cheap
		if yubico {
			s = yubi()
		}
		card, app, err := newApp(s)
		if err != nil {
			t.Fatal(err)
		}
		app.manager, app.pin = len(in)%2 == 0, len(in)%3 == 0
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			capdu := in[1 : 1+n]
			in = in[1+n:]
			if n > 10 && capdu[1] == insGenerate && rsaBits(capdu[9]) > 0 {
				continue // takes seconds
			}
			if rx := card.Process(capdu); len(rx) < 2 || rx[len(rx)-2]&0xF0 != 0x60 && rx[len(rx)-2] != 0x90 {
				t.Fatalf("% X is answered with %d bytes", capdu, len(rx))
			}
		}
		text, err := json.Marshal(app.state)
		if err != nil {
			t.Fatal(err)
		}
		var back state
		if err := json.Unmarshal(text, &back); err != nil || !back.valid() {
			t.Fatalf("the state does not come back: %v", err)
		}
	})
}
