package openpgp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
)

// header is an extended header list (4.4.3.12): crt, and the fields of a private key.
func header(crt string, fields ...[]byte) []byte {
	var template, all []byte
	for i := 0; i < len(fields); i += 2 {
		o := applet.TLV(int(fields[i][0]), fields[i+1])
		template = append(template, o[:len(o)-len(fields[i+1])]...)
		all = append(all, fields[i+1]...)
	}
	return applet.TLV(0x4D, unhex(crt), applet.TLV(0x7F48, template), applet.TLV(0x5F48, all))
}

func point(b []byte) []byte { return applet.TLV(0xA6, applet.TLV(0x7F49, applet.TLV(0x86, b))) }

func read(t *testing.T, c *applet.Card, crt string) []byte {
	t.Helper()
	o, rest, err := applet.Next(data(t, c, "00478100", unhex(crt)))
	if err != nil || len(rest) > 0 || o.Tag != 0x7F49 {
		t.Fatalf("%v, %X", err, o.Tag)
	}
	fields, err := applet.Objects(o.Value)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := applet.Find(fields, 0x86); ok {
		return v
	}
	n, _ := applet.Find(fields, 0x81)
	if e, _ := applet.Find(fields, 0x82); !bytes.Equal(e, []byte{1, 0, 1}) {
		t.Errorf("e = %X", e)
	}
	return n
}

// The vectors of NIST's CAVS 14.1 (ECC CDH primitive of SP 800-56A) and of RFC 7748 §6.1.
func TestKnownAgreements(t *testing.T) {
	for _, v := range []struct{ name, attributes, private, public, peer, secret string }{
		{"P-256", "122A8648CE3D030107",
			"7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
			"04ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b23028af61281fd35e2fa7002523acc85a429cb06ee6648325389f59edfce1405141",
			"04700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
			"46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"},
		{"P-384", "122B81040022FF",
			"3cc3122a68f0d95027ad38c067916ba0eb8c38894d22e1b15618b6818a661774ad463b205da88cf699ab4d43c9cf98a1",
			"049803807f2f6d2fd966cdd0290bd410c0190352fbec7ff6247de1302df86f25d34fe4a97bef60cff548355c015dbb3e5fba26ca69ec2f5b5d9dad20cc9da711383a9dbe34ea3fa5a2af75b46502629ad54dd8b7d73a8abb06a3a3be47d650cc99",
			"04a7c76b970c3b5fe8b05d2838ae04ab47697b9eaf52e764592efda27fe7513272734466b400091adbf2d68c58e0c50066ac68f19f2e1cb879aed43a9969b91a0839c4c38a49749b661efedf243451915ed0905a32b060992b468c64766fc8437a",
			"5f9d29dc5e31a163060356213669c8ce132e22f57c9a04f40ba7fcead493b457e5621e766c40a2e3d4d6a04b25e533f1"},
		{"P-521", "122B81040023", // without its leading zero
			"7eecc07ab4b329068fba65e56a1f8890aa935e57134ae0ffcce802735151f4eac6564f6ee9974c5e6887a1fefee5743ae2241bfeb95d5ce31ddcb6f9edb4d6fc47",
			"", "", ""},
		{"X25519", "122B060104019755010501", // the scalar is a number: the highest byte comes first
			"2a2cb91da5fb77b12a99c0eb872f4cdf4566b25172c1163c7da518730a6d0777",
			"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
			"de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
			"4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := newCard(t, applet.Settings{})
			script(t, c, verifyAdmin+" → 9000\n"+verifyUser+" → 9000\n")
			data(t, c, "00DA00C2", unhex(v.attributes))
			if v.public == "" {
				data(t, c, "00DB3FFF", header("B800", []byte{0x92}, unhex(v.private)))
				return
			}
			data(t, c, "00DB3FFF", header("B800", []byte{0x92}, unhex(v.private), []byte{0x99}, unhex(v.public)))
			if got := read(t, c, "B800"); !bytes.Equal(got, unhex(v.public)) {
				t.Errorf("public key % x", got)
			}
			peer := unhex(v.peer)
			if got := data(t, c, "002A8086", point(peer)); !bytes.Equal(got, unhex(v.secret)) {
				t.Errorf("secret % x", got)
			}
			if v.name == "X25519" {
				if got := data(t, c, "002A8086", point(append([]byte{0x40}, peer...))); !bytes.Equal(got, unhex(v.secret)) {
					t.Errorf("with the prefix: % x", got)
				}
			}
			script(t, c, "00CA00DE00 → 0100 0202 0300 9000\n002A8086 03 A60100 → 6A80\n002A8086 06 A6047F490100 → 6A80\n"+
				"002A8086 07 A6057F49028600 → 6A80\n002A8086 0A A6057F4902860000 0000 → 6A80\n")
			wrong := slices.Clone(unhex(v.public))
			wrong[5] ^= 1
			k := header("B800", []byte{0x92}, unhex(v.private), []byte{0x99}, wrong)
			script(t, c, "00DB3FFF 00"+hex.EncodeToString([]byte{byte(len(k) >> 8), byte(len(k))})+hex.EncodeToString(k)+" → 6A80")
		})
	}
}

