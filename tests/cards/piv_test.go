package cards

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// prepare makes what the scripts need: a message, its hash, a CA, keys of RSA for a PIV card,
// whose public keys it has too, and keys to import.
const prepare = `set -e
echo hello >msg
openssl dgst -sha256 -binary msg >hash
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 30
mkdir keys
openssl genrsa -out keys/9a.pem 2048
openssl genrsa -out keys/9d.pem 2048
openssl genrsa -out keys/82.pem 3072
mkdir keys4096
openssl genrsa -out keys4096/9a.pem 4096
for slot in 9a 9d 82; do openssl rsa -in keys/$slot.pem -pubout -out $slot.pub; done
openssl pkeyutl -encrypt -pubin -inkey 9d.pub -in msg -out sealed
openssl ecparam -genkey -name prime256v1 -noout -out p256.pem
openssl ecparam -genkey -name secp384r1 -noout -out p384.pem
openssl pkcs12 -export -inkey keys/9a.pem -in <(openssl x509 -new -force_pubkey 9a.pub -CA ca.pem -CAkey ca.key -subj /CN=me) -passout pass:p12 -out me.p12
echo 01:02:03:04:05:06:07:08:01:02:03:04:05:06:07:08:01:02:03:04:05:06:07:08 >management
`

// prepared is the directory of what prepare makes, once for all tests.
var prepared = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(built, "prepared")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	cmd := exec.Command("bash", "-c", prepare)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

