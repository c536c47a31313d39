package piv

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
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

// host is a program that has a card.
type host struct {
	t    *testing.T
	card *applet.Card
	app  *App
}

var cheap = applet.Settings{Serial: "TEST", Seed: "seed", Cost: applet.Cheap}

func newHost(t *testing.T, s applet.Settings) *host {
	t.Helper()
	card, app, err := newApp(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { card.Close() })
	return &host{t, card, app}
}

func yubi() applet.Settings {
	s := cheap
	s.Model = yubikey
	return s
}

// send sends a command with extended lengths where it has to, and returns data and status.
func (h *host) send(ins, p1, p2 byte, data []byte) ([]byte, int) {
	b := []byte{0, ins, p1, p2, 0, byte(len(data) >> 8), byte(len(data))}
	if len(data) == 0 {
		b = b[:5]
	}
	rx := h.card.Process(append(append(b, data...), 0, 0))
	n := len(rx) - 2
	return bytes.Clone(rx[:n]), int(rx[n])<<8 | int(rx[n+1])
}

func (h *host) must(ins, p1, p2 byte, data []byte) []byte {
	h.t.Helper()
	out, sw := h.send(ins, p1, p2, data)
	if sw != applet.OK {
		h.t.Fatalf("%02X %02X %02X: %04X", ins, p1, p2, sw)
	}
	return out
}

// script sends the commands of lines "command → answer".
func (h *host) script(lines string) {
	h.t.Helper()
	for line := range strings.Lines(lines) {
		line, _, _ = strings.Cut(line, "//")
		send, want, found := strings.Cut(strings.TrimSpace(line), " → ")
		if !found {
			continue
		}
		if got := hex.EncodeToString(h.card.Process(unhex(send))); got != strings.ToLower(strings.ReplaceAll(want, " ", "")) {
			h.t.Errorf("%s: %s, want %s", send, got, want)
		}
	}
}

func (h *host) verify() { h.t.Helper(); h.must(insVerify, 0, refPIN, padded(firstPIN)) }

// manage authenticates with the management key, by a challenge.
func (h *host) manage() {
	h.t.Helper()
	m := &h.app.state.Management
	out := h.must(insAuthenticate, m.Alg, slotManagement, unhex("7C 02 81 00"))
	h.must(insAuthenticate, m.Alg, slotManagement, applet.TLV(0x7C, applet.TLV(0x82, encrypt(m.block(), out[4:]))))
}

func (h *host) inner(b []byte, tags ...int) []byte {
	h.t.Helper()
	for _, tag := range tags {
		objects, err := applet.Objects(b)
		v, ok := applet.Find(objects, tag)
		if err != nil || !ok {
			h.t.Fatalf("no %X in the answer: %v", tag, err)
		}
		b = v
	}
	return b
}

// Part 2 §3.1.1 and table 3: SELECT answers the application property template.
func TestSelect(t *testing.T) {
	h := newHost(t, cheap)
	out := h.must(0xA4, 4, 0, aid)
	if got := h.inner(out, 0x61, 0x4F); !bytes.Equal(got, unhex("0000 1000 0100")) {
		t.Errorf("4F %X", got)
	}
	if got := h.inner(out, 0x61, 0x79, 0x4F); !bytes.Equal(got, unhex("A000000308")) {
		t.Errorf("79 %X", got)
	}
	// "the PIV Card Application shall continue to be the currently selected card application and
	// the setting of all security status indicators shall be unchanged"
	h.verify()
	h.must(0xA4, 4, 0, aid[:9])
	h.script(`
		00200080 → 9000
		00A40400 06 A00000030801 → 6A82
		00200080 → 9000
	`)
	h.card.Reset(true)
	h.script("00200080 → 63C3")
	y := newHost(t, yubi())
	if got := y.must(0xA4, 4, 0, aid[:5]); !bytes.Equal(got, unhex("61 11 4F 06 000010000100 79 07 4F 05 A000000308")) {
		t.Errorf("YubiKey: %X", got)
	}
	y.verify()
	y.must(0xA4, 4, 0, aid[:5])
	y.script("00200080 → 9000")
}

