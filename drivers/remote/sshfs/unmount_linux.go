package sshfs

import "golang.org/x/sys/unix"

// lazily unmounts a mount that is in use, and follows no link.
const lazily = unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW
