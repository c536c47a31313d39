package debian

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
)

// System is a root in which systemd runs as process 1, in namespaces of its own. Services,
// users and mounts are as on a machine; devices and the kernel are the host's.
type System struct {
	root string
	init int // the host's id of its process 1
}

// Boot starts systemd in the root and waits until it is up. The system ends with the test.
func Boot(t testing.TB, root string) *System {
	t.Helper()
	const enter = `mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs dev dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for n in null zero full random urandom fuse tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mount -t tmpfs run run
exec env -i container=cardfs PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --log-target=journal`
	cmd := exec.Command("unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--fork", "--kill-child", "sh", "-euc", enter, root)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() // and by --kill-child its process 1, and all of them
		cmd.Wait()
	})
	s := &System{root: root}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if s.init == 0 {
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
			fmt.Sscan(string(children), &s.init)
		}
		// systemd is not running yet, or not yet listening, and there is no event to wait for.
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.init)); string(comm) == "systemd\n" {
			state, _ := s.command("systemctl is-system-running --wait").CombinedOutput()
			if state := strings.TrimSpace(string(state)); state == "running" || state == "degraded" {
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("systemd is not up after two minutes: %s", out.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *System) command(script string) *exec.Cmd {
	cmd := exec.Command("nsenter", "--target", fmt.Sprint(s.init), "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup",
		"--root", "--wd",
		"/bin/bash", "-uc", "cd /root\n"+script)
	cmd.Dir = cc.Root()
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root",
		"LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "TERM=dumb"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Run runs a script in the system, as root in /root, and returns its output.
func (s *System) Run(script string) (string, error) {
	cmd := s.command(script)
	timer := time.AfterFunc(5*time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	cmd.WaitDelay = time.Second // background processes may hold the pipe
	out, err := cmd.CombinedOutput()
	return string(out), err
}
