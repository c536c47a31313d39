package hotplug

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Groups of NETLINK_KOBJECT_UEVENT.
const (
	groupKernel = 1
	groupUdev   = 2
)

// uevents is the source of uevents: a netlink socket.
type uevents struct {
	file *os.File
	raw  syscall.RawConn
	recv func(fd int, buf, oob []byte) (n, oobn, flags int, from unix.Sockaddr, err error)
}

func openUevents() (source, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// A hub full of readers causes hundreds of messages at once. Without privilege the
	// call fails and messages may be dropped; a scan then finds what they reported.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groupKernel | groupUdev})
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return newUevents(fd)
}

func newUevents(fd int) (*uevents, error) {
	u := &uevents{file: os.NewFile(uintptr(fd), "uevents"), recv: func(fd int, buf, oob []byte) (int, int, int, unix.Sockaddr, error) {
		return unix.Recvmsg(fd, buf, oob, 0)
	}}
	var err error
	if u.raw, err = u.file.SyscallConn(); err != nil {
		u.file.Close()
		return nil, err
	}
	return u, nil
}

// Close ends follow.
func (u *uevents) Close() error { return u.file.Close() }

func (u *uevents) follow(w *Watcher) error {
	buf := make([]byte, 16<<10) // a uevent has at most 2 KiB, udevd's at most 8
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		var n, oobn, flags int
		var from unix.Sockaddr
		var rerr error
		err := u.raw.Read(func(fd uintptr) bool {
			n, oobn, flags, from, rerr = u.recv(int(fd), buf, oob)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return err // closed
		case errors.Is(rerr, unix.ENOBUFS): // messages were dropped
			w.lost()
			continue
		case errors.Is(rerr, unix.EINTR):
			continue
		case rerr != nil:
			return os.NewSyscallError("recvmsg", rerr)
		case !trusted(from, oob[:oobn]):
			continue
		case flags&unix.MSG_TRUNC != 0:
			w.log.Debug("uevent cut short", "bytes", n)
			w.lost()
			continue
		}
		e, err := parseUevent(buf[:n])
		if err != nil {
			w.log.Debug("uevent not understood", "error", err)
			continue
		}
		w.handle(e)
	}
}

// trusted reports whether a message comes from the kernel, or from root in udevd's group.
// The owner of the network namespace may let others send to a group, but only the kernel
// has port 0 (netlink(7)).
func trusted(from unix.Sockaddr, oob []byte) bool {
	addr, ok := from.(*unix.SockaddrNetlink)
	if !ok {
		return false
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return false
	}
	cred, err := unix.ParseUnixCredentials(&msgs[0])
	if err != nil || cred.Uid != 0 {
		return false
	}
	return addr.Groups == groupKernel && addr.Pid == 0 || addr.Groups == groupUdev
}
