// Package piv is a simulated PIV card: NIST SP 800-73-4 parts 1 and 2, with the algorithms
// of SP 800-78-4, and what a YubiKey adds.
//
// # The card as it is issued
//
// Without a model, the card is as a person would get it: a CHUID, a CCC, the discovery
// object, and keys on P-256 with self-signed certificates in the slots 9A (PIV
// authentication), 9C (digital signature), 9D (key management) and 9E (card
// authentication). With model=yubikey it is empty but for its attestation key, as a YubiKey
// is sold.
//
// The PIN is 123456, the PUK 12345678 and the global PIN 12345678; each allows 3 tries. The
// management key is 010203040506070801020304050607080102030405060708: 3DES without a model,
// AES-192 on a YubiKey (firmware 5.7). model=yubikey-5.4 has 3DES again, which yubico-piv-tool
// before 2.3 expects, and lacks what came with 5.7: RSA 3072 and 4096, Ed25519, X25519, MOVE KEY.
//
// keys=DIR imports private keys, PEM, from the files 9a.pem to 9e.pem and 82.pem to 95.pem. A
// certificate in the same file is put into the slot's container; without one the card makes
// one.
//
// # What is simulated
//
// SELECT, GET DATA, VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER, GENERAL
// AUTHENTICATE, PUT DATA, GENERATE ASYMMETRIC KEY PAIR. Beyond SP 800-78-4: RSA 3072 and 4096
// (SP 800-78-5 and Yubico), Ed25519 and X25519 (Yubico). Not simulated: secure messaging,
// the virtual contact interface and its pairing code, on-card biometric comparison. With
// atr=contactless the card has the rights of the contact interface, as a YubiKey has by NFC.
//
// model=yubikey adds version (FD), serial number (F8), metadata (F7), attestation (F9), import
// (FE), move and delete (F6), SET MANAGEMENT KEY (FF), SET PIN RETRIES (FA) and RESET (FB), and
// policies of PIN and touch for each key. A touch is always given.
package piv
