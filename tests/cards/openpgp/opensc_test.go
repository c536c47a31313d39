package openpgp

import (
	"testing"
)

// OpenSC makes keys of RSA and uses them; openssl verifies.
func TestOpenSC(t *testing.T) {
	need(t, map[string]string{"openpgp-tool": "opensc", "pkcs11-tool": "opensc", "pkcs15-tool": "opensc", "openssl": "openssl"})
	b := newBench(t, "--usb=off", "--sim", "openpgp")
	b.before = "exec 2>&1\n"
	b.versions("opensc-tool --info", "openssl version")
	b.steps([]step{
		{"openpgp-tool", "card holder", `openpgp-tool --card-info --user-info`, `Version:\s+3\.4`, false},
		{"openpgp-tool", "generate key 1", `openpgp-tool --gen-key 1 --key-type rsa2048 --verify CHV3 --pin 12345678`, `Fingerprint`, false},
		{"openpgp-tool", "generate key 2", `openpgp-tool --gen-key 2 --key-type rsa2048 --verify CHV3 --pin 12345678`, `Fingerprint`, false},
		{"openpgp-tool", "generate key 3", `openpgp-tool --gen-key 3 --key-type rsa3072 --verify CHV3 --pin 12345678`, `Fingerprint`, false},
		{"openpgp-tool", "wrong PIN", `openpgp-tool --verify CHV1 --pin 000000`, ``, true},
		{"pkcs15-tool", "dump", `pkcs15-tool --dump`, `Private RSA Key \[Signature key\].*ModLength\s+: 2048.*Private RSA Key \[Authentication key\].*ModLength\s+: 3072`, false},
		{"pkcs15-tool", "read public key", `pkcs15-tool --read-public-key 3 -o aut.pem`, ``, false},
		{"pkcs15-tool", "change PIN", `pkcs15-tool --change-pin --auth-id 01 --pin 123456 --new-pin 654321 && pkcs15-tool --change-pin --auth-id 01 --pin 654321 --new-pin 123456`, ``, false},
		{"pkcs11-tool", "list objects", `pkcs11-tool --list-objects`, `Public Key Object; RSA 2048 bits.*Public Key Object; RSA 3072 bits`, false},
		{"pkcs11-tool", "sign with key 1, openssl verifies", `echo message >m
			pkcs11-tool --token-label 'OpenPGP card (User PIN (sig))' --login --pin 123456 --sign --mechanism SHA256-RSA-PKCS --id 01 -i m -o s
			pkcs15-tool --read-public-key 1 -o sig.pem; openssl dgst -sha256 -verify sig.pem -signature s m`, `Verified OK`, false},
		{"pkcs11-tool", "sign with key 3, openssl verifies", `pkcs11-tool --login --pin 123456 --sign --mechanism SHA256-RSA-PKCS --id 03 -i m -o s; openssl dgst -sha256 -verify aut.pem -signature s m`, `Verified OK`, false},
		{"pkcs11-tool", "decrypt with key 2, openssl encrypts", `pkcs15-tool --read-public-key 2 -o dec.pem; openssl pkeyutl -encrypt -pubin -inkey dec.pem -in m -out c
			pkcs11-tool --login --pin 123456 --decrypt --mechanism RSA-PKCS --id 02 -i c -o p; cat p`, `message`, false},
		{"pkcs11-tool", "--test", `pkcs11-tool --login --pin 123456 --test`, `No errors`, false},
		// OpenSC 0.23 does not take 6982 for a wrong password, which is what section 7.9 has for it.
		{"pkcs11-tool", "wrong PIN", `pkcs11-tool --login --pin 999999 --test`, `CKR_PIN_INCORRECT|CKR_USER_NOT_LOGGED_IN`, true},
	})
}
