//go:build !linux

package sshfs

import "golang.org/x/sys/unix"

// lazily unmounts a mount that is in use.
const lazily = unix.MNT_FORCE