// RFC 8032 §7.1, test 2.
func TestKnownEdDSA(t *testing.T) {
	c := newCard(t, applet.Settings{})
	script(t, c, verifyAdmin+" → 9000\n"+verifySign+" → 9000\n"+verifyUser+" → 9000\n"+
		"00DA00C1 0A 162B06010401DA470F01 → 9000\n00DA00C3 0B 162B06010401DA470F01FF → 9000\n")
	seed := unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
	public := unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
	want := unhex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
	data(t, c, "00DB3FFF", header("B603840101", []byte{0x92}, seed))
	data(t, c, "00DB3FFF", header("A400", []byte{0x92}, seed))
	if got := read(t, c, "B600"); !bytes.Equal(got, public) {
		t.Errorf("public key % x", got)
	}
	if got := data(t, c, "002A9E9A", []byte{0x72}); !bytes.Equal(got, want) {
		t.Errorf("PSO: % x", got)
	}
	if got := data(t, c, "00880000", []byte{0x72}); !bytes.Equal(got, want) {
		t.Errorf("INTERNAL AUTHENTICATE: % x", got)
	}
}

// RFC 6979 §A.2.5: a private key of P-256 and its point.
func TestKnownECDSA(t *testing.T) {
	c := newCard(t, applet.Settings{})
	script(t, c, verifyAdmin+" → 9000\n"+verifySign+" → 9000\n00DA00C1 09 132A8648CE3D030107 → 9000\n")
	data(t, c, "00DB3FFF", header("B600", []byte{0x92}, unhex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")))
	p := read(t, c, "B600")
	if want := unhex("0460FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB67903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299"); !bytes.Equal(p, want) {
		t.Errorf("public key % x", p)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), p)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte("sample"))
	s := data(t, c, "002A9E9A", hash[:])
	if len(s) != 64 || !ecdsa.Verify(public, hash[:], new(big.Int).SetBytes(s[:32]), new(big.Int).SetBytes(s[32:])) {
		t.Errorf("% x", s)
	}
	script(t, c, verifySign+" → 9000\n002A9E9A 41 "+hex.EncodeToString(make([]byte, 65))+" 00 → 6A80\n")
}

// FIPS 197 appendix C.1 and C.3: with an initial vector of zeros the first block of CBC is bare
// AES.
func TestKnownAES(t *testing.T) {
	for key, cryptogram := range map[string]string{
		"000102030405060708090a0b0c0d0e0f":                                 "69c4e0d86a7b0430d8cdb78070b4c55a",
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f": "8ea2b7ca516745bfeafc49904b496089",
	} {
		c := newCard(t, applet.Settings{})
		plain := unhex("00112233445566778899aabbccddeeff")
		script(t, c, verifyUser+" → 9000\n002A8680 01 00 00 → 6A88\n002A8086 01 02 00 → 6A88\n"+verifyAdmin+" → 9000\n")
		data(t, c, "00DA00D5", unhex(key))
		got := data(t, c, "002A8680", plain)
		if !bytes.Equal(got, append([]byte{2}, unhex(cryptogram)...)) {
			t.Errorf("% x", got)
		}
		if got := data(t, c, "002A8086", got); !bytes.Equal(got, plain) {
			t.Errorf("% x", got)
		}
		script(t, c, "002A8680 01 00 00 → 6A80\n002A8086 01 02 00 → 6A80\n0020FF82 → 9000\n002A8680 01 00 00 → 6982\n002A8086 01 02 00 → 6982\n")
	}
}