// Part 2 §3.2.1: VERIFY counts, blocks, answers the tries left, and forgets with P1 = FF.
func TestVerify(t *testing.T) {
	newHost(t, cheap).script(`
		00200080 → 63C3
		00200080 08 313233343536FFFF → 9000
		00200080 → 9000
		0020FF80 → 9000
		00200080 → 63C3
		0020FF80 08 313233343536FFFF → 6A80
		00200180 → 6A86
		00200080 06 313233343536 → 6A80             // not padded: nothing is counted
		00200080 08 3132333435FFFFFF → 6A80         // five digits
		00200080 08 3132333435FF36FF → 6A80
		00200080 08 313233343541FFFF → 6A80         // no digit
		00200080 → 63C3
		00200080 08 313233343537FFFF → 63C2
		00200080 08 313233343536FFFF → 9000
		00200080 08 313233343537FFFF → 63C2         // and is not verified any more
		00200080 → 63C2
		00200080 08 313233343537FFFF → 63C1
		00200080 08 313233343537FFFF → 63C0         // compared; from now on it is not
		00200080 08 313233343536FFFF → 6983
		00200080 → 6983
		00200081 08 3132333435363738 → 6A88         // the PUK is not verified
		00200000 08 3132333435363738 → 6A88         // no global PIN
		00200096 → 6A88
		80200080 → 6E00
	`)
}

// Part 2 §3.2.2 and §3.2.3.
func TestChangeAndUnblock(t *testing.T) {
	h := newHost(t, cheap)
	h.script(`
		00240080 10 313233343536FFFF 363534333231FFFF → 9000
		00200080 → 9000                                     // changed is verified
		0020FF80 → 9000
		00200080 08 313233343536FFFF → 63C2
		00240080 10 363534333231FFFF 3132333435FFFFFF → 6A80
		00200080 → 63C2
		00240080 10 313233343536FFFF 363534333231FFFF → 63C1
		00240080 08 363534333231FFFF → 6A80
		00240180 10 363534333231FFFF 313233343536FFFF → 6A86
		00240082 10 363534333231FFFF 313233343536FFFF → 6A88
		00240000 10 363534333231FFFF 313233343536FFFF → 6A88
		00240080 10 313233343536FFFF 363534333231FFFF → 63C0
		00240080 10 363534333231FFFF 313233343536FFFF → 6983
		002C0080 10 3132333435363739 313131313131FFFF → 63C2
		002C0080 10 3132333435363738 3131313131FFFFFF → 6A80
		002C0081 10 3132333435363738 313131313131FFFF → 6A88
		002C0180 10 3132333435363738 313131313131FFFF → 6A86
		002C0080 10 3132333435363738 313131313131FFFF → 9000
		00200080 → 63C3                                     // not verified by that
		00200080 08 313131313131FFFF → 9000
		00240081 10 3132333435363738 3837363534333231 → 9000
		002C0080 10 3132333435363738 313131313131FFFF → 63C2
		00200080 → 63C3                                     // lost by the wrong PUK
		00200080 08 313131313131FFFF → 9000
		002C0080 10 3837363534333231 313131313131FFFF → 9000
		00200080 → 9000                                     // kept with the right one
		00240081 10 3132333435363738 3837363534333231 → 63C2
		00240081 10 3132333435363738 3837363534333231 → 63C1
		00240081 10 3132333435363738 3837363534333231 → 63C0
		002C0080 10 3837363534333231 313131313131FFFF → 6983
		00240081 10 3837363534333231 3837363534333231 → 6983
	`)
}

// Part 1 §3.3.2: the discovery object says whether the global PIN satisfies the access rules.
func TestGlobalPIN(t *testing.T) {
	h := newHost(t, cheap)
	h.manage()
	h.must(insPutData, 0x3F, 0xFF, unhex("7E 12 4F 0B A000000308000010000100 5F2F 02 60 10"))
	h.script(`
		00200000 → 63C3
		00200000 08 313233343536FFFF → 63C2
		00200000 08 3132333435363738 → 9000
		00200000 → 9000
		00200080 → 63C3
		00240000 10 3132333435363738 313131313131FFFF → 9000
		00200000 08 3132333435363738 → 63C2
	`)
	h.must(insVerify, 0, refGlobal, unhex("313131313131FFFF"))
	if _, sw := h.sign(slotAuth, algP256, make([]byte, 32)); sw != applet.OK {
		t.Errorf("a key after the global PIN: %04X", sw)
	}
}

func (h *host) sign(slot, alg byte, challenge []byte) ([]byte, int) {
	h.t.Helper()
	out, sw := h.send(insAuthenticate, alg, slot, applet.TLV(0x7C, applet.TLV(0x82), applet.TLV(0x81, challenge)))
	if sw != applet.OK {
		return nil, sw
	}
	return h.inner(out, 0x7C, 0x82), sw
}

