package libcacard

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// A PC/SC program uses another project's card through a chain whose links know nothing of
// each other: OpenSC, pcscd, the IFD handler, the mount, the vpcd driver, libcacard. The
// card signs, and openssl verifies with the certificate that was read from the card itself.
// After the card was removed and inserted again, all this works once more.
func TestUnderPcscd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	card, err := New(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	library := filepath.Join(t.TempDir(), "libifdcardfs.so")
	if err := cc.Build(ctx, library, cc.IFDHandler()); err != nil {
		t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(t.TempDir(), "card")
	mount := mountCardfs(t, ctx, "--attach", "vpcd "+socket)
	srv, err := pcscd.Start(ctx, t.TempDir(), fmt.Sprintf(
		"DEVICENAME cardfs:%s/0\nLIBPATH %s\nFRIENDLYNAME \"cardfs\"\n", mount, library))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := srv.Command(ctx, name, args...)
		cmd.Dir = dir
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s%s\npcscd:\n%s", name, strings.Join(args, " "), err, out, stderr.String(), srv.Log())
		}
		return string(out)
	}

	data := []byte("signed by a card, through files\n")
	digest := sha256.Sum256(data)
	for name, content := range map[string][]byte{"data": data, "digest": digest[:]} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range Certificates[:2] {
		in, err := card.Insert(ctx, socket)
		if err != nil {
			t.Fatal(err)
		}
		// Not with --wait: if a card is already there, that waits for the next one.
		for srv.Command(ctx, "opensc-tool", "--atr").Run() != nil && ctx.Err() == nil {
		}
		if atr := run("opensc-tool", "--atr"); strings.TrimSpace(atr) != "3b:7a:18:00:00:73:66:74:65:20:63:64:31:34:34" {
			t.Errorf("ATR %s", atr)
		}
		list := run("pkcs15-tool", "--dump")
		for what, n := range map[string]int{"PIN [": 1, "Private RSA Key [": 3, "X.509 Certificate [": 3} {
			if got := strings.Count(list, what); got != n {
				t.Errorf("%d times %q, want %d:\n%s", got, what, n, list)
			}
		}
		id := fmt.Sprintf("%04d", i+1)
		run("pkcs15-tool", "--read-certificate", id, "--output", "cert.pem")
		if subject := run("openssl", "x509", "-in", "cert.pem", "-noout", "-subject"); !strings.Contains(subject, "CN = cardfs "+name) {
			t.Errorf("certificate %s: %s", id, subject)
		}
		run("pkcs15-crypt", "--sign", "--key", id, "--pin", PIN, "--pkcs1", "--sha-256", "--raw", "--input", "digest", "--output", "signature")
		run("openssl", "x509", "-in", "cert.pem", "-noout", "-pubkey", "-out", "key.pem")
		if said := run("openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "data"); said != "Verified OK\n" {
			t.Errorf("openssl dgst -verify: %s", said)
		}
		if err := in.Remove(); err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(srv.Log(), "Error powering up card") {
		t.Errorf("pcscd said:\n%s", srv.Log())
	}
}
