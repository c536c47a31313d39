package fs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// desk is a mount without a kernel: opens and their requests are calls.
type desk struct {
	t   *testing.T
	m   *core.Manager
	mnt *mount
	log bytes.Buffer
}

// newDesk attaches a device of the sim driver, or of the driver that a test uses instead.
func newDesk(t *testing.T, attach string, instead ...reader.Driver) *desk {
	drivers := append(instead, sim.New())[:1]
	d := &desk{t: t}
	log := slog.New(slog.NewTextHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d.m = core.NewManager(core.Options{Drivers: drivers, Log: log})
	t.Cleanup(func() { d.m.Close(bg) })
	if err := Ctl(d.m, "attach sim "+attach); err != nil {
		t.Fatal(err)
	}
	if err := d.m.Slot(0).WaitReady(bg, true); err != nil {
		t.Fatal(err)
	}
	d.mnt = &mount{manager: d.m, uid: 1000, log: log, server: &fused.Server{}, leaving: bg}
	d.m.OnLeave(d.mnt.rooms.forget)
	return d
}

// as is the context of a request by process pid of user uid.
func as(uid, pid uint32) context.Context {
	return fuse.NewContext(bg, &fuse.Caller{Owner: fuse.Owner{Uid: uid}, Pid: pid})
}

func (d *desk) open(ctx context.Context, name string, flags uint32) (fs.FileHandle, error) {
	for i := range slotFiles {
		if s := &slotFiles[i]; s.name == name {
			return s.open(ctx, &file{mount: d.mnt, slot: d.m.Slot(0), spec: s}, flags)
		}
	}
	d.t.Fatalf("no file %s", name)
	return nil, nil
}

func (d *desk) mustOpen(ctx context.Context, name string, flags uint32) fs.FileHandle {
	d.t.Helper()
	h, err := d.open(ctx, name, flags)
	if err != nil {
		d.t.Fatalf("open %s: %v", name, err)
	}
	return h
}

func (d *desk) wantEmpty() {
	d.t.Helper()
	wantEmpty(d.t, d.mnt.rooms.of(d.m.Slot(0)))
}

var self = uint32(os.Getpid())

// An open that fails leaves nothing behind.
func TestOpenFails(t *testing.T) {
	d := newDesk(t, "t1 card=none")
	ctx, cancel := context.WithCancel(as(1000, self))
	cancel()
	for _, flags := range []uint32{syscall.O_RDWR, syscall.O_WRONLY} {
		if _, err := d.open(ctx, "apdu", flags); !errors.Is(err, reader.ErrInterrupted) {
			t.Errorf("interrupted: %v", err)
		}
		if _, err := d.open(as(1000, self), "apdu", flags|syscall.O_NONBLOCK); !errors.Is(err, reader.ErrNoCard) {
			t.Errorf("with no card: %v", err)
		}
	}
	d.wantEmpty()
	b := d.m.Slot(0)
	if err := d.m.Detach(0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"apdu", "control", "ctbcs", "power", "protocol"} {
		f := &file{mount: d.mnt, slot: b}
		for i := range slotFiles {
			if slotFiles[i].name == name {
				if _, err := slotFiles[i].open(as(1000, self), f, syscall.O_RDWR); !errors.Is(err, reader.ErrGone) {
					t.Errorf("open %s of a reader that left: %v", name, err)
				}
			}
		}
	}
	wantEmpty(t, d.mnt.rooms.of(b))
	d.mnt.rooms.bySlot.Range(func(key, _ any) bool {
		t.Error("the room of a reader that left stays")
		return false
	})
}

// "Opening apdu only for reading waits for no card and powers none", and such an open serves
// flock(2) only.
func TestReadOnlyAPDU(t *testing.T) {
	d := newDesk(t, "t1")
	h := d.mustOpen(as(1000, self), "apdu", syscall.O_RDONLY).(*apduFile)
	if state := d.m.Slot(0).Info().State; state != "present" {
		t.Errorf("the card is %s", state)
	}
	if r, errno := h.Read(bg, make([]byte, 100), 0); errno != 0 || r.Size() != 0 {
		t.Errorf("read: %v, %v", r, errno)
	}
	in, out := ioctlBuffers("00A40000", 100)
	if _, errno := h.Ioctl(bg, exchangeRequest(100), 0, in, out); errno != syscall.EBADF {
		t.Errorf("ioctl: %v", errno)
	}
	lock := &fuse.FileLock{Typ: syscall.F_WRLCK}
	if errno := h.Setlk(bg, 0, lock, fuse.FUSE_LK_FLOCK); errno != 0 {
		t.Fatalf("flock: %v", errno)
	}
	// This process passes the lock by another open. An open of an unknown process does not.
	mine := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR|syscall.O_NONBLOCK).(*apduFile)
	theirs := d.mustOpen(as(1000, 0), "apdu", syscall.O_RDWR|syscall.O_NONBLOCK).(*apduFile)
	if _, err := mine.exchange(bg, []byte{0, 0xA4, 0, 12, 2, 0x3F, 0}, 0, nil); err != nil {
		t.Errorf("the holder's other open: %v", err)
	}
	if _, err := theirs.exchange(bg, []byte{0, 0xA4, 0, 12, 2, 0x3F, 0}, 0, nil); !errors.Is(err, reader.ErrLocked) {
		t.Errorf("another's open: %v", err)
	}
	h.Release(bg)
	if _, err := theirs.exchange(bg, []byte{0, 0xA4, 0, 12, 2, 0x3F, 0}, 0, nil); err != nil {
		t.Errorf("closing does not unlock: %v", err)
	}
	mine.Release(bg)
	theirs.Release(bg)
	if n := d.m.Slot(0).Info().Sessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
	d.wantEmpty()

	h = d.mustOpen(as(1000, self), "apdu", syscall.O_RDONLY).(*apduFile)
	if err := d.m.Detach(0); err != nil {
		t.Fatal(err)
	}
	if _, errno := h.Read(bg, make([]byte, 100), 0); errno != syscall.ENODEV {
		t.Errorf("read, after the reader left: %v", errno)
	}
	if errno := h.Setlkw(bg, 0, lock, fuse.FUSE_LK_FLOCK); errno != syscall.ENODEV {
		t.Errorf("flock, after the reader left: %v", errno)
	}
}

