// Package openpgp is the OpenPGP application of a simulated card, as the "Functional
// Specification of the OpenPGP application on ISO Smart Card Operating Systems", version 3.4.1
// of 2020-03-18, describes it. Sections without a document are that specification's.
//
// # What there is
//
// Keys: RSA of 2048, 3072 and 4096 bits; P-256, P-384 and P-521; Ed25519 for signatures and
// X25519 for decryption. Brainpool is not there: the standard library does not have it. DO FA
// lists what is offered, for each of the three slots, and PUT DATA takes no other attributes.
//
// Passwords: PW1 "123456", PW3 "12345678", no resetting code. Each allows three tries. The
// card's files hold a salted hash of each.
//
// Commands: all of section 7.2. PSO: ENCIPHER and the padding 02 of PSO: DECIPHER use the AES
// key of DO D5. Secure messaging and logical channels are not there.
//
// The card has a button for user interaction (DOs D6 to D8) that is always pressed: with
// nobody at hand, a switched on flag is kept and has no effect.
//
// # Where the specification leaves room
//
// A wrong password is answered 6982, "PW wrong" (7.9), a blocked one 6983; 63CX is for the
// question how many tries are left. New attributes for a slot erase its key (4.4.3.9 has the
// host make a new one). A KDF-DO that says "none" brings the initial passwords back, since hashes would
// otherwise be the passwords.
package openpgp
