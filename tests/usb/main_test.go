// Package usb tests the real program on real USB, in a virtual machine: readers
// and a card that QEMU emulates, our own emulators as USB devices, pcscd and
// libccid beside them, udev's permissions, and the limits.
//
//	go test ./tests/usb                                  ten cycles of plugging, three of each emulator
//	CARDFS_SOAK=100 go test -timeout 30m ./tests/usb     a hundred, twenty, and fifty of a pulled adapter
//	CARDFS_BENCH=1 go test -v -run Limits ./tests/usb    the table (make bench-vm)
//
// Each test of the host boots a machine and runs tests of this binary in it; the
// program under test is a process of its own there.
package usb

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// envBuilt is the host's path of what the host's side has built.
const envBuilt = "CARDFS_TEST_USB"

func TestMain(m *testing.M) {
	if machine.Inside() {
		os.Exit(m.Run())
	}
	// A user of the machine who is not root can read it, too.
	dir, err := os.MkdirTemp("", "cardfs-usb-")
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), build(context.Background(), dir), os.Setenv(envBuilt, dir))
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

func build(ctx context.Context, dir string) error {
	// As make build does: with cgo and libusb. The machine has the host's libraries.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "osusergo,netgo", "-o", filepath.Join(dir, "cardfs"), "./cmd/cardfs")
	cmd.Dir, cmd.Env = cc.Root(), append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	for name, t := range map[string]cc.Target{
		"libifdcardfs.so": cc.IFDHandler(),
		"pcscsh":          {Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}},
		"scbench":         {Sources: []string{"tests/bench/c/scbench.c"}, Packages: []string{"libpcsclite"}},
		"filebench":       {Sources: []string{"tests/bench/c/filebench.c"}, Include: []string{"ctapi/clib/common"}},
	} {
		if err := cc.Build(ctx, filepath.Join(dir, name), t); err != nil {
			return err
		}
	}
	db, err := machine.CardDB(ctx)
	if err != nil {
		return err
	}
	for _, name := range certificates {
		der, err := exec.CommandContext(ctx, "certutil", "-L", "-d", "sql:"+db, "-n", name, "-r").Output()
		if err != nil {
			return fmt.Errorf("certutil -L -n %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), der, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// The certificates in the database of the emulated card, in the order of its
// applets A0 00 00 00 79 01 00, 01, 02.
var certificates = [...]string{"cert1", "cert2", "cert3"}

// onHost is the path in the machine of a file of the host.
func onHost(name string) string { return "/run/host" + name }

// built returns the path of a file that TestMain made.
func built(name string) string { return onHost(filepath.Join(os.Getenv(envBuilt), name)) }

// TestInMachine runs every TestGuest in one machine, or those that CARDFS_VM_RUN
// matches. A machine has one processor: two run at a time.
func TestInMachine(t *testing.T) {
	t.Parallel()
	machine.RunSelf(t, cmp.Or(os.Getenv("CARDFS_VM_RUN"), "^TestGuest"), machine.Config{Timeout: 15 * time.Minute, Modules: []string{"ftdi_sio"}})
}

// envTransport is the transport of USB that mount takes; "": the default.
const envTransport = "CARDFS_TEST_TRANSPORT"

// The readers, the card and the plugging cycles again, on libusb. TestGuestCyclesVHCI itself
// runs on both transports.
func TestGousbInMachine(t *testing.T) {
	t.Parallel()
	machine.RunSelf(t, "^TestGuest(Card|Tokens|CyclesQMP)$", machine.Config{
		Timeout: 15 * time.Minute, Env: append(os.Environ(), envTransport+"=gousb"),
	})
}

// soak is the number of cycles of a test: few, or the value of CARDFS_SOAK.
func soak(t *testing.T, few int) int {
	s := os.Getenv("CARDFS_SOAK")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		t.Fatalf("CARDFS_SOAK=%s: a number is wanted", s)
	}
	// A minute holds thousands of the cycles of tests/soak, but only a dozen or two of these.
	return min(n, 100)
}

// mounted is the program, with what else these tests need.
type mounted struct {
	*daemon.Daemon
	t testing.TB
}

// mount starts the program at a directory of its own. as, if not nil, is the user who runs
// it.
func mount(t testing.TB, as *syscall.Credential, args ...string) *mounted {
	t.Helper()
	if transport := os.Getenv(envTransport); transport != "" {
		args = append([]string{"--usb=" + transport}, args...)
	}
	d := &mounted{daemon.New(t, built("cardfs"), daemon.MountPoint(t), args...), t}
	if d.Credential = as; as != nil {
		if err := os.Chown(d.Dir, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	d.Start()
	return d
}

// text returns the text of a file without the newline at its end.
func (d *mounted) text(name string) string {
	d.t.Helper()
	return strings.TrimSpace(d.Read(name))
}

// follow reads the events of all slots. next waits for the next event of kind what, and
// returns its words: number, slot, what, key=value.
func (d *mounted) follow() (next func(what string) []string) {
	d.t.Helper()
	// cat can be killed, and does not block a thread of ours.
	cmd := exec.Command("cat", d.Path("event"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	in := bufio.NewScanner(out)
	return func(what string) []string {
		d.t.Helper()
		late := time.AfterFunc(proc.Patience, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		var seen []string
		for in.Scan() {
			seen = append(seen, in.Text())
			if w := strings.Fields(in.Text()); len(w) > 2 && w[2] == what {
				return w
			}
		}
		d.t.Fatalf("no event %q, only %q", what, seen)
		return nil
	}
}

// status returns the value of a line of a slot's status.
func (d *mounted) status(slot, key string) string {
	d.t.Helper()
	for line := range strings.Lines(d.text(slot + "/status")) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			return v
		}
	}
	return ""
}

// channel is an open exchange file.
type channel struct {
	fd  int
	buf []byte
	got []byte
}

func openChannel(name string) (*channel, error) {
	fd, err := daemon.Open(name, syscall.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &channel{fd: fd, buf: make([]byte, 4096)}, nil
}

func (c *channel) close() { _ = syscall.Close(c.fd) }

// send writes a line of hex and reads the line of the answer.
func (c *channel) send(command string) (string, error) {
	if _, err := io.WriteString(c, command+"\n"); err != nil {
		return "", err
	}
	for {
		if line, rest, ok := bytes.Cut(c.got, []byte("\n")); ok {
			c.got = bytes.Clone(rest)
			return string(line), nil
		}
		n, err := daemon.Uninterrupted(func() (int, error) { return syscall.Read(c.fd, c.buf) })
		if err != nil {
			return "", err
		}
		if n == 0 {
			return "", io.ErrUnexpectedEOF
		}
		c.got = append(c.got, c.buf[:n]...)
	}
}

func (c *channel) Write(p []byte) (int, error) {
	return daemon.Uninterrupted(func() (int, error) { return syscall.Write(c.fd, p) })
}

// exchange is openChannel, send and close.
func exchange(name, command string) (string, error) {
	c, err := openChannel(name)
	if err != nil {
		return "", err
	}
	defer c.close()
	return c.send(command)
}

func run(t testing.TB, stdin []byte, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	return output(t, exec.CommandContext(ctx, name, args...), stdin)
}

func output(t testing.TB, cmd *exec.Cmd, stdin []byte) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, stderr.String())
	}
	return string(out)
}

// shell is a script with arguments; its context ends a script that hangs.
func shell(t testing.TB, script string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Dir = "/"
	return cmd
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// The emulated card: libcacard's CAC.
const (
	cardATR   = "3B 7A 18 00 00 73 66 74 65 20 63 64 31 34 34"
	selectPKI = "00A40400 07 A0000000790100" // answered 61 0D
)

// plug plugs in QEMU's reader with the card. It is unplugged after the test.
func plug(t testing.TB, g *machine.Guest, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if err := machine.Plug(ctx, g, "ccid", id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
		defer cancel()
		_ = machine.Unplug(ctx, g, id) // if it is still there
	})
}

func unplug(t testing.TB, g *machine.Guest, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if err := machine.Unplug(ctx, g, id); err != nil {
		t.Fatal(err)
	}
}

// isGone reports whether err is what a reader that has left returns.
func isGone(err error) bool { return errors.Is(err, syscall.ENODEV) }
