package piv

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// firstManagement is the management key of new cards.
var firstManagement = []byte{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}

// clear makes the card as it is sold: without keys, with the first PINs.
func (a *App) clear() {
	cost := a.settings.Cost
	attest, certificate := a.state.Keys[name(slotAttest)], a.state.Objects[name(container(slotAttest))]
	a.state = state{
		Model:      a.settings.Model,
		PIN:        applet.NewPIN(padded(firstPIN), firstTries, cost),
		PUK:        applet.NewPIN(padded(firstPUK), firstTries, cost),
		Global:     applet.NewPIN(padded(firstPUK), firstTries, cost),
		Management: management{Alg: alg3DES, Touch: touchNone, Key: firstManagement},
		Keys:       map[string]*key{},
		Objects:    map[string][]byte{},
		Generated:  a.state.Generated,
		Defaults:   map[string]bool{name(refPIN): true, name(refPUK): true, name(slotManagement): true},
	}
	if a.settings.Model == yubikey {
		a.state.Management.Alg = algAES192
	}
	if attest != nil { // it outlives a reset
		a.state.Keys[name(slotAttest)] = attest
		a.state.Objects[name(container(slotAttest))] = certificate
	}
	// The PIN of the application alone (part 1 §3.3.2).
	a.setObject(tagDiscovery, append(applet.TLV(0x4F, aid), applet.TLV(0x5F2F, []byte{0x40, 0x00})...))
	a.Reset()
}

// issue makes a new card.
func (a *App) issue() error {
	a.clear()
	if a.yubikey {
		return a.issueKey(slotAttest)
	}
	a.setObject(tagCHUID, a.chuid())
	a.setObject(tagCCC, a.ccc())
	for _, slot := range []byte{slotAuth, slotSignature, slotKey, slotCard} {
		if err := a.issueKey(slot); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) issueKey(slot byte) error {
	private, err := a.make(slot, algP256)
	if err != nil {
		return err
	}
	a.setKey(slot, &key{Alg: algP256, PIN: defaultPIN(slot), Touch: touchNone, Private: private})
	return a.certify(slot, private)
}

// uuid is the card's, of version 5: it follows from the serial number.
func (a *App) uuid() []byte {
	h := sha256.Sum256([]byte("cardfs PIV " + a.settings.Serial))
	u := h[:16]
	u[6], u[8] = u[6]&0x0F|0x50, u[8]&0x3F|0x80
	return u
}

// chuid is the Card Holder Unique Identifier (part 1 table 9). Its FASC-N is that of cards of
// nobody: agency 9999 (TIG SCEPACS 2.3 §6). It is not signed.
func (a *App) chuid() []byte {
	fascn := []byte{0xD4, 0xE7, 0x39, 0xDA, 0x73, 0x9C, 0xED, 0x39, 0xCE, 0x73, 0x9D, 0x83, 0x68, 0x58, 0x21, 0x08,
		0x42, 0x10, 0x84, 0x21, 0xC8, 0x42, 0x10, 0xC3, 0xEB}
	var b []byte
	b = applet.AppendObject(b, 0x30, fascn)
	b = applet.AppendObject(b, 0x34, a.uuid())
	b = applet.AppendObject(b, 0x35, []byte("20491231"))
	b = applet.AppendObject(b, 0x3E)
	return applet.AppendObject(b, 0xFE)
}

// ccc is the Card Capability Container (part 1 table 8).
func (a *App) ccc() []byte {
	id := append([]byte{0xA0, 0x00, 0x00, 0x01, 0x16, 0xFF, 0x02}, a.uuid()[:14]...)
	b := applet.TLV(0xF0, id)
	for _, o := range []applet.Object{{Tag: 0xF1, Value: []byte{0x21}}, {Tag: 0xF2, Value: []byte{0x21}}, {Tag: 0xF3}, {Tag: 0xF4, Value: []byte{0}},
		{Tag: 0xF5, Value: []byte{0x10}}, {Tag: 0xF6}, {Tag: 0xF7}, {Tag: 0xFA}, {Tag: 0xFB}, {Tag: 0xFC}, {Tag: 0xFD}, {Tag: 0xFE}} {
		b = applet.AppendObject(b, o.Tag, o.Value)
	}
	return b
}

// history is the Key History Object, which has to be there with retired keys (part 1 §3.3.3,
// table 19): how many have their certificates on the card, and how many elsewhere.
func history(onCard byte) []byte {
	b := applet.TLV(0xC1, []byte{onCard})
	b = applet.AppendObject(b, 0xC2, []byte{0})
	return applet.AppendObject(b, 0xFE)
}

// wrap makes the value of a certificate's container (part 1 table 10): not compressed.
func wrap(certificate []byte) []byte {
	b := applet.TLV(0x70, certificate)
	b = applet.AppendObject(b, 0x71, []byte{0})
	return applet.AppendObject(b, 0xFE)
}

var usages = map[byte]x509.KeyUsage{
	slotSignature: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
	slotKey:       x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
	slotAttest:    x509.KeyUsageCertSign,
}

// certify puts a self-signed certificate into the container of a slot. A key that cannot
// sign gets none.
func (a *App) certify(slot byte, k applet.Key) error {
	if _, agrees := k.PrivateKey.(*ecdh.PrivateKey); agrees {
		return nil
	}
	usage, ok := usages[slot]
	if !ok {
		usage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	// Dates that do not depend on the clock, as the card has none.
	t := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(append([]byte{slot}, a.uuid()[:8]...)),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Simulated PIV %02X %s", slot, a.settings.Serial)},
		NotBefore:             time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              usage,
		BasicConstraintsValid: true,
		IsCA:                  slot == slotAttest,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k.PrivateKey.(crypto.Signer))
	if err != nil {
		return fmt.Errorf("certificate of slot %02X: %w", slot, err)
	}
	a.setObject(container(slot), wrap(der))
	return nil
}

// importKeys reads the keys of a directory.
func (a *App) importKeys() error {
	if a.settings.Keys == "" {
		return nil
	}
	read, retired := 0, byte(0)
	for _, slot := range slots() {
		path := filepath.Join(a.settings.Keys, strings.ToLower(name(int(slot)))+".pem")
		k, err := applet.ReadKey(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		alg := algorithmOf(k)
		if alg == 0 {
			return fmt.Errorf("%s: neither RSA of 2048, 3072 or 4096 bits nor P-256, P-384, Ed25519 or X25519: %w", path, applet.ErrKey)
		}
		a.setKey(slot, &key{Alg: alg, PIN: defaultPIN(slot), Touch: touchNone, Imported: true, Private: k})
		if err := a.importCertificate(slot, k, path); err != nil {
			return err
		}
		if slot <= slotRetired+19 && a.state.Objects[name(container(slot))] != nil {
			retired++
		}
		read++
	}
	if retired > 0 {
		a.setObject(tagHistory, history(retired))
	}
	if read == 0 {
		return fmt.Errorf("keys=%s: none of the files 9a.pem, 9c.pem, 9d.pem, 9e.pem, 82.pem to 95.pem is there: %w", a.settings.Keys, applet.ErrKey)
	}
	return nil
}

// importCertificate takes the certificate that follows the key in its file, or makes one.
func (a *App) importCertificate(slot byte, k applet.Key, path string) error {
	rest, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			a.setObject(container(slot), nil)
			return a.certify(slot, k)
		}
		if block.Type == "CERTIFICATE" {
			a.setObject(container(slot), wrap(block.Bytes))
			return nil
		}
	}
}
