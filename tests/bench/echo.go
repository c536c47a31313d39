package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// echoFile is the minimum that a go-fuse server can do for write+read: an open stores what
// is written to it, and reads return that.
type echoFile struct{ fs.Inode }

type echoHandle struct{ last []byte }

var (
	_ fs.NodeOpener    = (*echoFile)(nil)
	_ fs.NodeGetattrer = (*echoFile)(nil)
	_ fs.FileReader    = (*echoHandle)(nil)
	_ fs.FileWriter    = (*echoHandle)(nil)
)

func (*echoFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o600
	return 0
}

func (*echoFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return &echoHandle{}, fuse.FOPEN_DIRECT_IO, 0
}

func (h *echoHandle) Write(_ context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	h.last = append(h.last[:0], data...)
	return uint32(len(data)), 0
}

func (h *echoHandle) Read(context.Context, []byte, int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultData(h.last), 0
}

// echo mounts a directory with one such file, until SIGTERM.
func echo(dir string) error {
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "echo", DirectMountStrict: os.Geteuid() == 0, DisableXAttrs: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("echo", root.NewPersistentInode(ctx, &echoFile{}, fs.StableAttr{Mode: fuse.S_IFREG}), false)
		},
	})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Fprintln(os.Stderr, "mounted at", dir)
	<-stop
	if os.Geteuid() != 0 {
		return server.Unmount()
	}
	// Server.Unmount waits until the kernel has given up the connection. The kernel keeps it
	// while another mount namespace, made during the run, has a copy of the mount. The
	// connection ends with this process.
	return syscall.Unmount(dir, syscall.MNT_DETACH)
}
