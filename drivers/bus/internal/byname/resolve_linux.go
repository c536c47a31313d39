package byname

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// Resolve returns the file that name leads to, without links in it. It follows the links of
// udev, but none that another user may have put there, as Linux does in directories with
// the sticky bit (Documentation/admin-guide/sysctl/fs.rst, protected_symlinks): cardfs
// may run as root, and writes to what it opens. ErrGone: there is no such file.
func Resolve(name string) (string, error) {
	path, err := resolve(name)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		err = reader.ErrGone
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("%w: %w", reader.ErrNoPermission, err)
	}
	return "", fmt.Errorf("%s: open: %w", name, err)
}

func resolve(name string) (string, error) {
	if !filepath.IsAbs(name) {
		return "", fmt.Errorf("the name of a device file begins with /: %w", reader.ErrInvalid)
	}
	done, rest := "/", strings.Split(filepath.Clean(name), "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := filepath.Join(done, part)
		var st unix.Stat_t
		if err := unix.Lstat(next, &st); err != nil {
			return "", &os.PathError{Op: "lstat", Path: next, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			done = next
			continue
		}
		if links++; links > 40 {
			return "", &os.PathError{Op: "readlink", Path: next, Err: unix.ELOOP}
		}
		if !ours(st.Uid) {
			return "", fmt.Errorf("%s: %w: %w", next, errLink, reader.ErrNoPermission)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// ours reports whether root or the user of this process has that number.
func ours(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }
