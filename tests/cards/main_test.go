// Package cards has programs for smart cards use the simulated OpenPGP and PIV cards over a
// real mount, and prints what each of them can do: once through Debian's pcscd with cardfs's
// IFD handler, once on cardfs's PC/SC library without pcscd.
//
//	go test -v -run TestClients ./tests/cards                  the table
//	go test -v -run TestClients/gpg/files ./tests/cards        a part of it, one way
//	CARDFS_SOAK=1 go test -v -run TestClients ./tests/cards    with every key size of every program
package cards

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/debian"
)

// What TestMain builds.
var (
	built   string // the directory
	program string // cardfs
	library string // libpcsclite.so.1 of cardfs
	handler string // libifdcardfs.so
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if err := debian.Need(map[string]string{
		"pcscd": "pcscd", "gpg": "gnupg", "/usr/lib/gnupg/scdaemon": "scdaemon", "opensc-tool": "opensc",
		"yubico-piv-tool": "yubico-piv-tool", "p11tool": "gnutls-bin", "ssh": "openssh-client", "openssl": "openssl",
		"bash": "bash",
	}); err != nil {
		return 1, err
	}
	if built, err = os.MkdirTemp("", "cardfs-cards-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(built)
	ctx := context.Background()
	program = filepath.Join(built, "cardfs")
	library = filepath.Join(built, "pcsc", "libpcsclite.so.1")
	handler = filepath.Join(built, "libifdcardfs.so")
	if err := errors.Join(daemon.Build(ctx, program), cc.Build(ctx, library, cc.PCSC()), cc.Build(ctx, handler, cc.IFDHandler()),
		buildModule("piv-go")); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// buildModule builds a program in a module of its own, so that cardfs does not depend on
// what it imports.
func buildModule(name string) error {
	files, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
	if err != nil {
		return err
	}
	dir := filepath.Join(built, name+".module")
	if err := txtar.Write(files, dir); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(built, name), ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// soak reports whether there is time for everything.
func soak() bool { return os.Getenv("CARDFS_SOAK") != "" }
