// Package libcacard runs a card of another project, libcacard's emulated CAC
// card, as a virtual card of the vpcd protocol: cardfs's main job tested on
// something that knows nothing of cardfs.
package libcacard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// PIN is the card's, and the password of its database.
const PIN = "77777777"

// Certificates are the names of the card's three certificates in the database, in the order
// of its applets A0 00 00 00 79 01 00, 01, 02.
var Certificates = [...]string{"cert1", "cert2", "cert3"}

// Card is a built program and an NSS database.
type Card struct {
	program string
	db      string
}

// New builds the program and makes the database, both in dir.
func New(ctx context.Context, dir string) (*Card, error) {
	c := &Card{program: filepath.Join(dir, "cacard-vpcd"), db: filepath.Join(dir, "nssdb")}
	err := cc.Build(ctx, c.program, cc.Target{
		Sources:  []string{"tests/libcacard/c/cacard-vpcd.c"},
		Packages: []string{"libcacard"},
	})
	if err != nil {
		return nil, err
	}
	mkdb := exec.CommandContext(ctx, filepath.Join(cc.Root(), "tests/libcacard/mkdb"), c.db)
	if out, err := mkdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkdb: %w\n%s", err, out)
	}
	return c, nil
}

// Certificate returns the DER form of a certificate in the database, which the card must
// return.
func (c *Card) Certificate(ctx context.Context, name string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "certutil", "-L", "-d", "sql:"+c.db, "-n", name, "-r")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("certutil -L -n %s: %w", name, err)
	}
	return out, nil
}

// Inserted is a card that is in a reader.
type Inserted struct {
	cmd    *exec.Cmd
	stderr *strings.Builder
	ended  <-chan error
}

// Insert connects the card to address, HOST:PORT or unix:/PATH, where a reader must already
// listen. It returns when the card is connected. wrap are words before the command, such as
// valgrind's.
func (c *Card) Insert(ctx context.Context, address string, wrap ...string) (*Inserted, error) {
	words := append(wrap, c.program, c.db, address)
	in := &Inserted{cmd: exec.Command(words[0], words[1:]...), stderr: new(strings.Builder)}
	in.cmd.Stderr = in.stderr
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	in.cmd.Stdout = w
	in.ended, err = proc.Tied(in.cmd)
	_ = w.Close()
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = in.cmd.Process.Kill() })()
	line, _ := bufio.NewReader(r).ReadString('\n')
	if strings.TrimSpace(line) != "connected" {
		return nil, errors.Join(fmt.Errorf("cacard-vpcd did not connect to %s: %w: %s", address, <-in.ended, in.stderr), ctx.Err())
	}
	return in, nil
}

// Remove removes the card and waits until its program has ended without error.
func (in *Inserted) Remove() error {
	_ = in.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-in.ended:
		if err != nil {
			return fmt.Errorf("cacard-vpcd: %w\n%s", err, in.stderr)
		}
		return nil
	case <-time.After(time.Minute):
		_ = in.cmd.Process.Kill()
		return fmt.Errorf("cacard-vpcd does not end: %w\n%s", <-in.ended, in.stderr)
	}
}
