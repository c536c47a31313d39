package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// following gives the events until one is the last, the reader left, the mount
// ended, or the time is over.
func TestFollowing(t *testing.T) {
	c := &client{dir: "/x"}
	for _, x := range []struct {
		one   bool
		err   error // how the file ended
		done  bool
		words string // of the error; "": none
		left  bool
	}{
		{one: true, err: unix.ENODEV},                          // the reader left
		{one: false, err: unix.ENODEV, words: "has left"},      // the mount
		{one: true, err: unix.ENOTCONN, words: "is dead"},      //
		{one: false, err: unix.ECONNABORTED, words: "is dead"}, //
		{one: false, err: nil},
		{one: true, err: nil},
	} {
		f := &following{source: events{one: x.one, explain: c.explain}, events: make(chan event, 3), err: x.err}
		f.events <- event{Event: "inserted"}
		f.events <- event{Event: "removed"}
		close(f.events)
		var seen []string
		done, err := f.each(time.Minute, func(e event) (bool, error) { seen = append(seen, e.Event); return false, nil })
		if done || (err != nil) != (x.words != "") || !strings.Contains(fmt.Sprint(err), x.words) || len(seen) != 2 {
			t.Errorf("one %v, %v: %v, %v, %v", x.one, x.err, done, err, seen)
		}
	}
	f := &following{events: make(chan event, 2)}
	f.events <- event{Event: "inserted"}
	f.events <- event{Event: "removed"}
	if done, err := f.each(forever, func(e event) (bool, error) { return e.Event == "inserted", nil }); !done || err != nil || len(f.events) != 1 {
		t.Errorf("%v, %v, %d left", done, err, len(f.events))
	}
	if _, err := f.each(forever, func(event) (bool, error) { return false, syscall.ENOSPC }); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if done, err := f.each(time.Millisecond, func(event) (bool, error) { return true, nil }); done || !errors.Is(err, errTimeout) {
		t.Errorf("%v, %v", done, err)
	}
}

// How things stand is all that is there now; a line that is none is an error.
func TestSnapshot(t *testing.T) {
	c := tree(t, map[string]string{"event": "7 0 arrived driver=sim device=t1-1\n8 0 ready\n"})
	got, err := c.snapshot()
	if err != nil || len(got) != 2 || got[0].Event != "arrived" || got[1].Seq != 8 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := tree(t, map[string]string{"event": "7 0 arrived\nx\n"}).snapshot(); err == nil {
		t.Error("no error")
	}
	if _, err := tree(t, nil).snapshot(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.Mkdir(c.path("1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.path("1/event"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.numbered(1).events().snapshot(); !errors.Is(err, syscall.EISDIR) {
		t.Error(err)
	}
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if name, _ := os.Readlink(fd); strings.HasPrefix(name, c.dir) {
			t.Errorf("%s is still open", name)
		}
	}
}

// read(2): EINTR is no end, EAGAIN and 0 are one, anything else is an error.
func TestReadNow(t *testing.T) {
	for _, x := range []struct {
		steps []any // text, or an errno
		text  string
		err   error
	}{
		{[]any{"a", syscall.EINTR, "b", syscall.EAGAIN, "c"}, "ab", nil},
		{[]any{syscall.EINTR, syscall.EINTR, "a", "", "c"}, "a", nil},
		{[]any{syscall.EAGAIN}, "", nil},
		{[]any{"a", syscall.ENODEV}, "", syscall.ENODEV},
	} {
		steps := x.steps
		text, err := readNow(func(p []byte) (int, error) {
			step := steps[0]
			steps = steps[1:]
			if errno, ok := step.(syscall.Errno); ok {
				return -1, errno
			}
			return copy(p, step.(string)), nil
		})
		if string(text) != x.text || err != x.err {
			t.Errorf("%v: %q, %v", x.steps, text, err)
		}
	}
}
