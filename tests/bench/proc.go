package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// proc is a server that runs in the background.
type proc struct {
	cmd  *exec.Cmd
	name string

	mu    sync.Mutex
	log   bytes.Buffer
	ended chan struct{}
	err   error
}

// start runs a server and waits until its output has a line that contains
// ready; at once where ready is "".
func start(ctx context.Context, ready string, name string, args ...string) (*proc, error) {
	p := &proc{cmd: exec.Command(name, args...), name: filepath.Base(name), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	isReady := make(chan struct{})
	go func() {
		defer close(p.ended)
		in, said := bufio.NewScanner(r), ready == ""
		if said {
			close(isReady)
		}
		for in.Scan() {
			p.mu.Lock()
			fmt.Fprintln(&p.log, in.Text())
			p.mu.Unlock()
			if !said && strings.Contains(in.Text(), ready) {
				said = true
				close(isReady)
			}
		}
		_ = r.Close()
		p.err = p.cmd.Wait()
	}()
	select {
	case <-isReady:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s: %v\n%s", name, p.err, p.output())
	case <-ctx.Done():
		_ = p.stop()
		return nil, ctx.Err()
	case <-time.After(time.Minute):
		_ = p.stop()
		return nil, fmt.Errorf("%s never said %q\n%s", name, ready, p.output())
	}
}

func (p *proc) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// stop ends the server with SIGTERM.
func (p *proc) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end with SIGTERM\n%s", p.name, p.output())
	}
	return nil
}

// resident is VmRSS in KiB.
func (p *proc) resident() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("no VmRSS in the status of %s", p.name)
}

// onCPU is the time that all threads of a process have run, in ns.
func onCPU(pid int) (float64, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("no schedstat of process %d", pid)
	}
	var sum float64
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return 0, err
		}
		sum += ns
	}
	return sum, nil
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
