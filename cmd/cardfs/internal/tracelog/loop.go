package tracelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// Loop follows files of lines, without a goroutine for each. Its zero value is ready.
type Loop struct {
	followed []*followed
}

// followed is an open file of lines.
type followed struct {
	fd      int
	explain func(error) error
	line    func(text string) error
	ended   func() error
	partial []byte // the beginning of a line
}

// Trace follows the trace of a slot. line is called with each of its lines, ended when the
// reader has left.
func (p *Loop) Trace(s client.Slot, line func(text string) error, ended func() error) error {
	err := p.add(s.Path("trace"), s.Explain, line, ended)
	if !errors.Is(err, os.ErrPermission) {
		return s.Explain(err)
	}
	if s.Mount == nil {
		return fmt.Errorf("slot %s: only whose mount it is may read its trace", s.Name)
	}
	return fmt.Errorf("slot %s: only %s, whose mount it is, may read its trace", s.Name, s.Mount.Owner())
}

// Arrivals follows the events of a mount. arrived is called with each slot that is there,
// and that comes later.
func (p *Loop) Arrivals(m *client.Mount, arrived func(client.Slot) error) error {
	line := func(text string) error {
		e, err := client.ParseEvent(text)
		if err != nil || e.Event != "arrived" {
			return err
		}
		return arrived(m.Slot(e.Slot))
	}
	return m.Explain(p.add(m.Path("event"), m.Explain, line, func() error { return nil }))
}

func (p *Loop) add(path string, explain func(error) error, line func(string) error, ended func() error) error {
	fd, err := client.OpenNow(path, unix.O_RDONLY)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	p.followed = append(p.followed, &followed{fd: fd, explain: explain, line: line, ended: ended})
	return nil
}

// Close closes the files.
func (p *Loop) Close() {
	for _, f := range p.followed {
		unix.Close(f.fd)
	}
	p.followed = nil
}

// Run calls the functions until all files have ended, or ctx has and what is there was
// read. An error of theirs ends it, too.
func (p *Loop) Run(ctx context.Context) error {
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(wake[0])
	// The pipe's other end is closed to wake, but once.
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Close(wake[1])
		close(woken)
	})
	defer func() {
		if stop() {
			unix.Close(wake[1])
		} else {
			<-woken
		}
	}()
	for len(p.followed) > 0 {
		fds := []unix.PollFd{{Fd: int32(wake[0]), Events: unix.POLLIN}}
		for _, f := range p.followed {
			fds = append(fds, unix.PollFd{Fd: int32(f.fd), Events: unix.POLLIN})
		}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
		over := ctx.Err() != nil
		for i, f := range slices.Clone(p.followed) { // one may be added meanwhile
			if fds[i+1].Revents == 0 && !over {
				continue
			}
			left, err := f.read()
			if left {
				unix.Close(f.fd)
				p.followed = slices.DeleteFunc(p.followed, func(other *followed) bool { return other == f })
				err = errors.Join(err, f.ended())
			}
			if err != nil {
				return err
			}
		}
		if over {
			return nil
		}
	}
	return nil
}

// atOnce is how many bytes are read before other files have their turn: more than wait in
// the daemon for one who does not read.
const atOnce = 8 << 20

// read reads the lines that are there; left: and that no more will come.
func (f *followed) read() (left bool, err error) {
	buf := make([]byte, 1<<16)
	for got := 0; got < atOnce; {
		n, err := unix.Read(f.fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.ENODEV, err == nil && n == 0:
			return true, nil
		case err != nil:
			return true, f.explain(err)
		}
		got += n
		f.partial = append(f.partial, buf[:n]...)
		for {
			line, rest, whole := bytes.Cut(f.partial, []byte{'\n'})
			if !whole {
				break
			}
			if err := f.line(string(line)); err != nil {
				return false, err
			}
			f.partial = rest
		}
		f.partial = bytes.Clone(f.partial)
	}
	return false, nil
}
