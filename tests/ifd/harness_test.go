// Package ifd tests the IFD handler in the real pcscd over a real mount of the
// real program, with simulated readers.
package ifd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// What is built once for all tests.
var program, library, ctLibrary, client string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cardfs-ifd-")
	if err == nil {
		err = build(dir)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(dir string) error {
	program, library = filepath.Join(dir, "cardfs"), filepath.Join(dir, "libifdcardfs.so")
	ctLibrary, client = filepath.Join(dir, "libctapi-cardfs.so"), filepath.Join(dir, "pcscsh")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/cardfs").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	for out, target := range map[string]cc.Target{
		library:   cc.IFDHandler(),
		ctLibrary: cc.CTAPI(),
		client:    {Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}},
	} {
		if err := cc.Build(context.Background(), out, target); err != nil {
			return err
		}
	}
	return nil
}

func soak() bool { return os.Getenv("CARDFS_SOAK") != "" }

// output collects what a process says, and tells when it said something.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// wait waits for a text that was not there before from.
func (o *output) wait(ctx context.Context, text string, from int) error {
	for {
		o.mu.Lock()
		found := bytes.Contains(o.text.Bytes()[from:], []byte(text))
		if o.more == nil {
			o.more = make(chan struct{})
		}
		more := o.more
		o.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%q never came: %w", text, ctx.Err())
		}
	}
}

// mount is one cardfs on a directory.
type mount struct {
	t    *testing.T
	dir  string
	args []string
	out  output
	cmd  *exec.Cmd
}

func newMount(t *testing.T, args ...string) *mount {
	t.Helper()
	m := &mount{t: t, dir: filepath.Join(t.TempDir(), "cards"), args: args}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the mount:\n%s", m.show())
		}
		m.end(syscall.SIGTERM)
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		if t.Failed() {
			t.Logf("cardfs said:\n%s", m.out.String())
		}
	})
	return m
}

func (m *mount) start() {
	m.t.Helper()
	from := len(m.out.String())
	m.cmd = exec.Command(program, append(append([]string{"mount"}, m.args...), m.dir)...)
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	if err := m.out.wait(ctx, "mounted at", from); err != nil {
		m.t.Fatalf("%v\n%s", err, m.out.String())
	}
}

func (m *mount) end(sig syscall.Signal) {
	m.t.Helper()
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Signal(sig)
	err := m.cmd.Wait()
	m.cmd = nil
	if sig == syscall.SIGTERM && err != nil {
		m.t.Errorf("cardfs: %v\n%s", err, m.out.String())
	}
}

// show is what a person would look at.
func (m *mount) show() string {
	out, _ := exec.Command("sh", "-c", `cd "$1" && ls && head -n 20 */status && timeout 0.3 cat event`, "sh", m.dir).CombinedOutput()
	return string(out)
}

func (m *mount) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mount) ctl(format string, args ...any) {
	m.t.Helper()
	m.write("ctl", fmt.Sprintf(format, args...))
}

func (m *mount) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), []byte(text), 0); err != nil {
		m.t.Errorf("%s > %s: %v", text, name, err)
	}
}

func (m *mount) read(name string) string {
	m.t.Helper()
	text, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Errorf("%v", err)
	}
	return string(text)
}

// await waits until a text file, which may not be there yet, says something.
func (m *mount) await(name, text string) {
	m.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		said, err := os.ReadFile(m.path(name))
		if bytes.Contains(said, []byte(text)) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s never said %q: %s, %v", name, text, said, err)
		}
	}
}

// conf is an entry of reader.conf. The device comes before what completes it,
// and without quotes, which pcscd would take for a part of it.
func conf(name, device string) string {
	return fmt.Sprintf("DEVICENAME %s\nLIBPATH %s\nFRIENDLYNAME %q\n", device, library, name)
}

// servers is the pcscd of each test that has one.
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

// say gives a command and takes its answer.
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

// want is say with the answer that must come.
func (c *pcsc) want(want string, words ...string) {
	c.t.Helper()
	if got := c.say(words...); got != want {
		c.t.Errorf("%q: %s, want %s", words, got, want)
	}
}
