package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// A number without a slot is no file. While the mount is leaving, the lookup says ENODEV, as
// it would have said a moment earlier. A number has only one spelling.
func TestLookupOfNoSlot(t *testing.T) {
	d := newDesk(t, "t1")
	ctx, leave := context.WithCancel(bg)
	d.mnt.leaving = ctx
	top := &root{mount: d.mnt}
	var out fuse.EntryOut
	for _, name := range []string{"1", "7", "00", "+0", "-1", "0x0", " 0", "x", "", "by_id", "Event", "9999999999999999999999"} {
		if n, errno := top.Lookup(bg, name, &out); n != nil || errno != syscall.ENOENT {
			t.Errorf("%q: %v, %v", name, n, errno)
		}
	}
	leave()
	for name, want := range map[string]syscall.Errno{"1": syscall.ENODEV, "7": syscall.ENODEV, "00": syscall.ENOENT, "x": syscall.ENOENT} {
		if n, errno := top.Lookup(bg, name, &out); n != nil || errno != want {
			t.Errorf("leaving, %q: %v, %v; want %v", name, n, errno, want)
		}
	}
	if n, errno := (&byID{mount: d.mnt}).Lookup(bg, "nosuch", &out); n != nil || errno != syscall.ENOENT {
		t.Errorf("by-id/nosuch: %v, %v", n, errno)
	}
}

// Errors tell the user what to do.
func TestExplainDevice(t *testing.T) {
	for _, c := range []struct {
		errno syscall.Errno
		root  bool
		want  string
	}{
		{syscall.ENOENT, true, "/dev/fuse is missing: load the kernel's FUSE module"},
		{syscall.ENODEV, true, "the kernel has no FUSE: as root: modprobe fuse"},
		{syscall.ENXIO, false, "the kernel has no FUSE: as root: modprobe fuse"},
		{syscall.EACCES, false, "chmod 666 /dev/fuse"},
		{syscall.EPERM, false, "chmod 666 /dev/fuse"},
		{syscall.EPERM, true, "open /dev/fuse: "}, // a container's root: no mode helps
		{syscall.EMFILE, false, "open /dev/fuse: "},
	} {
		err := explainDevice(&os.PathError{Op: "open", Path: "/dev/fuse", Err: c.errno}, c.root)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, root %v: %v", c.errno, c.root, err)
		}
	}
}

// fusermount3 sends one descriptor (libfuse, util/fusermount.c, send_fd). Anything else is
// refused, and no descriptor is left open.
func TestReceiveFD(t *testing.T) {
	for n := range 3 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var rights []byte
		if n > 0 {
			rights = unix.UnixRights([]int{0, 1, 2}[:n]...)
		}
		if err := unix.Sendmsg(pair[1], []byte{0}, rights, nil, 0); err != nil {
			t.Fatal(err)
		}
		fd, err := receiveFD(pair[0])
		switch {
		case n == 1:
			if err != nil {
				t.Error(err)
			} else if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("flags %d, %v", flags, err)
			}
			unix.Close(fd)
		case err == nil:
			t.Errorf("%d descriptors: %d", n, fd)
		}
		unix.Close(pair[0])
		unix.Close(pair[1])
	}
}

// A caller that queues commands must also send them if nobody else is sending. submit reports
// this once, and only when something is queued.
func TestSubmit(t *testing.T) {
	c := open(t, &fakeCard{}, rdwr)
	for _, step := range []struct {
		n    int
		want bool
	}{{0, false}, {0, false}, {2, true}, {1, false}, {0, false}} {
		c.mu.Lock()
		got := c.submit(make([]command, step.n)...)
		busy := c.busy
		c.mu.Unlock()
		if got != step.want || busy != (len(c.queue) > 0) {
			t.Errorf("%d commands: %v; busy %v with %d queued", step.n, got, busy, len(c.queue))
		}
	}
	if len(c.queue) != 3 {
		t.Errorf("%d are queued", len(c.queue))
	}
}

