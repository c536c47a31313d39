//go:build !linux

package vpcd

// peerPID is not known where there is no SO_PEERCRED.
func peerPID(int) (int, bool) { return 0, false }

// ownUmask does nothing: a thread has no umask of its own.
func ownUmask() {}
