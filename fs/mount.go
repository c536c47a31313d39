package fs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// Options of a mount.
type Options struct {
	// AllowOther lets other users in, as far as Mode goes.
	AllowOther bool
	// GID is the group of all files; -1: the mounting user's.
	GID int
	// Mode is the permission of files that may be read and written; the others
	// get its read bits. 0 means 0600.
	Mode uint32
	// OpenTimeout bounds every waiting open; 0: none.
	OpenTimeout time.Duration
	Log         *slog.Logger
	Debug       bool // log every request
}

// Server is a mounted tree.
type Server struct {
	dir   string
	mount *mount
	leave context.CancelFunc
	done  chan struct{}
}

// fsType is what /proc/mounts calls a mount of ours, and tells a stale one by.
const fsType = "cardfs"

// Mount shows m's readers at dir. A stale mount that a killed daemon left there
// is replaced. Errors say what to do.
func Mount(dir string, m *reader.Manager, o Options) (*Server, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	if err := usable(dir, o); err != nil {
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
		openTimeout: o.OpenTimeout, started: time.Now(), log: o.Log,
	}
	s := &Server{dir: dir, mount: mnt}
	mnt.leaving, s.leave = context.WithCancel(context.Background())

	long, none := time.Hour, time.Duration(0)
	options := &fs.Options{
		MountOptions: fuse.MountOptions{
			FsName: fsType, Name: fsType,
			EnableLocks:   true,
			DisableXAttrs: true,
			MaxWrite:      maxWrite,
			Debug:         o.Debug,
			Logger:        log.New(logWriter{o.Log}, "", 0),
		},
		AttrTimeout:     &long,
		EntryTimeout:    &none, // each Lookup says how long
		NegativeTimeout: &none, // a cached "no such file" would hide an arrival
		NullPermissions: true,
		Logger:          log.New(logWriter{o.Log}, "", 0),
	}
	top := &root{mount: mnt}
	m.OnLeave(top.forget)
	fd, err := connect(dir, o.AllowOther)
	if err == nil {
		mnt.self, _ = inodeOf(dir) // asks no file system
		if mnt.server, err = newServer(fd, fs.NewNodeFS(top, options), &options.MountOptions, o.Log); err != nil {
			_ = detach(dir)
		}
	}
	if err != nil {
		s.leave()
		return nil, explain(dir, o, err)
	}
	s.done = make(chan struct{})
	go func() {
		mnt.server.serve()
		close(s.done)
	}()
	noPoll(dir)
	return s, nil
}

// noPoll has the kernel find out that we know nothing of poll(2), and answer it itself
// from then on: "ready". Go asks when it opens a file; in this process it might ask while
// no thread is left to answer.
func noPoll(dir string) {
	fd, err := unix.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
}

// resolve is dir by the name that the mount table gives it: absolute, and without
// symbolic links. The kernel finds it, as an O_PATH open asks nothing of a mount
// there, which may be dead. Where there is no dir it only becomes absolute.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return dir, nil // usable has the words for it
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// usable says what stands in the way of mounting at dir, and removes a stale
// mount.
func usable(dir string, o Options) error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("/dev/fuse is missing: load the kernel's FUSE module (as root: modprobe fuse); in a container, give it the device (--device /dev/fuse)")
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return errors.New("/dev/fuse is there but the kernel has no FUSE: as root: modprobe fuse")
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return errors.New("no permission to open /dev/fuse: it should have mode 0666 (as root: chmod 666 /dev/fuse), or you should be in its group")
	case err != nil:
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	f.Close()
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			return errors.New("fusermount3 is missing, which lets users mount: install the package fuse3 (Debian: apt-get install fuse3)")
		}
	}
	ours, err := mountsAt(dir)
	if err != nil {
		return err
	}
	var st syscall.Stat_t
	if len(ours) > 0 {
		// Not stat(2), which the kernel may answer from memory for an hour.
		var alive syscall.Statfs_t
		err = syscall.Statfs(dir, &alive)
		if !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) {
			return fmt.Errorf("%s: a cardfs is already mounted here and alive; stop it, or choose another directory", dir)
		}
		for range ours {
			if err := detach(dir); err != nil {
				return fmt.Errorf("%s: a stale mount of a killed cardfs is here and cannot be removed: %w", dir, err)
			}
		}
	}
	err = syscall.Stat(dir, &st)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%s: no such directory; create it first: mkdir -p %s", dir, dir)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: no permission to look there", dir)
	case err != nil:
		return fmt.Errorf("%s: %w", dir, err)
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return fmt.Errorf("%s: not a directory", dir)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s: not empty (%s …); mounting would hide what is in it: choose an empty directory", dir, entries[0].Name())
	}
	if os.Geteuid() != 0 && int(st.Uid) != os.Getuid() && unix.Access(dir, unix.W_OK) != nil {
		return fmt.Errorf("%s: fusermount3 mounts only where you may write: choose a directory of your own", dir)
	}
	return nil
}

// explain adds what to do to an error of the mount itself.
func explain(dir string, o Options, err error) error {
	switch {
	case o.AllowOther && os.Geteuid() != 0:
		return fmt.Errorf("mount at %s: %w (letting others in takes the line user_allow_other in /etc/fuse.conf)", dir, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("mount at %s: something is mounted or in use there: %w", dir, err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("mount at %s: %w (root without CAP_SYS_ADMIN? in a container: --cap-add SYS_ADMIN)", dir, err)
	}
	return fmt.Errorf("mount at %s: %w", dir, err)
}

// mountsAt finds the mounts of any cardfs at dir.
func mountsAt(dir string) ([]*mountinfo.Info, error) {
	ours, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint != dir || i.FSType != "fuse."+fsType, false
	})
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return ours, nil
}

// detach takes a mount away, whoever is in it.
func detach(dir string) error {
	if os.Geteuid() == 0 {
		return syscall.Unmount(dir, syscall.MNT_DETACH)
	}
	out, err := exec.Command("fusermount3", "-u", "-z", "--", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3 -u -z %s: %w: %s", dir, err, out)
	}
	return nil
}

// Done is closed when the mount is gone, by Close or by umount(8).
func (s *Server) Done() <-chan struct{} { return s.done }

// Leave refuses new opens and ends what follows events. Calls that wait for
// a reader or card end with the manager's Close.
func (s *Server) Leave() { s.leave() }

// Close takes the mount away, whoever sits in it, and gives answers under way
// patience to be delivered. Whoever still has a file open then may go on asking, so
// that the kernel keeps the connection: that is not waited for.
func (s *Server) Close(patience time.Duration) error {
	s.leave()
	ours, err := mountsAt(s.dir)
	if err == nil && len(ours) > 0 { // else somebody was faster: umount -l
		err = detach(s.dir)
	}
	enough, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.mount.server.drain(enough.Done())
	select {
	case <-s.done:
	case <-time.After(min(patience, 50*time.Millisecond)):
	}
	return err
}

// logWriter carries go-fuse's lines to slog.
type logWriter struct{ log *slog.Logger }

// written is the beginning of what a program wrote, as go-fuse shows it: it may
// be a PIN.
var written = regexp.MustCompile(`^(rx \d+: (?:WRITE|IOCTL) [^"]*)"(?:[^"\\]|\\.)*"`)

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("fuse", "line", string(written.ReplaceAll(p, []byte("$1 [masked]"))))
	return len(p), nil
}
