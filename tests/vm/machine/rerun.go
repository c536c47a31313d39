package machine

import (
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

// RunSelf reruns the tests of the calling test binary that match pattern in a machine, as
// one test of the host. Their output is logged, and their failure is its failure. The tests
// begin with NeedGuest.
func RunSelf(t *testing.T, pattern string, c Config) {
	t.Helper()
	if Inside() {
		NeedGuest(t)
		t.Skip("this is the machine already")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limit := c.Timeout
	if limit == 0 {
		limit = 5 * time.Minute
	}
	c.Command = []string{self, "-test.run=" + pattern, "-test.v", "-test.timeout=" + limit.String()}
	if testing.Short() {
		c.Command = append(c.Command, "-test.short")
	}
	var out lockedBuffer
	c.Stdout, c.Stderr = &out, &out
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	begin := time.Now()
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	code, err := m.Wait()
	t.Logf("in the machine, %v with booting:\n%s", time.Since(begin).Round(100*time.Millisecond), out.String())
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Errorf("exit code %d in the machine; its console's last lines:\n%s", code, m.console.tail(10))
	}
	if !strings.Contains(out.String(), "--- PASS") && code == 0 {
		t.Errorf("no test of this binary matches %q", pattern)
	}
}

// NeedGuest skips a test that was not started by RunSelf or `vm exec`. If the test was asked
// for by its name it fails instead: a skipped test would seem to have passed.
func NeedGuest(t *testing.T) *Guest {
	t.Helper()
	if !Inside() {
		const why = "runs in the machine, by the test that calls machine.RunSelf, or by: go run ./tests/vm exec"
		if run := flag.Lookup("test.run"); run != nil && strings.Contains(run.Value.String(), t.Name()) {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	g, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	return g
}