// 7.2.11, 7.2.13, 7.2.14, 7.2.18 with RSA: what the card signs and deciphers, another implementation
// has made or checks.
func TestRSA(t *testing.T) {
	c := newCard(t, applet.Settings{Seed: "rsa"})
	script(t, c, "00478000 02 A400 00 → 6982\n"+verifyAdmin+` → 9000
		002A8086 01 00 00 → 6982
		00880000 01 00 00 → 6A88
		00478000 02 A400 00 → 7F49 820109 81820100 … 610E
		00478000 02 A401 00 → 6A80
		00478000 02 A500 00 → 6A80
		00478000 05 A403840102 00 → 6A80
		00478200 02 A400 00 → 6A86
		00478100 02 B600 00 → 6A88
		00880000 01 00 00 → 6982
		`+verifyUser+` → 9000
		002A8086 01 00 00 → 6A88
	`)
	n := read(t, c, "A403840103")
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	if public.N.BitLen() != 2048 {
		t.Fatal(public.N.BitLen())
	}
	s := data(t, c, "00880000", []byte("to be signed"))
	if err := rsa.VerifyPKCS1v15(public, 0, []byte("to be signed"), s); err != nil {
		t.Error(err)
	}
	data(t, c, "00880000", make([]byte, 102))
	script(t, c, "00880000 67 "+hex.EncodeToString(make([]byte, 103))+" 00 → 6A80\n00880001 01 00 00 → 6A86\n00880000 → 6A80\n")
	// encipher is RSAEP (RFC 8017 §5.1.1) of a block.
	encipher := func(padding int, head string) []byte {
		block := append(append(unhex(head), bytes.Repeat([]byte{0xA5}, padding)...), 0)
		block = append(block, "session key"...)
		block = append(block, bytes.Repeat([]byte{'y'}, 256-len(block))...)
		m := new(big.Int).SetBytes(block)
		return m.Exp(m, big.NewInt(65537), public.N).FillBytes(make([]byte, 256))
	}
	secret := encipher(242, "0002")
	script(t, c, `
		002241B8 03 830103 → 9000
		002241B8 03 830101 → 6A80
		002241B8 03 830104 → 6A80
		002241B6 03 830103 → 6A86
		002281B8 03 830103 → 6A86
	`)
	if got := data(t, c, "002A8086", append([]byte{0}, secret...)); string(got) != "session key" {
		t.Errorf("% x", got)
	}
	if got := data(t, c, "002A8086", append([]byte{0}, encipher(8, "0002")...)); len(got) != 256-11 {
		t.Errorf("eight bytes of padding: % x", got)
	}
	for name, bad := range map[string][]byte{
		"damaged":             append(slices.Clone(secret[:255]), secret[255]^1),
		"seven of padding":    encipher(7, "0002"),
		"block for signature": encipher(242, "0001"),
		"as high as n":        public.N.Bytes(),
		"short":               secret[:255],
		"long":                append(slices.Clone(secret), 0),
	} {
		k := append(append([]byte{0, 0x2A, 0x80, 0x86, 0, byte((len(bad) + 1) >> 8), byte(len(bad) + 1), 0}, bad...), 0, 0)
		if r := c.Process(k); string(r) != "\x6A\x80" {
			t.Errorf("%s: % X", name, r)
		}
	}
	k := append(append(unhex("002A8086 00 0101 01"), secret...), 0, 0)
	if r := c.Process(k); string(r) != "\x6A\x80" {
		t.Errorf("another padding indicator: % X", r)
	}
	c.Reset(true)
	script(t, c, verifyUser+` → 9000
		002A8086 01 00 00 → 6A88     # the environment is gone
		002241A4 03 830102 → 9000
		00880000 01 00 00 → 6A88
		002241A4 03 830103 → 9000
	`)
	data(t, c, "00880000", []byte{1})
}