// Part 1 table 4b: 9A and 9D need the PIN, 9C immediately before each use, 9E never.
func TestPINPolicies(t *testing.T) {
	h := newHost(t, cheap)
	hash := make([]byte, 32)
	want := func(slot byte, want int) {
		t.Helper()
		if _, sw := h.sign(slot, algP256, hash); sw != want {
			t.Errorf("%02X: %04X, want %04X", slot, sw, want)
		}
	}
	want(slotAuth, applet.SWSecurity)
	want(slotSignature, applet.SWSecurity)
	want(slotKey, applet.SWSecurity)
	want(slotCard, applet.OK)
	h.verify()
	want(slotSignature, applet.OK)
	want(slotSignature, applet.SWSecurity)
	want(slotAuth, applet.OK)
	want(slotAuth, applet.OK)
	h.verify()
	want(slotAuth, applet.OK)
	want(slotSignature, applet.SWSecurity)
	h.verify()
	h.send(insGetData, 0x3F, 0xFF, unhex("5C 01 7E"))
	want(slotSignature, applet.SWSecurity)
	h.verify()
	h.send(insAuthenticate, alg3DES, slotManagement, unhex("7C 02 81 00"))
	want(slotSignature, applet.SWSecurity)
	h.verify()
	h.script("0020FF80 → 9000")
	want(slotSignature, applet.SWSecurity)
	want(slotAuth, applet.SWSecurity)
	want(slotRetired, applet.SWP1P2) // no key
	if _, sw := h.sign(slotCard, algP384, hash); sw != applet.SWP1P2 {
		t.Errorf("another algorithm: %04X", sw)
	}
	y := newHost(t, yubi())
	y.manage()
	y.must(insGenerate, 0, slotSignature, unhex("AC 03 80 01 11"))
	y.verify()
	y.send(insGetData, 0x3F, 0xFF, unhex("5C 01 7E"))
	if _, sw := y.sign(slotSignature, algP256, hash); sw != applet.OK {
		t.Errorf("YubiKey, GET DATA between: %04X", sw)
	}
	if _, sw := y.sign(slotSignature, algP256, hash); sw != applet.SWSecurity {
		t.Errorf("YubiKey, again: %04X", sw)
	}
}

// Part 2 §3.3.2: each algorithm; what the card signs verifies with the key that it answered.
func TestGenerateAndSign(t *testing.T) {
	h := newHost(t, cheap)
	h.script("00470000 00 → 6A86\n0047009A 05 AC03800111 → 6982")
	h.manage()
	h.verify()
	hash := sha256.Sum256([]byte("hello"))
	for _, alg := range []byte{algRSA2048, algRSA3072, algP256, algP384, algEd25519} {
		out := h.must(insGenerate, 0, slotAuth, []byte{0xAC, 3, 0x80, 1, alg})
		challenge := hash[:]
		if bits := rsaBits(alg); bits > 0 {
			challenge = pkcs1(hash[:], bits/8)
		}
		sig, sw := h.sign(slotAuth, alg, challenge)
		if sw != applet.OK {
			t.Errorf("%02X: %04X", alg, sw)
			continue
		}
		if !verifies(h, alg, out, hash[:], sig) {
			t.Errorf("%02X: the signature does not verify", alg)
		}
	}
	for _, bad := range []string{"", "AC", "AC 00", "AC 03 80 01 06", "AC 02 80 00", "AC 03 81 01 11", "AC 03 80 01 11 00", "7C 03 80 01 11",
		"AC 06 80 01 07 81 01 03", "AC 06 80 01 11 AA 01 01"} {
		if _, sw := h.send(insGenerate, 0, slotAuth, unhex(bad)); sw != applet.SWData {
			t.Errorf("%s: %04X", bad, sw)
		}
	}
	h.must(insGenerate, 0, slotAuth, unhex("AC 08 80 01 07 81 03 010001"))
	for _, slot := range []byte{0x81, 0x96, slotManagement, slotAttest, 0x00} {
		if _, sw := h.send(insGenerate, 0, slot, unhex("AC 03 80 01 11")); sw != applet.SWP1P2 {
			t.Errorf("slot %02X: %04X", slot, sw)
		}
	}
	for slot := byte(slotRetired); slot <= 0x95; slot++ {
		h.must(insGenerate, 0, slot, unhex("AC 03 80 01 E0"))
	}
}

// pkcs1 pads a SHA-256 as EMSA-PKCS1-v1_5 does (RFC 8017 §9.2).
func pkcs1(hash []byte, size int) []byte {
	info := append(unhex("3031300d060960864801650304020105000420"), hash...)
	b := append([]byte{0, 1}, bytes.Repeat([]byte{0xFF}, size-3-len(info))...)
	return append(append(b, 0), info...)
}

