package fused

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// rooms are the buffers of a server.
type rooms struct {
	mu  sync.Mutex
	all [][]byte
}

func (r *rooms) add(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, b)
}

// watch makes s record the buffers that it allocates. s must not serve yet.
func (r *rooms) watch(s *Server) {
	s.idle.New = func() any {
		w := newWorker()
		r.add(w.in)
		r.add(w.out)
		return w
	}
	s.large.New = func() any {
		b := make([]byte, largeSize)
		r.add(b)
		return &b
	}
}

// A command may hold a PIN, and an answer a key. Once a WRITE, a READ or an IOCTL is answered,
// nothing of it is left in the server's memory, whether the server or go-fuse answered it.
func TestServerKeepsNothing(t *testing.T) {
	for _, size := range []int{1, 8, 100, 3000, 4000, 4096, 5000, 16000, 100_000} {
		for _, op := range []uint32{opWrite, opIoctl, opRead} {
			if op == opIoctl && size > 16383 {
				continue
			}
			secret := bytes.Repeat([]byte{0xA5}, size)
			a := &answers{
				write: func([]byte) {},
				ioctl: func(_ <-chan struct{}, in, out []byte) fuse.Status { copy(out, in); return fuse.OK },
				read:  func(dest []byte) []byte { return dest[:copy(dest, secret)] },
			}
			k := newKernel(t, a, &fuse.MountOptions{MaxWrite: MaxWrite, Logger: log.New(io.Discard, "", 0)}, slog.New(slog.DiscardHandler))
			var seen rooms
			seen.watch(k.server)
			k.serve()
			switch op {
			case opWrite:
				r := fuse.WriteIn{Size: uint32(size)}
				k.want(k.send(op, &r.InHeader, bytesOf(&r), secret), 0)
			case opIoctl:
				if data := k.want(k.ioctl(secret, size), 0); !bytes.HasSuffix(data, secret) {
					t.Fatalf("answer % X", cut(data))
				}
			case opRead:
				r := fuse.ReadIn{Size: uint32(size), ReadFlags: readLockOwner}
				if data := k.want(k.send(op, &r.InHeader, bytesOf(&r), nil), 0); !bytes.Equal(data, secret) {
					t.Fatalf("answer % X", cut(data))
				}
			}
			k.close()
			if len(seen.all) < 3 {
				t.Fatalf("%d buffers", len(seen.all))
			}
			for _, b := range seen.all {
				if n := bytes.Count(b, []byte{0xA5}); n > 0 {
					t.Errorf("opcode %d of %d bytes: %d are left in a buffer of %d", op, size, n, len(b))
				}
			}
		}
	}
}

// A caller whose answer cannot be written gets EIO instead of waiting for ever, and the next
// request is served.
func TestAnswerThatCannotBeWritten(t *testing.T) {
	k := newKernel(t, &answers{read: func(dest []byte) []byte { return dest }},
		&fuse.MountOptions{MaxWrite: MaxWrite}, slog.New(slog.DiscardHandler))
	logged := &counter{Handler: slog.DiscardHandler}
	k.server.log = slog.New(logged)
	// A message that is longer than this is refused with EMSGSIZE (unix(7)).
	if err := unix.SetsockoptInt(k.server.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		t.Fatal(err)
	}
	k.serve()
	for i, c := range []struct {
		size  uint32
		errno syscall.Errno
	}{{100, 0}, {100_000, syscall.EIO}, {100, 0}, {100_000, syscall.EIO}} {
		r := fuse.ReadIn{Size: c.size, ReadFlags: readLockOwner}
		data := k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), c.errno)
		if c.errno == 0 && len(data) != int(c.size) || c.errno != 0 && len(data) != 0 {
			t.Errorf("%d bytes of %d", len(data), c.size)
		}
		if n := logged.count(); n != (i+1)/2 {
			t.Errorf("%d lines in the log: %q", n, logged.lines)
		}
	}
}

// A descriptor of anything but /dev/fuse is refused.
func TestNewRefused(t *testing.T) {
	quiet := &fuse.MountOptions{MaxWrite: MaxWrite, Logger: log.New(io.Discard, "", 0)}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{1 << 30, null} { // New closes the descriptor
		if s, err := New(fd, fuse.NewDefaultRawFileSystem(), quiet, slog.New(slog.DiscardHandler)); err == nil || s != nil {
			t.Errorf("descriptor %d: %v, %v", fd, s, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(null), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("it is still open: %v", err)
	}
}

// A request may ask for the maximum, and not for a byte more.
func TestRoomToTheByte(t *testing.T) {
	k := startServer(t, &answers{read: func(dest []byte) []byte { return dest }})
	for size, errno := range map[uint32]syscall.Errno{largeSize - 512: 0, largeSize - 511: syscall.EIO} {
		r := fuse.ReadIn{Size: size, ReadFlags: readLockOwner}
		if data := k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), errno); errno == 0 && len(data) != int(size) {
			t.Errorf("%d bytes of %d", len(data), size)
		}
	}
	for opcode, size := range map[uint32]uintptr{opRead: unsafe.Sizeof(fuse.ReadIn{}), opIoctl: unsafe.Sizeof(fuse.IoctlIn{})} {
		h := make([]byte, size)
		in := (*fuse.InHeader)(unsafe.Pointer(&h[0]))
		in.Opcode = opcode
		if n := answerSize(in); n < headerSize+ioctlOutSize || n > 4096 {
			t.Errorf("opcode %d without room for data: %d", opcode, n)
		}
	}
}
