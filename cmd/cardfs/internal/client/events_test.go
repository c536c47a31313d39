package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// following gives the events until one is the last, the reader left, the mount
// ended, or the time is over.
func TestFollowing(t *testing.T) {
	c := &Mount{Dir: "/x"}
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
		f := &Follower{source: Events{one: x.one, explain: c.Explain}, events: make(chan Event, 3), err: x.err}
		f.events <- Event{Event: "inserted"}
		f.events <- Event{Event: "removed"}
		close(f.events)
		var seen []string
		done, err := f.Each(time.Minute, func(e Event) (bool, error) { seen = append(seen, e.Event); return false, nil })
		if done || (err != nil) != (x.words != "") || !strings.Contains(fmt.Sprint(err), x.words) || len(seen) != 2 {
			t.Errorf("one %v, %v: %v, %v, %v", x.one, x.err, done, err, seen)
		}
	}
	f := &Follower{events: make(chan Event, 2)}
	f.events <- Event{Event: "inserted"}
	f.events <- Event{Event: "removed"}
	if done, err := f.Each(Forever, func(e Event) (bool, error) { return e.Event == "inserted", nil }); !done || err != nil || len(f.events) != 1 {
		t.Errorf("%v, %v, %d left", done, err, len(f.events))
	}
	if _, err := f.Each(Forever, func(Event) (bool, error) { return false, syscall.ENOSPC }); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if done, err := f.Each(time.Millisecond, func(Event) (bool, error) { return true, nil }); done || !errors.Is(err, ErrTimeout) {
		t.Errorf("%v, %v", done, err)
	}
}

// The snapshot is all events that are there now. A malformed line is an error.
func TestSnapshot(t *testing.T) {
	c := tree(t, map[string]string{"event": "7 0 arrived driver=sim device=t1-1\n8 0 ready\n"})
	got, err := c.Snapshot()
	if err != nil || len(got) != 2 || got[0].Event != "arrived" || got[1].Seq != 8 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := tree(t, map[string]string{"event": "7 0 arrived\nx\n"}).Snapshot(); err == nil {
		t.Error("no error")
	}
	if _, err := tree(t, nil).Snapshot(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.Mkdir(c.Path("1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.Path("1/event"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Slot(1).Events().Snapshot(); !errors.Is(err, syscall.EISDIR) {
		t.Error(err)
	}
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if name, _ := os.Readlink(fd); strings.HasPrefix(name, c.Dir) {
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

// "SEQ SLOT EVENT key=value…"; lost is not one of the event's own keys.
func TestParseEvent(t *testing.T) {
	got, err := ParseEvent("17 3 powered lost=4 atr=3B00 protocol=T=0\n")
	want := Event{Seq: 17, Slot: 3, Event: "powered", More: map[string]string{"atr": "3B00", "protocol": "T=0"}, Lost: 4}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if text := got.Text(); text != "slot 3: card powered, T=0, ATR 3B00 (4 events before this were lost)" {
		t.Error(text)
	}
	for _, line := range []string{"", "1 2", "x 0 ready", "1 x ready", "-1 0 ready"} {
		if _, err := ParseEvent(line); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
}

func TestEventText(t *testing.T) {
	for line, want := range map[string]string{
		"1 0 arrived driver=sim device=t1-1 reader=Simulated_T_1_reader": "slot 0: reader arrived: Simulated T 1 reader (sim t1-1)",
		"1 0 arrived driver=vpcd device=127.0.0.1:35963":                 "slot 0: reader arrived (vpcd 127.0.0.1:35963)",
		"2 0 ready":                       "slot 0: reader ready",
		"3 0 failed error=no_x":           "slot 0: failed: no x",
		"4 0 inserted":                    "slot 0: card inserted",
		"5 0 powered power=off":           "slot 0: card powered off",
		"6 0 reset atr=3B00 protocol=T=0": "slot 0: card reset, T=0, ATR 3B00",
		"7 0 removed":                     "slot 0: card removed",
		"8 0 left":                        "slot 0: reader left",
		"9 0 new":                         "slot 0: new",
	} {
		e, err := ParseEvent(line)
		if err != nil || e.Text() != want {
			t.Errorf("%s: %q, %v", line, e.Text(), err)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add("1 0 arrived driver=sim device=t1-1 lost=3")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := ParseEvent(line)
		if err == nil && (e.Event == "" || e.Text() == "") {
			t.Errorf("%q: %+v", line, e)
		}
	})
}
