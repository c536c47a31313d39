//go:build !linux

package files

import "golang.org/x/sys/unix"

// pathOnly opens a name, as far as this system can.
const pathOnly = unix.O_RDONLY | unix.O_NONBLOCK
