package usb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cardfs/cardfs/reader"
)

// Refused returns the error of a transport that cannot open the device file.
func (p Place) Refused(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = reader.ErrNoPermission
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		err = reader.ErrGone
	}
	return fmt.Errorf("%s: open %s: %w", p.Name, p.Path, err)
}

// Claimed returns the error of a transport that finds an interface already claimed. It
// names the programs that have the device file open.
func (p Place) Claimed(iface uint8) error {
	who := holders("/proc", p.Path)
	hint := strings.Join(who, ", ")
	if len(who) == 0 {
		hint = "only root can see which: fuser -v " + p.Path
	}
	return fmt.Errorf("%s: interface %d: %w: %s", p.Name, iface, reader.ErrClaimed, hint)
}

// holders lists the processes that have a file open, as "pcscd (pid 123)". Root sees all
// of them, other users only their own.
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
			// Our own descriptor is still open while its claim fails: do not count it.
			if mine++; mine < 2 {
				continue
			}
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm")) // empty if the process has ended
		s := fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), pid)
		if !slices.Contains(who, s) {
			who = append(who, s)
		}
	}
	return who
}