// 4.4.3.12: e, p and q are imported; what is no key is refused, and the old one stays.
func TestImportRSA(t *testing.T) {
	made, err := applet.Source{Seed: "import"}.RSA("", 2048)
	if err != nil {
		t.Fatal(err)
	}
	k := made.PrivateKey.(*rsa.PrivateKey)
	e, p, q := []byte{1, 0, 1}, k.Primes[0].Bytes(), k.Primes[1].Bytes()
	c := newCard(t, applet.Settings{})
	script(t, c, verifyAdmin+" → 9000\n"+verifySign+" → 9000\n")
	data(t, c, "00DB3FFF", header("B600", []byte{0x91}, append([]byte{0}, e...), []byte{0x92}, p, []byte{0x93}, q))
	if got := read(t, c, "B600"); !bytes.Equal(got, k.N.Bytes()) {
		t.Errorf("% x", got)
	}
	hash := sha256.Sum256(nil)
	info := append(unhex("3031300d060960864801650304020105000420"), hash[:]...)
	if err := rsa.VerifyPKCS1v15(&k.PublicKey, crypto.SHA256, hash[:], data(t, c, "002A9E9A", info)); err != nil {
		t.Error(err)
	}
	good := header("B600", []byte{0x91}, e, []byte{0x92}, p, []byte{0x93}, q)
	small, err := applet.Source{Seed: "small"}.RSA("", 1024)
	if err != nil {
		t.Fatal(err)
	}
	half := small.PrivateKey.(*rsa.PrivateKey)
	other := slices.Clone(q)
	other[127] ^= 2
	for name, list := range map[string][]byte{
		"no q":           header("B600", []byte{0x91}, e, []byte{0x92}, p),
		"no e":           header("B600", []byte{0x92}, p, []byte{0x93}, q),
		"even e":         header("B600", []byte{0x91}, []byte{4}, []byte{0x92}, p, []byte{0x93}, q),
		"e of one":       header("B600", []byte{0x91}, []byte{1}, []byte{0x92}, p, []byte{0x93}, q),
		"long e":         header("B600", []byte{0x91}, []byte{1, 0, 0, 0, 1}, []byte{0x92}, p, []byte{0x93}, q),
		"short p":        header("B600", []byte{0x91}, e, []byte{0x92}, p[:127], []byte{0x93}, q),
		"q no prime":     header("B600", []byte{0x91}, e, []byte{0x92}, p, []byte{0x93}, other),
		"p no prime":     header("B600", []byte{0x91}, e, []byte{0x92}, other, []byte{0x93}, p),
		"q twice":        header("B600", []byte{0x91}, e, []byte{0x92}, p, []byte{0x93}, q, []byte{0x93}, q),
		"half the size":  header("B600", []byte{0x91}, e, []byte{0x92}, half.Primes[0].Bytes(), []byte{0x93}, half.Primes[1].Bytes()),
		"a byte more":    applet.TLV(0x4D, unhex("B600"), applet.TLV(0x7F48, unhex("9103 928180 938180")), applet.TLV(0x5F48, e, p, q, []byte{0})),
		"p is q":         header("B600", []byte{0x91}, e, []byte{0x92}, p, []byte{0x93}, p),
		"twice":          header("B600", []byte{0x91}, e, []byte{0x92}, p, []byte{0x92}, q),
		"no such slot":   header("B700", []byte{0x91}, e, []byte{0x92}, p, []byte{0x93}, q),
		"another number": header("B603840102", []byte{0x91}, e, []byte{0x92}, p, []byte{0x93}, q),
		"after it":       append(slices.Clone(good), 0x00),
		"too short":      good[:len(good)-1],
		"data over":      applet.TLV(0x4D, unhex("B600"), applet.TLV(0x7F48, unhex("9101 9201 9301")), applet.TLV(0x5F48, unhex("03050709"))),
		"data under":     applet.TLV(0x4D, unhex("B600"), applet.TLV(0x7F48, unhex("9101 9201 9301")), applet.TLV(0x5F48, unhex("0305"))),
		"a bare tag":     applet.TLV(0x4D, unhex("B600"), applet.TLV(0x7F48, unhex("91")), applet.TLV(0x5F48)),
		"in disorder":    applet.TLV(0x4D, unhex("B600"), applet.TLV(0x5F48), applet.TLV(0x7F48)),
		"two parts":      applet.TLV(0x4D, unhex("B600"), applet.TLV(0x7F48)),
		"another tag":    applet.TLV(0x4E, good[4:]),
	} {
		r := c.Process(append(append([]byte{0, 0xDB, 0x3F, 0xFF, 0, byte(len(list) >> 8), byte(len(list))}, list...), 0, 0))
		if string(r) != "\x6A\x80" {
			t.Errorf("%s: % X", name, r)
		}
	}
	script(t, c, "00DB3FFE 01 4D → 6A86\n00CA0093 00 → 0000019000\n")
	if got := read(t, c, "B600"); !bytes.Equal(got, k.N.Bytes()) {
		t.Errorf("% x", got)
	}
}

