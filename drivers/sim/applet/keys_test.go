package applet

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

func makers(s Source) map[string]func(label string) (Key, error) {
	return map[string]func(string) (Key, error){
		"RSA 2048": func(l string) (Key, error) { return s.RSA(l, 2048) },
		"P-256":    func(l string) (Key, error) { return s.EC(l, elliptic.P256()) },
		"P-384":    func(l string) (Key, error) { return s.EC(l, elliptic.P384()) },
		"P-521":    func(l string) (Key, error) { return s.EC(l, elliptic.P521()) },
		"Ed25519":  func(l string) (Key, error) { return s.Ed25519(l), nil },
		"X25519":   s.X25519,
	}
}

func same(t *testing.T, a, b Key) bool {
	t.Helper()
	x, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && x.Equal(b.Public())
}

// A seed makes the same keys again, and other keys for other labels; without one no key comes twice.
func TestSource(t *testing.T) {
	again, free := makers(Source{"seed"}), makers(Source{})
	for name, make := range makers(Source{"seed"}) {
		a, err := make("9A 1")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, _ := again[name]("9A 1")
		c, _ := again[name]("9A 2")
		d, _ := free[name]("9A 1")
		e, _ := free[name]("9A 1")
		if !same(t, a, b) || same(t, a, c) || same(t, a, d) || same(t, d, e) {
			t.Errorf("%s: same label %v, other label %v, no seed %v, %v", name, same(t, a, b), same(t, a, c), same(t, a, d), same(t, d, e))
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var back Key
		if err := json.Unmarshal(text, &back); err != nil || !same(t, a, back) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var none, back Key
	text, err := json.Marshal(none)
	if err != nil || json.Unmarshal(text, &back) != nil || back.PrivateKey != nil {
		t.Errorf("no key: %s, %v", text, err)
	}
}

func TestRSAPrivate(t *testing.T) {
	k, err := Source{"seed"}.RSA("x", 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := k.PrivateKey.(*rsa.PrivateKey)
	if key.N.BitLen() != 2048 {
		t.Errorf("%d bits", key.N.BitLen())
	}
	block := append([]byte{0, 2}, counting(254)...)
	sealed := new(big.Int).Exp(new(big.Int).SetBytes(block), big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, 256))
	if plain, ok := RSAPrivate(key, sealed); !ok || !bytes.Equal(plain, block) {
		t.Error("not what was encrypted")
	}
	for _, block := range [][]byte{nil, sealed[1:], append(sealed, 0), key.N.Bytes(), bytes.Repeat([]byte{0xFF}, 256)} {
		if _, ok := RSAPrivate(key, block); ok {
			t.Errorf("%d bytes are taken", len(block))
		}
	}
}

func TestReadKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	a := Source{"seed"}.Ed25519("x")
	text, _ := a.MarshalText()
	os.WriteFile(path, append([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), text...), 0o600)
	if b, err := ReadKey(path); err != nil || !same(t, a, b) {
		t.Error(err)
	}
	for _, bad := range []string{"", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"} {
		os.WriteFile(path, []byte(bad), 0o600)
		if _, err := ReadKey(path); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}