// "Where the opener cannot be known, a lock on a read-only open says EOPNOTSUPP, and the
// log says why"; one on a read-write open is that open's.
func TestUnknownOpener(t *testing.T) {
	d := newDesk(t, "t1")
	lock := &fuse.FileLock{Typ: syscall.F_WRLCK}
	for pid, why := range map[uint32]string{0: "another pid namespace", 1 << 30: "hidepid"} {
		ro := d.mustOpen(as(1000, pid), "apdu", syscall.O_RDONLY).(*apduFile)
		for _, setlk := range []func(context.Context, uint64, *fuse.FileLock, uint32) syscall.Errno{ro.Setlk, ro.Setlkw} {
			d.log.Reset()
			if errno := setlk(bg, 0, lock, fuse.FUSE_LK_FLOCK); errno != syscall.EOPNOTSUPP {
				t.Errorf("pid %d, read-only: %v", pid, errno)
			}
			if !strings.Contains(d.log.String(), why) {
				t.Errorf("pid %d: the log says %q", pid, d.log.String())
			}
		}
		rw := d.mustOpen(as(1000, pid), "apdu", syscall.O_RDWR).(*apduFile)
		if errno := rw.Setlk(bg, 0, lock, fuse.FUSE_LK_FLOCK); errno != 0 {
			t.Errorf("pid %d, read-write: %v", pid, errno)
		}
		if _, err := rw.exchange(bg, []byte{0, 0xA4, 0, 12, 2, 0x3F, 0}, 0, nil); err != nil {
			t.Errorf("pid %d, its own lock: %v", pid, err)
		}
		ro.Release(bg)
		rw.Release(bg)
	}
	h := d.mustOpen(bg, "apdu", syscall.O_RDONLY).(*apduFile) // a request of the kernel's own
	if errno := h.Setlk(bg, 0, lock, fuse.FUSE_LK_FLOCK); errno != syscall.EOPNOTSUPP {
		t.Errorf("no caller: %v", errno)
	}
}

