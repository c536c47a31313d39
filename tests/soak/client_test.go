package soak

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/proc"
)

// roleEnv makes this test binary a client.
const roleEnv = "CARDFS_SOAK_CLIENT"

// process is a client process.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *json.Decoder
}

// report is a client's report, at its end or earlier.
type report struct {
	Begun  int            // commands about to be given
	Done   int            // exchanges with the right answer
	Counts map[string]int // how opens and calls ended
	Wrong  []string       // violations
	Uses   map[int]*use   // what was done with each slot
}

// run starts this binary as a client.
func run(t testing.TB, role string, args ...any) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, a := range args {
		words = append(words, fmt.Sprint(a))
	}
	p := &process{t: t, cmd: exec.Command(self, words...)}
	// Go's runtime interrupts the calls of its own threads to preempt a goroutine. Here only
	// the tests may interrupt.
	p.cmd.Env = append(os.Environ(), roleEnv+"="+role, "GODEBUG=asyncpreemptoff=1")
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = json.NewDecoder(stdout)
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

// next waits for the next report.
func (p *process) next() (report, error) { return p.within(proc.Patience) }

// long waits longer, for a client that ends by itself and has much to do.
func (p *process) long() report {
	p.t.Helper()
	r, err := p.within(20 * proc.Patience)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, w := range r.Wrong {
		p.t.Error(w)
	}
	return r
}

func (p *process) within(limit time.Duration) (report, error) {
	var r report
	got := make(chan error, 1)
	go func() { got <- p.out.Decode(&r) }()
	select {
	case err := <-got:
		return r, err
	case <-time.After(limit):
		return report{}, fmt.Errorf("a client hangs; its threads by system call: %v", proc.Calls(p.cmd.Process.Pid))
	}
}

// end asks the client to stop and waits for its last report.
func (p *process) end() report {
	p.t.Helper()
	p.stdin.Close()
	r, err := p.next()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd.Wait()
	for _, w := range r.Wrong {
		p.t.Error(w)
	}
	return r
}

// kill ends the client by SIGKILL. It returns when the client has ended.
func (p *process) kill() error {
	p.cmd.Process.Kill()
	gone := make(chan struct{})
	go func() {
		p.cmd.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-time.After(proc.Patience):
		return fmt.Errorf("SIGKILL does not end a client; its threads by system call: %v", proc.Calls(p.cmd.Process.Pid))
	}
}
