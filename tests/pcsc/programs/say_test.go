package programs

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// client is a Python program (testdata/say.py) that makes one call after another.
type client struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	err   proc.Log
}

// client runs until the end of the test.
func (s *side) client() *client {
	s.t.Helper()
	return s.clientBy(`exec /usr/bin/python3 $TESTDATA/say.py`)
}

func (s *side) clientBy(script string) *client {
	s.t.Helper()
	c := &client{t: s.t, cmd: s.command(script), lines: make(chan string)}
	c.cmd.Stderr = &c.err
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		c.in, err = c.cmd.StdinPipe()
	}
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			c.lines <- in.Text()
		}
		close(c.lines)
	}()
	s.t.Cleanup(c.kill)
	return c
}

func (c *client) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.in.Close() // for a program that another one traces
	for range c.lines {
	}
	_ = c.cmd.Wait()
}

// start makes a call. Its result is read by result.
func (c *client) start(call string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, call); err != nil {
		c.t.Fatalf("%s: %v\n%s", call, err, &c.err)
	}
}

// result waits for the result of a call.
func (c *client) result(call, want string) {
	c.t.Helper()
	var got string
	select {
	case line, ok := <-c.lines:
		if !ok {
			c.t.Fatalf("%s: the client ended\n%s", call, &c.err)
		}
		got = line
	case <-time.After(proc.Patience):
		c.t.Fatalf("%s does not return", call)
	}
	if !matches(got, want) {
		c.t.Errorf("%s: %s, want %s", call, got, want)
	}
	c.t.Logf("%s: %s", call, got)
}

// matches compares with one of several results, separated by |.
func matches(got, want string) bool {
	for one := range strings.SplitSeq(want, "|") {
		if got == one {
			return true
		}
	}
	return false
}

// say makes a call and waits for its result.
func (c *client) say(call, want string) {
	c.t.Helper()
	c.start(call)
	c.result(call, want)
}

// waits checks that a call that was started has not returned.
func (c *client) waits(call string) {
	c.t.Helper()
	select {
	case got := <-c.lines:
		c.t.Fatalf("%s returned %s, and should wait", call, got)
	default:
	}
}

// sayUntil makes a call until it has that result: pcscd learns of a change by and by.
func (c *client) sayUntil(call, want string) {
	c.t.Helper()
	daemon.Eventually(c.t, call+" says "+want, func() bool {
		c.start(call)
		return matches(<-c.lines, want)
	})
}
