// Package piv has programs for smart cards use simulated PIV cards,
// through a real mount and cardfs's PC/SC library, and prints what each of them can do.
package piv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

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
)

// limit is how long a program may take that should take a second.
const limit = 2 * time.Minute

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
		"opensc-tool": "opensc", "yubico-piv-tool": "yubico-piv-tool", "p11tool": "gnutls-bin", "ssh-keygen": "openssh-client",
		"openssl": "openssl", "bash": "bash",
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
	if err := errors.Join(daemon.Build(ctx, program), cc.Build(ctx, library, cc.PCSC()), buildModule("piv-go")); err != nil {
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

// action is a line of the table: what a program is asked to do.
type action struct {
	client, name string
	script       string // of bash
	want         string // a regular expression of what it prints
	code         int
	// why says whose fault it is that the program does not do it, if it does not.
	why string
}

// clients runs programs on the cards of one mount, in one directory, and makes the table.
type clients struct {
	t      *testing.T
	daemon *daemon.Daemon
	dir    string // where the scripts run
	table  strings.Builder
	lines  *tabwriter.Writer
}

func newClients(t *testing.T, dir string, args ...string) *clients {
	c := &clients{t: t, dir: dir, daemon: daemon.Start(t, program, daemon.MountPoint(t), append([]string{"--usb=off"}, args...)...)}
	c.lines = tabwriter.NewWriter(&c.table, 0, 8, 2, ' ', 0)
	t.Cleanup(func() {
		c.lines.Flush()
		t.Logf("\n%s", c.table.String())
	})
	return c
}

// said runs a script and returns what it prints on both outputs, and its exit code. All
// programs in it use the library.
func (c *clients) said(script string) (string, int) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "pcsc", "--mount", c.daemon.Dir, "--lib", library, "bash", "-c", script)
	cmd.Dir = c.dir
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:" + built, "HOME=" + c.dir, "LC_ALL=C.UTF-8", "P11=" + module()}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Errorf("%s: %v", script, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// module is OpenSC's PKCS #11 library.
func module() string {
	found, _ := filepath.Glob("/usr/lib/*/opensc-pkcs11.so")
	if len(found) == 0 {
		return "opensc-pkcs11.so"
	}
	return found[0]
}

func (c *clients) try(a action) {
	out, code := c.said(a.script)
	result := "ok"
	switch {
	case code != a.code || !regexp.MustCompile(a.want).MatchString(out):
		result = "FAILED"
		c.t.Errorf("%s, %s: exit code %d:\n%s", a.client, a.name, code, out)
	case a.why != "":
		result = "not done: " + a.why
	}
	c.line(a.client, a.name, result)
}

func (c *clients) line(client, action, result string) {
	fmt.Fprintf(c.lines, "%s\t%s\t%s\n", client, action, result)
}

// versions are what the table is true of.
func (c *clients) versions(scripts map[string]string) {
	for client, script := range scripts {
		out, _ := c.said(script)
		c.line(client, "version", strings.TrimSpace(out))
	}
}
