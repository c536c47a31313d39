package usb

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/pcscd"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// A reader and a card that other projects wrote, QEMU's usb-ccid with libcacard's CAC: its
// certificates and a signature through the mounted files. Then the same card through pcscd
// and the IFD handler, while the daemon has the device.
func TestGuestCard(t *testing.T) {
	g := machine.NeedGuest(t)
	d := mount(t, nil)
	plug(t, g, "r1")
	next := d.follow()
	next("inserted")
	if got := d.text("0/atr"); got != cardATR {
		t.Errorf("ATR %s, want %s", got, cardATR)
	}
	t.Logf("status:\n%s", d.text("0/status"))

	for i, name := range certificates {
		got := []byte(run(t, nil, onHost(filepath.Join(cc.Root(), "tests/libcacard/readcert")), d.Path("0"), fmt.Sprintf("A00000007901%02d", i)))
		want, err := os.ReadFile(built(name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes from the card, %d in the database, and not the same", name, len(got), len(want))
		}
		t.Logf("%s: %s", name, strings.TrimSpace(run(t, got, "openssl", "x509", "-inform", "der", "-noout", "-subject", "-fingerprint", "-sha256")))
	}
	text := []byte("signed by a card\n")
	verify(t, "through the files", text, sign(t, d.Path("0/apdu"), text))
	throughPcscd(t, d, text)
}

// sign makes the card sign with its first key: RSA with PKCS #1 v1.5 and SHA-256.
//
// GSC-IS 2.1 (NISTIR 6887), virtual machine card edge, PRIVATE SIGN/DECRYPT: 80 42
// with P1 80 for a part of the block and 00 for the last.
func sign(t *testing.T, apdu string, text []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(text)
	key := publicKey(t)
	// RFC 8017 §9.2: 00 01 FF … FF 00, the DigestInfo of SHA-256, the digest.
	info := append([]byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), digest[:]...)
	block := append([]byte{0, 1}, bytes.Repeat([]byte{0xFF}, key.Size()-3-len(info))...)
	block = append(append(block, 0), info...)

	c, err := openChannel(apdu)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	send := func(command, sw string) string {
		t.Helper()
		got, err := c.send(command)
		data, ok := strings.CutSuffix(got, sw)
		if err != nil || !ok {
			t.Fatalf("%.20s…: %s, %v; want %s", command, got, err, sw)
		}
		return data
	}
	send("00200000 08 3737373737373737", "90 00")
	send(selectPKI+"00", "90 00")
	const part = 128
	for ; len(block) > part; block = block[part:] {
		send(fmt.Sprintf("80428000 %02X % X", part, block[:part]), "90 00")
	}
	sig, err := hex.Decode(send(fmt.Sprintf("80420000 %02X % X 00", len(block), block), "90 00"))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func publicKey(t *testing.T) *rsa.PublicKey {
	t.Helper()
	der, err := os.ReadFile(built(certificates[0]))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert.PublicKey.(*rsa.PublicKey)
}

// verify lets openssl verify the signature.
func verify(t *testing.T, how string, text, sig []byte) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	key := file("key", []byte(run(t, nil, "openssl", "x509", "-inform", "der", "-in", built(certificates[0]), "-noout", "-pubkey")))
	out := run(t, text, "openssl", "dgst", "-sha256", "-verify", key, "-signature", file("signature", sig))
	t.Logf("%s, %d bytes of signature: openssl says %s", how, len(sig), strings.TrimSpace(out))
}

// throughPcscd uses OpenSC. libccid's bundle is moved away, so that only the IFD handler can
// answer.
func throughPcscd(t *testing.T, d *mounted, text []byte) {
	const bundles = "/usr/lib/pcsc/drivers"
	run(t, nil, "mount", "-t", "tmpfs", "none", bundles)
	defer run(t, nil, "umount", bundles)
	srv, err := pcscd.Start(t.Context(), t.TempDir(), fmt.Sprintf("DEVICENAME cardfs:%s\nLIBPATH %s\nFRIENDLYNAME %q\n",
		d.Path("0"), built("libifdcardfs.so"), "QEMU by cardfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("pcscd said:\n%s", tail(srv.Log(), 4000))
		}
	}()
	wait(t, srv, "Card ATR: "+cardATR)
	client := func(name string, args ...string) string {
		t.Helper()
		return output(t, srv.Command(t.Context(), name, args...), nil)
	}
	list := client("pkcs15-tool", "--dump")
	if n := strings.Count(list, "Private RSA Key ["); n != 3 {
		t.Errorf("pkcs15-tool lists %d private keys, want 3:\n%s", n, list)
	}
	dir := t.TempDir()
	digest := sha256.Sum256(text)
	in, sig := filepath.Join(dir, "digest"), filepath.Join(dir, "signature")
	if err := os.WriteFile(in, digest[:], 0o600); err != nil {
		t.Fatal(err)
	}
	client("pkcs15-crypt", "--sign", "--key", "0001", "--pin", "77777777", "--pkcs1", "--sha-256", "--raw", "--input", in, "--output", sig)
	b, err := os.ReadFile(sig)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, "through pcscd and the IFD handler", text, b)
}
