package fs

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/reader"
)

// textFile is one open of a file that is read as it was at the open, and whose
// writes are commands in words. After a write that failed, the same open reads
// why, a line "error …": an errno alone does not tell which word was wrong.
type textFile struct {
	flocked
	opening // of files whose writes ask for a card's power
	file    *file
	// do carries out one line; nil: read only. It may wait for the card.
	do func(ctx context.Context, line string) error

	mu      sync.Mutex // the kernel lets reads go on during a write
	content []byte
}

var (
	_ = (fs.FileReader)((*textFile)(nil))
	_ = (fs.FileWriter)((*textFile)(nil))
	_ = (fs.FileReleaser)((*textFile)(nil))
	_ = (fs.FileSetlker)((*textFile)(nil))
	_ = (fs.FileSetlkwer)((*textFile)(nil))
)

func (t *textFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if t.file.bay.Gone() {
		return nil, syscall.ENODEV
	}
	t.mu.Lock()
	content := t.content // replaced, never changed
	t.mu.Unlock()
	if off >= int64(len(content)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(content[off:min(int64(len(content)), off+int64(len(dest)))]), 0
}

// refuse keeps why a write failed.
func (t *textFile) refuse(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.content = []byte("error " + strings.Join(strings.Fields(err.Error()), " ") + "\n")
}

// Write carries out the lines of one write in order. Where one fails after
// others were done, the write is as long as these, and writing the rest says why.
func (t *textFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if t.file.bay.Gone() {
		return 0, syscall.ENODEV
	}
	done := 0
	for done < len(data) {
		end := len(data)
		if i := bytes.IndexByte(data[done:], '\n'); i >= 0 {
			end = done + i + 1
		}
		line := strings.TrimSpace(string(data[done:end]))
		if line != "" && !strings.HasPrefix(line, "#") {
			if err := t.do(ctx, line); err != nil {
				t.refuse(err)
				if done > 0 {
					break
				}
				return 0, toErrno(err)
			}
		}
		done = end
	}
	return uint32(done), 0
}

func newTextFile(f *file, content []byte) *textFile {
	t := &textFile{file: f, content: content}
	t.flocked = flocked{byOwner{&f.locks, t}}
	return t
}

func (t *textFile) Release(ctx context.Context) syscall.Errno {
	t.unlock()
	return 0
}

// openStatus never waits.
func openStatus(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	return newTextFile(f, f.bay.Info().Lines()), nil
}

// openATR waits for a card and its power-up.
func openATR(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f, nil)
	t.opening = newOpening(ctx, f, t, flags)
	s, err := f.bay.Open(ctx, t.by)
	if err != nil {
		return nil, err
	}
	t.content = appendHex(nil, s.ATR())
	s.Close()
	return t, nil
}

// powerWords are what may be written to `power`.
var powerWords = map[string]reader.Action{
	"on": reader.PowerUp, "off": reader.PowerDown,
	"reset": reader.ResetWarm, "cold": reader.ResetCold, "eject": reader.Eject,
	"release": reader.Release,
}

// openPower waits for the reader to be ready.
func openPower(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f, []byte("off\n"))
	t.opening = newOpening(ctx, f, t, flags)
	if err := ready(ctx, f.bay, t.by); err != nil {
		return nil, err
	}
	if f.bay.Info().State == "powered" {
		t.content = []byte("on\n")
	}
	t.do = func(ctx context.Context, word string) error {
		action, ok := powerWords[word]
		if !ok {
			return fmt.Errorf("power %q: on, off, reset, cold, eject or release: %w", word, reader.ErrInvalid)
		}
		return f.bay.Power(ctx, action, t.by)
	}
	return t, nil
}

// openProtocol waits for the reader to be ready. It reads as "T=1 T=0": the
// protocol in force, then what else the card offers; empty without power.
func openProtocol(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f, nil)
	t.opening = newOpening(ctx, f, t, flags)
	if err := ready(ctx, f.bay, t.by); err != nil {
		return nil, err
	}
	if i := f.bay.Info(); i.State == "powered" {
		t.content = fmt.Appendf(nil, "T=%d", i.Params.T)
		for _, offered := range i.Offered {
			if offered != i.Params.T {
				t.content = fmt.Appendf(t.content, " T=%d", offered)
			}
		}
		t.content = append(t.content, '\n')
	}
	t.do = func(ctx context.Context, word string) error {
		switch word {
		case "T=0":
			return f.bay.SelectProtocol(ctx, 0, t.by)
		case "T=1":
			return f.bay.SelectProtocol(ctx, 1, t.by)
		}
		return fmt.Errorf("protocol %q: T=0 or T=1: %w", word, reader.ErrInvalid)
	}
	return t, nil
}

// openCtl: reading describes drivers and readers, a line written is a command.
func openCtl(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	m := f.mount.manager
	t := newTextFile(f, m.Describe())
	t.do = func(ctx context.Context, line string) error { return m.Command(line) }
	return t, nil
}
