// Package doctor breaks a Debian in every way that `cardfs doctor` knows, has doctor find the
// fault, runs the command that it names, and looks whether that has mended it.
//
// Each Debian runs a systemd of its own and begins as the packages leave it, with a reader that
// works. USB readers are made up: directories in place of /sys/bus, and files in place of
// device files, which real programs hold open.
package doctor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/debian"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// furnish makes a root that all labs begin with: cardfs's packages, users, and a repository
// with the packages that apt-get is told to install. "$0" is the version of cardfs.
const furnish = `
useradd --create-home --shell /bin/bash alice
dpkg -i /packages/$0/*.deb >/dev/null
useradd --create-home --shell /bin/bash --groups cardfs bob
getent group plugdev || groupadd --system plugdev
echo "CARDFS_ARGS='--usb=off --sim ikey3k'" >/etc/default/cardfs

echo 'ALL ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/lab
echo 127.0.0.1 localhost $(hostname) >/etc/hosts

# A package of Debian's own is made of what is installed of it.
mkdir /repo
cp /packages/$0/*.deb /repo
mkdir -p /tmp/fuse3/DEBIAN
dpkg-query --status fuse3 | grep -v -e ^Status: -e ^Conffiles: -e '^ /' >/tmp/fuse3/DEBIAN/control
while read -r f; do if [ -d "$f" ]; then mkdir -p "/tmp/fuse3$f"; elif [ -e "$f" ]; then cp -a "$f" "/tmp/fuse3$f"; fi; done </var/lib/dpkg/info/fuse3.list
dpkg-deb --build /tmp/fuse3 /repo/fuse3.deb >/dev/null
for f in /repo/*.deb; do
	dpkg-deb --field $f
	echo "Filename: ${f#/repo/}"
	echo "Size: $(stat --format=%s $f)"
	echo "SHA256: $(sha256sum <$f | cut -d' ' -f1)"
	echo
done >/repo/Packages
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list
echo 'APT::Get::Assume-Yes "true"; APT::Sandbox::User "root";' >/etc/apt/apt.conf.d/lab
apt-get -qq update
rm -r /tmp/*
`

// setup makes up the USB bus, and settings of the kernel that would otherwise be those of every
// other program.
const setup = `
mount -t tmpfs bus sys/bus
mkdir -p sys/bus/usb/devices dev/bus/usb/001
mount -t tmpfs fuse proc/sys/fs/fuse
echo 0 >proc/sys/fs/fuse/default_request_timeout
echo 0 >proc/sys/fs/fuse/max_request_timeout
printf '[Unit]\nDefaultDependencies=no\n' >etc/systemd/system/lab.target
`

// lab is a Debian that runs. Its systemd starts nothing by itself.
type lab struct {
	*testing.T
	end    func() // ends all that runs in it
	groups string // how setpriv(1) gives groups to a login
	in     io.Writer
	out    *bufio.Reader
}

// newLab starts a Debian.
func newLab(t *testing.T, root string) *lab {
	t.Helper()
	s := debian.Boot(t, root, debian.Options{Setup: setup, Target: "lab.target"})
	shell := s.Command("bash")
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	shell.Stdout, shell.Stderr = w, w
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { w.CloseWithError(fmt.Errorf("the shell has ended: %v", shell.Wait())) }()
	t.Cleanup(func() { in.Close(); shell.Process.Kill() })
	return &lab{t, s.Kill, "--init-groups", in, bufio.NewReader(r)}
}

const mark = "-- lab: that ended with "

// sh runs commands as root, in one shell for all, and returns their output and the exit
// code.
func (l *lab) sh(script string) (string, int) {
	l.Helper()
	late := time.AfterFunc(2*proc.Patience, l.end)
	defer late.Stop()
	fmt.Fprintf(l.in, "{ %s\n} </dev/null\nprintf '\\n%s%%d\\n' $?\n", script, mark)
	var said strings.Builder
	for {
		line, err := l.out.ReadString('\n')
		if err != nil {
			l.Fatalf("%s: %v\n%s", script, err, said.String())
		}
		if code, ok := strings.CutPrefix(line, mark); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(code))
			return strings.TrimSuffix(said.String(), "\n"), n
		}
		said.WriteString(line)
	}
}

// must is sh for commands that have to succeed.
func (l *lab) must(script string) string {
	l.Helper()
	out, code := l.sh("(set -e\n" + script + "\n)")
	if code != 0 {
		l.Fatalf("%s\nexit code %d\n%s", script, code, out)
	}
	return out
}

// as runs commands in a new login of a user.
func (l *lab) as(user, script string) (string, int) {
	l.Helper()
	if user == "root" {
		return l.sh("bash -c " + quote(script))
	}
	return l.sh(fmt.Sprintf("setpriv --reuid %[1]s --regid %[1]s %[2]s env HOME=/home/%[1]s USER=%[1]s bash -c %[3]s", user, l.groups, quote(script)))
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// finding is an entry of the output of `cardfs doctor --json`.
type finding struct{ Check, State, Text, Mend string }

func (f finding) String() string {
	return fmt.Sprintf("%s %s: %s\n\tmend: %s", f.State, f.Check, f.Text, f.Mend)
}

// findings decodes doctor's output, and checks that the exit code agrees.
func (l *lab) findings(out string, code int) (all []finding) {
	l.Helper()
	i := strings.LastIndex("\n"+out, "\n[\n")
	if i < 0 {
		l.Fatalf("doctor ended with %d and said\n%s", code, out)
	}
	if err := json.NewDecoder(bytes.NewReader([]byte(out[i:]))).Decode(&all); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	want := 0
	for _, f := range all {
		if f.State == "wrong" {
			want = 1
		}
	}
	if code != want {
		l.Errorf("doctor ended with %d, want %d: %v", code, want, all)
	}
	return all
}

// doctor examines the lab for a user.
func (l *lab) doctor(user string) []finding {
	l.Helper()
	out, code := l.as(user, "cardfs doctor --json")
	return l.findings(out, code)
}

// faults returns the findings that are not well.
func faults(all []finding) (bad []finding) {
	for _, f := range all {
		if f.State != "ok" {
			bad = append(bad, f)
		}
	}
	return bad
}

// base is the Debian that all labs begin with. The first lab makes it.
var base struct {
	sync.Mutex
	dir, root string
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(base.dir)
	os.Exit(code)
}

// furnished returns the Debian that all labs begin with.
func furnished(t *testing.T) string {
	t.Helper()
	base.Lock()
	defer base.Unlock()
	if base.root != "" {
		return base.root
	}
	os.RemoveAll(base.dir) // of an earlier attempt that failed
	dir, err := os.MkdirTemp("", "cardfs-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	base.dir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // it is the root of other users, too
		t.Fatal(err)
	}
	debian.Unpack(t, dir)
	const version = "0.1+doctor"
	debian.Packages(t, dir, version)
	debian.Within(t, dir, "set -- "+version+"\nset -eu\n"+strings.ReplaceAll(furnish, "$0", "$1"))
	base.root = dir
	return dir
}
