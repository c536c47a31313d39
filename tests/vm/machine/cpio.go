package machine

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
)

// cpio writes the "new ASCII" format that the kernel unpacks as its first root
// file system (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	w    *bytes.Buffer
	ino  int
	dirs map[string]bool
}

func newCPIO(w *bytes.Buffer) *cpio { return &cpio{w: w, dirs: map[string]bool{".": true, "/": true}} }

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

func (c *cpio) entry(name string, mode int, data []byte) {
	c.ino++
	fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.w.WriteString(name)
	c.w.WriteByte(0)
	c.pad()
	c.w.Write(data)
	c.pad()
}

func (c *cpio) pad() {
	for c.w.Len()%4 != 0 {
		c.w.WriteByte(0)
	}
}

func (c *cpio) parents(name string) {
	d := path.Dir(name)
	if c.dirs[d] {
		return
	}
	c.parents(d)
	c.dirs[d] = true
	c.entry(d, modeDir|0o755, nil)
}

func (c *cpio) file(name string, perm int, data []byte) {
	c.parents(name)
	c.entry(name, modeFile|perm, data)
}

func (c *cpio) link(name, target string) {
	c.parents(name)
	c.entry(name, modeLink|0o777, []byte(target))
}

// copy copies a file or symbolic link from a tar archive.
func (c *cpio) copy(name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg:
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		c.file(name, int(h.Mode&0o777), b)
	case tar.TypeSymlink:
		c.link(name, h.Linkname)
	}
	return nil
}

func (c *cpio) close() { c.entry("TRAILER!!!", 0, nil) }
