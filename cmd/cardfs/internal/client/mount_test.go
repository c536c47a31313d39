package client

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// tree is a mount as clienttest.Tree makes it.
func tree(t *testing.T, files map[string]string) *Mount {
	t.Helper()
	return &Mount{Dir: clienttest.Tree(t, files)}
}

// waitLimit is a time that is long enough wherever a test waits for what comes.
const waitLimit = time.Minute

// "3 there is no such reader, or no card in it; 1 it could not be done, and
// stderr says why": what each errno of a slot's file comes to.
func TestExplain(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl": "", "0/status": "state powered\nerror it hurts\n", "1/status": "state failed\nerror no power\n",
	})
	alone := Slot{Dir: c.Path("0"), Name: c.Path("0")}
	for _, x := range []struct {
		slot  Slot
		errno error
		code  int
		words string
	}{
		{c.Slot(0), syscall.ENOENT, 3, "no reader 0; there are 0, 1"},
		{alone, syscall.ENOENT, 3, "is gone"},
		{c.Slot(0), syscall.ENODEV, 3, "reader 0 is gone"},
		{c.Slot(0), syscall.ENOMEDIUM, 3, "no card in slot 0"},
		{c.Slot(1), syscall.ENOMEDIUM, 3, "no card in slot 1"},
		{c.Slot(1), syscall.EIO, 1, "reader 1 failed to start: no power"},
		{c.Slot(1), syscall.EACCES, 1, "reader 1 failed to start: no power"},
		{c.Slot(0), syscall.ESTALE, 1, "begin again"},
		{c.Slot(0), syscall.EBUSY, 1, "another program holds the transaction"},
		{c.Slot(0), syscall.ETIMEDOUT, 1, "no answer in the time the protocol allows: it hurts"},
		{c.Slot(0), syscall.EPROTO, 1, "the answer breaks the protocol: it hurts"},
		{c.Slot(0), syscall.EOPNOTSUPP, 1, "cannot do that"},
		{c.Slot(0), syscall.EAGAIN, 1, "still starting"},
		{c.Slot(0), syscall.EIO, 1, "it failed: it hurts"},
		{c.Slot(0), syscall.ENOTCONN, 1, "is dead; start it again: cardfs mount " + c.Dir},
		{c.Slot(0), syscall.ECONNABORTED, 1, "is dead; start it again: cardfs mount " + c.Dir},
		{c.Slot(0), syscall.EACCES, 1, "the mount belongs to"},
		{alone, syscall.ENOTCONN, 1, "is dead"},
		{alone, syscall.ECONNABORTED, 1, "is dead"},
		{alone, syscall.EACCES, 1, "no permission"},
		{alone, syscall.ENOBUFS, 1, "no buffer space"},
	} {
		clienttest.WantError(t, x.slot.Name+" "+x.errno.Error(), x.slot.Explain(&os.PathError{Op: "open", Path: "x", Err: x.errno}), x.code, x.words)
	}
	if err := c.Slot(0).Explain(nil); err != nil {
		t.Error(err)
	}
	clienttest.WantError(t, "the mount", c.Explain(syscall.ENODEV), 1, "has left")
	if err := c.Explain(nil); err != nil {
		t.Error(err)
	}
	clienttest.WantError(t, "no reader", tree(t, nil).Slot(0).Explain(syscall.ENOENT), 3, "there is none at all; attach one")
	clienttest.WantError(t, "one reader", tree(t, map[string]string{"4/status": ""}).Slot(0).Explain(syscall.ENOENT), 3, "there is 4")
}

// A mount over another hides it, and is its own user's. A slot that was bound alone is no mount.
func TestReachable(t *testing.T) {
	at := func(dir, options string) *mountinfo.Info {
		return &mountinfo.Info{Root: "/", Mountpoint: dir, VFSOptions: options}
	}
	got := Reachable([]*mountinfo.Info{
		{Root: "/0", Mountpoint: "/a/card", VFSOptions: "user_id=1"},
		at("/a", "rw,user_id=1,group_id=2"), at("/b", "rw,user_id=2"), at("/a", "rw,user_id=3"), at("/c", "rw"), at("/b", "user_id=2"), at("/d", "ro,user_id=0,allow_other"),
	})
	if want := []Mounted{{Dir: "/a", UID: "3"}, {Dir: "/b", UID: "2"}, {Dir: "/c"}, {Dir: "/d", UID: "0", AllowOther: true}}; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// "FindMount finds … the one cardfs in the mount table that this user may enter": one that
// can be used, whatever else there is; else it says why not, or which.
func TestChoose(t *testing.T) {
	a, b := Mounted{Dir: "/a"}, Mounted{Dir: "/b"}
	dead, others := Mounted{Dir: "/dead", Err: syscall.ENOTCONN}, Mounted{Dir: "/others", Err: syscall.EACCES}
	for _, x := range []struct {
		all   []Mounted
		bound map[string]int
		dir   string
		code  int
		words string
	}{
		{nil, nil, Default, 0, ""},
		{[]Mounted{a}, nil, "/a", 0, ""},
		{[]Mounted{dead, others, a}, map[string]int{"/x": 0}, "/a", 0, ""},
		{[]Mounted{b, dead, a}, nil, "", exit.BadUsage, "cardfs is mounted at /b, /a; say which with --mount or $CARDFS_MOUNT"},
		{[]Mounted{dead}, nil, "", exit.Error, "the cardfs that served /dead is dead; start it again"},
		{[]Mounted{others, dead}, nil, "", exit.Error, "/others: the mount belongs to "},
		{nil, map[string]int{"/y": 1, "/x": 0}, "", exit.BadUsage, "only single slots of a cardfs are mounted here; say which: /x, /y"},
	} {
		dir, err := choose(x.all, x.bound)
		if dir != x.dir {
			t.Errorf("%v: %q, want %q", x.all, dir, x.dir)
		}
		clienttest.WantError(t, fmt.Sprint(x.all), err, x.code, x.words)
	}
}

// A slot that was bound alone is found by its number or a name, below the directory that
// is said; two of them are none.
func TestAmong(t *testing.T) {
	c := tree(t, map[string]string{
		"x/5/status": "state empty\nreader A B\nby-id ab\n", "y/5/status": "state empty\nreader A B\nby-id ab\n",
		"x/c/status": "state empty\nreader C\nby-id c\n",
	})
	slots := map[string]int{c.Path("x/5"): 5, c.Path("y/5"): 5, c.Path("x/c"): 7}
	for _, x := range []struct{ dir, arg, want string }{
		{"", "7", "x/c"}, {"", "c", "x/c"}, {"", "C", "x/c"}, {c.Path("x"), "7", "x/c"}, {c.Path("y"), "7", ""},
		{"", "5", ""}, {c.Path("x"), "5", "x/5"}, {c.Path("y"), "5", "y/5"},
		{"", "ab", ""}, {c.Path("y"), "ab", "y/5"}, {c.Path("y"), "a_b", "y/5"}, {c.Path("x"), "A B", "x/5"},
		{"", "6", ""}, {"", "nosuch", ""}, {c.Dir, "7", ""},
	} {
		for range 5 { // maps have no order
			s, ok := among(slots, x.dir, x.arg)
			if ok != (x.want != "") || ok && s.Dir != c.Path(x.want) {
				t.Errorf("%s in %q: %+v, %v, want %q", x.arg, x.dir, s, ok, x.want)
			}
		}
	}
}
