package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// place is the directory to mount at. It is looked up once: whoever may write to what is
// above it could put a symbolic link there between two looks, and have root mount over
// any directory. The kernel finds it, as an O_PATH open asks nothing of a mount there,
// which may be dead.
type place struct {
	fd   int    // O_PATH
	name string // in the mount table: absolute, and without symbolic links
}

func openPlace(dir string) (*place, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("%s: no such directory; create it first: mkdir -p %s", dir, dir)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%s: no permission to look there", dir)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	p := &place{fd: fd}
	if p.name, err = os.Readlink(p.path()); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// reopen looks at what is there now, once a mount came or went.
func (p *place) reopen() error {
	fd, err := unix.Open(p.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.close()
	p.fd = fd
	return nil
}

func (p *place) close() { unix.Close(p.fd) }

// dup is another descriptor of what is there.
func (p *place) dup() (int, error) {
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: dup: %w", p.name, err)
	}
	return fd, nil
}

// path leads to the place even if its name leads elsewhere by now.
func (p *place) path() string { return "/proc/self/fd/" + strconv.Itoa(p.fd) }

// mountOf returns the mount table's line for the mount that fd is in, or nil.
func mountOf(fd int) (*mountinfo.Info, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	id := -1
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			if id, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return nil, fmt.Errorf("/proc/self/fdinfo: mnt_id: %w", err)
			}
		}
	}
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.ID != id, i.ID == id })
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found[0], nil
}

// cardfs is the mount of a cardfs at the place itself, nil if there is none.
func (p *place) cardfs() (*mountinfo.Info, error) {
	m, err := mountOf(p.fd)
	if err != nil || m == nil || m.FSType != "fuse."+fsType || m.Mountpoint != p.name {
		return nil, err
	}
	return m, nil
}

// cardfsNow is cardfs for what is there now.
func (p *place) cardfsNow() (*mountinfo.Info, error) {
	if err := p.reopen(); err != nil {
		return nil, err
	}
	return p.cardfs()
}

// dead reports whether the mount there has lost its daemon.
func (p *place) dead() bool {
	// Not stat(2), which the kernel may answer from memory for an hour.
	var st unix.Statfs_t
	err := unix.Fstatfs(p.fd, &st)
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// cardfsMounts are all mounts of cardfs, by their number.
func cardfsMounts() (map[int]*mountinfo.Info, error) {
	list, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("fuse." + fsType))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	all := make(map[int]*mountinfo.Info)
	for _, i := range list {
		all[i.ID] = i
	}
	return all, nil
}

// usable says what stands in the way of mounting at the place, and removes a stale
// mount.
func (p *place) usable() error {
	if err := fuseUsable(); err != nil {
		return err
	}
	for {
		stale, err := p.cardfs()
		if err != nil {
			return err
		}
		if stale == nil {
			break
		}
		if !p.dead() {
			return fmt.Errorf("%s: a cardfs is already mounted here and alive; stop it, or choose another directory", p.name)
		}
		if err := p.detach(); err != nil {
			return fmt.Errorf("%s: a stale mount of a killed cardfs is here and cannot be removed: %w", p.name, err)
		}
		if err := p.reopen(); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s: not a directory", p.name)
	}
	if entries, err := os.ReadDir(p.path()); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s: not empty (%s …); mounting would hide what is in it: choose an empty directory", p.name, entries[0].Name())
	}
	if os.Geteuid() != 0 && int(st.Uid) != os.Getuid() && unix.Access(p.path(), unix.W_OK) != nil {
		return fmt.Errorf("%s: fusermount3 mounts only where you may write: choose a directory of your own", p.name)
	}
	return nil
}

func fuseUsable() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return explainDevice(err, os.Geteuid() == 0)
	}
	f.Close()
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			return errors.New("fusermount3 is missing, which lets users mount: install the package fuse3 (Debian: apt-get install fuse3)")
		}
	}
	return nil
}

// explainDevice says what to do where /dev/fuse cannot be opened.
func explainDevice(err error, root bool) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("/dev/fuse is missing: load the kernel's FUSE module (as root: modprobe fuse); in a container, give it the device (--device /dev/fuse)")
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return errors.New("/dev/fuse is there but the kernel has no FUSE: as root: modprobe fuse")
	case errors.Is(err, os.ErrPermission) && !root:
		return errors.New("no permission to open /dev/fuse: it should have mode 0666 (as root: chmod 666 /dev/fuse), or you should be in its group")
	}
	return fmt.Errorf("open /dev/fuse: %w", err)
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

// detach detaches the mount at the place even if it is busy.
func (p *place) detach() error {
	if os.Geteuid() == 0 {
		return unix.Unmount(p.path(), unix.MNT_DETACH)
	}
	out, err := exec.Command("fusermount3", "-u", "-z", "--", p.name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3 -u -z %s: %w: %s", p.name, err, out)
	}
	return nil
}

// mounted is a mount that this process made. Its numbers together identify it as long as it is
// connected; afterwards the kernel may give them to other mounts. No descriptor of it is
// kept: umount(8) would find the mount busy.
type mounted struct {
	id           int
	major, minor int
}

func (m mounted) is(i *mountinfo.Info) bool {
	return i != nil && i.ID == m.id && i.Major == m.major && i.Minor == m.minor
}

// detach detaches the mount, wherever it is now. A mount that is already gone is no error.
func (m mounted) detach() error {
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return !m.is(i), m.is(i) })
	if err != nil {
		return fmt.Errorf("read the mount table: %w", err)
	}
	if len(found) == 0 {
		return nil // umount -l was faster
	}
	p, err := openPlace(found[0].Mountpoint)
	if err != nil {
		return err
	}
	defer p.close()
	if now, err := mountOf(p.fd); err != nil {
		return err
	} else if !m.is(now) {
		return fmt.Errorf("%s: another mount hides this one; umount that first", p.name)
	}
	return p.detach()
}
