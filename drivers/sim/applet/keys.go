package applet

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	rand2 "math/rand/v2"
	"os"
)

// ErrKey: a key cannot be used.
var ErrKey = errors.New("no key that this card can use")

// Key is a private key: *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey or an
// *ecdh.PrivateKey of X25519. A state file has it as PKCS #8.
type Key struct{ crypto.PrivateKey }

// MarshalText writes PEM; of no key, nothing.
func (k Key) MarshalText() ([]byte, error) {
	if k.PrivateKey == nil {
		return nil, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.PrivateKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// UnmarshalText reads what MarshalText wrote.
func (k *Key) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*k = Key{}
		return nil
	}
	*k, err = parseKey(b)
	return err
}

// Public returns the public key.
func (k Key) Public() crypto.PublicKey {
	return k.PrivateKey.(interface{ Public() crypto.PublicKey }).Public()
}

// ReadKey reads a private key from a PEM file: PKCS #8, PKCS #1 or SEC 1, not encrypted.
func ReadKey(path string) (Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, err
	}
	k, err := parseKey(b)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// parseKey takes the first private key of a PEM file. The errors do not quote it.
func parseKey(b []byte) (Key, error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default: // EC PARAMETERS, CERTIFICATE
			continue
		}
		if err != nil {
			return Key{}, fmt.Errorf("damaged or encrypted: %w", ErrKey)
		}
		return Key{key}, nil
	}
	return Key{}, fmt.Errorf("no PRIVATE KEY in it: %w", ErrKey)
}

// Source makes keys: at random, or reproducible from a seed. The functions of the standard
// library are of no use for the latter: they ignore the source of randomness that
// they are given.
type Source struct{ Seed string }

// Bytes makes n bytes. Those of a seed depend on the label, too.
func (s Source) Bytes(label string, n int) []byte {
	b := make([]byte, n)
	io.ReadFull(s.reader(label), b)
	return b
}

func (s Source) reader(label string) io.Reader {
	if s.Seed == "" {
		return rand.Reader
	}
	return rand2.NewChaCha8(sha256.Sum256([]byte(s.Seed + "\x00" + label)))
}

// RSA makes a key with the exponent 65537.
func (s Source) RSA(label string, bits int) (Key, error) {
	if s.Seed == "" {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		return Key{k}, err
	}
	r := s.reader(label)
	e := big.NewInt(65537)
	for {
		p, q := prime(r, bits/2), prime(r, bits/2)
		one := big.NewInt(1)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(e, phi)
		if d == nil || p.Cmp(q) == 0 {
			continue
		}
		k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: int(e.Int64())}, D: d, Primes: []*big.Int{p, q}}
		k.Precompute()
		return Key{k}, k.Validate()
	}
}

// prime looks for a prime whose two highest bits are set, so that a product of two has twice the bits.
func prime(r io.Reader, bits int) *big.Int {
	b := make([]byte, bits/8)
	p := new(big.Int)
	for {
		io.ReadFull(r, b)
		b[0] |= 0xC0
		b[len(b)-1] |= 1
		if p.SetBytes(b).ProbablyPrime(20) {
			return p
		}
	}
}

// EC makes a key on a curve of NIST.
func (s Source) EC(label string, c elliptic.Curve) (Key, error) {
	if s.Seed == "" {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		return Key{k}, err
	}
	r := s.reader(label)
	b := make([]byte, (c.Params().BitSize+7)/8)
	for {
		io.ReadFull(r, b)
		if extra := len(b)*8 - c.Params().BitSize; extra > 0 {
			b[0] &= 0xFF >> extra
		}
		if k, err := ecdsa.ParseRawPrivateKey(c, b); err == nil { // 1 to n-1
			return Key{k}, nil
		}
	}
}

// Ed25519 makes a key for signatures.
func (s Source) Ed25519(label string) Key {
	return Key{ed25519.NewKeyFromSeed(s.Bytes(label, ed25519.SeedSize))}
}

// X25519 makes a key for key agreement.
func (s Source) X25519(label string) (Key, error) { return X25519(s.Bytes(label, 32)) }

// X25519 is the key with those 32 bytes, in the order of RFC 7748.
func X25519(b []byte) (Key, error) {
	k, err := ecdh.X25519().NewPrivateKey(b)
	return Key{k}, err
}

// RSAPrivate is the bare operation on a block as long as the modulus: the padding is the
// host's business. It takes no care to hide its timing.
func RSAPrivate(k *rsa.PrivateKey, block []byte) ([]byte, bool) {
	m := new(big.Int).SetBytes(block)
	if len(block) != k.Size() || m.Cmp(k.N) >= 0 {
		return nil, false
	}
	return m.Exp(m, k.D, k.N).FillBytes(make([]byte, k.Size())), true
}
