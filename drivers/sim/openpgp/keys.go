package openpgp

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// slot is a place for a key and what the host keeps beside it.
type slot struct {
	Attributes  []byte     `json:"attributes"`
	Key         applet.Key `json:"key"`
	Origin      origin     `json:"origin"`
	Fingerprint []byte     `json:"fingerprint"`
	CA          []byte     `json:"ca_fingerprint"`
	Time        []byte     `json:"time"`
}

// origin is where a key is from, as DO DE has it (4.4.3.8).
type origin byte

const (
	absent origin = iota
	generated
	imported
)

// setKey puts a key into slot i, or takes that away. A new key for signatures begins at a count of
// zero (4.4.3.2).
func (a *App) setKey(i int, k applet.Key, from origin) {
	a.Slots[i].Key, a.Slots[i].Origin = k, from
	if i == signature {
		a.Signatures = 0
	}
	a.store.Changed()
}

// Control reference templates (7.2.14).
var templates = [slots]int{signature: 0xB6, decryption: 0xB8, authentication: 0xA4}

// slotOf finds the slot of a control reference template: an empty one, or with the number
// of the key.
func slotOf(o applet.Object) (i int, ok bool) {
	i = slices.Index(templates[:], o.Tag)
	return i, i >= 0 && (len(o.Value) == 0 || bytes.Equal(o.Value, []byte{0x84, 0x01, byte(i + 1)}))
}

// generateKeyPair is GENERATE ASYMMETRIC KEY PAIR (7.2.14).
func (a *App) generateKeyPair(k applet.Command) applet.Answer {
	if k.P2 != 0 || k.P1 != 0x80 && k.P1 != 0x81 {
		return applet.Status(applet.SWP1P2)
	}
	o, rest, err := applet.Next(k.Data)
	i, ok := slotOf(o)
	if err != nil || len(rest) > 0 || !ok {
		return applet.Status(applet.SWData)
	}
	if k.P1 == 0x80 {
		if !a.admin {
			return applet.Status(applet.SWSecurity)
		}
		made, err := a.makeKey(i)
		if err != nil {
			return applet.Status(applet.SWFailure)
		}
		a.setKey(i, made, generated)
	}
	if a.Slots[i].Key.PrivateKey == nil {
		return applet.Status(applet.SWNoReference)
	}
	return applet.Data(publicTemplate(a.Slots[i].Key))
}

func (a *App) makeKey(i int) (applet.Key, error) {
	a.Made++
	label := fmt.Sprint("openpgp ", i+1, " ", a.Made)
	switch al := a.algorithm(i); {
	case al.id == algRSA:
		return a.source.RSA(label, al.bits)
	case al.curve != nil:
		return a.source.EC(label, al.curve)
	case al.id == algEdDSA:
		return a.source.Ed25519(label), nil
	}
	return a.source.X25519(label)
}

