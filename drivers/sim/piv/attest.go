package piv

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// attest answers a certificate that says of a generated key that it was made here. Its
// extensions are those of "PIV attestation" at developers.yubico.com; the chain ends in
// this card, not at Yubico.
func (a *App) attest(k applet.Command) applet.Answer {
	if k.P2 != 0 || !a.isSlot(k.P1) || k.P1 == slotAttest {
		return applet.Status(applet.SWP1P2)
	}
	key, by := a.key(k.P1), a.key(slotAttest)
	if key == nil || key.Imported || by == nil {
		return applet.Status(applet.SWData)
	}
	parent, ok := a.attestCertificate()
	if !ok {
		return applet.Status(applet.SWData)
	}
	serial, _ := asn1.Marshal(int(a.serial()))
	extension := func(last int, value []byte) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, last}, Value: value}
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(append([]byte{1}, a.source.Bytes(fmt.Sprintf("attest %02X %d", k.P1, a.state.Generated), 15)...)),
		Subject:      pkix.Name{CommonName: fmt.Sprintf("YubiKey PIV Attestation %02x", k.P1)},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
		ExtraExtensions: []pkix.Extension{
			extension(3, a.firmware),
			extension(7, serial),
			extension(8, []byte{key.PIN, key.Touch}),
			extension(9, []byte{1}), // the form factor: USB-A keychain
		},
	}
	der, err := createCertificate(t, parent, key.Private.Public(), by.Private.PrivateKey.(crypto.Signer))
	if err != nil {
		return applet.Status(applet.SWData)
	}
	return applet.Data(der)
}

func (a *App) attestCertificate() (*x509.Certificate, bool) {
	objects, err := applet.Objects(a.state.Objects[name(container(slotAttest))])
	if err != nil {
		return nil, false
	}
	der, _ := applet.Find(objects, 0x70)
	c, err := x509.ParseCertificate(der)
	return c, err == nil
}

// The algorithm and the beginning of the bit string in a SubjectPublicKeyInfo (RFC 8410 §3, §4).
var (
	infoEd25519 = []byte{0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00}
	infoX25519  = []byte{0x06, 0x03, 0x2B, 0x65, 0x6E, 0x03, 0x21, 0x00}
)

// createCertificate is x509.CreateCertificate, which refuses keys of X25519. For these it makes a
// certificate of an Ed25519 key with the same bytes, writes X25519 into it, and signs it again.
func createCertificate(t, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) ([]byte, error) {
	agrees, ok := public.(*ecdh.PublicKey)
	if !ok {
		return x509.CreateCertificate(rand.Reader, t, parent, public, by)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, ed25519.PublicKey(agrees.Bytes()), by)
	if err != nil {
		return nil, err
	}
	var c struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		return nil, err
	}
	tbs := bytes.Replace(c.TBS.FullBytes, slices.Concat(infoEd25519, agrees.Bytes()), slices.Concat(infoX25519, agrees.Bytes()), 1)
	signed, hash := tbs, crypto.Hash(0)
	if _, edwards := by.Public().(ed25519.PublicKey); !edwards {
		hash = crypto.SHA256
		if algorithmOf(applet.Key{PrivateKey: by}) == algP384 { // as the x509 package chooses
			hash = crypto.SHA384
		}
		h := hash.New()
		h.Write(tbs)
		signed = h.Sum(nil)
	}
	signature, err := by.Sign(rand.Reader, signed, hash)
	if err != nil {
		return nil, err
	}
	c.TBS, c.Signature = asn1.RawValue{FullBytes: tbs}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return asn1.Marshal(c)
}
