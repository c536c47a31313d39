package debian

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// join moves the shell into control groups of its own, called "$0", below those in which it is;
// "$1" is an empty directory, "$@" behind it a command that goes on. Machines in one control group
// would remove each other's: "Failed to set up control groups" (systemd.exec(5), exit status 219).
// Where none can be made the machine has those of this process, and two at once may fail so.
const join = `
mount --make-rprivate /
dir=$1
shift
own() {
	mount -t "$@" "$dir" || return 0
	! mkdir "$dir/$0" || echo $$ >"$dir/$0/cgroup.procs" || :
	umount "$dir"
}
own cgroup2 cgroup2
[ "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs ] || own cgroup -o none,name=systemd,xattr cgroup
exec "$@"
`

// enter makes a machine of the root "$0": what is written to it is kept in "$1" and lost with
// it. "$2" is the set-up of Options, run where the new root is the working directory. The rest
// is for systemd.
const enter = `
mount --make-rprivate /
mount -t tmpfs machine "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o lowerdir="$0",upperdir="$1/upper",workdir="$1/work" machine "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
case $(stat --file-system --format=%T /sys/fs/cgroup) in
cgroup2fs) mount -t cgroup2 cgroup2 sys/fs/cgroup ;;
*)
	mount -t tmpfs cgroup sys/fs/cgroup
	mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
	mount -t cgroup2 cgroup2 sys/fs/cgroup/unified || rmdir sys/fs/cgroup/unified
	mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
	;;
esac
mount -t tmpfs dev dev
mount -t tmpfs run run
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mknod --mode=666 dev/fuse c 10 229
ln -s /proc/self/fd dev/fd
touch dev/console
eval "$2"
shift 2
mkdir old
pivot_root . old
umount --lazy old
rmdir old
exec env --ignore-environment container=test /lib/systemd/systemd --log-target=null --show-status=0 "$@"
`

// environment is that of programs in a System.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root",
	"LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "TERM=dumb"}

// Options of Boot.
type Options struct {
	Setup  string // commands that change the machine before systemd starts
	Target string // the unit that systemd starts; "": the usual one
}

// System is a Debian in which systemd runs as process 1, in namespaces of its own. Services,
// users, mounts and the network are as on a machine; the kernel is the host's.
type System struct {
	machine *proc.Process
	init    string // the id of its process 1, here
}

// Boot starts a System whose files are those of root at first, and waits until it is up. It
// ends with the test. Nothing is written to root.
func Boot(t testing.TB, root string, o Options) *System {
	t.Helper()
	var log proc.Log
	dir := t.TempDir()
	group := "cardfs-machine-" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-")
	args := []string{"--mount", "sh", "-euc", join, group, dir,
		"unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--fork", "--kill-child", "sh", "-euc", enter, root, dir, o.Setup}
	if o.Target != "" {
		args = append(args, "--unit="+o.Target)
	}
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), environment[0])
	machine, err := proc.Start(cmd, &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		machine.Kill()
		removeGroups(group)
	})
	s := &System{machine: machine}
	// Only in the end process 1 is systemd, and there is nothing to wait at.
	for until := time.Now().Add(proc.Patience); ; time.Sleep(10 * time.Millisecond) {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", machine.Pid()))
		s.init = strings.TrimSpace(string(children))
		if name, _ := os.ReadFile("/proc/" + s.init + "/comm"); s.init != "" && string(name) == "systemd\n" {
			break
		}
		if time.Now().After(until) || !machine.Alive() {
			t.Fatalf("systemd does not start: %s", log.String())
		}
	}
	out, _ := s.Run("until [ -S /run/systemd/private ]; do sleep 0.05; done; systemctl is-system-running --wait")
	if state := strings.TrimSpace(out); state != "running" && state != "degraded" {
		t.Fatalf("systemd is not up, but %q", state)
	}
	return s
}

// removeGroups removes the control groups of a machine that has ended, as far as they are mounted
// here.
func removeGroups(name string) {
	places, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, place := range append(places, "/sys/fs/cgroup/"+name) {
		// Its processes are being killed, and until they have gone it is busy.
		for end := time.Now().Add(proc.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			var all []string
			_ = filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, path := range slices.Backward(all) {
				_ = os.Remove(path)
			}
			if _, err := os.Lstat(place); err != nil {
				break
			}
		}
	}
}

// Kill ends the System and all that runs in it.
func (s *System) Kill() { s.machine.Kill() }

// Command is a program that runs in it as root, in /root.
func (s *System) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", s.init, "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup",
		"--root", "--wdns=/root", name}, args...)...)
	cmd.Dir = cc.Root()
	cmd.Env = environment
	return cmd
}

// Run runs a script in it, as root in /root, and returns what it says.
func (s *System) Run(script string) (string, error) {
	cmd := s.Command("/bin/bash", "-uc", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	timer := time.AfterFunc(5*time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	cmd.WaitDelay = time.Second // what goes on in the background may hold the pipe
	out, err := cmd.CombinedOutput()
	return string(out), err
}
