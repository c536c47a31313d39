package ask

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// pty is a pseudo-terminal: the user's side and the program's.
func pty(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// What is typed is not echoed, ctrl-C and ctrl-D end the question, and the terminal is left
// as it was. What was typed before the question is no answer to it.
func TestTerminal(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, x := range []struct{ typed, want string }{
		{"1234\r", "1234"}, {"1234\n", "1234"}, {"12\x7f34\n", "134"}, {"\n", ""}, {"1 2\n", "1 2"},
		{"\x03", "interrupted"}, {"12\x03", "interrupted"}, {"\x04", "interrupted"}, {strings.Repeat("1", 300) + "\n", strings.Repeat("1", 300)},
	} {
		user, program := pty(t)
		before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(user, "earlier\n")
		echo := bufio.NewReader(user)
		if _, err := echo.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		type result struct {
			typed []byte
			err   error
		}
		done := make(chan result, 1)
		go func() {
			typed, err := terminal(program, "PIN 1")
			done <- result{typed, err}
		}()
		if prompt, err := echo.ReadString(' '); err != nil || prompt != "PIN " {
			t.Fatalf("%q, %v", prompt, err)
		}
		if prompt, err := echo.ReadString(' '); err != nil || prompt != "1: " {
			t.Fatalf("%q, %v", prompt, err)
		}
		if during, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || during.Lflag&unix.ECHO != 0 {
			t.Errorf("the terminal echoes: %v", err)
		}
		io.WriteString(user, x.typed)
		r := <-done
		if got := string(r.typed); x.want == "interrupted" && !errors.Is(r.err, errInterrupted) || x.want != "interrupted" && (r.err != nil || got != x.want) {
			t.Errorf("%.20q: %.20q, %v", x.typed, r.typed, r.err)
		}
		if shown, err := echo.ReadString('\n'); err != nil || shown != "\r\n" {
			t.Errorf("%.20q: shown %q, %v", x.typed, shown, err)
		}
		if after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || *after != *before {
			t.Errorf("%.20q: the terminal is left otherwise: %v", x.typed, err)
		}
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := terminal(file, "PIN"); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("no terminal: %v", err)
	}
}

// A line is read and nothing behind it; the last needs no newline.
func TestDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.WriteString(w, "1234\r\n\n56 78\n9")
	w.Close()
	fd := int(r.Fd())
	for _, want := range []string{"1234", "", "56 78", "9"} {
		if got, err := Descriptor(fd); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	_, err = Descriptor(fd)
	clienttest.WantError(t, "at the end", err, exit.BadUsage, "has no more lines; nothing was sent")
	_, err = Descriptor(99999)
	clienttest.WantError(t, "not open", err, exit.BadUsage, "file descriptor 99999 is not open")
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := Descriptor(int(dir.Fd())); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
}

// slow returns nothing before each byte.
type slow struct {
	text string
	now  bool
}

func (s *slow) Read(p []byte) (int, error) {
	if s.now = !s.now; s.now {
		return 0, nil
	}
	n := copy(p, s.text[:1])
	s.text = s.text[1:]
	return n, nil
}

// A line has an end.
func TestTooLong(t *testing.T) {
	if line, err := readLine(&slow{text: "12\n"}, -1); err != nil || string(line) != "12" {
		t.Errorf("a reader without bytes at first: %q, %v", line, err)
	}
	for n, ok := range map[int]bool{limit: true, limit + 1: false} {
		line, err := readLine(strings.NewReader(strings.Repeat("1", n)), -1)
		if (err == nil) != ok || ok && len(line) != n {
			t.Errorf("%d: %d bytes, %v", n, len(line), err)
		}
	}
}
