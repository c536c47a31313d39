package cards

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// way is how a program reaches the cards.
type way string

const (
	viaPcscd way = "pcscd" // Debian's pcscd, libifdcardfs.so, the files
	viaFiles way = "files" // cardfs's libpcsclite.so.1, the files
)

var ways = []way{viaPcscd, viaFiles}

// limit is how long a program may take that should take a second.
const limit = 3 * time.Minute

// row is a line of the table: a client does something with a card.
type row struct {
	client, action string
	script         string // of bash -e
	want           string // a regular expression that its output matches
	fails          bool   // its exit code is not 0
	// why says whose fault it is that the client does not do it, if it does not.
	why string
}

// desk is a mount with cards, a way by which programs reach them, and a directory in which
// they run.
type desk struct {
	t      *testing.T
	part   string // of the table
	way    way
	daemon *daemon.Daemon
	pcscd  *pcscd.Server // nil: viaFiles
	home   string
	env    []string
}

// newDesk mounts with args.
func newDesk(t *testing.T, part string, w way, args ...string) *desk {
	t.Helper()
	home, err := os.MkdirTemp("", "card") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	d := &desk{t: t, part: part, way: w, home: home}
	d.daemon = daemon.Start(t, program, daemon.MountPoint(t), append([]string{"--usb=off"}, args...)...)
	d.env = []string{
		"PATH=" + built + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "LC_ALL=C.UTF-8",
		"P11=" + pkcs11(),
	}
	if w == viaFiles {
		d.env = append(d.env, "LIB="+library)
		return d
	}
	d.startPcscd()
	return d
}

// pkcs11 is OpenSC's library.
func pkcs11() string {
	found, _ := filepath.Glob("/usr/lib/*/opensc-pkcs11.so")
	return strings.Join(found, " ")
}

// startPcscd starts pcscd on all slots, and waits until it has them.
func (d *desk) startPcscd() {
	t := d.t
	t.Helper()
	conf, err := exec.Command(program, "reader-conf", "--mount", d.daemon.Dir, "--lib", handler).Output()
	if err != nil {
		t.Fatal(err)
	}
	if d.pcscd, err = pcscd.Start(t.Context(), t.TempDir(), string(conf)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.pcscd.Close(); err != nil {
			t.Error(err)
		}
		if log := d.pcscd.Log(); t.Failed() {
			t.Logf("pcscd's log ends with\n%s", log[max(0, len(log)-5000):])
		}
	})
	d.env = append(append(d.env, "LIB=libpcsclite.so.1"), d.pcscd.Env()...)
	d.awaitReaders(strings.Count(string(conf), "\nDEVICENAME"))
}

// awaitReaders waits until pcscd has powered n cards: a program that lists readers before
// sees some with half a name.
func (d *desk) awaitReaders(n int) {
	d.t.Helper()
	listed := regexp.MustCompile(`(?m)^\d+ +Yes .* [0-9A-F]{2} 00$`)
	daemon.Eventually(d.t, "readers of pcscd", func() bool {
		out, _ := d.run("opensc-tool -l")
		return len(listed.FindAllString(out, -1)) == n
	})
}

// restart ends the daemon by SIGKILL and starts it again.
func (d *desk) restart() {
	d.t.Helper()
	d.daemon.Kill()
	d.daemon.Start()
	if d.pcscd != nil {
		if err := d.pcscd.Restart(d.t.Context()); err != nil {
			d.t.Fatal(err)
		}
		d.awaitReaders(1)
	}
}

// write makes files in the home, which are for scripts too.
func (d *desk) write(files map[string]string) {
	d.t.Helper()
	for name, text := range files {
		file := filepath.Join(d.home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o700)); err != nil {
			d.t.Fatal(err)
		}
	}
}

// run runs a script of bash and returns what it prints on both outputs.
func (d *desk) run(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.t.Context()), limit)
	defer cancel()
	words := []string{"bash", "-ec", script}
	if d.way == viaFiles {
		words = append([]string{program, "pcsc", "--mount", d.daemon.Dir, "--lib", library}, words...)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir, cmd.Env = d.home, d.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // an agent may keep the pipe
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return string(out), err
}

// do runs rows one after another, and puts them into the table.
func (d *desk) do(rows ...row) {
	d.t.Helper()
	for _, r := range rows {
		out, err := d.run(r.script)
		result := "ok"
		switch {
		case (err != nil) != r.fails || !regexp.MustCompile("(?s)"+r.want).MatchString(out):
			result = "FAILED"
			d.t.Errorf("%s, %s: %v\nwant %s; it said:\n%s", r.client, r.action, err, r.want, out[max(0, len(out)-4000):])
		case r.why != "":
			result = "not done: " + r.why
		case r.fails:
			result = "refused, as it should be"
		}
		clients.add(d.part, d.way, r.client, r.action, result)
	}
}
