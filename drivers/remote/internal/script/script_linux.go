// Package script serves files whose opens, reads and writes are functions of a test: a file
// system that fails, waits or lies as none does by itself.
//
// Whoever uses the files must be another process: a test that waited for itself could not end.
package script

import (
	"context"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// File is a file. What is nil succeeds, and reads nothing. A function that waits must end with
// its context: the kernel ends it when the process is killed that waits.
type File struct {
	Open  func(ctx context.Context) syscall.Errno
	Read  func(ctx context.Context, most int) ([]byte, syscall.Errno)
	Write func(ctx context.Context, data []byte) (int, syscall.Errno)
	Close func() // at each close(2)
}

// Text is a file with a text, which may change. It is read by one read(2), whose end is not
// asked for.
func Text(text func() string) *File {
	return &File{Read: func(context.Context, int) ([]byte, syscall.Errno) { return []byte(text()), 0 }}
}

// Mount mounts files, by their paths, until the test ends.
func Mount(t testing.TB, files map[string]*File) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "script")
	if err != nil {
		t.Fatal(err)
	}
	top := &root{files: files}
	srv, err := fs.Mount(dir, top, &fs.Options{MountOptions: fuse.MountOptions{FsName: "script", Name: "script", DisableXAttrs: true}})
	if err != nil {
		t.Fatalf("%v: apt-get install fuse3", err)
	}
	if err := closeOnExec("/dev/fuse"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			_ = srv.Unmount()
		}
		over := make(chan struct{})
		go func() { srv.Wait(); close(over) }()
		select {
		case <-over: // nobody has a file open
		case <-time.After(time.Minute):
			t.Errorf("%s: its files are still used", dir)
		}
		_ = os.Remove(dir)
	})
	return dir
}

// closeOnExec keeps the descriptors of a file from children. go-fuse's are inherited: a child
// that waits in the mount would keep it alive, and wait for itself, after the test was killed.
func closeOnExec(name string) error {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range all {
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || link != name {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		unix.CloseOnExec(fd)
	}
	return nil
}

// root is the directory.
type root struct {
	fs.Inode
	files map[string]*File
}

var _ fs.NodeOnAdder = (*root)(nil)

func (r *root) OnAdd(ctx context.Context) {
	for name, f := range r.files {
		in := &r.Inode
		dirs, base := path.Split(name)
		for dir := range strings.SplitSeq(strings.TrimSuffix(dirs, "/"), "/") {
			if dir == "" {
				continue
			}
			next := in.GetChild(dir)
			if next == nil {
				next = in.NewPersistentInode(ctx, &fs.Inode{}, fs.StableAttr{Mode: syscall.S_IFDIR})
				in.AddChild(dir, next, false)
			}
			in = next
		}
		in.AddChild(base, in.NewPersistentInode(ctx, &node{file: f}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
	}
}

// node is a File, and each open of it.
type node struct {
	fs.Inode
	file *File
}

var (
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeFlusher   = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
)

func (n *node) Open(ctx context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if n.file.Open != nil {
		if errno := n.file.Open(ctx); errno != 0 {
			return nil, 0, errno
		}
	}
	return nil, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NONSEEKABLE, 0
}

func (n *node) Read(ctx context.Context, _ fs.FileHandle, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	if n.file.Read == nil {
		return fuse.ReadResultData(nil), 0
	}
	data, errno := n.file.Read(ctx, len(dest))
	return fuse.ReadResultData(data), errno
}

func (n *node) Write(ctx context.Context, _ fs.FileHandle, data []byte, _ int64) (uint32, syscall.Errno) {
	if n.file.Write == nil {
		return uint32(len(data)), 0
	}
	done, errno := n.file.Write(ctx, data)
	return uint32(done), errno
}

func (n *node) Flush(context.Context, fs.FileHandle) syscall.Errno {
	if n.file.Close != nil {
		n.file.Close()
	}
	return 0
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o600
	return 0
}
