// Package programs runs PC/SC programs as they come from Debian and elsewhere, once on
// cardfs's PC/SC library and once through Debian's pcscd with cardfs's IFD handler, and
// compares what they print.
package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/debian"
	"github.com/cardfs/cardfs/tests/libcacard"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// What TestMain builds.
var (
	built   string // the directory
	program string // cardfs
	library string // libpcsclite.so.1 of cardfs
	handler string // libifdcardfs.so
	cacard  *libcacard.Card

	keysOfTest *keysCard
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
		"pcscd": "pcscd", "opensc-tool": "opensc", "pcsc_scan": "pcsc-tools", "scriptor": "pcsc-tools",
		"/usr/lib/python3/dist-packages/smartcard/__init__.py": "python3-pyscard",
		"gpg": "gnupg", "/usr/lib/gnupg/scdaemon": "scdaemon", "yubico-piv-tool": "yubico-piv-tool",
		"p11tool": "gnutls-bin", "ssh-keygen": "openssh-client", "javac": "openjdk-17-jdk-headless",
		"/usr/share/doc/libpcsclite-dev/examples/pcsc_demo.c": "libpcsclite-dev", "unshare": "util-linux",
	}); err != nil {
		return 1, err
	}
	// Another user has to reach it.
	if built, err = os.MkdirTemp("", "cardfs-programs-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(built)
	if err := os.Chmod(built, 0o755); err != nil {
		return 1, err
	}
	// Another user has to be able to read it.
	if err := os.CopyFS(filepath.Join(built, "testdata"), os.DirFS("testdata")); err != nil {
		return 1, err
	}
	if err := build(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func build() (err error) {
	ctx := context.Background()
	program = filepath.Join(built, "cardfs")
	library = filepath.Join(built, "lib", "libpcsclite.so.1")
	handler = filepath.Join(built, "libifdcardfs.so")
	if cacard, err = libcacard.New(ctx, built); err != nil {
		return err
	}
	if keysOfTest, err = newKeysCard(); err != nil {
		return err
	}
	return errors.Join(
		daemon.Build(ctx, program),
		cc.Build(ctx, library, cc.PCSC()),
		cc.Build(ctx, handler, cc.IFDHandler()),
		compile("tests/pcsc/programs/testdata", "javac", "-d", built, "Cards.java"),
		compile("/usr/share/doc/libpcsclite-dev/examples", "sh", "-c",
			`cc -o "$0" pcsc_demo.c $(pkg-config --cflags --libs libpcsclite)`, filepath.Join(built, "pcsc_demo")),
		buildPIV(),
	)
}

func buildPIV() error {
	dir := filepath.Join(built, "piv")
	files, err := txtar.ParseFile("testdata/piv.txtar")
	if err == nil {
		err = txtar.Write(files, dir)
	}
	if err != nil {
		return err
	}
	return compile(dir, "go", "build", "-o", filepath.Join(built, "piv-go"), ".")
}

func compile(dir string, words ...string) error {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = dir
	if !filepath.IsAbs(dir) {
		cmd.Dir = filepath.Join(cc.Root(), dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(words, " "), err, out)
	}
	return nil
}

// side is a mount with the test's readers, and a way by which programs get at them.
type side struct {
	t      *testing.T
	daemon *daemon.Daemon
	pcscd  *pcscd.Server // nil: by the library
	env    []string
}

// newSide mounts five slots: libcacard's card, simulated cards of T=1 and of T=0, an empty
// one, and a card with OpenPGP and PIV.
func newSide(t *testing.T, throughPcscd bool) *side {
	t.Helper()
	socket := "unix:" + filepath.Join(t.TempDir(), "card")
	keys := filepath.Join(t.TempDir(), "keys")
	s := &side{t: t, daemon: daemon.Start(t, program, daemon.MountPoint(t), "--usb=off",
		"--attach", "vpcd "+socket, "--attach", "sim t1", "--attach", "sim t0", "--attach", "sim t1 card=none",
		"--attach", "vpcd unix:"+keys)}
	for slot, state := range []string{"state empty", "state present", "state present", "state empty", "state empty"} {
		s.daemon.Await(fmt.Sprintf("%d/status", slot), state)
	}
	s.env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin:" + built, "LC_ALL=C.UTF-8", "TERM=dumb",
		"BUILT=" + built, "TESTDATA=" + filepath.Join(cc.Root(), "tests/pcsc/programs/testdata"), "PIN=" + libcacard.PIN,
	}
	if !throughPcscd {
		s.env = append(s.env, "CARDFS_MOUNT="+s.daemon.Dir, "LD_LIBRARY_PATH="+filepath.Dir(library), "LIB="+library)
	} else {
		s.servePCSC()
	}
	// Not before: pcscd counts the cards that come while it runs.
	in, err := cacard.Insert(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Remove(); err != nil {
			t.Error(err)
		}
	})
	keysOfTest.insert(t, keys)
	s.daemon.Await("0/status", "state p")
	s.daemon.Await("4/status", "state p")
	return s
}

// servePCSC starts pcscd on the side's slots, and waits until it has them.
func (s *side) servePCSC() {
	s.t.Helper()
	server, err := pcscd.Start(s.t.Context(), s.t.TempDir(), s.readerConf(5))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.pcscd = server
	s.env = append(append(s.env, "LIB=libpcsclite.so.1"), server.Env()...)
}

