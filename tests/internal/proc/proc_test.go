package proc

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func sh(t *testing.T, log *Log, script string) *Process {
	t.Helper()
	p, err := Start(exec.Command("sh", "-c", script), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestProcess(t *testing.T) {
	var log Log
	p := sh(t, &log, `trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	if err := p.Await(t.Context(), "ready"); err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Error("a process that runs is not alive")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if p.Alive() || log.String() != "ready\nbye\n" {
		t.Errorf("after its end: alive %v, log %q", p.Alive(), &log)
	}

	// A text at the very end is found, too.
	for range 20 {
		if err := sh(t, new(Log), "echo last words").Await(t.Context(), "last words"); err != nil {
			t.Error(err)
		}
	}

	// Output of an earlier process does not count for the next.
	p = sh(t, &log, "echo bad luck; exit 3")
	if err := p.Await(t.Context(), "ready"); err == nil || !strings.Contains(err.Error(), "bad luck") {
		t.Errorf("the end of a process that was never ready: %v", err)
	}
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("exit 3: %v", err)
	}
}

func TestLogWait(t *testing.T) {
	var log Log
	found := make(chan error)
	go func() { found <- log.Wait(t.Context(), "two words", 0) }()
	for _, part := range []string{"one ", "two wo", "rds"} {
		log.Write([]byte(part))
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Wait(ctx, "one", 1); err == nil {
		t.Error("text before the place to look from was found")
	}
	if got := log.Tail(5); got != "words" {
		t.Errorf("the last 5 bytes: %q", got)
	}
}

func TestUsage(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	after, err := UsageOf(os.Getpid())
	if err != nil || after.Kinds["pipe"] != before.Kinds["pipe"]+2 || after.Threads == 0 || after.RSS == 0 {
		t.Errorf("with a pipe more: %v, then %v, %v", before, after, err)
	}
	if rss, err := RSS(os.Getpid()); err != nil || rss == 0 {
		t.Errorf("RSS: %d, %v", rss, err)
	}
	begin, err := OnCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for now := begin; now < begin+time.Millisecond; {
		if now, err = OnCPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := UsageOf(-1); err == nil {
		t.Error("the usage of no process")
	}
	if _, err := OnCPU(-1); err == nil {
		t.Error("the time of no process")
	}
}

func TestCalls(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p, err := Start(cmd, new(Log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if got := Threads(p.Pid()); !strings.Contains(got, " cat: system call ") {
		t.Errorf("the threads of cat: %s", got)
	}
	deadline := time.Now().Add(Patience)
	for InCall(p.Pid(), syscall.SYS_READ) != 1 {
		if time.Now().After(deadline) {
			t.Fatalf("cat reads: threads by system call: %v", Calls(p.Pid()))
		}
	}
}