// publicTemplate is DO 7F49 with the public key (7.2.14).
func publicTemplate(k applet.Key) []byte {
	var fields []byte
	switch k := k.PrivateKey.(type) {
	case *rsa.PrivateKey:
		fields = applet.AppendObject(fields, 0x81, k.N.Bytes())
		fields = applet.AppendObject(fields, 0x82, big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PrivateKey:
		point, err := k.PublicKey.Bytes()
		if err != nil {
			return nil // of a curve that is not NIST's: fits does not let it in
		}
		fields = applet.AppendObject(fields, 0x86, point)
	case ed25519.PrivateKey:
		fields = applet.AppendObject(fields, 0x86, k.Public().(ed25519.PublicKey))
	case *ecdh.PrivateKey:
		fields = applet.AppendObject(fields, 0x86, k.PublicKey().Bytes())
	}
	return applet.TLV(0x7F49, fields)
}

// importKey is PUT DATA with an extended header list (4.4.3.12, 7.2.8):
//
//	4D { CRT, 7F48 { tag length … }, 5F48 { the values of those tags, one after the other } }
func (a *App) importKey(k applet.Command) int {
	switch {
	case k.P1P2() != 0x3FFF:
		return applet.SWP1P2
	case !a.admin:
		return applet.SWSecurity
	}
	list, rest, err := applet.Next(k.Data)
	if err != nil || len(rest) > 0 || list.Tag != 0x4D {
		return applet.SWData
	}
	all, err := applet.Objects(list.Value)
	if err != nil || len(all) != 3 || all[1].Tag != 0x7F48 || all[2].Tag != 0x5F48 {
		return applet.SWData
	}
	i, ok := slotOf(all[0])
	if !ok {
		return applet.SWData
	}
	fields, ok := keyFields(all[1].Value, all[2].Value)
	if !ok {
		return applet.SWData
	}
	key, ok := a.algorithm(i).assemble(fields)
	if !ok {
		return applet.SWData
	}
	a.setKey(i, key, imported)
	return applet.OK
}

// keyFields cuts the data of a private key by its template.
func keyFields(template, data []byte) (map[byte][]byte, bool) {
	fields := map[byte][]byte{}
	for len(template) > 0 {
		// A tag and a length without a value, which Next does not know.
		n, used := headerLength(template)
		if _, twice := fields[template[0]]; twice || used == 0 || n > len(data) {
			return nil, false
		}
		fields[template[0]] = data[:n]
		template, data = template[used:], data[n:]
	}
	return fields, len(data) == 0
}

// headerLength reads a tag of one byte and a length, and how long both are; 0: there is none.
func headerLength(b []byte) (n, used int) {
	switch {
	case len(b) >= 2 && b[1] < 0x80:
		return int(b[1]), 2
	case len(b) >= 3 && b[1] == 0x81:
		return int(b[2]), 3
	case len(b) >= 4 && b[1] == 0x82:
		return int(b[2])<<8 | int(b[3]), 4
	}
	return 0, 0
}

// assemble makes a private key: of RSA from e (91), p (92) and q (93), others from d (92).
// A public key in 99 must be the right one.
func (al algorithm) assemble(fields map[byte][]byte) (applet.Key, bool) {
	if al.id == algRSA {
		return assembleRSA(fields[0x91], fields[0x92], fields[0x93], al.bits)
	}
	var k applet.Key
	d := fields[0x92]
	if len(d) == 0 {
		return k, false
	}
	var err error
	switch {
	case al.curve != nil:
		d, ok := fill(d, (al.curve.Params().BitSize+7)/8)
		if !ok {
			return k, false
		}
		k.PrivateKey, err = ecdsa.ParseRawPrivateKey(al.curve, d)
	case al.id == algEdDSA:
		d, ok := fill(d, ed25519.SeedSize)
		if !ok {
			return k, false
		}
		k.PrivateKey = ed25519.NewKeyFromSeed(d)
	default: // the host has it as a number, highest byte first; RFC 7748 §5 has the lowest first
		d, ok := fill(d, 32)
		if !ok {
			return k, false
		}
		slices.Reverse(d)
		k.PrivateKey, err = ecdh.X25519().NewPrivateKey(d)
	}
	if err != nil {
		return applet.Key{}, false
	}
	if public, ok := fields[0x99]; ok && !bytes.HasSuffix(publicTemplate(k), public) {
		return applet.Key{}, false
	}
	return k, true
}

// fill gives a number that lost its leading zeros its length.
func fill(d []byte, length int) ([]byte, bool) {
	n := new(big.Int).SetBytes(d)
	if (n.BitLen()+7)/8 > length {
		return nil, false
	}
	return n.FillBytes(make([]byte, length)), true
}

func assembleRSA(e, p, q []byte, bits int) (applet.Key, bool) {
	exponent := new(big.Int).SetBytes(e)
	if len(p) == 0 || len(q) == 0 || len(p)+len(q) > bits/8+2 || exponent.BitLen() < 2 || exponent.BitLen() > 31 {
		return applet.Key{}, false
	}
	pn, qn := new(big.Int).SetBytes(p), new(big.Int).SetBytes(q)
	n := new(big.Int).Mul(pn, qn)
	// Validate takes any two factors that the exponents fit.
	if n.BitLen() != bits || !pn.ProbablyPrime(10) || !qn.ProbablyPrime(10) {
		return applet.Key{}, false
	}
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(pn, one), new(big.Int).Sub(qn, one))
	d := new(big.Int).ModInverse(exponent, phi)
	if d == nil {
		return applet.Key{}, false
	}
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: int(exponent.Int64())}, D: d, Primes: []*big.Int{pn, qn}}
	k.Precompute()
	return applet.Key{PrivateKey: k}, k.Validate() == nil
}
