package client

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
)

// "If the reader fails to start, attach exits 1 with the reason"; 3 where there is
// no reader any more. The numbers are those of all its slots, in order.
func TestWaitReady(t *testing.T) {
	for _, x := range []struct {
		name, events, status string
		numbers              []int
		code                 int
		words                string
	}{
		{"ready", "1 3 arrived\n2 3 ready\n", "state empty\nsiblings 4 3\n", []int{3, 4}, 0, ""},
		{"ready, alone", "1 3 arrived\n2 3 ready\n", "state empty\n", []int{3}, 0, ""},
		{"failed", "1 3 arrived\n2 3 failed error=no_x\n", "state failed\nerror no x at all\n", nil, 1, "reader 3 failed to start: no x at all (cardfs detach 3 removes it)"},
		{"failed, without a reason in status", "2 3 failed error=no_x\n", "state failed\n", nil, 1, "reader 3 failed to start: no x (cardfs"},
		{"left", "1 3 arrived\n2 3 left\n", "state empty\n", nil, 3, "reader 3 left while it started"},
		{"no event", "1 3\n", "state empty\n", nil, 1, "is not an event"},
	} {
		c := tree(t, map[string]string{"ctl": "", "3/event": x.events, "3/status": x.status})
		numbers, err := c.Slot(3).WaitReady(time.Minute)
		clienttest.WantError(t, x.name, err, x.code, x.words)
		if !slices.Equal(numbers, x.numbers) {
			t.Errorf("%s: %v, want %v", x.name, numbers, x.numbers)
		}
	}
	c, w := starting(t)
	fmt.Fprintln(w, "1 3 arrived")
	numbers, err := c.Slot(3).WaitReady(20 * time.Millisecond)
	clienttest.WantError(t, "time", err, 1, "reader 3 is still starting after 20ms")
	if !slices.Equal(numbers, []int{3}) { // its number is known
		t.Error(numbers)
	}
}

// starting is a tree in which reader 3 is starting, and where its events come from.
func starting(t *testing.T) (*Mount, *os.File) {
	c := tree(t, map[string]string{"ctl": "", "3/status": "state starting\n"})
	if err := unix.Mkfifo(c.Path("3/event"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(c.Path("3/event"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return c, w
}

// "It returns when the directory is gone": when the slot's own events say so.
func TestDetach(t *testing.T) {
	c, w := starting(t)
	fmt.Fprintln(w, "2 3 ready\n3 3 left")
	if err := c.Slot(3).Detach(waitLimit); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(c.Path("ctl")); string(text) != "detach 3\n" {
		t.Errorf("ctl got %q", text)
	}
	clienttest.WantError(t, "no reader", c.Slot(4).Detach(0), 3, "no reader 4; there is 3")
	clienttest.WantError(t, "no mount", Slot{Dir: c.Path("3")}.Detach(0), 2, "the number of a slot is wanted")
	c, w = starting(t)
	fmt.Fprintln(w, "no event")
	clienttest.WantError(t, "no event", c.Slot(3).Detach(waitLimit), 1, "is not an event")
	c, _ = starting(t)
	if err := c.Slot(3).Detach(0); err != nil {
		t.Error(err)
	}
	clienttest.WantError(t, "detach", c.Slot(3).Detach(20*time.Millisecond), 1, "reader 3 is still there after 20ms")
}

// The reader that attach made is the new one whose device is, or begins with,
// what was asked for; else the first new one of the driver.
func TestNewcomer(t *testing.T) {
	parse := func(lines string) (list []Event) {
		for line := range strings.Lines(lines) {
			e, err := ParseEvent(line)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, e)
		}
		return list
	}
	before := parse("1 0 arrived driver=vpcd device=unix:/a\n2 0 ready\n")
	now := append(slices.Clone(before), parse(`4 2 arrived driver=sim device=t1-1
5 3 arrived driver=vpcd device=unix:/a+2
6 1 arrived driver=vpcd device=unix:/b=c
`)...)
	for _, c := range []struct {
		driver, device string
		number         int
		ok             bool
	}{
		{"sim", "t1", 2, true},
		{"vpcd", "unix:/b=c", 1, true},
		{"vpcd", "unix:relative", 3, true},
		{"ccid", "x", 0, false},
	} {
		n, ok := newcomer(before, now, c.driver, c.device)
		if n != c.number || ok != c.ok {
			t.Errorf("%s %s: %d, %v", c.driver, c.device, n, ok)
		}
	}
}