// "fcntl(2) and lockf(3) locks say EOPNOTSUPP." "With LOCK_NB flock says EWOULDBLOCK."
// "Waiting for the lock ends with EINTR." "LOCK_SH is taken as LOCK_EX." This holds for every
// file that handles flock(2).
func TestSetlk(t *testing.T) {
	d := newDesk(t, "t1")
	for _, name := range []string{"apdu", "control", "ctbcs", "power", "protocol", "status", "event"} {
		var spec *spec
		for i := range slotFiles {
			if slotFiles[i].name == name {
				spec = &slotFiles[i]
			}
		}
		f := &file{mount: d.mnt, slot: d.m.Slot(0), spec: spec} // one file, because advisory locks belong to the file
		type lockable interface {
			Setlk(context.Context, uint64, *fuse.FileLock, uint32) syscall.Errno
			Setlkw(context.Context, uint64, *fuse.FileLock, uint32) syscall.Errno
			Release(context.Context) syscall.Errno
		}
		open := func() lockable {
			h, err := spec.open(as(1000, self), f, map[bool]uint32{true: syscall.O_RDWR}[spec.write])
			if err != nil {
				t.Fatal(err)
			}
			return h.(lockable)
		}
		a, b := open(), open()
		do := func(what string, got, want syscall.Errno) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %s: %v, want %v", name, what, got, want)
			}
		}
		ex, sh, un := &fuse.FileLock{Typ: syscall.F_WRLCK}, &fuse.FileLock{Typ: syscall.F_RDLCK}, &fuse.FileLock{Typ: syscall.F_UNLCK}
		const flock = fuse.FUSE_LK_FLOCK
		do("fcntl", a.Setlk(bg, 0, ex, 0), syscall.EOPNOTSUPP)
		do("fcntl that waits", a.Setlkw(bg, 0, ex, 0), syscall.EOPNOTSUPP)
		do("fcntl's unlock", a.Setlk(bg, 0, un, 0), syscall.EOPNOTSUPP)
		do("LOCK_EX", a.Setlkw(bg, 0, ex, flock), 0)
		do("LOCK_EX again", a.Setlk(bg, 0, ex, flock), 0)
		do("another's LOCK_EX|LOCK_NB", b.Setlk(bg, 0, ex, flock), syscall.EWOULDBLOCK)
		ctx, cancel := context.WithCancel(bg)
		go cancel()
		do("another's LOCK_EX, and a signal", b.Setlkw(ctx, 0, ex, flock), syscall.EINTR)
		do("another's LOCK_EX|LOCK_NB, and a signal", b.Setlk(ctx, 0, ex, flock), syscall.EINTR)
		do("LOCK_UN of who has none", b.Setlk(bg, 0, un, flock), 0)
		do("still held", b.Setlk(bg, 0, sh, flock), syscall.EWOULDBLOCK)
		// LOCK_NB waits for a lock that is given up soon, because close(2) returns before its
		// RELEASE arrives.
		done := make(chan syscall.Errno)
		go func() { done <- b.Setlkw(bg, 0, ex, flock) }()
		do("LOCK_UN", a.Setlk(bg, 0, un, flock), 0)
		do("who waited", <-done, 0)
		b.Release(bg)
		do("after the holder's close", a.Setlk(bg, 0, sh, flock), 0)
		c := open()
		if name == "apdu" {
			do("LOCK_SH is LOCK_EX", c.Setlk(bg, 0, sh, flock), syscall.EWOULDBLOCK)
		} else {
			do("two LOCK_SH", c.Setlk(bg, 0, sh, flock), 0)
		}
		a.Release(bg)
		do("after all others' close", c.Setlk(bg, 0, ex, flock), 0)
		c.Release(bg)
	}
	d.wantEmpty()
}

// A LOCK_NB request still waits a little: close(2) returns before its RELEASE arrives.
func TestLockWaitsForRelease(t *testing.T) {
	var a advisory
	first, second := flocked{byOwner{&a, 1, nil}}, flocked{byOwner{&a, 2, nil}}
	ex := &fuse.FileLock{Typ: syscall.F_WRLCK}
	for try := 0; ; try++ {
		if errno := first.Setlk(bg, 0, ex, fuse.FUSE_LK_FLOCK); errno != 0 {
			t.Fatal(errno)
		}
		begun := make(chan struct{})
		go func() {
			<-begun
			first.unlock()
		}()
		close(begun)
		errno := second.Setlk(bg, 0, ex, fuse.FUSE_LK_FLOCK)
		if errno == 0 {
			break
		}
		if try == 50 {
			t.Fatalf("never within %v: %v", releaseLag, errno)
		}
		if err := a.lock(bg, 2, false, true, nil); err != nil {
			t.Fatal(err)
		}
		second.unlock()
	}
}

