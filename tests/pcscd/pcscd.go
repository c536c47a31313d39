// Package pcscd runs Debian's pcscd for tests and benchmarks: any number of
// them at once, next to the system's own, each with its own reader.conf.
//
// The path of pcscd's socket is compiled in, but a pcscd that is started by
// socket activation (sd_listen_fds(3)) takes the socket it is given, looks at no
// other and needs no privileges. The clients' library takes the path from
// PCSCLITE_CSOCK_NAME. The socket belongs to the test, not to the pcscd, so a
// client can connect before pcscd runs, and while it is restarted.
package pcscd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/tests/internal/proc"
)

// ready is what pcscd logs, at level info, when it starts to serve.
const ready = "daemon ready"

// runDir is compiled into pcscd, which wants to be able to create it.
const runDir = "/run/pcscd"

// Server is one private pcscd.
type Server struct {
	socket   string
	conf     string
	env      []string
	args     []string
	first    string // what the shell does before it becomes pcscd
	listener *os.File

	log proc.Log // through all restarts
	run *proc.Process
}

// Option changes how a Server is started.
type Option func(*Server)

// Env adds "NAME=value" pairs to pcscd's environment.
func Env(pairs ...string) Option {
	return func(s *Server) { s.env = append(s.env, pairs...) }
}

// Debug makes pcscd log at debug level, all APDUs included, instead of info.
func Debug() Option {
	return func(s *Server) { s.args = append(s.args, "--debug", "--apdu") }
}

// Bind has pcscd alone see the file from where the file at is: one whose name is compiled
// into a driver, such as /dev/ttyS0. It needs root.
func Bind(from, at string) Option {
	return func(s *Server) { s.first += fmt.Sprintf("mount --bind '%s' '%s' || exit; ", from, at) }
}

// Start runs pcscd with the text of a reader.conf. dir, which must exist, gets
// the configuration and the socket. The server is ready when Start returns.
func Start(ctx context.Context, dir, readerConf string, opts ...Option) (*Server, error) {
	s := &Server{
		socket: filepath.Join(dir, "pcscd.comm"), conf: filepath.Join(dir, "reader.conf"),
		args: []string{"--foreground", "--info"},
	}
	for _, o := range opts {
		o(s)
	}
	if err := os.Mkdir(runDir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("pcscd wants the directory %s: make it as root: %w", runDir, err)
	}
	if err := os.WriteFile(s.conf, []byte(readerConf), 0o644); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("pcscd's socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	s.listener, err = ln.File()
	_ = ln.Close()
	if err != nil {
		return nil, err
	}
	if err := s.Restart(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Restart runs pcscd (again), on the same socket and configuration, after
// ending one that still runs. It returns when pcscd is ready.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	// LISTEN_PID must be pcscd's own, which only a shell can know beforehand.
	shell := []string{"/bin/sh", "-c", s.first + `export LISTEN_PID=$$ LISTEN_FDS=1; exec pcscd "$@"`, "pcscd", "--config", s.conf}
	if s.first != "" {
		shell = append([]string{"unshare", "--mount"}, shell...)
	}
	shell = append(shell, s.args...)
	cmd := exec.Command(shell[0], shell[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.ExtraFiles = []*os.File{s.listener} // descriptor 3, SD_LISTEN_FDS_START
	run, err := proc.Start(cmd, &s.log)
	if err != nil {
		return fmt.Errorf("pcscd: %w (apt-get install pcscd)", err)
	}
	s.run = run
	return run.Await(ctx, ready)
}

// WaitLog waits until pcscd has logged text. Earlier text counts.
func (s *Server) WaitLog(ctx context.Context, text string) error {
	if s.run == nil {
		return fmt.Errorf("pcscd does not run, and cannot say %q", text)
	}
	return s.run.AwaitFrom(ctx, text, 0)
}

// Log returns what pcscd has logged so far, through all restarts.
func (s *Server) Log() string { return s.log.String() }

// Pid returns the process id of the running pcscd, 0 if none runs.
func (s *Server) Pid() int {
	if s.run == nil {
		return 0
	}
	return s.run.Pid()
}

// Alive reports whether pcscd runs.
func (s *Server) Alive() bool { return s.run != nil && s.run.Alive() }

// Env returns the environment variable that makes a client find this server.
func (s *Server) Env() []string { return []string{"PCSCLITE_CSOCK_NAME=" + s.socket} }

// Command returns a command that runs as a client of this server.
func (s *Server) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), s.Env()...)
	return cmd
}

// Stop ends pcscd by SIGTERM: at once, without IFDHCloseChannel. It is an error if pcscd had
// already ended by itself.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM, nil) }

// Shutdown ends pcscd as SIGINT does: readers are closed first.
//
// A signal ends the select(2) of its main thread, which then gives its signal thread
// 1 ms to set the flag that it looks at. On a busy machine that is too short (1.9.9: one
// time in five), and it waits again with nothing to wake it. SIGUSR1 does, and means
// nothing else to a pcscd that is ending.
func (s *Server) Shutdown() error {
	from := s.log.Len()
	return s.end(syscall.SIGINT, func(run *proc.Process) {
		said := func(text string, within time.Duration) bool {
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			return run.AwaitFrom(ctx, text, from) == nil
		}
		if !said("Preparing for suicide", proc.Patience) {
			return
		}
		until := time.Now().Add(proc.Patience)
		for run.Alive() && time.Now().Before(until) && !said("entering cleaning function", 100*time.Millisecond) {
			_ = run.Cmd.Process.Signal(syscall.SIGUSR1)
		}
	})
}

// Kill ends pcscd with SIGKILL.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL, nil) }

// end sends a signal, calls more, and waits for the end.
func (s *Server) end(sig syscall.Signal, more func(*proc.Process)) error {
	run := s.run
	if run == nil {
		return nil
	}
	s.run = nil
	if !run.Alive() {
		return fmt.Errorf("pcscd ended by itself: %w", run.Wait())
	}
	_ = run.Cmd.Process.Signal(sig)
	if more != nil {
		more(run)
	}
	// pcscd may end with the signal as its status.
	if err := run.Wait(); errors.Is(err, proc.ErrHangs) {
		return err
	}
	return nil
}

// Close ends pcscd, if it still runs, and removes the socket.
func (s *Server) Close() error {
	err := s.Stop()
	_ = s.listener.Close()
	_ = os.Remove(s.socket)
	return err
}
