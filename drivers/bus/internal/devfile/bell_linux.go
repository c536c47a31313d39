package devfile

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// bell is an epoll instance with a file in it, for the runtime's poller.
//
// The poller itself would have the file for reads and for writes, and as long as it is open:
// each command that leaves and each answer would wake a thread, mostly for nothing. Behind a
// bell it wakes one only for what somebody waits for, and while they wait.
type bell struct {
	file  syscall.RawConn
	epoll *os.File
	poll  syscall.RawConn // epoll's
}

// open makes the epoll instance. unix.EPERM: the file cannot be polled (epoll_ctl(2)).
func (b *bell) open(file syscall.RawConn) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	_ = unix.SetNonblock(epoll, true) // os.NewFile gives it to the poller
	b.file, b.epoll = file, os.NewFile(uintptr(epoll), "epoll")
	if b.poll, err = b.epoll.SyscallConn(); err == nil {
		err = b.control(unix.EPOLL_CTL_ADD, 0)
	}
	if err != nil {
		b.close()
	}
	return err
}

// listen says which events ring.
func (b *bell) listen(events uint32) error { return b.control(unix.EPOLL_CTL_MOD, events) }

func (b *bell) control(op int, events uint32) error {
	err := error(reader.ErrGone) // closed
	_ = b.file.Control(func(file uintptr) {
		_ = b.poll.Control(func(epoll uintptr) {
			err = unix.EpollCtl(int(epoll), op, int(file), &unix.EpollEvent{Events: events})
		})
	})
	return err
}

// close ends a wait for the bell.
func (b *bell) close() { _ = b.epoll.Close() } // it may be nil

// Watcher waits for a terminal to be hung up.
type Watcher struct {
	bell
	leave func()
	gone  <-chan struct{}
}

// Watcher makes one. It is to be closed before the file.
func (f *File) Watcher() (*Watcher, error) {
	w := &Watcher{leave: f.Leave, gone: f.gone}
	return w, w.open(f.raw)
}

// calm is how long the watcher sleeps after it was woken for nothing, so that a terminal at
// work does not wake it for each command.
const calm = 20 * time.Millisecond

// Watch calls Leave when the terminal is hung up, and returns then or when the watcher is
// closed. It listens as a writer does: beside a hang-up, only characters that have left wake
// it, and those not on every terminal.
func (w *Watcher) Watch() {
	var event [1]unix.EpollEvent
	rung := func(epoll uintptr) bool {
		n, err := unix.EpollWait(int(epoll), event[:], 0)
		return err != nil || n > 0
	}
	sleep := time.NewTimer(0)
	defer sleep.Stop()
	for w.listen(unix.EPOLLOUT|unix.EPOLLET) == nil {
		for range 2 { // at first it rings for what is so already
			if w.poll.Read(rung) != nil {
				return // closed
			}
			if event[0].Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
				w.leave()
				return
			}
		}
		_ = w.listen(0)
		sleep.Reset(calm)
		select {
		case <-sleep.C:
		case <-w.gone:
			return
		}
	}
}

// Close ends Watch.
func (w *Watcher) Close() { w.close() }