// "The owner is the user that runs the daemon, and root. Who opened counts."
func TestWhoMayEscape(t *testing.T) {
	d := newDesk(t, "pinpad")
	echo := []byte{0x42, 0, 0, 1, 0xCA}
	for uid, want := range map[uint32]bool{0: true, 1000: true, 1001: false, 1002: true, 65534: false} {
		d.mnt.escape = func(uid uint32) bool { return uid == 1002 }
		d.log.Reset()
		h := d.mustOpen(as(uid, self), "control", syscall.O_RDWR).(*controlFile)
		for range 2 {
			answer, err := h.exchange(bg, echo, 0, []byte{7})
			if want && (err != nil || !bytes.Equal(answer, []byte{7, 0xCA})) || !want && toErrno(err) != syscall.EACCES {
				t.Errorf("user %d: % X, %v", uid, answer, err)
			}
		}
		if n := strings.Count(d.log.String(), "--allow-escape"); n != map[bool]int{false: 1}[want] {
			t.Errorf("user %d: %d lines in the log: %s", uid, n, d.log.String())
		}
		h.Release(bg)
	}
	d.mnt.escape = nil
	if d.mnt.mayEscape(1002) || !d.mnt.mayEscape(1000) || !d.mnt.mayEscape(0) {
		t.Error("without --allow-escape")
	}
}

// An open's flags decide which calls its channel takes, whether they wait, and whether
// offsets count. The opener decides whose room it uses.
func TestFlagsOfAnOpen(t *testing.T) {
	d := newDesk(t, "t1")
	const command = "00A4000C023F00\n"
	for _, name := range []string{"apdu", "control", "ctbcs"} {
		for _, mode := range []uint32{syscall.O_RDONLY, syscall.O_WRONLY, syscall.O_RDWR} {
			for _, more := range []uint32{0, syscall.O_NONBLOCK, syscall.O_APPEND, syscall.O_NONBLOCK | syscall.O_APPEND} {
				h := d.mustOpen(as(1000+mode, self), name, mode|more)
				var c *channel
				var o *opening
				switch h := h.(type) {
				case *apduFile:
					c, o = h.channel, &h.opening
				case *controlFile:
					c, o = h.channel, &h.opening
				case *ctbcsFile:
					c, o = h.channel, &h.opening
				}
				if c.readable != (mode != syscall.O_WRONLY) || c.writable != (mode != syscall.O_RDONLY) ||
					c.nonblock != (more&syscall.O_NONBLOCK != 0) || c.append != (more&syscall.O_APPEND != 0) ||
					o.by.Wait == c.nonblock || o.by.Owner != h || o.by.Pass == nil || c.pass != o.by.Pass || o.uid != 1000+mode ||
					c.share.uid != o.uid || c.lockLines != (name == "apdu") || o.who.pid != int(self) || o.unknown != nil {
					t.Errorf("%s opened with %o: %+v, %+v", name, mode|more, o, c)
				}
				h.(fs.FileReleaser).Release(bg)
			}
		}
	}
	d.wantEmpty()

	// Each open has its own answers, and a session ends with its open.
	a := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR).(*apduFile)
	b := d.mustOpen(as(1000, self), "apdu", syscall.O_RDWR|syscall.O_APPEND).(*apduFile)
	if n := d.m.Slot(0).Info().Sessions; n != 2 {
		t.Errorf("%d sessions", n)
	}
	for range 3 {
		if _, errno := b.Write(bg, []byte(command), 4096); errno != 0 {
			t.Fatal(errno)
		}
		b.Send() // as after the reply to the WRITE
		r, errno := b.Read(bg, make([]byte, 100), 4096+int64(len(command)))
		if errno != 0 || r.Size() != len("90 00\n") {
			t.Errorf("with O_APPEND: %v, %v", r, errno)
		}
	}
	if r, errno := a.Read(bg, make([]byte, 100), 0); errno != 0 || r.Size() != 0 {
		t.Errorf("another's answer: %v, %v", r, errno)
	}
	a.Release(bg)
	b.Release(bg)
	if n := d.m.Slot(0).Info().Sessions; n != 0 {
		t.Errorf("%d sessions after all closed", n)
	}
	d.wantEmpty()
}
