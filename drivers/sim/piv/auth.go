package piv

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// Data objects of the dynamic authentication template (part 2 table 7).
const (
	tagTemplate  = 0x7C
	tagWitness   = 0x80
	tagChallenge = 0x81
	tagResponse  = 0x82
	tagExponent  = 0x85 // the other party's point
)

// authenticate is GENERAL AUTHENTICATE (part 2 §3.2.4).
func (a *App) authenticate(k applet.Command) applet.Answer {
	template, rest, err := applet.Next(k.Data)
	if err != nil || len(rest) > 0 || template.Tag != tagTemplate {
		a.forget()
		return applet.Status(applet.SWData)
	}
	objects, err := applet.Objects(template.Value)
	if err != nil {
		a.forget()
		return applet.Status(applet.SWData)
	}
	if k.P2 == slotManagement {
		a.justVerified = a.justVerified && a.yubikey
		return a.manage(k, objects)
	}
	a.forget()
	return a.use(k, objects)
}

func template(tag int, value []byte) applet.Answer {
	return applet.Data(applet.TLV(tagTemplate, applet.TLV(tag, value)))
}

// use signs, decrypts or agrees on a key.
func (a *App) use(k applet.Command, objects []applet.Object) applet.Answer {
	key := a.key(k.P2)
	just := a.justVerified
	a.justVerified = false
	switch {
	case !a.isSlot(k.P2) || key == nil || key.Alg != k.P1 || k.P2 == slotAttest:
		return applet.Status(applet.SWP1P2)
	case key.PIN != pinNever && !a.pinGiven(), key.PIN == pinAlways && !just:
		return applet.Status(applet.SWSecurity)
	}
	challenge, sign := applet.Find(objects, tagChallenge)
	point, agree := applet.Find(objects, tagExponent)
	response, asked := applet.Find(objects, tagResponse)
	if sign == agree || !asked || len(response) > 0 || len(objects) != 2 {
		return applet.Status(applet.SWData)
	}
	var out []byte
	var ok bool
	if sign {
		out, ok = bare(key.Private, challenge)
	} else {
		out, ok = secret(key.Private, point)
	}
	if !ok {
		return applet.Status(applet.SWData)
	}
	return template(tagResponse, out)
}

// bare signs a hash, or a message with Ed25519, or does the bare operation of RSA on a block
// that the host has padded, or wants decrypted (part 2 §A.3, §A.4).
func bare(k applet.Key, challenge []byte) ([]byte, bool) {
	switch k := k.PrivateKey.(type) {
	case *rsa.PrivateKey:
		return applet.RSAPrivate(k, challenge)
	case *ecdsa.PrivateKey:
		if n := (k.Curve.Params().BitSize + 7) / 8; len(challenge) == 0 || len(challenge) > n {
			return nil, false
		}
		sig, err := ecdsa.SignASN1(rand.Reader, k, challenge)
		return sig, err == nil
	case ed25519.PrivateKey:
		return ed25519.Sign(k, challenge), true
	}
	return nil, false
}

// secret is what ECDH agrees on: the x coordinate (part 2 §A.5).
func secret(k applet.Key, point []byte) ([]byte, bool) {
	private, ok := k.PrivateKey.(*ecdh.PrivateKey)
	if k, is := k.PrivateKey.(*ecdsa.PrivateKey); is {
		p, err := k.ECDH()
		private, ok = p, err == nil
	}
	if !ok {
		return nil, false
	}
	public, err := private.Curve().NewPublicKey(point)
	if err != nil {
		return nil, false
	}
	z, err := private.ECDH(public)
	return z, err == nil
}

// manage authenticates the holder of the management key: by a challenge (part 2 §A.1), or
// mutually with a witness (§A.2).
//
//	host 81 empty      card 81 challenge    host 82 encrypted challenge           card 9000
//	host 80 empty      card 80 encrypted    host 80 decrypted, 81 challenge, 82   card 82 encrypted
//
// The card encrypts nothing for a host that has not shown the key: that would answer its own challenge.
func (a *App) manage(k applet.Command, objects []applet.Object) applet.Answer {
	alg := k.P1
	if alg == alg3DESToo {
		alg = alg3DES
	}
	if alg != a.state.Management.Alg {
		a.forget()
		return applet.Status(applet.SWP1P2)
	}
	block := a.state.Management.block()
	witness, hasWitness := applet.Find(objects, tagWitness)
	challenge, hasChallenge := applet.Find(objects, tagChallenge)
	response, hasResponse := applet.Find(objects, tagResponse)
	begins := len(objects) == 1
	switch {
	case begins && hasWitness && len(witness) == 0:
		a.forget()
		a.manager = false
		a.witness = random(block)
		return template(tagWitness, encrypt(block, a.witness))
	case begins && hasChallenge && len(challenge) == 0:
		a.forget()
		a.manager = false
		a.challenge = random(block)
		return template(tagChallenge, a.challenge)
	case begins && hasResponse:
		sent := a.challenge
		a.forget()
		a.manager = sent != nil && subtle.ConstantTimeCompare(encrypt(block, sent), response) == 1
		if !a.manager {
			return applet.Status(applet.SWSecurity)
		}
		return applet.Status(applet.OK)
	case hasWitness && hasChallenge && (len(objects) == 2 || len(objects) == 3 && hasResponse && len(response) == 0):
		kept := a.witness
		a.forget()
		a.manager = false
		switch {
		case len(challenge) != block.BlockSize():
			return applet.Status(applet.SWData)
		case kept == nil || subtle.ConstantTimeCompare(kept, witness) != 1:
			return applet.Status(applet.SWSecurity)
		}
		a.manager = true
		return template(tagResponse, encrypt(block, challenge))
	}
	a.forget()
	return applet.Status(applet.SWData)
}

func random(block cipher.Block) []byte {
	b := make([]byte, block.BlockSize())
	rand.Read(b)
	return b
}

func encrypt(block cipher.Block, in []byte) []byte {
	out := bytes.Clone(in)
	block.Encrypt(out, out)
	return out
}
