// Package pcsc compares two libraries of PC/SC, Debian's with pcscd and libifdcardfs behind it,
// and the one that is made of a mount's files: one program (diff) runs on both, with equal
// simulated readers, and what it prints has to be equal, but for the differences that
// differences.txt explains.
package pcsc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// Built once for all tests.
var program, handler, library, cases string

func TestMain(m *testing.M) { daemon.Main(m, &program, build) }

func build(ctx context.Context, dir string) error {
	cases = filepath.Join(dir, "pcscdiff")
	handler, library = filepath.Join(dir, "libifdcardfs.so"), filepath.Join(dir, "pcsc", "libpcsclite.so.1")
	sources, err := filepath.Glob(filepath.Join(cc.Root(), "tests/pcsc/diff/*.c"))
	if err != nil {
		return err
	}
	own := cc.Target{Packages: []string{"libpcsclite"}}
	for _, s := range sources {
		own.Sources = append(own.Sources, filepath.Join("tests/pcsc/diff", filepath.Base(s)))
	}
	for out, target := range map[string]cc.Target{handler: cc.IFDHandler(), library: cc.PCSC(), cases: own} {
		if err := cc.Build(ctx, out, target); err != nil {
			return err
		}
	}
	return nil
}

// readerLines is how the readers are made: lines of ctl. They get the numbers 0 and up.
func readerLines(t *testing.T) (attach, more []string) {
	t.Helper()
	lines, err := exec.Command(cases, "readers").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		line = strings.TrimSpace(line)
		if device, ok := strings.CutPrefix(line, "attach "); ok {
			attach = append(attach, device)
		} else {
			more = append(more, line)
		}
	}
	return attach, more
}

// mount starts a mount with the readers, or with none. ready does what comes after each start.
func mount(t *testing.T, withReaders bool) (m *daemon.Daemon, ready func()) {
	t.Helper()
	args := []string{"--usb=false"}
	ready = func() {}
	if withReaders {
		attach, more := readerLines(t)
		last := -1
		for _, device := range attach {
			args = append(args, "--attach", device)
			last += slots(device)
		}
		ready = func() {
			for n := 0; n <= last; n++ {
				m.Await(fmt.Sprintf("%d/status", n), "state")
			}
			for _, line := range more {
				m.Ctl("%s", line)
			}
		}
	}
	m = daemon.Start(t, program, daemon.MountPoint(t), args...)
	ready()
	return m, ready
}

// slots is how many slots a device has.
func slots(device string) int {
	if strings.Contains(device, "twoslot") {
		return 2
	}
	return 1
}

// readerConf has an entry for each reader. One entry makes both readers of a twoslot.
func readerConf(t *testing.T, m *daemon.Daemon) string {
	t.Helper()
	attach, _ := readerLines(t)
	var conf strings.Builder
	n := 0
	for _, device := range attach {
		fmt.Fprintf(&conf, "DEVICENAME cardfs:%s/%d\nLIBPATH %s\nFRIENDLYNAME \"Reader %d\"\n", m.Dir, n, handler, n)
		n += slots(device)
	}
	return conf.String()
}

// service is what the cases run on.
type service struct {
	mount *daemon.Daemon
	env   []string
	end   func() error
	start func() error
}

// run runs the cases. They may have the service ended and started: by a byte, which is
// answered by another.
func (s *service) run(t *testing.T, groups ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cases, append([]string{"run", s.mount.Dir}, groups...)...)
	cmd.Env = append(os.Environ(), s.env...)
	orders, theirOrders, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	theirAnswers, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirOrders, theirAnswers}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirOrders.Close()
	_ = theirAnswers.Close()
	for order := make([]byte, 1); ; {
		if n, _ := orders.Read(order); n == 0 {
			break
		}
		do := s.end
		if order[0] == '+' {
			do = s.start
		}
		if err := do(); err != nil {
			t.Error(err)
		}
		_, _ = answers.Write(order)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the cases: %v\n%s", err, &said)
	}
	_ = orders.Close()
	_ = answers.Close()
	keep(t, filepath.Base(t.Name())+".log", strings.Split(said.String(), "\n"))
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// onPcscd makes Debian's pcscd the service.
func onPcscd(t *testing.T, withReaders bool) *service {
	t.Helper()
	m, _ := mount(t, withReaders)
	conf := ""
	if withReaders {
		conf = readerConf(t, m)
	}
	s, err := pcscd.Start(t.Context(), t.TempDir(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &service{m, s.Env(), s.Kill, func() error { return s.Restart(t.Context()) }}
}

// onFiles makes the mount the service, by the library that needs no pcscd.
func onFiles(t *testing.T, withReaders bool) *service {
	t.Helper()
	m, ready := mount(t, withReaders)
	env := []string{"LD_LIBRARY_PATH=" + filepath.Dir(library), "CARDFS_MOUNT=" + m.Dir}
	return &service{m, env, func() error { m.Kill(); return nil }, func() error { m.Start(); ready(); return nil }}
}

// all runs all groups on one kind of service.
func all(t *testing.T, on func(*testing.T, bool) *service, groups []string) []string {
	s := on(t, true)
	if groups != nil {
		return s.run(t, groups...)
	}
	lines := s.run(t)
	lines = append(lines, s.run(t, "only_service")...)
	none := on(t, false)
	lines = append(lines, none.run(t, "only_none")...)
	for i, e := range none.env { // no socket, no mount
		if name, _, _ := strings.Cut(e, "="); name != "LD_LIBRARY_PATH" {
			none.env[i] = name + "=/nonexistent"
		}
	}
	return append(lines, none.run(t, "only_nobody")...)
}

// TestDifferences is the table: every case on both, and what differs has a reason.
func TestDifferences(t *testing.T) {
	explained, err := readExplained("differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	var groups []string                                      // all
	if some := os.Getenv("CARDFS_PCSC_GROUPS"); some != "" { // for work on the cases
		groups = strings.Fields(some)
	}
	var both [2][]string
	begin := time.Now()
	t.Run("cases", func(t *testing.T) {
		for i, on := range []func(*testing.T, bool) *service{onPcscd, onFiles} {
			t.Run([]string{"pcscd", "files"}[i], func(t *testing.T) {
				t.Parallel()
				both[i] = all(t, on, groups)
			})
		}
	})
	keep(t, "pcscd.txt", both[0])
	keep(t, "files.txt", both[1])
	table, unexplained := compare(both[0], both[1], explained)
	for _, u := range unexplained {
		t.Error(u)
	}
	if groups == nil {
		for _, e := range explained {
			if e.used == 0 {
				t.Errorf("differences.txt:%d: %s: no difference any more", e.line, e.pattern)
			}
		}
	}
	t.Logf("%v, in %v", table, time.Since(begin).Round(time.Second))
}

// keep stores the lines in the directory CARDFS_PCSC_OUT, if there is one.
func keep(t *testing.T, name string, lines []string) {
	t.Helper()
	dir := os.Getenv("CARDFS_PCSC_OUT")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Error(err)
	}
}
