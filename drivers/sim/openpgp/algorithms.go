package openpgp

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"slices"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// Slots of keys, in the order of their data objects.
const (
	signature = iota
	decryption
	authentication
	slots
)

// Algorithm IDs (4.4.3.9), those of RFC 4880 §9.1.
const (
	algRSA   = 0x01
	algECDH  = 0x12
	algECDSA = 0x13
	algEdDSA = 0x16
)

// algorithm is what the attributes of a slot stand for.
type algorithm struct {
	id    byte
	bits  int            // of an RSA modulus
	oid   []byte         // of a curve
	curve elliptic.Curve // nil: Ed25519, X25519 or RSA
}

// offered are the algorithms of this card. Which slot takes which follows from the ID.
var offered = []algorithm{
	{id: algRSA, bits: 2048},
	{id: algRSA, bits: 3072},
	{id: algRSA, bits: 4096},
	{id: algECDSA, oid: oidP256, curve: elliptic.P256()},
	{id: algECDSA, oid: oidP384, curve: elliptic.P384()},
	{id: algECDSA, oid: oidP521, curve: elliptic.P521()},
	{id: algECDH, oid: oidP256, curve: elliptic.P256()},
	{id: algECDH, oid: oidP384, curve: elliptic.P384()},
	{id: algECDH, oid: oidP521, curve: elliptic.P521()},
	{id: algEdDSA, oid: []byte{0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01}},
	{id: algECDH, oid: []byte{0x2B, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01}},
}

var (
	oidP256 = []byte{0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}
	oidP384 = []byte{0x2B, 0x81, 0x04, 0x00, 0x22}
	oidP521 = []byte{0x2B, 0x81, 0x04, 0x00, 0x23}
)

// takenBy reports whether slot i takes the algorithm.
func (al algorithm) takenBy(i int) bool {
	return al.id == algRSA || (al.id == algECDH) == (i == decryption)
}

// attributes are the bytes of the algorithm (4.4.3.9): an RSA key has an exponent of 32 bits and
// is imported as e, p and q; a key on a curve is imported without its point.
func (al algorithm) attributes() []byte {
	if al.id == algRSA {
		return []byte{algRSA, byte(al.bits >> 8), byte(al.bits), 0, 32, 0}
	}
	return append([]byte{al.id}, al.oid...)
}

func defaultAttributes() []byte { return offered[0].attributes() }

// parseAttributes finds the algorithm of attributes for slot i. Exponents may have 17 to 32
// bits; FF at the end of a curve's says that imports bring the public key, which may
// be there in any case.
func parseAttributes(i int, b []byte) (algorithm, bool) {
	j := slices.IndexFunc(offered, func(al algorithm) bool {
		switch {
		case !al.takenBy(i) || len(b) == 0 || b[0] != al.id:
			return false
		case al.id == algRSA:
			return len(b) == 6 && int(b[1])<<8|int(b[2]) == al.bits && b[3] == 0 && b[4] >= 17 && b[4] <= 32 && b[5] == 0
		}
		return bytes.Equal(b[1:], al.oid) || bytes.Equal(b[1:], append(slices.Clone(al.oid), 0xFF))
	})
	if j < 0 {
		return algorithm{}, false
	}
	return offered[j], true
}

// algorithmInformation is DO FA (4.4.3.11): the attributes that each slot takes.
func algorithmInformation() (info []byte) {
	for i := range slots {
		for _, al := range offered {
			if al.takenBy(i) {
				info = applet.AppendObject(info, tagAttributes+i, al.attributes())
			}
		}
	}
	return info
}

// putAttributes changes the algorithm of a slot, whose key is then gone.
func (a *App) putAttributes(i int, value []byte) int {
	if _, ok := parseAttributes(i, value); !ok {
		return applet.SWData
	}
	if !bytes.Equal(a.Slots[i].Attributes, value) {
		a.Slots[i].Attributes = bytes.Clone(value)
		a.setKey(i, applet.Key{}, absent)
	}
	return applet.OK
}

// algorithm is that of slot i.
func (a *App) algorithm(i int) algorithm {
	al, _ := parseAttributes(i, a.Slots[i].Attributes) // New and putAttributes checked them
	return al
}

// fits reports whether a key is one of the algorithm.
func (al algorithm) fits(k applet.Key) bool {
	switch k := k.PrivateKey.(type) {
	case *rsa.PrivateKey:
		return al.id == algRSA && k.N.BitLen() == al.bits
	case *ecdsa.PrivateKey:
		return al.curve == k.Curve
	case ed25519.PrivateKey:
		return al.id == algEdDSA
	case *ecdh.PrivateKey:
		return al.id == algECDH && al.curve == nil && k.Curve() == ecdh.X25519()
	}
	return false
}
