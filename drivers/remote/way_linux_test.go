package remote

import (
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// way is an sshfs with an SFTP server, and no ssh in between. Its requests are counted.
type way struct {
	t        testing.TB
	from, at string
	requests string // a file with the type of each request, a byte each
	sshfs    *exec.Cmd
}

// SFTP's types of packets (draft-ietf-secsh-filexfer-02 §3).
const (
	sftpOpen  = 3
	sftpRead  = 5
	sftpWrite = 6
)

func newWay(t testing.TB, from string) *way {
	t.Helper()
	if _, err := exec.LookPath("sshfs"); err != nil {
		t.Fatalf("%v: apt-get install sshfs", err)
	}
	w := &way{t: t, from: from, at: filepath.Join(t.TempDir(), "mnt"), requests: filepath.Join(t.TempDir(), "requests")}
	if err := os.Mkdir(w.at, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cut)
	w.restore()
	return w
}

// restore mounts.
func (w *way) restore() {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	w.sshfs = exec.Command("sshfs", "-f", "-o", "direct_io,sshfs_sync,dir_cache=no,max_conns=10,ssh_command="+exe, "there:"+w.from, w.at)
	w.sshfs.Env = append(os.Environ(), "CARDFS_TEST_SFTP="+w.requests)
	w.sshfs.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w.sshfs.Stderr = os.Stderr
	if err := w.sshfs.Start(); err != nil {
		w.t.Fatal(err)
	}
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	defer table.Close()
	for end := time.Now().Add(patience); ; {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(string(text), " "+w.at+" ") {
			return
		}
		if time.Now().After(end) {
			w.t.Fatal("sshfs does not mount")
		}
		// The table wakes whoever polls it when a mount comes or goes (proc(5)), though
		// Linux 6.18 may do so before the mount is in it.
		fds := []unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}}
		_, _ = unix.Poll(fds, 100)
	}
}

// cut ends sshfs and its servers at once, as a line that breaks.
func (w *way) cut() {
	if w.sshfs == nil {
		return
	}
	_ = syscall.Kill(-w.sshfs.Process.Pid, syscall.SIGKILL)
	_ = w.sshfs.Wait()
	w.sshfs = nil
	_ = unix.Unmount(w.at, unix.MNT_DETACH)
}

// count returns how often a request of that type was made.
func (w *way) count(kind byte) int {
	text, err := os.ReadFile(w.requests)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, b := range text {
		if b == kind {
			n++
		}
	}
	return n
}

func (w *way) total() int {
	st, err := os.Stat(w.requests)
	if err != nil {
		w.t.Fatal(err)
	}
	return int(st.Size())
}

// serveSFTP is this program as sshfs's ssh: an SFTP server whose requests are noted in a file.
func serveSFTP(requests string) int {
	i := slices.IndexFunc([]string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"}, func(p string) bool {
		_, err := os.Stat(p)
		return err == nil
	})
	if i < 0 {
		os.Stderr.WriteString("no sftp-server: apt-get install openssh-sftp-server\n")
		return 1
	}
	cmd := exec.Command([]string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"}[i])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return 1
	}
	note, err := os.OpenFile(requests, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 1
	}
	for {
		var head [5]byte // length, type
		if _, err := io.ReadFull(os.Stdin, head[:]); err != nil {
			break
		}
		_, _ = note.Write(head[4:])
		if _, err := in.Write(head[:]); err != nil {
			break
		}
		if _, err := io.CopyN(in, os.Stdin, int64(binary.BigEndian.Uint32(head[:])-1)); err != nil {
			break
		}
	}
	_ = in.Close()
	_ = cmd.Wait()
	return 0
}
