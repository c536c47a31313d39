package fused

import (
	"bytes"
	"log"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// No log holds a PIN, even when every request is logged. It holds no byte that a program
// writes or reads, in any form that go-fuse prints.
func TestLogHasNoPIN(t *testing.T) {
	const pin = "\x00 1234\"\\5"
	var out safeBuffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // its digits may be the PIN's
		}
		return a
	}}))
	k := startServerWith(t, &answers{
		ioctl: func(_ <-chan struct{}, in, room []byte) fuse.Status { copy(room, in); return fuse.OK },
		read:  func(dest []byte) []byte { return dest[:copy(dest, pin)] },
		write: func([]byte) {},
	}, &fuse.MountOptions{MaxWrite: MaxWrite, Debug: true, Logger: log.New(logWriter{logger}, "", 0)}, logger)
	for _, size := range []int{len(pin), 100, 8000} {
		data := bytes.Repeat([]byte(pin), size/len(pin)+1)[:size]
		k.want(k.ioctl(data, size), 0)
		w := fuse.WriteIn{Size: uint32(size)}
		k.want(k.send(opWrite, &w.InHeader, bytesOf(&w), data), 0)
		r := fuse.ReadIn{Size: uint32(size), ReadFlags: readLockOwner}
		k.want(k.send(opRead, &r.InHeader, bytesOf(&r), nil), 0)
	}
	text := out.String()
	for _, part := range []string{"1234", "234", "123"} {
		if strings.Contains(text, part) {
			t.Errorf("the log has a PIN: %s", text)
			break
		}
	}
	for _, op := range []string{"IOCTL", "WRITE", "READ"} {
		if strings.Count(text, ": "+op+" ") != 3 {
			t.Errorf("not every %s is logged: %s", op, text)
		}
	}
}

// safeBuffer is a buffer that several write to.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
