package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process holds open and uses.
type Usage struct {
	Descriptors int
	Kinds       map[string]int // descriptors by the kind of the open file
	Threads     int
	RSS         int // KiB
}

func (u Usage) String() string {
	return fmt.Sprintf("%d descriptors %v, %d threads, %d KiB", u.Descriptors, u.Kinds, u.Threads, u.RSS)
}

// UsageOf measures a process.
func UsageOf(pid int) (Usage, error) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Descriptors: len(fds), Kinds: make(map[string]int)}
	for _, fd := range fds {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		kind, _, _ := strings.Cut(target, ":")
		u.Kinds[kind]++
	}
	if u.Threads, err = number(pid, "Threads"); err != nil {
		return Usage{}, err
	}
	u.RSS, err = number(pid, "VmRSS")
	return u, err
}

// RSS returns the resident memory of a process, in KiB.
func RSS(pid int) (int, error) { return number(pid, "VmRSS") }

// number returns a number of /proc/PID/status.
func number(pid int, key string) (int, error) {
	name := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key+":" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s has no %s", name, key)
}

// OnCPU returns how long all threads of a process have run.
func OnCPU(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("no schedstat of process %d", pid)
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", t, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// Calls counts the threads of a process by the number of the system call they are in. A
// running thread counts as "running".
func Calls(pid int) map[string]int {
	count := make(map[string]int)
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		word, _, _ := strings.Cut(string(text), " ")
		count[strings.TrimSpace(word)]++
	}
	return count
}

// InCall counts the threads of a process that are in a system call.
func InCall(pid int, nr uintptr) int { return Calls(pid)[fmt.Sprint(nr)] }

// Threads describes each thread of a process: its name, the system call and its arguments,
// and, for root, the kernel's stack.
func Threads(pid int) string {
	var b strings.Builder
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, t := range tasks {
		read := func(name string) string {
			text, _ := os.ReadFile(filepath.Join(t, name))
			return strings.TrimSpace(string(text))
		}
		fmt.Fprintf(&b, "%s %s: system call %s\n", filepath.Base(t), read("comm"), read("syscall"))
		for line := range strings.Lines(read("stack")) {
			fmt.Fprintf(&b, "\t%s\n", strings.TrimSpace(line))
		}
	}
	return b.String()
}
