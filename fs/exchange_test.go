package fs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// fakeCard echoes each command and appends 9000. Its check refuses commands that begin with
// FF.
type fakeCard struct {
	answer int // what check says of its length
	mu     sync.Mutex
	sent   []string
	do     func(ctx context.Context, command, dst []byte) ([]byte, error)
}

func (f *fakeCard) check(command []byte) (int, error) {
	if len(command) < 4 || command[0] == 0xFF {
		return 0, fmt.Errorf("no C-APDU: %w", reader.ErrInvalid)
	}
	return f.answer, nil
}

func (f *fakeCard) exchange(ctx context.Context, command []byte, _ core.Moment, dst []byte) ([]byte, error) {
	f.mu.Lock()
	f.sent = append(f.sent, fmt.Sprintf("%X", command))
	do := f.do
	f.mu.Unlock()
	if do != nil {
		return do(ctx, command, dst)
	}
	return append(append(dst, command...), 0x90, 0x00), nil
}

func (f *fakeCard) commands() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.sent, " ")
}

// client is one open of an exchange file, with the file offset that the kernel
// keeps for it.
type client struct {
	t testing.TB
	*channel
	card *fakeCard
	off  int64
	room *room
	idle int
}

func open(t testing.TB, card *fakeCard, flags uint32) *client {
	return openIn(t, new(room), 1000, card, flags)
}

// openIn opens the file as one of several users of a slot.
func openIn(t testing.TB, r *room, uid uint32, card *fakeCard, flags uint32) *client {
	c := &client{t: t, card: card, room: r}
	mode := flags & syscall.O_ACCMODE
	c.channel = &channel{
		to: card, later: func(c fused.Sender) { go c.Send() }, panicked: func(any) {}, now: func() core.Moment { return 0 }, gone: make(chan struct{}), onIdle: func() { c.idle++ },
		share: r.share(uid), pass: new(core.Pass),
		nonblock: flags&syscall.O_NONBLOCK != 0,
		append:   flags&syscall.O_APPEND != 0,
		readable: mode != syscall.O_WRONLY,
		writable: mode != syscall.O_RDONLY,
	}
	return c
}

var bg = context.Background()

func (c *client) write(s string) syscall.Errno {
	c.t.Helper()
	if c.channel.append {
		c.off = 0 // st_size
	}
	n, errno := c.Write(bg, []byte(s), c.off)
	if errno == 0 && int(n) != len(s) {
		c.t.Errorf("write of %d bytes wrote %d", len(s), n)
	}
	c.off += int64(n)
	return errno
}

func (c *client) mustWrite(s string) {
	c.t.Helper()
	if errno := c.write(s); errno != 0 {
		c.t.Fatalf("write %.40q: %v", s, errno)
	}
}

func (c *client) readAt(ctx context.Context, size int, off int64) (string, syscall.Errno) {
	r, errno := c.Read(ctx, make([]byte, size), off)
	if errno != 0 {
		return "", errno
	}
	p, _ := r.Bytes(nil)
	return string(p), 0
}

func (c *client) read(size int) (string, syscall.Errno) {
	s, errno := c.readAt(bg, size, c.off)
	c.off += int64(len(s))
	return s, errno
}

func (c *client) wantRead(want string) {
	c.t.Helper()
	if got, errno := c.read(1 << 17); errno != 0 || got != want {
		c.t.Errorf("read %q, %v; want %q", got, errno, want)
	}
}

const rdwr = syscall.O_RDWR

// "Several lines in one write are several commands, answered in order."
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &fakeCard{}, rdwr)
		c.mustWrite("00A40000\n\n  # nothing\n80 ee 00 00 # echo\n")
		synctest.Wait()
		c.wantRead("00 A4 00 00 90 00\n80 EE 00 00 90 00\n")
		c.wantRead("")
		c.mustWrite("00B00000\n")
		c.wantRead("00 B0 00 00 90 00\n")
		c.wantRead("")
	})
}
