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

// openError says why a device file cannot be opened.
func openError(name, path string, err error) error {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		err = reader.ErrNoPermission
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		err = reader.ErrGone
	}
	return fmt.Errorf("%s: open %s: %w", name, path, err)
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
		comm, _ := os.ReadFile(filepath.Join(dir, "comm")) // of one that has ended: none
		s := fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), pid)
		if !slices.Contains(who, s) {
			who = append(who, s)
		}
	}
	return who
}
