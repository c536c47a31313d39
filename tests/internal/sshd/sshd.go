// Package sshd runs Debian's OpenSSH server for a test, with keys and a configuration of its
// own. The server is unpacked, not installed: an installed one would be started, and listen to
// the network.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/internal/ports"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// Server is a running server at a port of the loopback address. It lets the user of the test
// in by one key.
type Server struct {
	User       string
	Port       int
	Identity   string // the file with the private key
	KnownHosts string // the file with the server's key

	Log     proc.Log
	process *proc.Process
	program string
	env     []string // of the program
	dir     string
}

// unpack returns Debian's sshd with what it needs where it is not installed: its library, and
// a user sshd. Dir gets the files.
func unpack(ctx context.Context, dir string) (program string, env []string, err error) {
	root, err := foreign.Fetch(ctx, "openssh-server", "libwrap0", "libnss-wrapper")
	if err != nil {
		return "", nil, err
	}
	libs, err := filepath.Glob(filepath.Join(root, "usr/lib/*/libnss_wrapper.so"))
	if err != nil || len(libs) != 1 {
		return "", nil, fmt.Errorf("libnss_wrapper.so: %q, %v", libs, err)
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", nil, err
	}
	passwd = append(passwd, "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"...)
	if err := write(filepath.Join(dir, "passwd"), string(passwd)); err != nil {
		return "", nil, err
	}
	// "Missing privilege separation directory": Debian's service makes it.
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return "", nil, err
		}
	}
	return filepath.Join(root, "usr/sbin/sshd"), []string{
		"LD_LIBRARY_PATH=" + filepath.Dir(libs[0]), "LD_PRELOAD=" + libs[0],
		"NSS_WRAPPER_PASSWD=" + filepath.Join(dir, "passwd"), "NSS_WRAPPER_GROUP=/etc/group",
	}, nil
}

// New is Start for a test, with which the server ends.
func New(t testing.TB, config ...string) *Server {
	t.Helper()
	s, err := Start(t.Context(), t.TempDir(), config...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.process != nil {
			s.Kill()
		}
		if t.Failed() {
			t.Logf("sshd said:\n%s", s.Log.Tail(5_000))
		}
	})
	return s
}

// Start makes keys in dir and starts a server. Config are lines of its sshd_config, which
// overrule its own.
func Start(ctx context.Context, dir string, config ...string) (*Server, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s := &Server{User: me.Username, dir: dir}
	s.Identity, s.KnownHosts = s.File("id"), s.File("known_hosts")
	if err := errors.Join(s.makeKey("id"), s.makeKey("host")); err != nil {
		return nil, err
	}
	if s.program, s.env, err = unpack(ctx, dir); err != nil {
		return nil, err
	}
	for {
		if s.Port, err = ports.Free(1); err != nil {
			return nil, err
		}
		if err := s.configure(config); err != nil {
			return nil, err
		}
		err := s.start()
		if err == nil {
			return s, s.trust(s.Port)
		}
		// Another program took the port meanwhile.
		if !errors.Is(err, proc.ErrEnded) || !strings.Contains(s.Log.String(), "Address already in use") {
			return nil, err
		}
	}
}

func (s *Server) configure(config []string) error {
	// sshd_config(5): "for each keyword, the first obtained value will be used".
	return write(s.File("sshd_config"), strings.Join(append(slices.Clone(config),
		fmt.Sprintf("Port %d", s.Port), "ListenAddress 127.0.0.1",
		"HostKey "+s.File("host"), "AuthorizedKeysFile "+s.File("id.pub"),
		"StrictModes no", "UsePAM no", "PidFile none", "PermitRootLogin yes",
		"Subsystem sftp /usr/lib/openssh/sftp-server", "LogLevel VERBOSE"), "\n")+"\n")
}

func (s *Server) start() (err error) {
	cmd := exec.Command(s.program, "-D", "-e", "-f", s.File("sshd_config"))
	cmd.Env = append(os.Environ(), s.env...)
	if s.process, err = proc.Start(cmd, &s.Log); err != nil {
		return err
	}
	return s.process.Await(context.Background(), "Server listening on")
}

// Kill ends the server. Connections that it has go on.
func (s *Server) Kill() {
	s.process.Kill()
	s.process = nil
}

// Trust adds the server's key to KnownHosts for another port of this machine.
func (s *Server) Trust(t testing.TB, port int) {
	t.Helper()
	if err := s.trust(port); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) trust(port int) error {
	public, err := os.ReadFile(s.File("host.pub"))
	if err != nil {
		return err
	}
	known, _ := os.ReadFile(s.KnownHosts)
	return write(s.KnownHosts, fmt.Sprintf("%s[127.0.0.1]:%d %s", known, port, public))
}

// Key makes a key in the file that File(name) names.
func (s *Server) Key(t testing.TB, name string) {
	t.Helper()
	if err := s.makeKey(name); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) makeKey(name string) error {
	cmd := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", s.File(name))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	return nil
}

// URL is that of a directory, through a port of the server's or of a Line.
func (s *Server) URL(port int, dir string) string {
	return fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", s.User, port, dir)
}

// File is the path of a file of the server's directory, where Key puts keys.
func (s *Server) File(name string) string { return filepath.Join(s.dir, name) }

func write(name, text string) error { return os.WriteFile(name, []byte(text), 0o600) }

// Disconnected waits until as many connections were closed as were made.
func (s *Server) Disconnected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proc.Patience)
	defer cancel()
	for from := 0; ; from = s.Log.Len() {
		said := s.Log.String()
		// sshd.c: "Connection from …"; packet.c: "Connection closed by …", "Connection reset
		// by …"; the monitor says it of a connection whose client disconnects in order.
		ended := strings.Count(said, "Connection closed by") + strings.Count(said, "Connection reset by") + strings.Count(said, "Disconnected from")
		if made := strings.Count(said, "Connection from"); made <= ended {
			return nil
		}
		if err := s.Log.Wait(ctx, "\n", max(from, len(said))); err != nil {
			return fmt.Errorf("connections that do not end: %w\n%s", err, said)
		}
	}
}
