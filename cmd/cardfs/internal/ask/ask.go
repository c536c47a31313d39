// Package ask has a user type what nobody may see.
package ask

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// limit bounds what is typed, as the kernel does in a terminal's line.
const limit = 4096

var errInterrupted = errors.New("interrupted; nothing was sent")

// Terminal asks on the controlling terminal, without echo.
func Terminal(what string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, exit.Usage("%s is asked for, and there is no terminal; --pin-fd says where to read it", what)
	}
	defer tty.Close()
	return terminal(tty, what)
}

// interrupt is what ctrl-C sends.
const interrupt = 3

func terminal(tty *os.File, what string) ([]byte, error) {
	fd := int(tty.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("turn the terminal's echo off: %w", err)
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO | unix.ECHONL | unix.ISIG
	quiet.Lflag |= unix.ICANON
	quiet.Iflag |= unix.ICRNL
	quiet.Cc[unix.VEOL] = interrupt // ends the line, as no signal may end us without the echo
	restore := func() { unix.IoctlSetTermios(fd, unix.TCSETSF, before) }
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if !signal.Ignored(s) { // as by nohup(1)
			signal.Notify(signals, s)
		}
	}
	done := make(chan struct{})
	defer close(done)
	defer signal.Stop(signals)
	go func() {
		select {
		case s := <-signals:
			restore()
			signal.Reset(s)
			unix.Kill(unix.Getpid(), s.(unix.Signal))
		case <-done:
		}
	}()
	// What was typed before the question belongs to something else: it is dropped.
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &quiet); err != nil {
		return nil, fmt.Errorf("turn the terminal's echo off: %w", err)
	}
	defer restore()
	fmt.Fprintf(tty, "%s: ", what)
	line, err := readLine(tty, interrupt)
	fmt.Fprintln(tty)
	if err == io.EOF { // ctrl-D
		err = errInterrupted
	}
	return line, err
}

// Descriptor reads a line from an open file descriptor, and nothing behind it.
func Descriptor(fd int) ([]byte, error) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil {
		return nil, exit.Usage("file descriptor %d is not open", fd)
	}
	line, err := readLine(descriptor(fd), -1)
	if err == io.EOF {
		return nil, exit.Usage("file descriptor %d has no more lines; nothing was sent", fd)
	}
	return line, err
}

// descriptor is a file that is not closed with its reader.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("file descriptor %d: %w", int(d), err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// readLine reads up to a newline, byte by byte.
func readLine(r io.Reader, abort int) ([]byte, error) {
	var line []byte
	var b [1]byte
	for {
		n, err := r.Read(b[:])
		switch {
		case err == io.EOF && len(line) > 0:
			return line, nil
		case err != nil:
			return nil, err
		case n == 0:
			continue
		case b[0] == '\n':
			return []byte(strings.TrimSuffix(string(line), "\r")), nil
		case int(b[0]) == abort:
			return nil, errInterrupted
		case len(line) == limit:
			return nil, exit.Usage("what was typed is too long; nothing was sent")
		}
		line = append(line, b[0])
	}
}