// 4.4.3.11: DO FA lists what PUT DATA takes, for each slot, and of each a key can be made.
func TestAlgorithms(t *testing.T) {
	c := newCard(t, applet.Settings{Seed: "x"})
	script(t, c, verifyAdmin+" → 9000\n"+verifyUser+" → 9000\n")
	all, err := applet.Objects(data(t, c, "00CA00FA", nil))
	if err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for _, o := range all {
		count[o.Tag]++
		i := o.Tag - tagAttributes
		data(t, c, "00DA00"+hex.EncodeToString([]byte{byte(o.Tag)}), o.Value)
		if o.Value[0] == algRSA && o.Value[1] != 8 {
			continue // they take long
		}
		crt := hex.EncodeToString([]byte{byte(templates[i]), 0})
		data(t, c, "00478000", unhex(crt))
		if len(read(t, c, crt)) == 0 {
			t.Errorf("%X % X: no key", o.Tag, o.Value)
		}
	}
	if count[0xC1] != 7 || count[0xC2] != 7 || count[0xC3] != 7 || len(all) != 21 {
		t.Error(count)
	}
	script(t, c, `
		00DA00C1 06 010800002000 → 9000
		00DA00C1 06 010800001100 → 9000
		00DA00C1 06 010800001000 → 6A80   # an exponent of 16 bits
		00DA00C1 06 010800002100 → 6A80
		00DA00C1 06 010800002001 → 6A80   # imported with the modulus
		00DA00C1 05 0108000020 → 6A80
		00DA00C1 06 010800012000 → 6A80
		00DA00C1 06 010400002000 → 6A80   # 1024
		00DA00C1 06 010801002000 → 6A80
		00DA00C1 → 6A80
		00DA00C1 09 122A8648CE3D030107 → 6A80   # ECDH does not sign
		00DA00C2 09 132A8648CE3D030107 → 6A80   # ECDSA does not decipher
		00DA00C2 0A 162B06010401DA470F01 → 6A80
		00DA00C1 0A 132B2403030208010107 → 6A80   # Brainpool
		00DA00C1 0A 132A8648CE3D030107FE → 6A80
		00CA00C1 00 → 010800001100 9000
	`)
}

// Other attributes for a slot take the key away, the same do not.
func TestAttributesEraseKey(t *testing.T) {
	script(t, newCard(t, applet.Settings{Seed: "x"}), verifyAdmin+` → 9000
		00DA00C3 09 132A8648CE3D030107 → 9000
		00478000 02 A400 00 → …9000
		00CA00DE 00 → 0100020003019000
		00DA00C3 09 132A8648CE3D030107 → 9000
		00CA00DE 00 → 0100020003019000
		00DA00C3 06 132B81040022 → 9000
		00CA00DE 00 → 0100020003009000
		00478100 02 A400 00 → 6A88
	`)
}

