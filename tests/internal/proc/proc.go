// Package proc runs servers in the background for tests and benchmarks, and measures what a
// process uses.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Patience bounds the wait for things that should take no time. The machine may be busy.
const Patience = time.Minute

// Process is a program that runs in the background.
type Process struct {
	Cmd *exec.Cmd
	Log *Log

	from  int // where this process's part of the log begins
	ended chan struct{}
	err   error // of Cmd.Wait; set before ended is closed
}

// ErrEnded means that no more output will come: the process has ended.
var ErrEnded = errors.New("the process ended")

// ErrHangs means that a process had to be killed.
var ErrHangs = errors.New("the process does not end")

// Start starts cmd. Its output is appended to log, which may hold text of an earlier
// process. A SIGINT for the test does not reach it; it dies with the test.
func Start(cmd *exec.Cmd, log *Log) (*Process, error) {
	p := &Process{Cmd: cmd, Log: log, from: log.Len(), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	// A child that outlives cmd may hold its output open.
	cmd.WaitDelay = 5 * time.Second
	ended, err := Tied(cmd)
	if err != nil {
		return nil, err
	}
	go func() {
		p.err = <-ended
		close(p.ended)
	}()
	return p, nil
}

// Tied starts cmd, which is killed when this process ends, and returns how it ended.
//
// The signal comes when the thread ends that has started it (prctl(2), PR_SET_PDEATHSIG), and
// a thread of Go ends with a goroutine that locked it. So it has a thread of its own.
func Tied(cmd *exec.Cmd) (ended <-chan error, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, done := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	return done, <-started
}

func (p *Process) name() string { return filepath.Base(p.Cmd.Path) }

// Pid returns the number of the process.
func (p *Process) Pid() int { return p.Cmd.Process.Pid }

// Ended is closed when the process has ended and its log is complete.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Alive reports whether the process still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Await waits until the process has printed text, but not longer than Patience. The error
// contains the log.
func (p *Process) Await(ctx context.Context, text string) error {
	return p.AwaitFrom(ctx, text, p.from)
}

// AwaitFrom is Await for a text after the first from bytes of the log.
func (p *Process) AwaitFrom(ctx context.Context, text string, from int) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-p.ended:
			stop(ErrEnded)
		case <-ctx.Done():
		}
	}()
	err := p.Log.Wait(ctx, text, from)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name(), err, p.Log)
	}
	return nil
}

// Wait waits for the end of the process, but not longer than Patience, and returns how it
// ended. A process that does not end is killed.
func (p *Process) Wait() error {
	late := time.NewTimer(Patience)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		_ = p.Cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s: %w within %v\n%s", p.name(), ErrHangs, Patience, p.Log)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name(), p.err, p.Log)
	}
	return nil
}

// Stop ends the process by SIGTERM. An exit status other than 0 is an error.
func (p *Process) Stop() error {
	_ = p.Cmd.Process.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Kill ends the process by SIGKILL.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.ended
}
