package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// backgroundEnv is set in the environment of the child that `mount --background` starts.
const backgroundEnv = "CARDFS_BACKGROUND"

// readyFD is the child's end of the pipe on which its parent waits.
const readyFD = 3

// inBackground runs `cardfs ARGS` in a session of its own and waits until it serves.
// The child's messages until then go to stderr, and its exit code is the command's.
//
// A Go program cannot fork, for its runtime has threads already. So it starts itself anew.
func inBackground(ctx context.Context, args []string, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	defer ready.Close()
	child := exec.Command(self, args...)
	child.Args[0] = "cardfs" // this program may be mount(8)'s helper
	child.Env = append(os.Environ(), backgroundEnv+"=1")
	child.ExtraFiles = []*os.File{theirs} // readyFD
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Stdin and stdout are /dev/null. Stderr is a pipe to this process, so that a reader of
	// this process's output, such as $(…), does not wait for the daemon's end.
	said, theirStderr, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return fmt.Errorf("background: %w", err)
	}
	defer said.Close()
	child.Stderr = theirStderr
	// The daemon inherits none of the caller's descriptors: they may be pipes, whose readers
	// would wait for the daemon's end.
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	err = child.Start()
	theirs.Close()
	theirStderr.Close()
	if err != nil {
		return fmt.Errorf("background: %w", err)
	}
	serves := make(chan bool, 1)
	go func() {
		_, _ = io.Copy(stderr, said) // until the child has left it, or has ended
		word, _ := io.ReadAll(ready)
		serves <- len(word) > 0
	}()
	for {
		select {
		case ok := <-serves:
			if ok {
				return nil
			}
			err := child.Wait()
			var ended *exec.ExitError
			if errors.As(err, &ended) && ended.ExitCode() >= 0 {
				return exit.Status{Code: ended.ExitCode()} // it has said why
			}
			return fmt.Errorf("the mount ended before it served: %v", child.ProcessState)
		case <-signals: // the terminal's do not reach the child's session
			_ = child.Process.Signal(syscall.SIGTERM)
		case <-ctx.Done():
			_ = child.Process.Signal(syscall.SIGTERM)
			ctx = context.Background()
		}
	}
}

// isBackground reports whether this process is the child of `mount --background`.
func isBackground() bool { return os.Getenv(backgroundEnv) != "" }

// detach tells the parent that the mount serves, and lets go of the caller's directory,
// terminal and pipes. Stdout and stderr become output, where the runtime reports a crash; a
// nil output is /dev/null.
func detach(output *os.File) error {
	ready := os.NewFile(readyFD, "the parent's pipe")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if output == nil {
		output = null
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for fd, f := range []*os.File{null, output, output} {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return err
		}
	}
	_, err = ready.WriteString("serves\n")
	return errors.Join(err, ready.Close())
}