var pcscName = regexp.MustCompile(`(?m)^pcsc (.*) [0-9A-F]{2} [0-9A-F]{2}$`)

// readerConf gives pcscd the first n slots, by the names that the library gives them.
func (s *side) readerConf(n int) string {
	var conf strings.Builder
	for slot := range n {
		name := pcscName.FindStringSubmatch(s.daemon.Read(fmt.Sprintf("%d/status", slot)))
		if name == nil {
			s.t.Fatalf("slot %d has no name for PC/SC", slot)
		}
		fmt.Fprintf(&conf, "DEVICENAME cardfs:%s/%d\nLIBPATH %s\nFRIENDLYNAME %q\n", s.daemon.Dir, slot, handler, name[1])
	}
	return conf.String()
}

// command is a script by bash with the side's environment and a home of its own.
func (s *side) command(script string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", script)
	// Short: gpg's sockets are there.
	home, err := os.MkdirTemp("", "home")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(home) })
	cmd.Dir = home
	cmd.Env = append([]string{"HOME=" + home, "GNUPGHOME=" + home}, s.env...)
	return cmd
}

// limit is how long a program may take that should take a second.
const limit = time.Minute

// said runs a script and returns what it says on both outputs, and its exit code.
func (s *side) said(script string) (out string, code int) {
	cmd := s.command(script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Sprintf("%s\n%v", b, err), -1
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// both calls f for two sides at once: the library's and pcscd's.
func both(sides [2]*side, f func(i int, s *side)) {
	var all sync.WaitGroup
	for i, s := range sides {
		all.Go(func() { f(i, s) })
	}
	all.Wait()
}

// row is a line of the table.
type row struct {
	name   string
	script string
	want   string // what the output contains, a regular expression
	code   int
	// mask is a regular expression of what is not compared, since it is never the same.
	mask string
	// differs is why it is not the same through pcscd.
	differs string
}

type line struct {
	row
	out [2]string
}

func TestPrograms(t *testing.T) {
	sides := [2]*side{newSide(t, false), newSide(t, true)}
	awaitReaders(t, sides)
	var table []line
	rows := programs()
	if dir := nodePCSC(t); dir != "" {
		rows = append(rows, node(dir))
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { table = append(table, r.run(t, sides)) })
	}
	t.Run("card movement", func(t *testing.T) { table = append(table, movement(t, sides)...) })
	show(t, table)
}

// awaitReaders waits until pcscd has powered the cards: a program that lists readers in
// its first moments sees some with half a name.
func awaitReaders(t *testing.T, sides [2]*side) {
	t.Helper()
	daemon.Eventually(t, "readers of pcscd", func() bool {
		out, _ := sides[1].said("opensc-tool -l")
		return pcscdReady(out)
	})
}

// pcscdReady reports whether opensc-tool -l lists all readers with their whole names.
func pcscdReady(list string) bool {
	return strings.Contains(list, "Yes             Virtual card port 00 00") && strings.Contains(list, "Yes             Virtual card port 04 00")
}

func (r row) run(t *testing.T, sides [2]*side) line {
	t.Helper()
	l := line{row: r}
	var code [2]int
	both(sides, func(i int, s *side) {
		l.out[i], code[i] = s.said(r.script)
	})
	r.compare(t, &l, code)
	return l
}

func (r row) compare(t *testing.T, l *line, code [2]int) {
	t.Helper()
	t.Logf("%s\nexit %d\n%s", r.script, code[0], l.out[0])
	if code[0] != r.code || !regexp.MustCompile("(?s)"+r.want).MatchString(l.out[0]) {
		t.Errorf("exit %d; want %d and %s", code[0], r.code, r.want)
	}
	compared := l.out
	if r.mask != "" {
		mask := regexp.MustCompile(r.mask)
		for i := range compared {
			compared[i] = mask.ReplaceAllString(compared[i], "")
		}
	}
	if compared[0] != compared[1] || code[0] != code[1] {
		t.Errorf("the library, exit %d, and pcscd, exit %d:\n%s", code[0], code[1], diff(t, compared))
	}
}

// diff shows the lines in which two texts differ.
func diff(t *testing.T, text [2]string) string {
	t.Helper()
	names := [2]string{filepath.Join(t.TempDir(), "library"), filepath.Join(t.TempDir(), "pcscd")}
	for i, name := range names {
		if err := os.WriteFile(name, []byte(text[i]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := exec.Command("diff", "-u", names[0], names[1]).Output()
	return string(out)
}

// show prints the table.
func show(t *testing.T, table []line) {
	var b strings.Builder
	for _, l := range table {
		how := "the same"
		if l.differs != "" {
			how = "the same, but " + l.differs
		}
		lines := strings.Split(strings.TrimSpace(l.out[0]), "\n")
		fmt.Fprintf(&b, "%-34s %3d lines, exit %d; through pcscd %s\n", l.name, len(lines), l.code, how)
		for i, text := range lines {
			if i == 4 && len(lines) > 5 {
				fmt.Fprintf(&b, "    …\n")
				break
			}
			fmt.Fprintf(&b, "    %s\n", text)
		}
	}
	t.Logf("what the programs print on the library\n%s", b.String())
}
