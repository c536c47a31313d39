package libcacard

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/vpcd"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/internal/ports"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// The card is valid: Debian's own reader for virtual cards accepts it, and OpenSC lists its
// objects and signs with it. (Slow: an exchange through libifdvpcd takes 44 ms, because it
// leaves Nagle's algorithm on.)
func TestUnderVsmartcard(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	card, err := New(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port, err := ports.Free(2) // it has two slots
	if err != nil {
		t.Fatal(err)
	}
	srv, err := pcscd.Start(ctx, t.TempDir(), fmt.Sprintf(
		"CHANNELID 0x%X\nLIBPATH /usr/lib/pcsc/drivers/serial/libifdvpcd.so\nFRIENDLYNAME \"Virtual PCD\"\n", port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}()
	in, err := card.Insert(ctx, fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	run := func(stdin []byte, name string, args ...string) string {
		t.Helper()
		cmd := srv.Command(ctx, name, args...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s\npcscd:\n%s", name, strings.Join(args, " "), err, out, srv.Log())
		}
		return string(out)
	}
	// ATR of libcacard 2.8: 15 bytes, no TCK, the historical bytes "sfte cd144".
	if err := srv.WaitLog(ctx, "Card inserted into Virtual PCD"); err != nil {
		t.Fatal(err)
	}
	if atr := run(nil, "opensc-tool", "--atr"); strings.TrimSpace(atr) != "3b:7a:18:00:00:73:66:74:65:20:63:64:31:34:34" {
		t.Errorf("ATR %s", atr)
	}
	list := run(nil, "pkcs15-tool", "--dump")
	if n := strings.Count(list, "Private RSA Key ["); n != 3 {
		t.Errorf("%d private keys, want 3:\n%s", n, list)
	}
	der, err := card.Certificate(ctx, Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	digest := sha256.Sum256([]byte("signed by a card"))
	file, sig := filepath.Join(dir, "digest"), filepath.Join(dir, "signature")
	if err := os.WriteFile(file, digest[:], 0o600); err != nil {
		t.Fatal(err)
	}
	run(nil, "pkcs15-crypt", "--sign", "--key", "0001", "--pin", PIN, "--pkcs1", "--sha-256", "--raw", "--input", file, "--output", sig)
	s, err := os.ReadFile(sig)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(cert.PublicKey.(*rsa.PublicKey), crypto.SHA256, digest[:], s); err != nil {
		t.Errorf("the card's signature: %v", err)
	}
	if err := in.Remove(); err != nil {
		t.Error(err)
	}
}

// The driver without a mount: power, reset, the applet's SELECT, and removal.
// Run under valgrind, for the errors of the card's program.
func TestUnderDriver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	card, err := New(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	address := "unix:" + filepath.Join(t.TempDir(), "card")
	r, err := vpcd.Driver{}.Open(ctx, reader.Device{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := r.Slots()[0]
	in, err := card.Insert(ctx, address, "valgrind", "--quiet", "--error-exitcode=99",
		// Memory that NSS holds until the process ends is "possibly lost", and not the card
		// program's fault.
		"--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite")
	if err != nil {
		t.Fatal(err)
	}
	for st := reader.Absent; st == reader.Absent; {
		if st, err = s.Status(ctx); err != nil {
			t.Fatal(err)
		}
		if st == reader.Absent {
			<-s.(reader.Notifier).Changes()
		}
	}
	for _, how := range []reader.Reset{reader.Cold, reader.Warm, reader.Cold} {
		atr, err := s.PowerOn(ctx, how)
		if got := fmt.Sprintf("% X", atr); err != nil || got != "3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34" {
			t.Errorf("power on: %s, %v", got, err)
		}
		for _, step := range [][2]string{
			{"\x00\xA4\x04\x00\x07\xA0\x00\x00\x00\x79\x01\x00", "61 0D"}, // SELECT the first PKI applet
			{"\x00\xB0\x00\x00\x00", "6D 00"},                             // READ BINARY: it has no such files
		} {
			got, err := s.Exchange(ctx, reader.Transfer{Out: []byte(step[0])}, nil)
			if fmt.Sprintf("% X", got) != step[1] || err != nil {
				t.Errorf("%X: % X, %v; want %s", step[0], got, err, step[1])
			}
		}
	}
	if err := s.PowerOff(ctx); err != nil {
		t.Error(err)
	}
	if err := in.Remove(); err != nil {
		t.Error(err)
	}
	for st := reader.Present; st != reader.Absent; {
		if st, err = s.Status(ctx); err != nil {
			t.Fatal(err)
		}
		if st != reader.Absent {
			<-s.(reader.Notifier).Changes()
		}
	}
}
