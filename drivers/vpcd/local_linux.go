package vpcd

import "golang.org/x/sys/unix"

// peerPID returns the process at the other end of a local socket.
func peerPID(fd int) (int, bool) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred == nil {
		return 0, false
	}
	return int(cred.Pid), true
}

// ownUmask clears the umask of this thread only. If that fails, the umask may remove
// permissions, but never adds any.
func ownUmask() {
	if unix.Unshare(unix.CLONE_FS) == nil {
		unix.Umask(0)
	}
}
