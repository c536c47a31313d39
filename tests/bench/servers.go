package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/tests/internal/proc"
)

// start runs a server and waits until it has printed ready; it does not wait if ready is "".
func start(ctx context.Context, ready string, name string, args ...string) (*proc.Process, error) {
	p, err := proc.Start(exec.Command(name, args...), new(proc.Log))
	if err != nil || ready == "" {
		return p, err
	}
	if err := p.Await(ctx, ready); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// stop ends a server. For a client of a card any exit status after SIGTERM is fine.
func stop(p *proc.Process) error {
	if err := p.Stop(); errors.Is(err, proc.ErrHangs) {
		return err
	}
	return nil
}

// onCPU is the time that all threads of a process have run, in ns.
func onCPU(pid int) (float64, error) {
	d, err := proc.OnCPU(pid)
	return float64(d), err
}

// resident is the memory of a process in KiB.
func resident(p *proc.Process) (float64, error) { return residentOf(p.Pid()) }

func residentOf(pid int) (float64, error) {
	n, err := proc.RSS(pid)
	return float64(n), err
}

// samples runs a client and reads the numbers that it prints.
func samples(cmd *exec.Cmd) ([]float64, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	var v []float64
	for f := range strings.FieldsSeq(string(out)) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cmd.Args[0], err)
		}
		v = append(v, n)
	}
	if len(v) == 0 {
		return nil, fmt.Errorf("%s: no samples", strings.Join(cmd.Args, " "))
	}
	return v, nil
}

// machine describes what the numbers were measured on.
func machine(o options) string {
	field := func(file, key string) string {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
		return "?"
	}
	say := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return name + "?"
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSuffix(strings.TrimSpace(line), ".")
	}
	cpus := strings.Count(string(must(os.ReadFile("/proc/cpuinfo"))), "processor\t")
	return fmt.Sprintf("%s, %d cores, %s memory; Linux %s; %s; %s; many = %d; %d rounds, %s",
		field("/proc/cpuinfo", "model name"), cpus, field("/proc/meminfo", "MemTotal"),
		say("uname", "-r"), say("go", "version"), say("pcscd", "--version"),
		o.readers, o.rounds, time.Now().Format("2006-01-02"))
}

func must[T any](v T, _ error) T { return v }
