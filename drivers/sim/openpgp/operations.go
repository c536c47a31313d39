package openpgp

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// performOperation is PERFORM SECURITY OPERATION (7.2.10 to 7.2.12).
func (a *App) performOperation(k applet.Command) applet.Answer {
	switch k.P1P2() {
	case 0x9E9A:
		return a.computeSignature(k.Data)
	case 0x8086:
		if !a.user {
			return applet.Status(applet.SWSecurity)
		}
		return a.decipher(k.Data)
	case 0x8680:
		if !a.user {
			return applet.Status(applet.SWSecurity)
		}
		return a.encipher(k.Data)
	}
	return applet.Status(applet.SWP1P2)
}

// computeSignature is PSO: COMPUTE DIGITAL SIGNATURE (7.2.10). Unless DO C4 says otherwise, PW1 is
// good for one.
func (a *App) computeSignature(data []byte) applet.Answer {
	key := a.Slots[signature].Key
	switch {
	case key.PrivateKey == nil:
		return applet.Status(applet.SWNoReference)
	case !a.signs:
		return applet.Status(applet.SWSecurity)
	}
	r := sign(key, data)
	if r.SW == applet.OK {
		a.signs = a.Several
		if a.Signatures < 1<<24-1 {
			a.Signatures++
		}
		a.store.Changed()
	}
	return r
}

// internalAuthenticate is INTERNAL AUTHENTICATE (7.2.13).
func (a *App) internalAuthenticate(k applet.Command) applet.Answer {
	key := a.Slots[a.authenticator].Key
	switch {
	case k.P1P2() != 0:
		return applet.Status(applet.SWP1P2)
	case key.PrivateKey == nil:
		return applet.Status(applet.SWNoReference)
	case !a.user:
		return applet.Status(applet.SWSecurity)
	}
	return sign(key, k.Data)
}

// sign signs what the host made of a message: with RSA in a block of PKCS #1 whose data are at
// most 40 % of it, with ECDSA as r and s, with EdDSA by RFC 8032.
func sign(key applet.Key, data []byte) applet.Answer {
	var s []byte
	var err error
	if len(data) == 0 {
		return applet.Status(applet.SWData)
	}
	switch k := key.PrivateKey.(type) {
	case *rsa.PrivateKey:
		if len(data) > k.Size()*2/5 {
			return applet.Status(applet.SWData)
		}
		s, err = rsa.SignPKCS1v15(nil, k, 0, data)
	case *ecdsa.PrivateKey:
		if len(data) > 64 {
			return applet.Status(applet.SWData)
		}
		s, err = signECDSA(k, data)
	case ed25519.PrivateKey:
		s, err = k.Sign(nil, data, crypto.Hash(0))
	default: // X25519
		return applet.Status(applet.SWConditions)
	}
	if err != nil {
		return applet.Status(applet.SWFailure)
	}
	return applet.Data(s)
}

func signECDSA(k *ecdsa.PrivateKey, hash []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, k, hash)
	if err != nil {
		return nil, err
	}
	n := (k.Curve.Params().BitSize + 7) / 8
	both := make([]byte, 2*n)
	r.FillBytes(both[:n])
	s.FillBytes(both[n:])
	return both, nil
}

// decipher is PSO: DECIPHER (7.2.11): padding indicator and RSA cryptogram, the
// point of the other side, or 02 and an AES cryptogram.
func (a *App) decipher(data []byte) applet.Answer {
	if len(data) == 0 {
		return applet.Status(applet.SWData)
	}
	if data[0] == 0x02 {
		return a.cipher(data[1:], cipher.NewCBCDecrypter)
	}
	switch k := a.Slots[a.decipherer].Key.PrivateKey.(type) {
	case nil:
		return applet.Status(applet.SWNoReference)
	case *rsa.PrivateKey:
		if data[0] != 0 {
			return applet.Status(applet.SWData)
		}
		block, ok := applet.RSAPrivate(k, data[1:])
		if !ok {
			return applet.Status(applet.SWData)
		}
		return unpad(block)
	case *ecdsa.PrivateKey:
		private, err := k.ECDH()
		if err != nil {
			return applet.Status(applet.SWFailure)
		}
		return agree(private, data)
	case *ecdh.PrivateKey:
		return agree(k, data)
	}
	return applet.Status(applet.SWConditions)
}

// unpad takes what was enciphered out of a block 00 02 PS 00 M of PKCS #1 (RFC 8017 §7.2.2). That
// the answer says whether the block was one is what a card does, whatever it helps an attacker.
func unpad(block []byte) applet.Answer {
	const least = 8 // bytes of padding
	end := bytes.IndexByte(block[2:], 0)
	if block[0] != 0 || block[1] != 2 || end < least {
		return applet.Status(applet.SWData)
	}
	return applet.Data(block[2+end+1:])
}

// agree is ECDH with the point in A6 { 7F49 { 86 } }. One of X25519 may have the
// prefix 40 of RFC 6637's successors.
func agree(k *ecdh.PrivateKey, data []byte) applet.Answer {
	point := data
	for _, tag := range []int{0xA6, 0x7F49, 0x86} {
		o, rest, err := applet.Next(point)
		if err != nil || len(rest) > 0 || o.Tag != tag {
			return applet.Status(applet.SWData)
		}
		point = o.Value
	}
	if k.Curve() == ecdh.X25519() && len(point) == 33 {
		point = bytes.TrimPrefix(point, []byte{0x40})
	}
	other, err := k.Curve().NewPublicKey(point)
	if err != nil {
		return applet.Status(applet.SWData)
	}
	secret, err := k.ECDH(other)
	if err != nil {
		return applet.Status(applet.SWData)
	}
	return applet.Data(secret)
}

// encipher is PSO: ENCIPHER (7.2.12), with AES.
func (a *App) encipher(data []byte) applet.Answer {
	r := a.cipher(data, cipher.NewCBCEncrypter)
	if r.SW == applet.OK {
		r.Data = append([]byte{0x02}, r.Data...)
	}
	return r
}

// cipher is AES in CBC mode with an initial vector of zeros.
func (a *App) cipher(data []byte, mode func(cipher.Block, []byte) cipher.BlockMode) applet.Answer {
	switch {
	case len(a.AES) == 0:
		return applet.Status(applet.SWNoReference)
	case len(data) == 0 || len(data)%aes.BlockSize != 0:
		return applet.Status(applet.SWData)
	}
	block, err := aes.NewCipher(a.AES)
	if err != nil {
		return applet.Status(applet.SWFailure)
	}
	out := make([]byte, len(data))
	mode(block, make([]byte, aes.BlockSize)).CryptBlocks(out, data)
	return applet.Data(out)
}

// manageEnvironment is MANAGE SECURITY ENVIRONMENT (7.2.18): which of the keys for
// decryption and authentication a command uses, until the card is reset.
func (a *App) manageEnvironment(k applet.Command) int {
	if k.P1 != 0x41 {
		return applet.SWP1P2
	}
	var use *int
	switch k.P2 {
	case 0xA4:
		use = &a.authenticator
	case 0xB8:
		use = &a.decipherer
	default:
		return applet.SWP1P2
	}
	switch {
	case bytes.Equal(k.Data, []byte{0x83, 0x01, 0x02}):
		*use = decryption
	case bytes.Equal(k.Data, []byte{0x83, 0x01, 0x03}):
		*use = authentication
	default:
		return applet.SWData
	}
	return applet.OK
}
