package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fuseFD is how go-fuse is told of a mount that somebody else made.
func fuseFD(fd int) string { return "/dev/fd/" + strconv.Itoa(fd) }

// connect mounts at dir and returns the mount's end of /dev/fuse. No child inherits it:
// it would keep the mount of a killed daemon hanging.
func connect(dir string, allowOther bool) (int, error) {
	// Without default_permissions the kernel asks nobody whether a mode allows what.
	options := []string{"default_permissions", fmt.Sprintf("max_read=%d", maxWrite)}
	if allowOther {
		options = append(options, "allow_other")
	}
	if os.Geteuid() == 0 {
		return connectDirectly(dir, options)
	}
	return connectBySetuid(dir, append(options, "fsname="+fsType, "subtype="+fsType))
}

// connectDirectly is for who may mount(2).
func connectDirectly(dir string, options []string) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options = append(options, fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d", fd, unix.S_IFDIR, os.Geteuid(), os.Getegid()))
	err = unix.Mount(fsType, dir, "fuse."+fsType, unix.MS_NOSUID|unix.MS_NODEV, strings.Join(options, ","))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// connectBySetuid has fusermount3 mount, which sends the descriptor back over the socket
// that _FUSE_COMMFD names (libfuse, util/fusermount.c).
func connectBySetuid(dir string, options []string) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3's end")
	cmd := exec.Command("fusermount3", "-o", strings.Join(options, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	theirs.Close()
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	control := make([]byte, unix.CmsgSpace(4))
	var n int
	for {
		_, n, _, _, err = unix.Recvmsg(pair[0], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, fmt.Errorf("fusermount3's answer: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	return fds[0], nil
}
