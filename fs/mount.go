package fs

import (
	"context"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cardfs/cardfs/fs/internal/fused"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/limitlog"
)

// Options of a mount.
type Options struct {
	// AllowOther lets other users in, within the limits of Mode.
	AllowOther bool
	// GID is the group of all files; -1: the mounting user's.
	GID int
	// Mode is the permission of files that may be read and written; the others
	// get its read bits. 0 means 0600.
	Mode uint32
	// OpenTimeout bounds every waiting open; 0: none.
	OpenTimeout time.Duration
	// Escape says who may send escape commands besides the owner; nil: nobody.
	Escape func(uid uint32) bool
	// Access overrides GID and Mode for single slots; the first that matches counts.
	Access []Access
	Log    *slog.Logger
	Debug  bool // log every request
}

// Server is a mounted tree.
type Server struct {
	mounted mounted
	mount   *mount
	top     *root
	leave   context.CancelFunc
}

// fsType is the type of our mounts in /proc/mounts. Stale mounts are recognised by it.
const fsType = "cardfs"

// Mount shows m's readers at dir. A stale mount that a killed daemon left there
// is replaced. Errors say what to do.
func Mount(dir string, m *core.Manager, o Options) (*Server, error) {
	at, err := openPlace(dir)
	if err != nil {
		return nil, err
	}
	defer func() { at.close() }()
	if err := at.usable(); err != nil {
		return nil, err
	}
	uid, gid := owner()
	if o.GID >= 0 {
		gid = uint32(o.GID)
	}
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	mnt := &mount{
		manager: m, uid: uid, gid: gid, mode: o.Mode & 0o666,
		openTimeout: o.OpenTimeout, started: time.Now(), log: limitlog.New(o.Log), escape: o.Escape,
	}
	mnt.access.Store(&o.Access)
	s := &Server{mount: mnt, top: &root{mount: mnt}}
	mnt.leaving, s.leave = context.WithCancel(context.Background())

	none := time.Duration(0)
	options := &fs.Options{
		MountOptions: fuse.MountOptions{
			FsName: fsType, Name: fsType,
			EnableLocks:   true,
			DisableXAttrs: true,
			MaxWrite:      fused.MaxWrite,
			Debug:         o.Debug,
			Logger:        log.New(fused.LogWriter(o.Log), "", 0),
		},
		AttrTimeout:     &none, // each file says how long: the size of text files changes
		EntryTimeout:    &none, // each Lookup says how long
		NegativeTimeout: &none, // a cached "no such file" would hide an arrival
		NullPermissions: true,
		Logger:          log.New(fused.LogWriter(o.Log), "", 0),
	}
	m.OnLeave(s.top.forget)
	fd, mounted, err := connect(at, o.AllowOther)
	if err == nil {
		mnt.self, _ = inodeOf(at.path()) // asks no file system
		s.mounted = mounted
		tree := fixed{fs.NewNodeFS(s.top, options)}
		if mnt.server, err = fused.New(fd, tree, &options.MountOptions, o.Log); err != nil {
			_ = mounted.detach()
		}
	}
	if err != nil {
		s.leave()
		return nil, explain(at.name, o, err)
	}
	warnOfTimeouts(o.Log, procSys)
	go mnt.server.Serve()
	return s, nil
}

// procSys is where the kernel's settings are; a variable for tests.
var procSys = "/proc/sys"

// warnOfTimeouts warns if the kernel is set to abort a mount when a request takes long (Linux
// 6.15, Documentation/admin-guide/sysctl/fs.rst). Here requests wait as a matter of course.
func warnOfTimeouts(log *slog.Logger, procSys string) {
	for _, name := range []string{"default_request_timeout", "max_request_timeout"} {
		text, err := os.ReadFile(filepath.Join(procSys, "fs/fuse", name))
		if err != nil {
			continue // an older kernel
		}
		if seconds := strings.TrimSpace(string(text)); seconds != "0" {
			log.Warn("the kernel ends this mount when an open, a read or a command waits longer; to prevent it: sysctl fs.fuse."+name+"=0",
				"seconds", seconds)
		}
	}
}

// Done is closed when the mount is gone, by Close or by umount(8), also while requests
// are under way.
func (s *Server) Done() <-chan struct{} { return s.mount.server.Gone() }

// Leave refuses new opens and ends what follows events. Calls that wait for
// a reader or card end with the manager's Close.
func (s *Server) Leave() { s.leave() }

// Close detaches the mount even if it is busy, and waits up to limit for answers under way to
// be delivered. It does not wait for open files to be closed: their programs may go on making
// requests, and the kernel keeps the connection as long as they do.
func (s *Server) Close(limit time.Duration) error {
	s.leave()
	var err error
	if s.mount.server.Connected() { // otherwise its number may belong to another mount by now
		err = s.mounted.detach()
	}
	enough, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s.mount.server.Drain(enough.Done())
	select {
	case <-s.Done():
	case <-time.After(min(limit, 50*time.Millisecond)):
	}
	return err
}

// LogWriter carries go-fuse's lines to log, without the bytes that a program wrote or got.
// What go-fuse says of itself it writes to package log.
func LogWriter(log *slog.Logger) io.Writer { return fused.LogWriter(log) }