// "A command is a control code of four bytes, big endian, and its data." A shorter one is
// refused, and the error holds none of its bytes.
func TestControlCode(t *testing.T) {
	d := newDesk(t, "t1")
	h := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	defer h.Release(bg)
	for n := range 8 {
		command := bytes.Repeat([]byte{0xA5}, n)
		room, err := h.check(command)
		if n >= 4 {
			if err != nil || room != 258 {
				t.Errorf("%d bytes: %d, %v", n, room, err)
			}
			continue
		}
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("four bytes must come first, here are %d", n)) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	// An unknown code fails, and the error shows none of the data.
	answer, err := h.exchange(bg, []byte{0x42, 0, 0xFF, 0xFF, 0xA5, 0xA5}, 0, []byte{7})
	if !errors.Is(err, reader.ErrUnsupported) || !bytes.Equal(answer, []byte{7}) || strings.Contains(err.Error(), "A5") {
		t.Errorf("% X, %v", answer, err)
	}
	// 42 00 0D 48 (CM_IOCTL_GET_FEATURE_REQUEST): the features, each a tag, 04 and a code.
	answer, err = h.exchange(bg, []byte{0x42, 0, 0x0D, 0x48}, 0, []byte{7})
	if err != nil || len(answer) < 1 || answer[0] != 7 || (len(answer)-1)%6 != 0 {
		t.Errorf("% X, %v", answer, err)
	}
}

// control waits like open(2): it says EAGAIN with O_NONBLOCK while the reader is not ready. An
// open that failed holds nothing.
func TestControlOfAReaderThatLeft(t *testing.T) {
	d := newDesk(t, "pinpad")
	h := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	slot := d.m.Slot(0)
	f := &file{mount: d.mnt, slot: slot, spec: &slotFiles[0]}
	if err := d.m.Detach(0); err != nil {
		t.Fatal(err)
	}
	<-slot.Done()
	for _, flags := range []uint32{syscall.O_RDWR, syscall.O_RDWR | syscall.O_NONBLOCK} {
		if h, err := openControl(as(1000, self), f, flags); toErrno(err) != syscall.ENODEV || h != nil {
			t.Errorf("open with %#o: %v, %v", flags, h, err)
		}
	}
	if _, err := h.exchange(bg, []byte{0x42, 0, 0x0D, 0x48}, 0, nil); toErrno(err) != syscall.ENODEV {
		t.Errorf("an exchange: %v", err)
	}
	h.Release(bg)
}

// An open that asks for a card's power belongs to its process, and its flags decide whether it
// waits. One that does not wait gets ENOMEDIUM if there is no card.
func TestOpenersOfTextFiles(t *testing.T) {
	d := newDesk(t, "t1")
	for _, name := range []string{"atr", "power", "protocol"} {
		for _, flags := range []uint32{0, syscall.O_NONBLOCK} {
			h := d.mustOpen(as(1001, self), name, flags).(*textFile)
			if h.by.Owner != h || h.by.Wait != (flags == 0) || h.by.Pass == nil || h.uid != 1001 || h.who.pid != int(self) || h.unknown != nil {
				t.Errorf("%s opened with %#o: %+v", name, flags, h.opening)
			}
			h.Release(bg)
		}
	}
}

// The log holds the errors that programs got, so that the reason can be found. It does not
// hold outcomes that are no error of the slot or that the program asked for.
func TestRefusalsAreLogged(t *testing.T) {
	var log bytes.Buffer
	m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	defer m.Close(bg)
	if err := Ctl(m, "attach sim t1"); err != nil {
		t.Fatal(err)
	}
	if err := m.Slot(0).WaitReady(bg, true); err != nil {
		t.Fatal(err)
	}
	f := &file{mount: &mount{}, slot: m.Slot(0), spec: &spec{name: "apdu"}}
	for e, want := range map[syscall.Errno]string{
		syscall.EAGAIN:     "",
		syscall.EINTR:      "",
		syscall.ENOTTY:     "",
		syscall.EBUSY:      `msg="write refused" reader=`,
		syscall.ESTALE:     `errno=ESTALE reason="` + reader.ErrStale.Error(),
		syscall.EOPNOTSUPP: `errno=EOPNOTSUPP reason="` + reader.ErrUnsupported.Error(),
		syscall.EBADF:      `file=apdu errno=EBADF reason=""`,
	} {
		log.Reset()
		f.Failed("write", e)
		got := log.String()
		if want == "" && got != "" || strings.Count(got, "\n") > 1 || want != "" && !strings.Contains(got, "write refused") {
			t.Errorf("%v: %q", e, got)
		}
		if want != "" && !strings.HasPrefix(want, "msg") && !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %s", e, got, want)
		}
	}
	(&file{spec: &specCtl}).Failed("write", syscall.EINVAL) // a file without a slot
}

