// Package ifd tests the IFD handler in the real pcscd over a real mount of the
// real program, with simulated readers.
package ifd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// Built once for all tests.
var program, library, ctLibrary, client string

func TestMain(m *testing.M) { daemon.Main(m, &program, build) }

func build(ctx context.Context, dir string) error {
	library = filepath.Join(dir, "libifdcardfs.so")
	ctLibrary, client = filepath.Join(dir, "libctapi-cardfs.so"), filepath.Join(dir, "pcscsh")
	for out, target := range map[string]cc.Target{
		library:   cc.IFDHandler(),
		ctLibrary: cc.CTAPI(),
		client:    {Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}},
	} {
		if err := cc.Build(ctx, out, target); err != nil {
			return err
		}
	}
	return nil
}

func soak() bool { return os.Getenv("CARDFS_SOAK") != "" }

// newMount prepares a cardfs on a directory of its own.
func newMount(t *testing.T, args ...string) *daemon.Daemon {
	t.Helper()
	return daemon.New(t, program, daemon.MountPoint(t), args...)
}

// mount is newMount, started.
func mount(t *testing.T, args ...string) *daemon.Daemon {
	t.Helper()
	m := newMount(t, args...)
	m.Start()
	return m
}

// conf returns an entry of reader.conf. The device comes before the settings that complete
// it, and has no quotes: pcscd would take them as part of it.
func conf(name, device string) string {
	return fmt.Sprintf("DEVICENAME %s\nLIBPATH %s\nFRIENDLYNAME %q\n", device, library, name)
}

// servers holds the pcscd of each test that has one.
var servers = map[*testing.T]*pcscd.Server{}

func newPcscd(t *testing.T, readerConf string, opts ...pcscd.Option) *pcscd.Server {
	t.Helper()
	s, err := pcscd.Start(t.Context(), t.TempDir(), readerConf, opts...)
	if err != nil {
		t.Fatal(err)
	}
	servers[t] = s
	t.Cleanup(func() {
		delete(servers, t)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			said := s.Log()
			t.Logf("pcscd said:\n%s", said[max(0, len(said)-8000):])
		}
	})
	return s
}

// pcsc is a client of pcscd: testdata/pcscsh.c.
type pcsc struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

func newClient(t *testing.T, s *pcscd.Server) *pcsc {
	t.Helper()
	cmd := s.Command(t.Context(), client)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &pcsc{t, in, bufio.NewReaderSize(out, 1<<18)}
}

// say sends a command and returns its answer.
func (c *pcsc) say(words ...string) string {
	c.t.Helper()
	c.tell(words...)
	return c.answer()
}

func (c *pcsc) tell(words ...string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, strings.Join(words, "\t")); err != nil {
		c.t.Fatalf("%q: %v", words, err)
	}
}

func (c *pcsc) answer() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("the client ended: %v", err)
	}
	return strings.TrimSpace(line)
}

// want is say with the expected answer.
func (c *pcsc) want(want string, words ...string) {
	c.t.Helper()
	if got := c.say(words...); got != want {
		c.t.Errorf("%q: %s, want %s", words, got, want)
	}
}
