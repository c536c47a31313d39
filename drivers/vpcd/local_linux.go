package vpcd

import "golang.org/x/sys/unix"

// peerPID is the process at the other end of a local socket.
func peerPID(fd int) (int, bool) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred == nil {
		return 0, false
	}
	return int(cred.Pid), true
}

// ownUmask takes the umask away from this thread, and from no other. Where it cannot, the
// umask may take permissions away, and nothing worse.
func ownUmask() {
	if unix.Unshare(unix.CLONE_FS) == nil {
		unix.Umask(0)
	}
}
