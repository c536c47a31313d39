package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
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

// A slot that leaves between two looks is left out of the list; an error of
// another kind is one.
func TestList(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl": "", "event": "", "by-id/x": "",
		"2/status":  "state failed\nreader A\nerror no  power\n",
		"10/status": "state powered\nreader B\ndriver sim\natr 3B 00\nprotocol T=0\nby-id b\nsiblings 10 11\ntransaction held\n",
		"11/atr":    "", // its status has gone
	})
	slots, err := c.list()
	if err != nil || len(slots) != 2 || slots[0].Number != 2 || slots[1].Number != 10 {
		t.Fatalf("%+v, %v", slots, err)
	}
	s := slots[1]
	if s.State != "powered" || s.Driver != "sim" || s.Protocol != "T=0" || s.ATR != "3B 00" || s.ByID != "b" ||
		!slices.Equal(s.Siblings, []int{10, 11}) || !s.Transaction || s.Path != c.path("10") || s.Status["reader"] != "B" {
		t.Errorf("%+v", s)
	}
	if slots[0].Transaction || slots[0].Error != "no  power" {
		t.Errorf("%+v", slots[0])
	}
	var out bytes.Buffer
	if err := printList(&out, slots); err != nil {
		t.Fatal(err)
	}
	const want = "" +
		"N   STATE    READER  DRIVER  PROTOCOL  ATR   BY-ID\n" +
		"2   failed   A       -       -         -     -\n" +
		"10  powered  B       sim     T=0       3B00  b\n" +
		"2: no  power\n"
	if out.String() != want {
		t.Errorf("\n%swant\n%s", &out, want)
	}
	if err := printList(full{}, slots); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	if err := os.Mkdir(c.path("11/status"), 0o700); err != nil { // EISDIR
		t.Fatal(err)
	}
	if _, err := c.list(); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("%v", err)
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// "With --ok it stops after the first answer that is neither 9000 nor 61xx, and
// exits 4." Without, SW1 SW2 is data.
func TestSendOK(t *testing.T) {
	for _, x := range []struct {
		ok     bool
		answer string
		code   int
	}{
		{true, "90 00\n", 0}, {true, "61 05\n", 0}, {true, "61 00\n", 0}, {true, "AA BB 61 10\n", 0}, {true, "6A 82 90 00\n", 0},
		{true, "90 01\n", 4}, {true, "6A 82\n", 4}, {true, "62 83\n", 4}, {true, "63 C2\n", 4}, {true, "6C 10\n", 4},
		{true, "90 00 6A 82\n", 4}, {true, "61 05 6A 82\n", 4}, {true, "91 00\n", 4}, {true, "60 61\n", 4},
		{false, "6A 82\n", 0}, {false, "90 00\n", 0},
		{false, "", 1}, {true, "", 1}, // end of file in place of an answer
		{true, "90", 1}, // cut off
	} {
		c := tree(t, map[string]string{"ctl": "", "0/status": "state powered\n", "0/apdu": ""})
		file, err := os.OpenFile(c.path("0/apdu"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var out bytes.Buffer
		s := &sender{slot: c.numbered(0), file: file, in: reader1(x.answer), out: &out, ok: x.ok}
		err = s.send(" 00a4 00 # 3132")
		if code(err) != x.code {
			t.Errorf("%q, --ok %v: %v, exit code %d, want %d", x.answer, x.ok, err, code(err), x.code)
		}
		if want := x.answer; x.code != 1 && out.String() != want {
			t.Errorf("%q: printed %q", want, &out)
		}
		sent, _ := os.ReadFile(c.path("0/apdu"))
		if string(sent) != "00a4 00\n" {
			t.Errorf("sent %q", sent)
		}
		s.out, s.in = full{}, reader1("90 00\n")
		if err := s.send("00a4"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a full disk: %v", err)
		}
	}
}

// All commands are checked before the first is sent, an error shows no data, and
// standard input is read once.
func TestCheckCommands(t *testing.T) {
	for _, x := range []struct {
		args  []string
		words string // "": in order
	}{
		{[]string{"00A40000"}, ""},
		{[]string{"-"}, ""},
		{[]string{"-", "00A40000"}, ""},
		{[]string{"00A40000", "-"}, ""},
		{[]string{"-", "-"}, "only once"},
		{[]string{"-", "00A40000", "-"}, "only once"},
		{[]string{"00A40000", "00A4000"}, "command 2, 00A4000: an odd number"},
		{[]string{"00200001 04 313233"}, "command 1, 00200001…: "},
		{[]string{"0020000104313233"}, "command 1, 00200001…: "},
		{[]string{"00", "A4"}, "quote one that has blanks"},
		{[]string{"00"}, "command 1, 00: "},
		{[]string{"00A4000002", "3F00"}, "quote one that has blanks"},
	} {
		err := checkCommands(x.args)
		switch {
		case x.words == "" && err != nil:
			t.Errorf("%q: %v", x.args, err)
		case x.words != "":
			wantError(t, strings.Join(x.args, " "), err, exitUsage, x.words)
			if strings.Contains(fmt.Sprint(err), "3132") || len(x.args) == 1 && strings.Contains(fmt.Sprint(err), "quote") {
				t.Errorf("%q: %v", x.args, err)
			}
		}
	}
}

// A line is sent when the one before was answered; one that is no command is not
// sent, and no byte of it is shown.
func TestSendLines(t *testing.T) {
	for _, x := range []struct {
		in, sent string
		code     int
	}{
		{"00A40000\n\n# no\n 00 b0 00 00 # yes\n", "00A40000\n00 b0 00 00\n", 0},
		{"00A40000", "00A40000\n", 0}, // the last line needs no newline
		{"", "", 0},
		{"00A40000\n00200001 04 313233\n00B00000\n", "00A40000\n", 2},
		{"00A40000\nxyz\n", "00A40000\n", 2},
	} {
		c := tree(t, map[string]string{"ctl": "", "0/apdu": ""})
		file, err := os.OpenFile(c.path("0/apdu"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		s := &sender{slot: c.numbered(0), file: file, in: reader1(strings.Repeat("90 00\n", 9)), out: io.Discard}
		err = s.sendLines(strings.NewReader(x.in))
		if code(err) != x.code || strings.Contains(fmt.Sprint(err), "3132") {
			t.Errorf("%q: %v", x.in, err)
		}
		if sent, _ := os.ReadFile(c.path("0/apdu")); string(sent) != x.sent {
			t.Errorf("%q: sent %q, want %q", x.in, sent, x.sent)
		}
		s.in = reader1("6A 82\n90 00\n")
		s.ok = true
		wantError(t, "refused", s.sendLines(strings.NewReader("00A40000\n00A40000\n")), exitRefused, "the card answered 6A 82")
		if err := s.sendLines(failing{}); !errors.Is(err, syscall.EIO) {
			t.Errorf("an input that fails: %v", err)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, syscall.EIO }

// Where O_NONBLOCK does not arrive, status says whether the open will wait. --wait
// 0 waits for nothing, and a bound is a bound wherever the time goes.
func TestOpenRemote(t *testing.T) {
	for _, x := range []struct {
		state string
		wait  time.Duration
		code  int
		words string
	}{
		{"powered", forever, 0, ""}, {"present", 0, 0, ""}, {"powered", time.Minute, 0, ""},
		{"failed", 0, 0, ""}, // the open says why
		{"empty", 0, 3, "no card in slot 0"},
		{"starting", 0, 1, "still starting"},
		{"empty", 30 * time.Millisecond, 3, "no card in slot 0 within 30ms"},
		{"starting", 30 * time.Millisecond, 1, "slot 0 is not ready after 30ms, it is starting"},
	} {
		c := tree(t, map[string]string{"ctl": "", "0/status": "state " + x.state + "\n", "0/apdu": ""})
		s := c.numbered(0)
		if !s.remote() {
			t.Fatal("a temporary directory is taken for a cardfs")
		}
		f, err := s.openReady(io.Discard, "apdu", os.O_RDWR, x.wait)
		wantError(t, x.state, err, x.code, x.words)
		if (f != nil) != (x.code == 0) {
			t.Errorf("%s: file %v with %v", x.state, f, err)
		}
		if f != nil {
			f.Close()
		}
	}
	// An open that waits all the same, as the card left after the look.
	c := tree(t, map[string]string{"ctl": "", "0/status": "state powered\n"})
	if err := unix.Mkfifo(c.path("0/apdu"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	_, err := c.numbered(0).openReady(&said, "apdu", os.O_RDONLY, 0)
	wantError(t, "--wait 0", err, 1, "slot 0 is not ready after 1s, it is powered")
	os.WriteFile(c.path("0/status"), []byte("state empty\n"), 0o600)
	_, err = c.numbered(0).openReady(&said, "atr", os.O_RDONLY, 2500*time.Millisecond)
	wantError(t, "no card", err, 3, "no card in slot 0 within 2.5s")
	if got := said.String(); got != "cardfs: waiting for a card in slot 0\n" {
		t.Errorf("said %q", got)
	}
	wantError(t, "no reader", func() error {
		_, err := c.numbered(1).openReady(&said, "apdu", os.O_RDWR, 0)
		return err
	}(), 3, "no reader 1; there is 0")
	if f, err := os.OpenFile(c.path("0/apdu"), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close() // the open that still waits ends
	}
}

func TestWaitingFor(t *testing.T) {
	for state, want := range map[string]string{"starting": "reader 0 to start", "empty": "a card in slot 0", "powered": "", "failed": ""} {
		c := tree(t, map[string]string{"0/status": "state " + state + "\n"})
		if got := c.numbered(0).waitingFor(); got != want {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}
}

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
		numbers, err := c.numbered(3).waitReady(time.Minute)
		wantError(t, x.name, err, x.code, x.words)
		if !slices.Equal(numbers, x.numbers) {
			t.Errorf("%s: %v, want %v", x.name, numbers, x.numbers)
		}
	}
	c, w := starting(t)
	fmt.Fprintln(w, "1 3 arrived")
	numbers, err := c.numbered(3).waitReady(20 * time.Millisecond)
	wantError(t, "time", err, 1, "reader 3 is still starting after 20ms")
	if !slices.Equal(numbers, []int{3}) { // its number is known
		t.Error(numbers)
	}
}

// starting is a tree in which reader 3 is starting, and where its events come from.
func starting(t *testing.T) (*client, *os.File) {
	c := tree(t, map[string]string{"ctl": "", "3/status": "state starting\n"})
	if err := unix.Mkfifo(c.path("3/event"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(c.path("3/event"), os.O_RDWR, 0)
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
	if err := c.numbered(3).detach(waitLimit); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(c.path("ctl")); string(text) != "detach 3\n" {
		t.Errorf("ctl got %q", text)
	}
	wantError(t, "no reader", c.numbered(4).detach(0), 3, "no reader 4; there is 3")
	wantError(t, "no mount", slot{dir: c.path("3")}.detach(0), 2, "the number of a slot is wanted")
	c, _ = starting(t)
	if err := c.numbered(3).detach(0); err != nil {
		t.Error(err)
	}
	wantError(t, "detach", c.numbered(3).detach(20*time.Millisecond), 1, "reader 3 is still there after 20ms")
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

// "--wait 0 fails at once without a card": the look does not wait, says what open
// said, and leaves nothing open.
func TestLook(t *testing.T) {
	c := tree(t, map[string]string{"ctl": "", "0/status": "state empty\n", "0/apdu": "", "1/status": "state empty\n"})
	if err := unix.Mkfifo(c.path("1/apdu"), 0o600); err != nil { // its open would wait
		t.Fatal(err)
	}
	if err := c.numbered(0).look("apdu", os.O_RDWR); err != nil {
		t.Error(err)
	}
	if err := c.numbered(1).look("apdu", os.O_WRONLY); !errors.Is(err, syscall.ENXIO) {
		t.Error(err)
	}
	wantError(t, "no reader", c.numbered(2).look("apdu", os.O_RDWR), exitNone, "no reader 2; there are 0, 1")
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if name, _ := os.Readlink(fd); strings.HasPrefix(name, c.dir) {
			t.Errorf("%s is still open", name)
		}
	}
}

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

// pcscd's own limits: a name of 121 characters and a device of 254 fit, one more
// does not; names are made unlike each other.
func TestReaderConfLimits(t *testing.T) {
	given := map[string]bool{}
	long := strings.Repeat("x", 200)
	a, b, c := unique(long, given), unique(long, given), unique(long, given)
	if len(a) != maxFriendly || len(b) != maxFriendly || a == b || b == c || !strings.HasSuffix(b, "x 2") || !strings.HasSuffix(c, "x 3") {
		t.Errorf("%q %q %q", a, b, c)
	}
	if got := unique(long[:maxFriendly], map[string]bool{}); len(got) != maxFriendly {
		t.Error(len(got))
	}
	for _, x := range []struct {
		s    slotJSON
		want string
	}{
		{slotJSON{Reader: "R", Status: map[string]string{"serial": "S"}}, "R (S)"},
		{slotJSON{Reader: "R S", Status: map[string]string{"serial": "S"}}, "R S"},
		{slotJSON{Driver: "sim"}, "sim"},
		{slotJSON{Reader: "a\"b\x01ü~ "}, "a'b??~ "},
	} {
		if got := friendlyName(x.s); got != x.want {
			t.Errorf("%q, want %q", got, x.want)
		}
	}
	for _, extra := range []int{0, 1} {
		c := tree(t, map[string]string{"ctl": ""})
		base := len("cardfs:" + c.path("by-id") + "/")
		name := strings.Repeat("n", maxDevice-base+extra)
		if err := os.MkdirAll(c.path("0"), 0o755); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(c.path("0/status"), []byte("state empty\nreader R\nby-id "+name+"\n"), 0o600)
		var out, hints bytes.Buffer
		err := c.readerConf(&out, &hints, "/lib.so", false)
		if (err != nil) != (extra == 1) || strings.Contains(out.String(), "DEVICENAME") != (extra == 0) {
			t.Errorf("%d characters: %v\n%s", maxDevice+extra, err, &out)
		}
	}
}

// An entry a reader, though each slot has a status; what the bundle finds is left
// out; a reader that starts is waited for, and has an entry if it fails.
func TestReaderConfEntries(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl":      "",
		"0/status": "state empty\nreader A\ndriver d\nby-id a\nsiblings 0 1\n",
		"1/status": "state empty\nreader A\ndriver d\nby-id a1\nsiblings 0 1\n",
		"2/status": "state powered\nreader iKey\ndriver ikey3k\nby-id i\nbus usb\nusb-id 04b9:1300\n",
		"3/status": "state powered\nreader other\nby-id o\nbus usb\nusb-id ffff:1300\n",
		"4/status": "state powered\nreader sim\nby-id s\nbus sim\nusb-id 04b9:1300\n",
		"5/status": "state starting\nreader late\nby-id l\n",
		"5/event":  "1 5 arrived\n2 5 failed error=no_x\n",
	})
	for _, skip := range []bool{false, true} {
		var out, hints bytes.Buffer
		if err := c.readerConf(&out, &hints, "/lib.so", skip); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			if device, ok := strings.CutPrefix(line, "DEVICENAME   cardfs:"); ok {
				got = append(got, strings.ReplaceAll(strings.TrimSpace(device), c.dir, "M"))
			}
		}
		want := []string{"slots=2:M/by-id/a", "M/by-id/i", "M/by-id/o", "M/by-id/s", "M/by-id/l"}
		if skip {
			want = slices.Delete(want, 1, 2)
		}
		if !slices.Equal(got, want) {
			t.Errorf("skip %v: %q, want %q", skip, got, want)
		}
		if said := hints.String(); strings.Contains(said, "iKey (2) is left out") != skip || !strings.Contains(said, "reader 5 failed to start: no x") {
			t.Errorf("skip %v: %s", skip, said)
		}
		for _, channel := range []string{"CHANNELID    0x0\n", "CHANNELID    0x5\n"} {
			if !strings.Contains(out.String(), channel) {
				t.Errorf("%q is missing:\n%s", channel, &out)
			}
		}
	}
}
