// Package openpgp has programs that know OpenPGP cards use the simulated one, over the mount and
// cardfs's PC/SC library, and prints what each of them can do.
package openpgp

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

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/debian"
)

// What TestMain builds.
var program, library string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cardfs-cards-")
	if err == nil {
		program, library = filepath.Join(dir, "cardfs"), filepath.Join(dir, "libpcsclite.so.1")
		ctx := context.Background()
		err = errors.Join(daemon.Build(ctx, program), cc.Build(ctx, library, cc.PCSC()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// need fails a test whose programs are not all there, and says what to install.
func need(t *testing.T, programs map[string]string) {
	t.Helper()
	if err := debian.Need(programs); err != nil {
		t.Fatal(err)
	}
}

// step is a line of the table: a program does something with the card.
type step struct {
	client, action string
	script         string // of bash -e
	want           string // a regular expression that its output matches
	fails          bool   // its exit code is not 0
}

// bench is a card in a mount, and what programs need to use it.
type bench struct {
	t      *testing.T
	daemon *daemon.Daemon
	home   string // a directory for files, the working directory
	env    []string
	before string // what each script begins with
}

// newBench mounts with args. Each client's version is printed above its table.
func newBench(t *testing.T, args ...string) *bench {
	t.Helper()
	home, err := os.MkdirTemp("", "card") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	b := &bench{t: t, home: home, daemon: daemon.Start(t, program, daemon.MountPoint(t), args...)}
	b.env = append(os.Environ(), "LC_ALL=C", "HOME="+home, "LIB="+library, "CARDFS="+program, "CARDS="+b.daemon.Dir)
	return b
}

// run runs a script on the mounted card.
func (b *bench) run(script string) (string, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "pcsc", "--mount", b.daemon.Dir, "--lib", library, "bash", "-ec", b.before+script)
	cmd.Dir, cmd.Env = b.home, b.env
	cmd.WaitDelay = 5 * time.Second // an agent may keep the pipe
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return string(out), err
}

// steps runs lines of the table one after another, and prints the table.
func (b *bench) steps(all []step) {
	b.t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, s := range all {
		out, err := b.run(s.script)
		result := "ok"
		if (err != nil) != s.fails || !regexp.MustCompile("(?s)"+s.want).MatchString(out) {
			result = "FAILED"
			b.t.Errorf("%s, %s: %v\nwant %s; it said:\n%s", s.client, s.action, err, s.want, out[max(0, len(out)-4000):])
		} else if s.fails {
			result = "refused, as it should be"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.client, s.action, result)
	}
	w.Flush()
	b.t.Logf("client, action, result:\n%s", &text)
}

// versions prints the first line of what each command says.
func (b *bench) versions(commands ...string) {
	for _, c := range commands {
		out, _ := b.run(c + " 2>&1 || true")
		line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
		b.t.Logf("%s: %s", c, line)
	}
}