// newPIV is a desk whose home has what prepare makes. DIR in args stands for that
// directory.
func newPIV(t *testing.T, part string, w way, args ...string) *desk {
	t.Helper()
	dir, err := prepared()
	if err != nil {
		t.Fatal(err)
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	d := newDesk(t, part, w, args...)
	if err := os.CopyFS(d.home, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return d
}

// certify makes a certificate of the public key in pub.pem.
const certify = "openssl x509 -new -force_pubkey pub.pem -CA ca.pem -CAkey ca.key -subj /CN=me -days 20 -out cert.pem\n"

// yubicoTool is yubico-piv-tool with an empty YubiKey of firmware 5.4, and a PIV card by T=0.
func yubicoTool(t *testing.T, part string, w way) {
	d := newPIV(t, part, w, "--sim", "piv model=yubikey-5.4", "--sim", "t0 card=piv atr=t0")
	const piv = "yubico-piv-tool " // which looks for a reader that is called YubiKey
	tool := func(action, args, want string) row {
		return row{client: "yubico-piv-tool", action: action, script: piv + args, want: want}
	}
	refused := func(action, args, want string) row {
		r := tool(action, args, want)
		r.fails = true
		return r
	}
	d.do(
		tool("list-readers", "-a list-readers", `Simulated YubiKey.* 00 00\nSimulated T=0`),
		tool("version", "-a version", `Application version 5\.4\.3 found`),
		tool("status", "-a status", `Version:\s5\.4\.3\n.*PIN tries left:\s3`),
		refused("generate RSA1024", "-a generate -s 9a -A RSA1024", ""),
	)
	for _, alg := range []string{"RSA2048", "ECCP256", "ECCP384"} {
		d.do(
			tool("generate "+alg, "-a generate -s 9a -o pub.pem -A "+alg, "Successfully generated"),
			row{client: "yubico-piv-tool", action: "import-certificate " + alg, script: certify + piv + "-a import-certificate -s 9a -i cert.pem", want: "Successfully imported"},
			// It says what it sends: after the PIN, nothing.
			notDone(refused("selfsign-certificate "+alg, "-v2 -a verify-pin -P 123456 -a selfsign-certificate -s 9a -S /CN=me/ -i pub.pem",
				`verified PIN\.\nNow processing for action 'selfsign-certificate'\.\nFailed signing certificate`), noSign),
			notDone(refused("request-certificate "+alg, "-v2 -a verify-pin -P 123456 -a request-certificate -s 9a -S /CN=me/ -i pub.pem",
				`verified PIN\.\nNow processing for action 'request-certificate'\.\nFailed signing request`), noSign),
			row{client: "yubico-piv-tool", action: "--sign " + alg, script: piv + "-a verify-pin -P 123456 --sign -s 9a -H SHA256 -i msg -o sig -A " + alg + "\nopenssl dgst -sha256 -verify pub.pem -signature sig msg", want: "Verified OK"},
			tool("test-signature "+alg, "-a verify-pin -P 123456 -a test-signature -s 9a -i cert.pem", "Successful (RSA|ECDSA) verification"),
			tool("test-decipher "+alg, "-a verify-pin -P 123456 -a test-decipher -s 9a -i cert.pem", "Successfully performed"),
			tool("read-certificate "+alg, "-a read-certificate -s 9a | cmp - cert.pem", ""),
			row{client: "yubico-piv-tool", action: "attest " + alg, script: piv + "-a attest -s 9a | openssl x509 -noout -subject", want: "subject=CN = YubiKey PIV Attestation 9a"},
		)
	}
	d.do(
		tool("generate in 82 with policies", "-a generate -s 82 -A ECCP256 --pin-policy always --touch-policy never", "Successfully generated"),
		tool("set-chuid, set-ccc", "-a set-chuid -a set-ccc", "Successfully set new CCC"),
		tool("import-key RSA2048", "-a import-key -s 9d -i keys/9d.pem", "Successfully imported"),
		tool("import-key ECCP256", "-a import-key -s 83 -i p256.pem", "Successfully imported"),
		tool("import-key ECCP384", "-a import-key -s 9c -i p384.pem", "Successfully imported"),
		tool("import-key and certificate of PKCS #12", "-a import-key -a import-certificate -s 9e -K PKCS12 -p p12 -i me.p12", "Successfully imported a new certificate"),
		tool("write-object, read-object", "-a write-object --id 0x5fc106 -i msg -f binary && "+piv+"-a read-object --id 0x5fc106 -f binary | cmp - msg", ""),
		tool("delete-certificate", "-a delete-certificate -s 9a", ""),
		refused("read-certificate after that", "-a read-certificate -s 9a", "Failed fetching certificate"),
		tool("change-pin", "-a change-pin -P 123456 -N 654321", "Successfully changed"),
		tool("change-puk", "-a change-puk -P 12345678 -N 87654321", "Successfully changed"),
		tool("unblock-pin", "-a unblock-pin -P 87654321 -N 123456", "Successfully unblocked"),
		tool("pin-retries", "-a verify-pin -P 123456 -a pin-retries --pin-retries 4 --puk-retries 4", "Successfully changed pin retries"),
		tool("set-mgm-key", "-a set-mgm-key -n 0102030405060708010203040506070801020304050607FE", "Successfully set"),
		refused("another management key", "-k010203040506070801020304050607080102030405060708 -a set-chuid", "Failed authentication"),
	)
	for _, left := range []string{"3 tries left", "2 tries left", "1 tries left", "blocked"} {
		d.do(refused("verify-pin, wrong: "+left, "-a verify-pin -P 999999", left))
	}
	for _, left := range []string{"3 tries left", "2 tries left", "1 tries left", "blocked"} {
		d.do(refused("unblock-pin, wrong: "+left, "-a unblock-pin -P 99999999 -N 123456", left))
	}
	d.do(
		tool("reset", "-a reset && "+piv+"-a status", `Successfully reset.*PIN tries left:\s3`),
		notDone(row{client: "yubico-piv-tool", action: "verify-pin, card of T=0", script: "yubico-piv-tool -r 'T=0' -a verify-pin -P 123456", want: "Failed to connect", fails: true},
			"it connects by T=1 alone"),
	)
}

// noSign is why yubico-piv-tool signs no certificate and no request: X509_sign does not call its
// function, and looks for the private key itself.
const noSign = "2.2.0 with OpenSSL 3 fails before it asks the card: yubico-piv-tool issue 388"

// notDone is a row that fails by the fault of the client.
func notDone(r row, why string) row {
	r.why = why
	return r
}

// pivGo is piv-go, which goes through its whole interface with an empty YubiKey of firmware
// 5.7.
func pivGo(t *testing.T, part string, w way) {
	d := newDesk(t, part, w, "--sim", "piv model=yubikey")
	out, err := d.run("piv-go")
	for line := range strings.Lines(out) {
		action, result, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if result != "ok" {
			t.Errorf("piv-go, %s: %s", action, result)
			result = "FAILED"
		}
		clients.add(part, w, "piv-go", action, result)
	}
	if err != nil || strings.Count(out, "\n") < 45 {
		t.Errorf("piv-go ended early: %v\n%s", err, out)
	}
}