func verifies(h *host, alg byte, public, hash, sig []byte) bool {
	if bits := rsaBits(alg); bits > 0 {
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(h.inner(public, 0x7F49, 0x81)), E: 65537}
		return key.N.BitLen() == bits && rsa.VerifyPKCS1v15(key, crypto.SHA256, hash, sig) == nil
	}
	point := h.inner(public, 0x7F49, 0x86)
	if alg == algEd25519 {
		return ed25519.Verify(point, hash, sig)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curveOf(alg), point)
	return err == nil && ecdsa.VerifyASN1(key, hash, sig)
}

// FIPS 197 appendix C: the card encrypts the host's challenge once it has seen its witness.
func TestMutualAuthentication(t *testing.T) {
	for _, x := range []struct {
		alg            byte
		key, in, wants string
	}{
		{algAES128, "000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"},
		{algAES192, "000102030405060708090a0b0c0d0e0f1011121314151617", "00112233445566778899aabbccddeeff", "dda97ca4864cdfe06eaf70a0ec0d7191"},
		{algAES256, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "00112233445566778899aabbccddeeff", "8ea2b7ca516745bfeafc49904b496089"},
		// NIST SP 800-67 appendix B.1, the first block.
		{alg3DES, "0123456789ABCDEF23456789ABCDEF01456789ABCDEF0123", "5468652071756663", "A826FD8CE53B855F"},
	} {
		h := newHost(t, yubi())
		h.manage()
		h.must(insSetKey, 0xFF, 0xFF, append([]byte{x.alg, slotManagement, byte(len(x.key) / 2)}, unhex(x.key)...))
		h.card.Reset(false)
		witness := h.inner(h.must(insAuthenticate, x.alg, slotManagement, unhex("7C 02 80 00")), 0x7C, 0x80)
		plain := bytes.Clone(witness)
		h.app.state.Management.block().Decrypt(plain, witness)
		both := func(w []byte) []byte {
			return applet.TLV(0x7C, applet.TLV(0x80, w), applet.TLV(0x81, unhex(x.in)), applet.TLV(0x82))
		}
		if got := h.inner(h.must(insAuthenticate, x.alg, slotManagement, both(plain)), 0x7C, 0x82); !bytes.Equal(got, unhex(x.wants)) {
			t.Errorf("%02X: %X", x.alg, got)
		}
		h.must(insPutData, 0x3F, 0xFF, unhex("5C 03 5FC106 53 01 00"))
		// The witness counts once, and a wrong one takes back what was granted.
		begin := func() []byte {
			out := h.inner(h.must(insAuthenticate, x.alg, slotManagement, unhex("7C 02 80 00")), 0x7C, 0x80)
			h.app.state.Management.block().Decrypt(out, out)
			return out
		}
		refused := func(what string, w []byte) {
			t.Helper()
			if out, sw := h.send(insAuthenticate, x.alg, slotManagement, both(w)); sw != applet.SWSecurity || len(out) > 0 {
				t.Errorf("%02X: %s: %04X", x.alg, what, sw)
			}
			if _, sw := h.send(insPutData, 0x3F, 0xFF, unhex("5C 03 5FC106 53 01 00")); sw != applet.SWSecurity {
				t.Errorf("%02X: %s, PUT DATA: %04X", x.alg, what, sw)
			}
		}
		plain = begin()
		h.must(insAuthenticate, x.alg, slotManagement, both(plain))
		refused("the same witness again", plain)
		wrong := begin()
		wrong[0] ^= 1
		refused("a wrong witness", wrong)
		refused("no witness", begin()[:0])
		for _, other := range []byte{alg3DES, algAES128, algAES192, algAES256, algP256} {
			if _, sw := h.send(insAuthenticate, other, slotManagement, unhex("7C 02 80 00")); (sw == applet.OK) != (other == x.alg) {
				t.Errorf("%02X to a key of %02X: %04X", other, x.alg, sw)
			}
		}
	}
}

