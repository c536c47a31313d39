package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
)

// tree makes a directory that looks like a mount: plain files, which answer
// nothing. It shows what the client makes of what it reads.
func tree(t *testing.T, files map[string]string) *client {
	t.Helper()
	c := &client{dir: t.TempDir()}
	for name, text := range files {
		path := c.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func code(err error) int {
	if err == nil {
		return exitOK
	}
	status := exitStatus{code: exitError}
	errors.As(err, &status)
	return status.code
}

func wantError(t *testing.T, what string, err error, want int, words string) {
	t.Helper()
	if code(err) != want || !strings.Contains(fmt.Sprint(err), words) {
		t.Errorf("%s: %v, exit code %d; want %q, %d", what, err, code(err), words, want)
	}
}

// "3 there is no such reader, or no card in it; 1 it could not be done, and
// stderr says why": what each errno of a slot's file comes to.
func TestExplain(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl": "", "0/status": "state powered\nerror it hurts\n", "1/status": "state failed\nerror no power\n",
	})
	alone := slot{dir: c.path("0"), name: c.path("0")}
	for _, x := range []struct {
		slot  slot
		errno error
		code  int
		words string
	}{
		{c.numbered(0), syscall.ENOENT, 3, "no reader 0; there are 0, 1"},
		{alone, syscall.ENOENT, 3, "is gone"},
		{c.numbered(0), syscall.ENODEV, 3, "reader 0 is gone"},
		{c.numbered(0), syscall.ENOMEDIUM, 3, "no card in slot 0"},
		{c.numbered(1), syscall.ENOMEDIUM, 3, "no card in slot 1"},
		{c.numbered(1), syscall.EIO, 1, "reader 1 failed to start: no power"},
		{c.numbered(1), syscall.EACCES, 1, "reader 1 failed to start: no power"},
		{c.numbered(0), syscall.ESTALE, 1, "begin again"},
		{c.numbered(0), syscall.EBUSY, 1, "another program holds the transaction"},
		{c.numbered(0), syscall.ETIMEDOUT, 1, "no answer in the time the protocol allows: it hurts"},
		{c.numbered(0), syscall.EPROTO, 1, "the answer breaks the protocol: it hurts"},
		{c.numbered(0), syscall.EOPNOTSUPP, 1, "cannot do that"},
		{c.numbered(0), syscall.EAGAIN, 1, "still starting"},
		{c.numbered(0), syscall.EIO, 1, "it failed: it hurts"},
		{c.numbered(0), syscall.ENOTCONN, 1, "is dead; start it again: cardfs mount " + c.dir},
		{c.numbered(0), syscall.ECONNABORTED, 1, "is dead; start it again: cardfs mount " + c.dir},
		{c.numbered(0), syscall.EACCES, 1, "the mount belongs to"},
		{alone, syscall.ENOTCONN, 1, "is dead"},
		{alone, syscall.ECONNABORTED, 1, "is dead"},
		{alone, syscall.EACCES, 1, "no permission"},
		{alone, syscall.ENOBUFS, 1, "no buffer space"},
	} {
		wantError(t, x.slot.name+" "+x.errno.Error(), x.slot.explain(&os.PathError{Op: "open", Path: "x", Err: x.errno}), x.code, x.words)
	}
	if err := c.numbered(0).explain(nil); err != nil {
		t.Error(err)
	}
	wantError(t, "the mount", c.explain(syscall.ENODEV), 1, "has left")
	if err := c.explain(nil); err != nil {
		t.Error(err)
	}
	wantError(t, "no reader", tree(t, nil).numbered(0).explain(syscall.ENOENT), 3, "there is none at all; attach one")
	wantError(t, "one reader", tree(t, map[string]string{"4/status": ""}).numbered(0).explain(syscall.ENOENT), 3, "there is 4")
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, syscall.EIO }

// A mount over another hides it, and is its own user's.
func TestReachable(t *testing.T) {
	at := func(dir, options string) *mountinfo.Info {
		return &mountinfo.Info{Mountpoint: dir, VFSOptions: options}
	}
	got := reachable([]*mountinfo.Info{
		at("/a", "rw,user_id=1,group_id=2"), at("/b", "rw,user_id=2"), at("/a", "rw,user_id=3"), at("/c", "rw"), at("/b", "user_id=2"), at("/d", "ro,user_id=0"),
	})
	if want := []mounted{{dir: "/a", uid: "3"}, {dir: "/b", uid: "2"}, {dir: "/c"}, {dir: "/d", uid: "0"}}; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func reader1(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }

// "newClient finds … the one cardfs in the mount table that this user may enter": one that
// can be used, whatever else there is; else it says why not, or which.
func TestChoose(t *testing.T) {
	a, b := mounted{dir: "/a"}, mounted{dir: "/b"}
	dead, others := mounted{dir: "/dead", err: syscall.ENOTCONN}, mounted{dir: "/others", err: syscall.EACCES}
	for _, x := range []struct {
		all   []mounted
		bound map[string]int
		dir   string
		code  int
		words string
	}{
		{nil, nil, defaultMount, 0, ""},
		{[]mounted{a}, nil, "/a", 0, ""},
		{[]mounted{dead, others, a}, map[string]int{"/x": 0}, "/a", 0, ""},
		{[]mounted{b, dead, a}, nil, "", exitUsage, "cardfs is mounted at /b, /a; say which with --mount or $CARDFS_MOUNT"},
		{[]mounted{dead}, nil, "", exitError, "the cardfs that served /dead is dead; start it again"},
		{[]mounted{others, dead}, nil, "", exitError, "/others: the mount belongs to "},
		{nil, map[string]int{"/y": 1, "/x": 0}, "", exitUsage, "only single slots of a cardfs are mounted here; say which: /x, /y"},
	} {
		dir, err := choose(x.all, x.bound)
		if dir != x.dir {
			t.Errorf("%v: %q, want %q", x.all, dir, x.dir)
		}
		wantError(t, fmt.Sprint(x.all), err, x.code, x.words)
	}
}

// A slot that was bound alone is found by its number or a name, below the directory that
// is said; two of them are none.
func TestAmong(t *testing.T) {
	c := tree(t, map[string]string{
		"x/5/status": "state empty\nreader A B\nby-id ab\n", "y/5/status": "state empty\nreader A B\nby-id ab\n",
		"x/c/status": "state empty\nreader C\nby-id c\n",
	})
	slots := map[string]int{c.path("x/5"): 5, c.path("y/5"): 5, c.path("x/c"): 7}
	for _, x := range []struct{ dir, arg, want string }{
		{"", "7", "x/c"}, {"", "c", "x/c"}, {"", "C", "x/c"}, {c.path("x"), "7", "x/c"}, {c.path("y"), "7", ""},
		{"", "5", ""}, {c.path("x"), "5", "x/5"}, {c.path("y"), "5", "y/5"},
		{"", "ab", ""}, {c.path("y"), "ab", "y/5"}, {c.path("y"), "a_b", "y/5"}, {c.path("x"), "A B", "x/5"},
		{"", "6", ""}, {"", "nosuch", ""}, {c.dir, "7", ""},
	} {
		for range 5 { // maps have no order
			s, ok := among(slots, x.dir, x.arg)
			if ok != (x.want != "") || ok && s.dir != c.path(x.want) {
				t.Errorf("%s in %q: %+v, %v, want %q", x.arg, x.dir, s, ok, x.want)
			}
		}
	}
}