// A key for decryption on a NIST curve can authenticate, one of X25519 cannot.
func TestEnvironmentOfOtherKinds(t *testing.T) {
	script(t, newCard(t, applet.Settings{}), verifyAdmin+` → 9000
		`+verifyUser+` → 9000
		00DA00C2 09 122A8648CE3D030107 → 9000
		00478000 02 B800 00 → …9000
		002241A4 03 830102 → 9000
		00880000 01 00 00 → …9000
		00DA00C2 0B 122B060104019755010501 → 9000
		00478000 02 B800 00 → …9000
		00880000 01 00 00 → 6985
		00DA00C3 0A 162B06010401DA470F01 → 9000
		00478000 02 A400 00 → …9000
		002241B8 03 830103 → 9000
		002A8086 01 00 00 → 6985
		00DA00C3 06 010800002000 → 9000
		00478000 02 A400 00 → …
		002A8086 01 01 00 → 6A80
	`)
}

// seed=: the same keys each time, another one when a key is made anew.
func TestSeed(t *testing.T) {
	keys := func(seed string) (all []string) {
		c := newCard(t, applet.Settings{Seed: seed})
		script(t, c, verifyAdmin+" → 9000\n")
		for i, crt := range []string{"B600", "B800", "A400"} {
			data(t, c, "00DA00"+hex.EncodeToString([]byte{byte(tagAttributes + i)}), append([]byte{[]byte{0x13, 0x12, 0x13}[i]}, oidP256...))
			for range 2 {
				all = append(all, hex.EncodeToString(data(t, c, "00478000", unhex(crt))))
			}
		}
		for range 2 {
			all = append(all, send(c, "0084000008"))
		}
		return all
	}
	a, b, other := keys("a"), keys("a"), keys("b")
	if !slices.Equal(a, b) {
		t.Error("the same seed, other keys")
	}
	seen := map[string]bool{}
	for _, k := range append(append(a, other...), keys("")...) {
		if seen[k] {
			t.Errorf("twice: %s", k)
		}
		seen[k] = true
	}
}

// 7.2.15: GET CHALLENGE.
func TestChallenge(t *testing.T) {
	c := newCard(t, applet.Settings{})
	if got := c.Process(unhex("0084000008")); len(got) != 10 {
		t.Errorf("% X", got)
	}
	if got := data(t, c, "00840000", nil); len(got) != maxChallenge {
		t.Errorf("%d bytes", len(got))
	}
	script(t, c, "00840000 → 6700\n00840001 08 → 6A86\n")
}

// keys=: PEM files go into the empty slots of the card.
func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, k any) {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ed := ed25519.NewKeyFromSeed(make([]byte, 32))
	x, err := applet.Source{Seed: "f"}.X25519("")
	if err != nil {
		t.Fatal(err)
	}
	write("sig.pem", ed)
	write("dec.pem", x.PrivateKey)
	file := filepath.Join(dir, "state")
	s := applet.Settings{Keys: dir, State: file}
	c := newCard(t, s)
	script(t, c, "00CA00DE 00 → 0102020203009000\n00CA00C1 00 → 162B06010401DA470F01 9000\n00CA00C2 00 → 122B060104019755010501 9000\n")
	if got := read(t, c, "B600"); !bytes.Equal(got, ed.Public().(ed25519.PublicKey)) {
		t.Errorf("% x", got)
	}
	c.Close()
	write("sig.pem", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	c = newCard(t, s)
	if got := read(t, c, "B600"); !bytes.Equal(got, ed.Public().(ed25519.PublicKey)) {
		t.Errorf("the key of the card was replaced: % x", got)
	}
	c.Close()
	write("aut.pem", x.PrivateKey) // does not sign
	if c, err := New(applet.Settings{Keys: dir, Cost: applet.Cheap}); !errors.Is(err, applet.ErrKey) {
		t.Error(err)
		if c != nil {
			c.Close()
		}
	}
	if _, err := New(applet.Settings{Keys: t.TempDir(), Cost: applet.Cheap}); !errors.Is(err, applet.ErrKey) || !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("no files: %v", err)
	}
	if _, err := New(applet.Settings{Model: "x", Cost: applet.Cheap}); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("a model: %v", err)
	}
	// The refused attempt must not have kept the state file.
	if _, err := New(applet.Settings{Keys: dir, State: file, Cost: applet.Cheap}); !errors.Is(err, applet.ErrKey) {
		t.Error(err)
	}
}
