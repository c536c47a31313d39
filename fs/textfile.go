package fs

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/fs/internal/fused"
)

// textFile is one open of a file whose text is captured by a read at offset 0, and whose
// writes are commands in words. After a write that failed, the same open reads why, a
// line "error …": an errno alone does not tell which word was wrong.
type textFile struct {
	flocked
	opening // for files whose writes use a card's power
	file    *file
	fixed   bool // its text is the open's
	// do carries out one line; nil: read only. It may wait for the card.
	do func(ctx context.Context, line string) error

	mu      sync.Mutex // the kernel lets reads go on during a write
	content []byte     // replaced, never changed
	changes uint64     // of the slot, before content
	refused []byte     // after a write that failed: what is read in its place
}

var (
	_ = (fs.FileReader)((*textFile)(nil))
	_ = (fs.FileWriter)((*textFile)(nil))
	_ = (fs.FileReleaser)((*textFile)(nil))
	_ = (fs.FileSetlker)((*textFile)(nil))
	_ = (fs.FileSetlkwer)((*textFile)(nil))
)

func (t *textFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	content := t.capture(off == 0)
	if t.file.slot.Gone() { // else the text is of a reader that was there
		return nil, syscall.ENODEV
	}
	if off >= int64(len(content)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(content[off:min(int64(len(content)), off+int64(len(dest)))]), 0
}

// capture returns the text that a read belongs to. With anew, for a read at offset 0, it takes
// the text afresh.
func (t *textFile) capture(anew bool) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if anew && !t.fixed {
		t.changes = t.file.changes()
		t.content = t.file.spec.text(t.file)
	}
	if t.refused != nil {
		return t.refused
	}
	return t.content
}

// Ready: "text files: always readable; status and stats wake with POLLPRI|POLLERR after a change
// since the last read, as sysfs does".
func (t *textFile) Ready() uint32 {
	if t.file.slot.Gone() {
		return fused.HungUp
	}
	bits := uint32(fused.Readable)
	if t.do != nil {
		bits |= fused.Writable
	}
	if t.file.spec.watch != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		// A card that was removed and inserted again leaves the text as it was.
		if t.file.changes() != t.changes || !bytes.Equal(t.file.spec.text(t.file), t.content) {
			bits |= fused.Changed
		}
	}
	return bits
}

func (t *textFile) Watch(wake func()) (stop func()) {
	switch {
	case t.file.slot == nil:
		return func() {}
	case t.file.spec.watch != nil:
		return t.file.spec.watch(t.file.slot, wake)
	}
	return t.file.slot.AfterLeft(wake)
}

// outcome keeps why a write failed.
func (t *textFile) outcome(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused = nil
	if err != nil {
		t.refused = []byte("error " + reason(err) + "\n")
	}
}

// maxReason bounds what each open keeps of an error, which may quote what was written.
const maxReason = 1000

// commandBytes are digits that may be a command, written to the wrong file. Errors
// show no byte of one.
var commandBytes = regexp.MustCompile(`[0-9A-Fa-f]{8,}`)

// reason is err in the words of one line.
func reason(err error) string {
	words := strings.Join(strings.Fields(err.Error()), " ")
	if len(words) > maxReason {
		words = strings.ToValidUTF8(words[:maxReason], "") + "…"
	}
	return commandBytes.ReplaceAllString(words, "…")
}

// Write carries out the lines of one write in order. If a line fails after others succeeded,
// the write is short: it covers those, and writing the rest reports the error.
func (t *textFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if t.file.slot.Gone() {
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
			err := t.do(ctx, line)
			t.outcome(err)
			if err != nil {
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

func newTextFile(f *file) *textFile {
	t := &textFile{file: f}
	t.flocked = f.flock(t)
	return t
}

func (t *textFile) Release(ctx context.Context) syscall.Errno {
	t.unlock()
	return 0
}
