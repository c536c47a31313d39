package soak

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/hex"
)

// The calls are raw ones: no retry after EINTR, no poller.

func rawOpen(path string, flags int) (int, error) {
	return syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
}

func rawRead(fd int) (string, error) {
	var buf [4096]byte
	n, err := syscall.Read(fd, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// ioctl is CARDFS_EXCHANGE of cardfs.h.
func ioctl(fd int, command []byte) ([]byte, error) {
	var buf [512]byte
	binary.NativeEndian.PutUint32(buf[:], uint32(len(command)))
	copy(buf[4:], command)
	request := uintptr(3<<30 | uint32(len(buf))<<16 | 0xCF<<8 | 1)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&buf)))
	if errno != 0 {
		return nil, errno
	}
	n := binary.NativeEndian.Uint32(buf[:])
	return bytes.Clone(buf[4 : 4+n]), nil
}

// text writes a command as hex and reads its answer; an interrupted read is repeated. handed
// reports whether the write accepted the command.
func text(fd int, command []byte) (answer []byte, handed bool, err error) {
	if _, err := syscall.Write(fd, fmt.Appendf(nil, "%X\n", command)); err != nil {
		return nil, false, err
	}
	for {
		line, err := rawRead(fd)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, true, err
		}
		answer, err = hex.Decode(line)
		return answer, true, err
	}
}

// echo is the simulated card's command that answers its data.
func echo(data []byte) []byte {
	return append(append([]byte{0x80, 0xEE, 0, 0, byte(len(data))}, data...), 0)
}

func echoed(answer, data []byte) bool {
	return bytes.Equal(answer, append(bytes.Clone(data), 0x90, 0x00))
}

// counter reads how many commands the card has received.
var counter = []byte{0x00, 0xCA, 0x01, 0x01, 4}

func counted(answer []byte) (int, bool) {
	if len(answer) != 6 || answer[4] != 0x90 {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(answer)), true
}

func name(err error) string {
	if errno, ok := err.(syscall.Errno); ok {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

// pester sends the calling thread SIGUSR1 at random moments until stop is
// called. The goroutine is locked to its thread.
func pester(rnd *rand.Rand, mean time.Duration) (stop func()) {
	runtime.LockOSThread()
	pid, tid := os.Getpid(), unix.Gettid()
	end, ended := make(chan struct{}), make(chan struct{})
	seed := rnd.Uint64()
	go func() {
		defer close(ended)
		rnd := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Duration(rnd.Int64N(int64(2 * mean)))):
				unix.Tgkill(pid, tid, unix.SIGUSR1)
			}
		}
	}()
	return func() {
		close(end)
		<-ended
		runtime.UnlockOSThread()
	}
}
