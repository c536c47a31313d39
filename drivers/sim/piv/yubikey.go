package piv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/binary"
	"math/big"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

var (
	firmware57 = []byte{5, 7, 1}
	firmware54 = []byte{5, 4, 3}
)

// Tags of Yubico's metadata (docs.yubico.com, .NET SDK, "Get metadata").
const (
	metaAlgorithm = 0x01
	metaPolicy    = 0x02
	metaOrigin    = 0x03
	metaPublic    = 0x04
	metaDefault   = 0x05
	metaRetries   = 0x06
	metaPINAlg    = 0xFF
)

// processYubiKey answers what Yubico added.
func (a *App) processYubiKey(k applet.Command) applet.Answer {
	switch k.INS {
	case insVersion:
		return applet.Data(a.firmware)
	case insSerial:
		return applet.Data(binary.BigEndian.AppendUint32(nil, a.serial()))
	case insMetadata:
		return a.metadata(k)
	case insAttest:
		return a.attest(k)
	case insReset:
		return a.resetAll(k)
	}
	switch {
	case k.INS != insSetRetries && k.INS != insImport && k.INS != insSetKey && (k.INS != insMove || !a.knows57()):
		return applet.Status(applet.SWINS)
	case !a.manager:
		return applet.Status(applet.SWSecurity)
	}
	switch k.INS {
	case insSetRetries:
		return a.setRetries(k)
	case insImport:
		return a.importKey(k)
	case insMove:
		return a.move(k)
	}
	return a.setManagement(k)
}

// knows57 reports whether the card has what came with firmware 5.7: RSA 3072 and 4096, Ed25519,
// X25519, MOVE KEY. Cards of no model have the algorithms, too.
func (a *App) knows57() bool { return a.settings.Model != yubikey54 }

// metadata says what is known of a PIN or a key.
func (a *App) metadata(k applet.Command) applet.Answer {
	if k.P1 != 0 {
		return applet.Status(applet.SWP1P2)
	}
	first := byte(0)
	if a.state.Defaults[name(int(k.P2))] {
		first = 1
	}
	var b []byte
	switch k.P2 {
	case refPIN, refPUK:
		p, _ := a.reference(k.P2)
		b = applet.AppendObject(b, metaAlgorithm, []byte{metaPINAlg})
		b = applet.AppendObject(b, metaDefault, []byte{first})
		return applet.Data(applet.AppendObject(b, metaRetries, []byte{byte(p.Max), byte(p.Tries)}))
	case slotManagement:
		m := &a.state.Management
		b = applet.AppendObject(b, metaAlgorithm, []byte{m.Alg})
		b = applet.AppendObject(b, metaPolicy, []byte{0, m.Touch})
		return applet.Data(applet.AppendObject(b, metaDefault, []byte{first}))
	}
	key := a.key(k.P2)
	if key == nil {
		return applet.Status(applet.SWNoReference)
	}
	origin := byte(1)
	if key.Imported {
		origin = 2
	}
	b = applet.AppendObject(b, metaAlgorithm, []byte{key.Alg})
	b = applet.AppendObject(b, metaPolicy, []byte{key.PIN, key.Touch})
	b = applet.AppendObject(b, metaOrigin, []byte{origin})
	return applet.Data(applet.AppendObject(b, metaPublic, publicObjects(key.Private.Public())))
}

// setRetries sets how often PIN and PUK may be tried, and both to their first values. It needs
// the PIN beside the management key.
func (a *App) setRetries(k applet.Command) applet.Answer {
	switch {
	case !a.pin:
		return applet.Status(applet.SWSecurity)
	case k.P1 == 0 || k.P2 == 0:
		return applet.Status(applet.SWP1P2)
	case len(k.Data) > 0:
		return applet.Status(applet.SWLength)
	}
	a.state.PIN = applet.NewPIN(padded(firstPIN), int(k.P1), a.settings.Cost)
	a.state.PUK = applet.NewPIN(padded(firstPUK), int(k.P2), a.settings.Cost)
	a.state.Defaults[name(refPIN)], a.state.Defaults[name(refPUK)] = true, true
	a.pin = false
	a.store.Changed()
	return applet.Status(applet.OK)
}

// resetAll makes a new card of one whose PIN and PUK are blocked.
func (a *App) resetAll(k applet.Command) applet.Answer {
	switch {
	case k.P1P2() != 0:
		return applet.Status(applet.SWP1P2)
	case !a.state.PIN.Blocked() || !a.state.PUK.Blocked():
		return applet.Status(applet.SWConditions)
	}
	a.clear()
	return applet.Status(applet.OK)
}

