package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/tests/internal/farm"
	"github.com/cardfs/cardfs/tests/internal/sshd"
	"github.com/cardfs/cardfs/tests/sftp"
)

// The subjects of readers of other machines.
const (
	remoteText     = "write+read, remote over sshfs and ssh"
	remoteIoctl    = "ioctl, remote over sshfs and ssh"
	remoteSSHFS    = "write+read, sshfs over ssh"
	remoteSend     = "ssh HOST cardfs send"
	remoteRequests = "requests an exchange, remote"
	remoteEvents   = "card in there to event here"
	remoteMemory   = "memory a remote reader"
	remoteOne      = "write+read, one remote reader"
	remoteMany     = "write+read, many remote readers"
)

// remote adds the readers of other machines: of one behind a real sshd at the loopback
// interface, and a farm's, which are reached without SSH.
func (e *env) remote(ctx context.Context) error {
	if err := e.remoteSSH(ctx); err != nil {
		return err
	}
	return e.remoteFarm(ctx)
}

func (e *env) remoteSSH(ctx context.Context) error {
	for _, dir := range []string{"sshd", "ssh-near"} {
		if err := os.Mkdir(e.path(dir), 0o755); err != nil {
			return err
		}
	}
	// A shell that ssh starts reads the user's own files first, which is none of cardfs's time.
	s, err := sshd.Start(ctx, e.path("sshd"), "SetEnv HOME="+e.path("sshd"))
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() error { s.Kill(); return nil })
	e.logs = append(e.logs, s.Log.String)
	if _, err := e.mount(ctx, "ssh-far", "--sim", "apdu", "--sim", "apdu", "--sim", "apdu"); err != nil {
		return err
	}
	options := []string{"IdentityFile=" + s.Identity, "IdentitiesOnly=yes", "UserKnownHostsFile=" + s.KnownHosts, "BatchMode=yes"}
	mounted, err := sftp.Mount(ctx, s.User+"@127.0.0.1:"+e.path("ssh-far"), e.path("ssh-near"), append(options, fmt.Sprintf("port=%d", s.Port))...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.Log.Tail(2000))
	}
	e.closers = append(e.closers, mounted.Close)
	if _, err := e.mount(ctx, "ssh-here", "--usb=off", "--attach", "remote "+e.path("ssh-near")+" host=there"); err != nil {
		return err
	}
	here, err := only(e.path("ssh-here/by-id/remote-there:*-1-slot0"))
	if err != nil {
		return err
	}
	e.add(remoteText, nanoseconds, e.filebench("text", 100, filepath.Join(here, "apdu")))
	e.add(remoteIoctl, nanoseconds, e.filebench("ioctl", 100, filepath.Join(here, "apdu")))
	e.add(remoteSSHFS, nanoseconds, e.filebench("text", 100, e.path("ssh-near/1/apdu")))

	ssh := []string{"-F", "none", "-p", strconv.Itoa(s.Port), "-o", "ControlPath=" + e.path("ssh-control")}
	for _, o := range options {
		ssh = append(ssh, "-o", o)
	}
	host := s.User + "@127.0.0.1"
	if out, err := exec.CommandContext(ctx, "ssh", append(append([]string{"-M", "-N", "-f"}, ssh...), host)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ssh -M: %w\n%s", err, out)
	}
	e.closers = append(e.closers, func() error {
		return exec.Command("ssh", append(append([]string{"-O", "exit"}, ssh...), host)...).Run()
	})
	send := append(append([]string{}, ssh...), host, e.cardfs, "send", "--mount", e.path("ssh-far"), "2", apdu)
	e.add(remoteSend, nanoseconds, func(ctx context.Context) (each []float64, err error) {
		for range 5 {
			began := time.Now()
			out, err := exec.CommandContext(ctx, "ssh", send...).CombinedOutput()
			if err != nil || string(out) != "90 00\n" {
				return nil, fmt.Errorf("ssh HOST cardfs send: %q, %w", out, err)
			}
			each = append(each, float64(time.Since(began)))
		}
		return each, nil
	})
	return nil
}

// only waits until one file fits the pattern.
func only(pattern string) (string, error) {
	for deadline := time.Now().Add(farm.Patience); ; time.Sleep(20 * time.Millisecond) {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 1 {
			return strings.Join(names, ""), err
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("%s: %d files", pattern, len(names))
		}
	}
}

// remoteMachines is how many machines have the many remote readers.
const remoteMachines = 10

func (e *env) remoteFarm(ctx context.Context) error {
	start := func(name string, machines, readers int) (*farm.Farm, error) {
		if err := os.Mkdir(e.path(name), 0o755); err != nil {
			return nil, err
		}
		f, err := farm.Start(ctx, farm.Options{Cardfs: e.cardfs, Dir: e.path(name), Machines: machines, Readers: readers})
		e.closers = append(e.closers, f.Close)
		if err != nil {
			return nil, err
		}
		for _, m := range f.Machines { // every card is powered once
			for _, n := range m.Slots {
				if _, err := os.ReadFile(filepath.Join(f.Dir, strconv.Itoa(n), "atr")); err != nil {
					return nil, err
				}
			}
		}
		return f, nil
	}
	one, err := start("farm-one", 1, 1)
	if err != nil {
		return err
	}
	many, err := start("farm-many", remoteMachines, max(1, e.readers/remoteMachines))
	if err != nil {
		return err
	}
	file := func(f *farm.Farm) string {
		return filepath.Join(f.Dir, strconv.Itoa(f.Machines[0].Slots[0]), "apdu")
	}
	e.add(remoteOne, nanoseconds, e.filebench("text", 100, file(one)))
	e.add(remoteMany, nanoseconds, e.filebench("text", 100, file(many)))

	line := one.Machines[0].Line
	e.once = append(e.once, subject{remoteRequests, plain, func(ctx context.Context) ([]float64, error) {
		n, err := line.PerCall(11, 121, func(n int) error { // filebench makes a tenth of them before its samples
			_, err := e.filebench("text", n*10/11, file(one))(ctx)
			return err
		})
		return []float64{n}, err
	}}, subject{remoteEvents, plain, func(ctx context.Context) ([]float64, error) {
		_, in, err := one.EventTimes(ctx, one.Machines[0], 20)
		for i := range in {
			in[i] /= float64(time.Millisecond)
		}
		return in, err
	}})

	readers := float64(remoteMachines * max(1, e.readers/remoteMachines))
	perReader := func() (float64, error) {
		a, err := many.Memory()
		if err != nil {
			return 0, err
		}
		b, err := one.Memory()
		return float64(a-b) / (readers - 1), err
	}
	fresh, err := perReader()
	if err != nil {
		return err
	}
	e.once = append(e.once, subject{remoteMemory, kibibytes, func(context.Context) ([]float64, error) {
		used, err := perReader()
		return []float64{max(fresh, used)}, err
	}})
	return nil
}
