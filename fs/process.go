package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies a process by its id and its start time: the id alone may be reused. The
// zero value is an unknown process.
type process struct {
	pid   int
	start uint64 // clock ticks since boot
}

var errUnknownProcess = errors.New("the process that opened it is not known")

// lookUp finds the process of a thread, which must not end meanwhile: it waits for the
// answer to its open(2). fd is a pidfd of the process where the thread is its first, else -1.
func lookUp(tid uint32) (who process, fd int, err error) {
	if tid == 0 { // the kernel's id for a process outside our pid namespace
		return process{}, -1, fmt.Errorf("it is in another pid namespace: %w", errUnknownProcess)
	}
	pid := int(tid)
	fd, notFirst := unix.PidfdOpen(pid, 0) // a process's first thread has its id
	if notFirst != nil {
		fd = -1
		if pid, err = processID(pid); err != nil {
			return process{}, -1, fmt.Errorf("%w (is /proc mounted with hidepid?): %w", err, errUnknownProcess)
		}
	}
	stat, err := statOf(pid)
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return process{}, -1, fmt.Errorf("%w: %w", err, errUnknownProcess)
	}
	return stat.process, fd, nil
}

// openers caches the processes that opened something a moment ago: one process often opens
// many files. It keeps a pidfd of each, because a pid cannot be reused while its process has
// not ended.
type openers struct {
	mu    sync.Mutex
	kept  []opener
	timer *time.Timer // runs while there is one
}

type opener struct {
	process
	fd   int
	used bool // since the timer looked
}

const (
	mostOpeners = 16
	openersKept = time.Second // unused; up to twice as long
)

// processOf is lookUp, once for all opens in a row.
func (o *openers) processOf(tid uint32) (process, error) {
	if who, ok := o.find(tid); ok {
		return who, nil
	}
	who, fd, err := lookUp(tid)
	if fd >= 0 {
		o.keep(who, fd)
	}
	return who, err
}

// find finds a process by its first thread, which waits.
func (o *openers) find(tid uint32) (process, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.kept {
		k := &o.kept[i]
		if k.pid != int(tid) {
			continue
		}
		if lives(k.fd) {
			k.used = true
			return k.process, true
		}
		unix.Close(k.fd)
		o.kept = slices.Delete(o.kept, i, i+1)
		break
	}
	return process{}, false
}

// lives reports whether the process of a pidfd has not ended (pidfd_open(2): it is
// readable then). Unlike kill(2) this needs no permission, whose lack could be mistaken for an
// answer.
func lives(fd int) bool {
	now := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(now, 0)
	return n == 0 && err == nil
}

// keep remembers who and its pidfd. If the cache is full, the oldest entry makes room.
func (o *openers) keep(who process, fd int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if slices.ContainsFunc(o.kept, func(k opener) bool { return k.pid == who.pid }) {
		unix.Close(fd) // two opened at once
		return
	}
	if len(o.kept) == mostOpeners {
		unix.Close(o.kept[0].fd)
		o.kept = slices.Delete(o.kept, 0, 1)
	}
	if len(o.kept) == 0 {
		o.timer = time.AfterFunc(openersKept, o.forget)
	}
	o.kept = append(o.kept, opener{who, fd, true})
}

// forget drops the processes that opened nothing since the last call.
func (o *openers) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = slices.DeleteFunc(o.kept, func(k opener) bool {
		if !k.used {
			unix.Close(k.fd)
		}
		return !k.used
	})
	for i := range o.kept {
		o.kept[i].used = false
	}
	if len(o.kept) > 0 {
		o.timer.Reset(openersKept)
	}
}

// readProc reads the beginning of a file below /proc, which comes in one piece.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	text := make([]byte, 1024)
	n, err := unix.Read(fd, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text[:n], nil
}

// processID finds the id of a thread's process.
func processID(tid int) (int, error) {
	text, err := readProc(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0, err
	}
	_, value, ok := bytes.Cut(text, []byte("\nTgid:"))
	value, _, _ = bytes.Cut(value, []byte("\n"))
	pid, err := strconv.Atoi(string(bytes.TrimSpace(value)))
	if !ok || err != nil {
		return 0, fmt.Errorf("/proc/%d/status: no Tgid", tid)
	}
	return pid, nil
}

// procStat is the result of one read of /proc/PID/stat, so all of it is of the same process.
type procStat struct {
	process
	parent int // its id; 0 where it is outside our pid namespace
	ended  bool
}

func statOf(pid int) (procStat, error) {
	text, err := readProc(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	s, err := parseStat(text)
	s.pid = pid
	return s, err
}

// parseStat reads fields 3, 4 and 22 (proc_pid_stat(5)).
func parseStat(text []byte) (s procStat, err error) {
	// The command name, field 2, is in parentheses and may hold blanks and parentheses.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return s, fmt.Errorf("/proc/PID/stat: %d fields", len(fields))
	}
	s.ended = fields[0][0] == 'Z' || fields[0][0] == 'X'
	if s.parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return s, err
	}
	s.start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return s, err
}

// processTable is where ancestors are looked up: statOf, and what a test has in its place.
type processTable func(pid int) (procStat, error)

const (
	maxGenerations = 1024
	maxLooks       = 16 // attempts to see the ancestors without a change between
)

// ancestors lists p, its parent and so on, up to but without the first of which stop is
// true. It reports whether there was one; where p is gone there is none.
//
// A parent may end between two looks, its children get another one, and another process
// may get its id. So a child is looked at once more after its parent: if it still has
// that parent, the parent was there all the time.
func (table processTable) ancestors(p process, stop func(process) bool) (line []process, found bool) {
look:
	for range maxLooks {
		line = line[:0]
		child, err := table(p.pid)
		if err != nil || child.process != p {
			return nil, false
		}
		for range maxGenerations {
			if stop(child.process) {
				return line, true
			}
			line = append(line, child.process)
			if child.parent == 0 {
				return line, false
			}
			parent, err := table(child.parent)
			again, err2 := table(child.pid)
			if err != nil || err2 != nil || again.process != child.process || again.parent != child.parent {
				continue look
			}
			if parent.start > child.start {
				return line, false // no ancestor is younger
			}
			child = parent
		}
		return line, false
	}
	return nil, false
}

// alive reports whether p has not ended.
func (table processTable) alive(p process) bool {
	s, err := table(p.pid)
	return err == nil && s.process == p && !s.ended
}

// inode identifies a file, as stat(2) does.
type inode struct {
	major, minor uint32
	number       uint64
}

// heldBy reports whether a process has a descriptor of the file that was opened with mode:
// O_RDONLY, O_WRONLY or O_RDWR. It looks without asking any file system: the file is ours,
// and might wait for us.
func (f inode) heldBy(pid int, mode uint64) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if got, err := inodeOf(dir + "/" + e.Name()); err == nil && got == f && accessMode(pid, e.Name()) == mode {
			return true
		}
	}
	return false
}

// inodeOf is what the kernel remembers of the file at path.
func inodeOf(path string) (inode, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st)
	return inode{st.Dev_major, st.Dev_minor, st.Ino}, err
}

// accessMode is how a descriptor was opened, as /proc/PID/fdinfo tells it in octal.
func accessMode(pid int, fd string) uint64 {
	text, _ := readProc(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	_, flags, _ := bytes.Cut(text, []byte("flags:\t"))
	flags, _, _ = bytes.Cut(flags, []byte("\n"))
	n, err := strconv.ParseUint(string(flags), 8, 64)
	if err != nil {
		return unix.O_ACCMODE
	}
	return n & unix.O_ACCMODE
}
