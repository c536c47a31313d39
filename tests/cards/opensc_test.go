package cards

import "testing"

// openSCOpenPGP is OpenSC, which makes keys of RSA and uses them; openssl verifies.
func openSCOpenPGP(t *testing.T, part string, w way) {
	d := newDesk(t, part, w, "--sim", "openpgp")
	tool := func(client, action, script, want string) row {
		return row{client: client, action: action, script: script, want: want}
	}
	d.do(
		tool("openpgp-tool", "card holder", `openpgp-tool --card-info --user-info`, `Version:\s+3\.4`),
		tool("openpgp-tool", "generate key 1", `openpgp-tool --gen-key 1 --key-type rsa2048 --verify CHV3 --pin 12345678`, `Fingerprint`),
		tool("openpgp-tool", "generate key 2", `openpgp-tool --gen-key 2 --key-type rsa2048 --verify CHV3 --pin 12345678`, `Fingerprint`),
		tool("openpgp-tool", "generate key 3, RSA 3072", `openpgp-tool --gen-key 3 --key-type rsa3072 --verify CHV3 --pin 12345678`, `Fingerprint`),
		row{client: "openpgp-tool", action: "wrong PIN", script: `openpgp-tool --verify CHV1 --pin 000000`, fails: true},
		tool("pkcs15-tool", "dump", `pkcs15-tool --dump`, `Private RSA Key \[Signature key\].*ModLength\s+: 2048.*Private RSA Key \[Authentication key\].*ModLength\s+: 3072`),
		tool("pkcs15-tool", "read public key", `pkcs15-tool --read-public-key 3 -o aut.pem`, ``),
		tool("pkcs15-tool", "change PIN", `pkcs15-tool --change-pin --auth-id 01 --pin 123456 --new-pin 654321 && pkcs15-tool --change-pin --auth-id 01 --pin 654321 --new-pin 123456`, ``),
		tool("pkcs11-tool", "list objects", `pkcs11-tool --list-objects`, `Public Key Object; RSA 2048 bits.*Public Key Object; RSA 3072 bits`),
		tool("pkcs11-tool", "sign with key 1, openssl verifies", `echo message >m
			pkcs11-tool --token-label 'OpenPGP card (User PIN (sig))' --login --pin 123456 --sign --mechanism SHA256-RSA-PKCS --id 01 -i m -o s
			pkcs15-tool --read-public-key 1 -o sig.pem; openssl dgst -sha256 -verify sig.pem -signature s m`, `Verified OK`),
		tool("pkcs11-tool", "sign with key 3, openssl verifies", `pkcs11-tool --login --pin 123456 --sign --mechanism SHA256-RSA-PKCS --id 03 -i m -o s; openssl dgst -sha256 -verify aut.pem -signature s m`, `Verified OK`),
		tool("pkcs11-tool", "decrypt with key 2, openssl encrypts", `pkcs15-tool --read-public-key 2 -o dec.pem; openssl pkeyutl -encrypt -pubin -inkey dec.pem -in m -out c
			pkcs11-tool --login --pin 123456 --decrypt --mechanism RSA-PKCS --id 02 -i c -o p; cat p`, `message`),
		tool("pkcs11-tool", "--test", `pkcs11-tool --login --pin 123456 --test`, `No errors`),
		// OpenSC 0.23 does not take 6982 for a wrong password, which is what section 7.9 has for it.
		row{client: "pkcs11-tool", action: "wrong PIN", script: `pkcs11-tool --login --pin 999999 --test`, want: `CKR_PIN_INCORRECT|CKR_USER_NOT_LOGGED_IN`, fails: true},
		tool("pkcs15-crypt", "sign with key 3, openssl verifies", `openssl dgst -sha256 -binary m >hash
			pkcs15-crypt --key 3 --pin 123456 --sign --sha-256 --pkcs1 --raw -i hash -o s; openssl dgst -sha256 -verify aut.pem -signature s m`, `Verified OK`),
		tool("pkcs15-crypt", "decipher with key 2", `pkcs15-crypt --key 2 --pin 123456 --decipher --pkcs1 --raw -i c -o p; cat p`, `message`),
		tool("p11tool", "list objects", `p11tool --provider $P11 --list-all 'pkcs11:model=PKCS%2315%20emulated'`, `Label: Authentication key`),
		tool("p11tool", "test-sign", `GNUTLS_PIN=123456 p11tool --provider $P11 --login --test-sign "$(p11tool --provider $P11 --only-urls --list-all 'pkcs11:object=Authentication%20key' | head -1 | sed 's/type=public/type=private/')"`, `ok`),
	)
}
