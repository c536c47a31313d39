package sshfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// prefix begins the names of the directories of Mounts; mountPoint is in each.
const prefix, mountPoint = "ssh-", "cards"

// RuntimeDir is the directory below which Mounts have their directories: in the one that
// systemd made for the service ($RUNTIME_DIRECTORY), in /run/cardfs for root, or in
// $XDG_RUNTIME_DIR/cardfs; in the last resort in the directory for temporary files. It is made
// if it is not there. Nobody else may enter it.
func RuntimeDir() (string, error) {
	above, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	switch xdg := os.Getenv("XDG_RUNTIME_DIR"); {
	case above != "":
	case os.Geteuid() == 0:
		above = "/run/cardfs"
	case xdg != "":
		above = filepath.Join(xdg, "cardfs")
	default:
		above = filepath.Join(os.TempDir(), "cardfs-"+strconv.Itoa(os.Geteuid()))
	}
	for _, dir := range []string{above, filepath.Join(above, "remote")} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("a directory for mounts: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil {
			return "", fmt.Errorf("a directory for mounts: %s: %w", dir, err)
		}
		switch mode := uint32(st.Mode); {
		case mode&unix.S_IFMT != unix.S_IFDIR:
			return "", fmt.Errorf("a directory for mounts: %s is none: move it away", dir)
		case int(st.Uid) != os.Geteuid() || mode&0o022 != 0 || dir != above && mode&0o077 != 0:
			return "", fmt.Errorf("a directory for mounts: others than this user may change %s: remove it, or chown and chmod 700 it", dir)
		}
	}
	// The mount table has no symbolic links, and /var/run is often one.
	return filepath.EvalSymlinks(filepath.Join(above, "remote"))
}

// place is the directory of a Mount. Its lock is held until it is removed.
type place struct {
	dir  string
	lock *os.File // dir itself
}

// newPlace makes one below above.
func newPlace(above string) (*place, error) {
	for {
		dir, err := os.MkdirTemp(above, prefix)
		if err != nil {
			return nil, fmt.Errorf("a directory for a mount: %w", err)
		}
		p, err := lockPlace(dir)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue // another process takes it for a stale one
		}
		if err != nil {
			return nil, err
		}
		if err := os.Mkdir(p.mount(), 0o700); err != nil {
			p.lock.Close()
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was removed before it was locked
			}
			return nil, fmt.Errorf("a directory for a mount: %w", err)
		}
		return p, nil
	}
}

// lockPlace locks a place that is there. EWOULDBLOCK: it is another's.
func lockPlace(dir string) (*place, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &place{dir: dir, lock: f}, nil
}

func (p *place) mount() string { return filepath.Join(p.dir, mountPoint) }

// mounted reports whether an sshfs is mounted there. It asks nothing of it.
func (p *place) mounted() (bool, error) {
	found, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		is := i.Mountpoint == p.mount() && i.FSType == "fuse.sshfs"
		return !is, is
	})
	if err != nil {
		return false, fmt.Errorf("read the mount table: %w", err)
	}
	return len(found) > 0, nil
}

// remove removes the place, and before it the mount, whatever still uses that.
func (p *place) remove() error {
	defer p.lock.Close()
	for {
		is, err := p.mounted()
		if err != nil {
			return err
		}
		if !is {
			break
		}
		// The shell of the group may be faster, so what counts is the next look.
		if err := p.detach(); err != nil {
			if still, _ := p.mounted(); still {
				return err
			}
		}
	}
	err := os.Remove(p.mount())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(p.dir))
}

func (p *place) detach() error {
	if os.Geteuid() == 0 {
		if err := unix.Unmount(p.mount(), lazily); err != nil {
			return fmt.Errorf("unmount %s: %w", p.mount(), err)
		}
		return nil
	}
	if out, err := exec.Command("fusermount3", "-u", "-z", "--", p.mount()).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3 -u -z %s: %w: %s", p.mount(), err, out)
	}
	return nil
}

// sweep removes the places below above that no living process has.
func sweep(above string) error {
	all, err := filepath.Glob(filepath.Join(above, prefix+"*"))
	for _, dir := range all {
		p, lerr := lockPlace(dir)
		switch {
		case errors.Is(lerr, unix.EWOULDBLOCK), errors.Is(lerr, fs.ErrNotExist):
		case lerr != nil:
			err = errors.Join(err, lerr)
		default:
			err = errors.Join(err, p.remove())
		}
	}
	return err
}