// Part 2 §A.1. Nothing that the card encrypts or says helps to answer its challenge.
func TestManagementChallenge(t *testing.T) {
	h := newHost(t, cheap)
	auth := func(in string) int {
		_, sw := h.send(insAuthenticate, alg3DES, slotManagement, unhex(in))
		return sw
	}
	if sw := auth("7C 0A 82 08 0000000000000000"); sw != applet.SWSecurity {
		t.Errorf("no challenge: %04X", sw)
	}
	challenge := h.inner(h.must(insAuthenticate, alg3DES, slotManagement, unhex("7C 02 81 00")), 0x7C, 0x81)
	if sw := auth(fmt.Sprintf("7C 0C 81 08 %X 82 00", challenge)); sw == applet.OK {
		t.Error("the card answers its own challenge")
	}
	challenge = h.inner(h.must(insAuthenticate, alg3DES, slotManagement, unhex("7C 02 81 00")), 0x7C, 0x81)
	answer := encrypt(h.app.state.Management.block(), challenge)
	h.script("00200080 → 63C3") // another command ends it
	if sw := auth(fmt.Sprintf("7C 0A 82 08 %X", answer)); sw != applet.SWSecurity {
		t.Errorf("after another command: %04X", sw)
	}
	challenge = h.inner(h.must(insAuthenticate, alg3DESToo, slotManagement, unhex("7C 02 81 00")), 0x7C, 0x81)
	answer = encrypt(h.app.state.Management.block(), challenge)
	if sw := auth(fmt.Sprintf("7C 09 82 07 %X", answer[:7])); sw != applet.SWSecurity {
		t.Errorf("cut: %04X", sw)
	}
	if sw := auth(fmt.Sprintf("7C 0A 82 08 %X", answer)); sw != applet.SWSecurity {
		t.Errorf("second try at one challenge: %04X", sw)
	}
	for _, bad := range []string{"", "7C", "7C 00", "7C 02 83 00", "7C 03 81 01 00", "7C 02 81 00 00", "7D 02 81 00", "7C 04 80 00 81 00", "7C 80 81 00"} {
		if sw := auth(bad); sw != applet.SWData {
			t.Errorf("%s: %04X", bad, sw)
		}
	}
	h.manage()
	h.card.Reset(true)
	if _, sw := h.send(insPutData, 0x3F, 0xFF, unhex("5C 03 5FC106 53 01 00")); sw != applet.SWSecurity {
		t.Errorf("after a reset: %04X", sw)
	}
}

// Keys and answers of published vectors.
func TestKnownAnswers(t *testing.T) {
	h := newHost(t, yubi())
	h.manage()
	h.verify()
	put := func(alg byte, tag int, private string) {
		t.Helper()
		h.must(insImport, alg, slotKey, applet.TLV(tag, unhex(private)))
	}
	agree := func(alg byte, point string) string {
		t.Helper()
		out := h.must(insAuthenticate, alg, slotKey, applet.TLV(0x7C, applet.TLV(0x82), applet.TLV(0x85, unhex(point))))
		return hex.EncodeToString(h.inner(out, 0x7C, 0x82))
	}
	// NIST CAVP, KAS ECC CDH primitive, P-256, COUNT = 0.
	put(algP256, 0x06, "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534")
	if got := agree(algP256, "04 700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287 db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac"); got != "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b" {
		t.Errorf("P-256: %s", got)
	}
	// The same, P-384, COUNT = 0.
	put(algP384, 0x06, "3cc3122a68f0d95027ad38c067916ba0eb8c38894d22e1b15618b6818a661774ad463b205da88cf699ab4d43c9cf98a1")
	if got := agree(algP384, "04 a7c76b970c3b5fe8b05d2838ae04ab47697b9eaf52e764592efda27fe7513272734466b400091adbf2d68c58e0c50066 ac68f19f2e1cb879aed43a9969b91a0839c4c38a49749b661efedf243451915ed0905a32b060992b468c64766fc8437a"); got != "5f9d29dc5e31a163060356213669c8ce132e22f57c9a04f40ba7fcead493b457e5621e766c40a2e3d4d6a04b25e533f1" {
		t.Errorf("P-384: %s", got)
	}
	// RFC 7748 §6.1.
	put(algX25519, 0x08, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
	if got := agree(algX25519, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"); got != "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742" {
		t.Errorf("X25519: %s", got)
	}
	// RFC 8032 §7.1, test 1: the empty message.
	put(algEd25519, 0x07, "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	if sig, _ := h.sign(slotKey, algEd25519, nil); hex.EncodeToString(sig) != "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b" {
		t.Errorf("Ed25519: %X", sig)
	}
	for _, x := range []struct {
		alg  byte
		data string
	}{
		{algP256, "7C 04 82 00 85 00"}, {algP256, "7C 07 82 00 85 03 040102"}, {algP256, "7C 02 81 00"}, {algP256, "7C 04 82 00 81 00"},
		{algP256, "7C 25 82 00 81 21 " + strings.Repeat("00", 33)}, {algP256, "7C 07 82 01 00 81 02 0102"}, {algP256, "7C 08 82 00 81 01 00 85 01 00"},
	} {
		put(algP256, 0x06, "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534")
		if _, sw := h.send(insAuthenticate, x.alg, slotKey, unhex(x.data)); sw != applet.SWData {
			t.Errorf("%s: %04X", x.data, sw)
		}
	}
}
