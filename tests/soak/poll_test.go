package soak

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// A process that waits for events in poll(2) or epoll(7), with and without EPOLLET, is woken
// for each event, and only then.
func TestPollCycles(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--sim", "t1")
	untilInserted(t, filepath.Join(dir, "0/event"))
	woken := make(chan error)
	waiters := 0
	for name, wait := range map[string]func(fd int) (func() error, error){
		"poll": byPoll, "epoll": byEpoll(0), "epoll, edges": byEpoll(unix.EPOLLET),
	} {
		fd, err := daemon.Open(filepath.Join(dir, "0/event"), unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := drain(fd); err != nil { // the present state
			t.Fatal(err)
		}
		next, err := wait(fd)
		if err != nil {
			t.Fatal(err)
		}
		waiters++
		go func() {
			for {
				err := next()
				n := 0
				if err == nil {
					n, err = drain(fd)
				}
				if err == nil && n != 1 {
					err = fmt.Errorf("%d events where there was one", n)
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
				select {
				case woken <- err:
				case <-t.Context().Done():
					return
				}
			}
		}()
	}
	n := 10 * soak(t, 100)
	for i := range n {
		for _, what := range []string{"sim 0 remove", "sim 0 insert"} {
			d.Ctl("%s", what)
			late := time.After(time.Minute)
			for range waiters {
				select {
				case err := <-woken:
					if err != nil {
						t.Fatalf("cycle %d, %s: %v", i, what, err)
					}
				case <-late:
					t.Fatalf("cycle %d, %s: somebody was not woken", i, what)
				}
			}
		}
	}
	t.Logf("%d cycles", n)
}

// untilInserted waits for the card of a reader that has just been attached: before that an event
// file does not yet begin with it, and it comes as an event of its own.
func untilInserted(t *testing.T, events string) {
	t.Helper()
	f, err := os.Open(events)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > 2 && words[2] == "inserted" {
			return
		}
	}
	t.Fatalf("%s ended: %v", events, lines.Err())
}

func byPoll(fd int) (func() error, error) {
	return func() error {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err != unix.EINTR {
				return err
			}
		}
	}, nil
}

func byEpoll(flags uint32) func(fd int) (func() error, error) {
	return func(fd int) (func() error, error) {
		ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return nil, err
		}
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | flags, Fd: int32(fd)})
		return func() error {
			for {
				_, err := unix.EpollWait(ep, make([]unix.EpollEvent, 1), -1)
				if err != unix.EINTR {
					return err
				}
			}
		}, err
	}
}

// drain reads an event file to its present end and counts the lines.
func drain(fd int) (lines int, err error) {
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		switch err {
		case nil:
			lines += bytes.Count(buf[:n], []byte{'\n'})
			if n == 0 {
				return lines, errors.New("end of file")
			}
		case unix.EINTR:
		case unix.EAGAIN:
			return lines, nil
		default:
			return lines, err
		}
	}
}