// "What was opened before answers ENODEV for ever", and no part of a write is done.
func TestTextFileOfAReaderThatLeft(t *testing.T) {
	d := newDesk(t, "t1")
	slot := d.m.Slot(0)
	for _, name := range []string{"power", "protocol"} {
		h := d.mustOpen(as(1000, self), name, syscall.O_RDWR).(*textFile)
		defer h.Release(bg)
		defer func() {
			if n, errno := h.Write(bg, []byte("on\n"), 0); n != 0 || errno != syscall.ENODEV {
				t.Errorf("%s: a write of %d bytes, %v", name, n, errno)
			}
			if _, errno := h.text(100, 0); errno != syscall.ENODEV {
				t.Errorf("%s: a read: %v", name, errno)
			}
			if bits := h.Ready(); bits != fused.HungUp {
				t.Errorf("%s: ready for %#x", name, bits)
			}
		}()
	}
	if err := d.m.Detach(0); err != nil {
		t.Fatal(err)
	}
	<-slot.Done()
}

// A relative name has no meaning when the working directory is gone.
func TestPlaceWithoutWorkingDirectory(t *testing.T) {
	dir := t.TempDir() + "/here"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if p, err := openPlace("cards"); err == nil || p != nil {
		t.Errorf("%v, %v", p, err)
	}
}

// "What comes by ioctl or in binary goes to the card as it is": from CLA INS P1 P2 on.
func TestShortestCommand(t *testing.T) {
	for n := range 6 {
		room, err := (&apduFile{}).check(make([]byte, n))
		if n < 4 && !errors.Is(err, reader.ErrInvalid) || n >= 4 && (err != nil || room < 2) {
			t.Errorf("%d bytes: room for %d, %v", n, room, err)
		}
	}
}

// The contract's table says of each file whether it may be written, whether it may be locked,
// and whether the waiting of its opens is counted.
func TestKindsOfFiles(t *testing.T) {
	var writes, locks, waits, texts, private []string
	for _, s := range slotFiles {
		for list, is := range map[*[]string]bool{&writes: s.write, &locks: s.locks, &waits: s.waits, &texts: s.text != nil, &private: s.ownerOnly} {
			if is {
				*list = append(*list, s.name)
			}
		}
	}
	for _, c := range []struct {
		what, want string
		got        []string
	}{
		{"written", "apdu control ctbcs memory power protocol", writes},
		{"locked", "apdu control ctbcs memory", locks},
		{"waited for", "apdu atr control ctbcs memory power protocol", waits},
		{"text", "atr power protocol stats status", texts},
		{"the owner's", "trace", private},
	} {
		slices.Sort(c.got)
		if got := strings.Join(c.got, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// A command whose answer has no room is still answered: waiting reads and pollers are woken.
func TestErrNoRoomWakes(t *testing.T) {
	c, wakes, stop := polledOpen(t, new(room), 1000, rdwr)
	defer stop()
	c.mu.Lock()
	c.beyond, c.busy = true, true
	c.queue = []command{{data: []byte{0, 0xA4, 0, 0}}}
	c.held += 4
	c.share.force(4)
	changed := make(chan struct{})
	c.changed = changed
	c.mu.Unlock()
	c.Send()
	if !closed(changed) || wakes.Load() != 2 { // once for the answer, once because nothing is under way
		t.Errorf("woken %d times, the reader: %v", wakes.Load(), closed(changed))
	}
	if _, errno := c.read(100); errno != syscall.ENOBUFS || len(c.card.sent) != 0 {
		t.Errorf("%v, sent %v", errno, c.card.sent)
	}
}
