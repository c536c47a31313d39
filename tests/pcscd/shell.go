package pcscd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Shell is a client of pcscd: tests/ifd/testdata/pcscsh.c, which reads a command a line.
type Shell struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Shell runs the program file until the end of the test, or Close.
func (s *Server) Shell(t testing.TB, file string) *Shell {
	t.Helper()
	cmd := s.Command(context.WithoutCancel(t.Context()), file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &Shell{t, cmd, in, bufio.NewReaderSize(out, 1<<18)}
	t.Cleanup(c.Close)
	return c
}

// Close ends the client.
func (c *Shell) Close() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// Say sends a command and returns the answer.
func (c *Shell) Say(words ...string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, strings.Join(words, "\t")); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%q: the client ended: %v", words, err)
	}
	return strings.TrimSpace(line)
}

// pcscd 1.9.9 lists a reader before it has put the numbers of reader and slot behind the
// name, and by the shorter name nobody can connect.
var wholeName = regexp.MustCompile(` [[:xdigit:]]{2} [[:xdigit:]]{2}$`)

// Reader waits for a reader and returns the name of the first.
func (c *Shell) Reader() string {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		list := c.Say("list")
		name, _, _ := strings.Cut(strings.TrimPrefix(list, "ok "), "|")
		if wholeName.MatchString(name) {
			return name
		}
		if time.Now().After(end) {
			c.t.Fatalf("pcscd has no reader: %s", list)
		}
	}
}

// Exchange sends a C-APDU in hex, spaces allowed, and returns the R-APDU in the same form.
func (c *Shell) Exchange(capdu string) string {
	c.t.Helper()
	got := c.Say("send", strings.ReplaceAll(capdu, " ", ""))
	answer, ok := strings.CutPrefix(got, "ok ")
	if !ok {
		return got
	}
	var b strings.Builder
	for i := 0; i+1 < len(answer); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(answer[i : i+2])
	}
	return b.String()
}
