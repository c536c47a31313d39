package piv

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"math/big"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// Algorithm identifiers (SP 800-78-4 table 6-2; RSA 3072 SP 800-78-5; RSA 4096, Ed25519 and X25519
// Yubico).
const (
	alg3DESToo = 0x00
	alg3DES    = 0x03
	algRSA3072 = 0x05
	algRSA2048 = 0x07
	algAES128  = 0x08
	algAES192  = 0x0A
	algAES256  = 0x0C
	algP256    = 0x11
	algP384    = 0x14
	algRSA4096 = 0x16
	algEd25519 = 0xE0
	algX25519  = 0xE1
)

// rsaBits is the length of a modulus; 0: the algorithm is not RSA.
func rsaBits(alg byte) int {
	switch alg {
	case algRSA2048:
		return 2048
	case algRSA3072:
		return 3072
	case algRSA4096:
		return 4096
	}
	return 0
}

// curveOf is the NIST curve of an algorithm, or nil.
func curveOf(alg byte) elliptic.Curve {
	switch alg {
	case algP256:
		return elliptic.P256()
	case algP384:
		return elliptic.P384()
	}
	return nil
}

// keyLength is how long a symmetric key is; 0: the algorithm is none for them.
func keyLength(alg byte) int {
	switch alg {
	case alg3DES, algAES192:
		return 24
	case algAES128:
		return 16
	case algAES256:
		return 32
	}
	return 0
}

// block makes the cipher of the management key.
func (m *management) block() cipher.Block {
	var b cipher.Block
	var err error
	if m.Alg == alg3DES {
		b, err = des.NewTripleDESCipher(m.Key)
	} else {
		b, err = aes.NewCipher(m.Key)
	}
	if err != nil {
		panic(fmt.Sprintf("management key: %v", err)) // its length was checked
	}
	return b
}

// algorithmOf is the identifier of a key; 0: the card cannot use it.
func algorithmOf(k applet.Key) byte {
	switch k := k.PrivateKey.(type) {
	case *rsa.PrivateKey:
		for _, alg := range []byte{algRSA2048, algRSA3072, algRSA4096} {
			if k.N.BitLen() == rsaBits(alg) {
				return alg
			}
		}
	case *ecdsa.PrivateKey:
		for _, alg := range []byte{algP256, algP384} {
			if k.Curve == curveOf(alg) {
				return alg
			}
		}
	case ed25519.PrivateKey:
		return algEd25519
	case *ecdh.PrivateKey:
		if k.Curve() == ecdh.X25519() {
			return algX25519
		}
	}
	return 0
}

// make generates a key pair. Each has a label of its own.
func (a *App) make(slot, alg byte) (applet.Key, error) {
	a.state.Generated++
	a.store.Changed()
	label := fmt.Sprintf("piv %02X %d", slot, a.state.Generated)
	switch {
	case rsaBits(alg) > 0:
		return a.source.RSA(label, rsaBits(alg))
	case curveOf(alg) != nil:
		return a.source.EC(label, curveOf(alg))
	case alg == algEd25519:
		return a.source.Ed25519(label), nil
	case alg == algX25519:
		return a.source.X25519(label)
	}
	return applet.Key{}, applet.ErrKey
}

// offers reports whether the card has keys of that algorithm.
func (a *App) offers(alg byte) bool {
	switch alg {
	case algRSA2048, algP256, algP384:
		return true
	case algRSA3072, algRSA4096, algEd25519, algX25519:
		return a.knows57()
	}
	return false
}

// publicObjects are the data objects of a public key (part 2 table 11).
func publicObjects(public crypto.PublicKey) []byte {
	switch p := public.(type) {
	case *rsa.PublicKey:
		return applet.AppendObject(applet.TLV(0x81, p.N.Bytes()), 0x82, big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			panic(fmt.Sprintf("public key: %v", err)) // the curve is one of two
		}
		return applet.TLV(0x86, point)
	case ed25519.PublicKey:
		return applet.TLV(0x86, p)
	case *ecdh.PublicKey:
		return applet.TLV(0x86, p.Bytes())
	}
	return nil
}

// policies reads the data objects with which Yubico's commands set the policies of a key.
func (a *App) policies(slot byte, objects []applet.Object) (pin, touch byte, ok bool) {
	pin, touch = defaultPIN(slot), touchNone
	for _, x := range []struct {
		tag, most int
		to        *byte
	}{{0xAA, pinAlways, &pin}, {0xAB, 3, &touch}} {
		v, found := applet.Find(objects, x.tag)
		switch {
		case !found:
			continue
		case !a.yubikey || len(v) != 1 || int(v[0]) > x.most:
			return 0, 0, false
		case v[0] != 0: // 0 is the default
			*x.to = v[0]
		}
	}
	return pin, touch, true
}

// generate is GENERATE ASYMMETRIC KEY PAIR (part 2 §3.3.2).
func (a *App) generate(k applet.Command) applet.Answer {
	switch {
	case k.P1 != 0 || !a.isSlot(k.P2):
		return applet.Status(applet.SWP1P2)
	case !a.manager:
		return applet.Status(applet.SWSecurity)
	}
	template, rest, err := applet.Next(k.Data)
	if err != nil || len(rest) > 0 || template.Tag != 0xAC {
		return applet.Status(applet.SWData)
	}
	objects, err := applet.Objects(template.Value)
	alg, ok := applet.Find(objects, 0x80)
	if err != nil || !ok || len(alg) != 1 {
		return applet.Status(applet.SWData)
	}
	// The exponent that 81 asks for is 65537 in all PIV keys (SP 800-78-4 §3.1).
	if e, ok := applet.Find(objects, 0x81); ok && !bytes.Equal(bytes.TrimLeft(e, "\x00"), []byte{1, 0, 1}) {
		return applet.Status(applet.SWData)
	}
	pin, touch, ok := a.policies(k.P2, objects)
	if !ok || !a.offers(alg[0]) {
		return applet.Status(applet.SWData)
	}
	private, err := a.make(k.P2, alg[0])
	if err != nil {
		return applet.Status(applet.SWFailure)
	}
	a.setKey(k.P2, &key{Alg: alg[0], PIN: pin, Touch: touch, Private: private})
	return applet.Data(applet.TLV(0x7F49, publicObjects(private.Public())))
}
