package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/fs/internal/fused"
)

// connect mounts at a place and returns the mount's descriptor of /dev/fuse. No child may
// inherit it: after the daemon was killed, the child would keep the mount hanging. An error
// leaves no mount.
func connect(at *place, allowOther bool) (fd int, m mounted, err error) {
	for try := 1; ; try++ {
		fd, m, err = connectOnce(at, allowOther)
		if !errors.Is(err, errNumberInUse) || try == connectTries {
			return fd, m, err
		}
	}
}

// errNumberInUse: the mount at the place has the number of one that was elsewhere before.
// Either that one ended, and the kernel gave its number to ours; or it is here now because
// directories were renamed.
var errNumberInUse = errors.New("the mount is not where it was made; was the directory moved?")

// connectTries bounds the attempts. A mount that ended cannot cause errNumberInUse again; a
// renamed one does every time.
const connectTries = 5

// connectOnce mounts once. After an error the place is what it was.
func connectOnce(at *place, allowOther bool) (fd int, m mounted, err error) {
	// Without default_permissions the kernel does not enforce modes.
	options := []string{"default_permissions", fmt.Sprintf("max_read=%d", fused.MaxWrite)}
	if allowOther {
		options = append(options, "allow_other")
	}
	before, err := cardfsMounts()
	if err != nil {
		return -1, m, err
	}
	under, err := at.dup()
	if err != nil {
		return -1, m, err
	}
	defer func() {
		if err != nil {
			at.fd, under = under, at.fd
		}
		unix.Close(under)
	}()
	made := true
	if os.Geteuid() == 0 {
		if fd, err = connectDirectly(at.path(), options); err != nil {
			return -1, m, err
		}
	} else {
		options = append(options, "fsname="+fsType, "subtype="+fsType)
		if fd, made, err = connectBySetuid(at.name, options); !made {
			return -1, m, err
		}
	}
	// A mount that was not there before is ours.
	now, lookErr := at.cardfsNow()
	switch {
	case lookErr != nil:
	case now == nil:
		lookErr = errors.New("the mount is not where it was made; was the directory moved?")
	case before[now.ID] != nil:
		lookErr = errNumberInUse
	}
	if err = errors.Join(err, lookErr); err == nil {
		return fd, mounted{now.ID, now.Major, now.Minor}, nil
	}
	if fd >= 0 {
		unix.Close(fd) // this kills the mount
	}
	detachDead(before)
	return -1, m, err
}

// detachDead detaches the mounts that were made since before and have no daemon.
func detachDead(before map[int]*mountinfo.Info) {
	after, _ := cardfsMounts()
	for id, i := range after {
		if was := before[id]; was != nil && was.Mountpoint == i.Mountpoint {
			continue
		}
		if p, err := openPlace(i.Mountpoint); err == nil {
			// By now another mount may be there. While p is open, the kernel gives the numbers
			// of the one that is there to no other.
			m := mounted{id, i.Major, i.Minor}
			if now, err := mountOf(p.fd); err == nil && m.is(now) && p.dead() {
				_ = m.detach()
			}
			p.close()
		}
	}
}

// connectDirectly mounts with mount(2), which needs the privilege to do so.
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
// that _FUSE_COMMFD names (libfuse, util/fusermount.c). made may be true despite an error.
func connectBySetuid(dir string, options []string) (fd int, made bool, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("socketpair: %w", err)
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
		return -1, false, fmt.Errorf("fusermount3: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	fd, err = receiveFD(pair[0])
	return fd, true, err
}

// receiveFD takes the one descriptor that came over a socket.
func receiveFD(socket int) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	var n int
	var err error
	for {
		_, n, _, _, err = unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
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
