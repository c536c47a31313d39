package usb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// openError says why a device file cannot be opened and what helps.
func openError(name, path string, err error) error {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		id := attributes(path)
		return fmt.Errorf("%s: open %s: %w; with the udev rule\n\t%s\nin %s, members of group %s may open it (udevadm control --reload; udevadm trigger)",
			name, path, reader.ErrNoPermission, idRule(id.vendor, id.product), RulesFile, Group)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s: open %s: %w", name, path, reader.ErrGone)
	}
	return fmt.Errorf("%s: open %s: %w", name, path, err)
}

type vendorProduct struct{ vendor, product uint16 }

// attributes finds a device file's IDs in sysfs; zero where there is none.
func attributes(path string) (id vendorProduct) {
	dir, ok := sysfsDir(path)
	if !ok {
		return id
	}
	id.vendor = uint16(readHex(dir, "idVendor"))
	id.product = uint16(readHex(dir, "idProduct"))
	return id
}

// sysfsDir is the directory of the device whose device file is at path.
func sysfsDir(path string) (string, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return "", false
	}
	dir := fmt.Sprintf("/sys/dev/char/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	_, err := os.Stat(dir)
	return dir, err == nil
}

// activeConfig is the bConfigurationValue in force, 0 where sysfs does not tell.
func activeConfig(path string) uint8 {
	dir, ok := sysfsDir(path)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(readAttr(dir, "bConfigurationValue"), 10, 8)
	if err != nil {
		return 0
	}
	return uint8(n)
}

func readAttr(dir, name string) string {
	b, err := readSysfs(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// readSysfs reads a file of sysfs or procfs, which gives at once what fits, and
// all if it is less: three system calls, where os.ReadFile makes nine. A dozen of
// these files are read between plugging and the first APDU.
func readSysfs(name string) ([]byte, error) {
	fd, err := uninterrupted(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 512)
	for {
		// A read waits for the kernel to be done with the device, and may be
		// interrupted by a signal of Go's own.
		n, err := uninterrupted(func() (int, error) { return unix.Read(fd, b[len(b):cap(b)]) })
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		}
		b = b[:len(b)+n]
		if len(b) < cap(b) {
			return b, nil
		}
		b = slices.Grow(b, cap(b))
	}
}

func uninterrupted(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}

func readHex(dir, name string) uint64 {
	n, _ := strconv.ParseUint(readAttr(dir, name), 16, 32)
	return n
}

// claimedError names the programs that hold a device file open.
func claimedError(name, path string, iface uint8) error {
	who := holders("/proc", path)
	hint := strings.Join(who, ", ")
	if len(who) == 0 {
		hint = "only root can see which: fuser -v " + path
	}
	return fmt.Errorf("%s: interface %d: %w: %s", name, iface, reader.ErrClaimed, hint)
}

// holders lists the processes that have a file open, as "pcscd (pid 123)": all
// for root, for others their own.
func holders(proc, path string) []string {
	var who []string
	self, mine := strconv.Itoa(os.Getpid()), 0
	fds, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "[0-9]*"))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != path {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid := filepath.Base(dir)
		if pid == self {
			// The one that failed to claim is still open.
			if mine++; mine < 2 {
				continue
			}
		}
		s := fmt.Sprintf("%s (pid %s)", readAttr(dir, "comm"), pid)
		if !slices.Contains(who, s) {
			who = append(who, s)
		}
	}
	return who
}
