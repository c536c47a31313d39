package fs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fs"
)

// openCtl: reading describes drivers and readers, a line written is a command.
func openCtl(ctx context.Context, f *file, flags uint32) (fs.FileHandle, error) {
	t := newTextFile(f)
	t.capture(true)
	t.do = func(ctx context.Context, line string) error { return f.mount.manager.Command(line) }
	return t, nil
}

func ctlText(f *file) []byte { return f.mount.manager.Describe() }
