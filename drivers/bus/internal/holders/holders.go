// Package holders finds the programs that have a device file open.
package holders

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Of lists the programs that have the file open, as "pcscd (pid 123)": all of them for root,
// the user's own for others. One descriptor of this process does not count.
func Of(path string) []string { return list("/proc", path) }

// Hint names the programs that have the file open, for an error that says it is in use.
func Hint(path string) string {
	if who := Of(path); len(who) > 0 {
		return strings.Join(who, ", ")
	}
	return "only root can see which: fuser -v " + path
}

// list lists the processes that have a file open, as "pcscd (pid 123)". Root sees all
// of them, other users only their own.
func list(proc, path string) []string {
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