// setManagement is SET MANAGEMENT KEY: algorithm, 9B, length, key; P2 is FF, or FE for touch.
func (a *App) setManagement(k applet.Command) applet.Answer {
	touch := byte(touchNone)
	switch k.P1P2() {
	case 0xFFFF:
	case 0xFFFE:
		touch = 2
	case 0xFFFD:
		touch = 3
	default:
		return applet.Status(applet.SWP1P2)
	}
	d := k.Data
	if len(d) < 3 || d[1] != slotManagement || keyLength(d[0]) == 0 || int(d[2]) != keyLength(d[0]) || len(d) != 3+keyLength(d[0]) {
		return applet.Status(applet.SWData)
	}
	a.state.Management = management{Alg: d[0], Touch: touch, Key: bytes.Clone(d[3:])}
	delete(a.state.Defaults, name(slotManagement))
	a.store.Changed()
	return applet.Status(applet.OK)
}

// importKey is IMPORT ASYMMETRIC KEY: P1 the algorithm, P2 the slot.
func (a *App) importKey(k applet.Command) applet.Answer {
	if !a.isSlot(k.P2) {
		return applet.Status(applet.SWP1P2)
	}
	objects, err := applet.Objects(k.Data)
	if err != nil {
		return applet.Status(applet.SWData)
	}
	pin, touch, ok := a.policies(k.P2, objects)
	private, err := imported(k.P1, objects)
	if err != nil || !ok || !a.offers(k.P1) {
		return applet.Status(applet.SWData)
	}
	a.setKey(k.P2, &key{Alg: k.P1, PIN: pin, Touch: touch, Imported: true, Private: private})
	return applet.Status(applet.OK)
}

// imported makes a key of its parts: 01 and 02 are the primes of RSA, 06, 07 and 08 what is
// secret in EC, Ed25519 and X25519.
func imported(alg byte, objects []applet.Object) (applet.Key, error) {
	part := func(tag, size int) []byte {
		v, _ := applet.Find(objects, tag)
		if v = bytes.TrimLeft(v, "\x00"); len(v) > size {
			return nil
		}
		return append(make([]byte, size-len(v)), v...)
	}
	exact := func(tag int) []byte {
		v, _ := applet.Find(objects, tag)
		return v
	}
	switch {
	case rsaBits(alg) > 0:
		return rsaOf(part(0x01, rsaBits(alg)/16), part(0x02, rsaBits(alg)/16), rsaBits(alg))
	case curveOf(alg) != nil:
		k, err := ecdsa.ParseRawPrivateKey(curveOf(alg), part(0x06, curveOf(alg).Params().BitSize/8))
		return applet.Key{PrivateKey: k}, err
	case alg == algEd25519 && len(exact(0x07)) == ed25519.SeedSize:
		return applet.Key{PrivateKey: ed25519.NewKeyFromSeed(exact(0x07))}, nil
	case alg == algX25519:
		return applet.X25519(exact(0x08))
	}
	return applet.Key{}, applet.ErrKey
}

func rsaOf(p, q []byte, bits int) (applet.Key, error) {
	one, e := big.NewInt(1), big.NewInt(65537)
	P, Q := new(big.Int).SetBytes(p), new(big.Int).SetBytes(q)
	n := new(big.Int).Mul(P, Q)
	if n.BitLen() != bits || P.Cmp(Q) == 0 || !P.ProbablyPrime(20) || !Q.ProbablyPrime(20) {
		return applet.Key{}, applet.ErrKey
	}
	d := new(big.Int).ModInverse(e, new(big.Int).Mul(new(big.Int).Sub(P, one), new(big.Int).Sub(Q, one)))
	if d == nil {
		return applet.Key{}, applet.ErrKey
	}
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}, D: d, Primes: []*big.Int{P, Q}}
	k.Precompute()
	return applet.Key{PrivateKey: k}, k.Validate()
}

// move is MOVE KEY: P1 is the slot where the key goes, FF for nowhere, P2 where it is.
func (a *App) move(k applet.Command) applet.Answer {
	switch {
	case !a.isSlot(k.P2) || k.P1 != 0xFF && !a.isSlot(k.P1) || k.P1 == slotAttest || k.P1 == k.P2:
		return applet.Status(applet.SWP1P2)
	case a.key(k.P2) == nil:
		return applet.Status(applet.SWNoReference)
	case k.P1 != 0xFF && a.key(k.P1) != nil:
		return applet.Status(applet.SWConditions)
	}
	if k.P1 != 0xFF {
		a.setKey(k.P1, a.key(k.P2))
	}
	delete(a.state.Keys, name(int(k.P2)))
	a.store.Changed()
	return applet.Status(applet.OK)
}
