// Package survey reads what status and stats say of all slots of a mount, as cheaply as
// files allow: for programs that look again and again.
package survey

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Slot is what one slot's files say.
type Slot struct {
	Number int
	// ID is another when another reader has the number, and when the same reader came back.
	ID     ID
	Status map[string]string
	Stats  map[string]int64
}

// ID is the slot's directory: its device, which each mount has of its own, and its inode.
type ID struct{ Device, Inode uint64 }

// States are the states that status knows, in the order of a slot's life.
var States = []string{"starting", "failed", "empty", "present", "powered"}

// HasCard reports whether a card is in the slot.
func (s *Slot) HasCard() bool {
	return s.Status["state"] == "present" || s.Status["state"] == "powered"
}

// First reports whether the slot is the first of its reader, or its only one.
func (s *Slot) First() bool {
	first, _, _ := strings.Cut(s.Status["siblings"], " ")
	return first == "" || first == strconv.Itoa(s.Number)
}

// Numbers lists the slots of the mount at dir.
func Numbers(dir string) ([]int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 31); err == nil {
			list = append(list, int(n))
		}
	}
	slices.Sort(list)
	return list, nil
}

// Gone reports whether err is of a reader that left.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// workers read at the same time. Each waits for the daemon most of the time.
const workers = 4

// Read reads these slots of the mount at dir. Readers that left are left out.
func Read(dir string, numbers []int) ([]Slot, error) {
	slots := make([]Slot, len(numbers))
	errs := make([]error, len(numbers))
	var wg sync.WaitGroup
	for w := range min(workers, len(numbers)) {
		wg.Go(func() {
			buf := make([]byte, 8192)
			for i := w; i < len(numbers); i += workers {
				slots[i], errs[i] = read(dir, numbers[i], buf)
			}
		})
	}
	wg.Wait()
	var list []Slot
	for i, err := range errs {
		switch {
		case err == nil:
			list = append(list, slots[i])
		case !Gone(err):
			return list, err
		}
	}
	return list, nil
}

// All reads all slots of the mount at dir.
func All(dir string) ([]Slot, error) {
	numbers, err := Numbers(dir)
	if err != nil {
		return nil, err
	}
	return Read(dir, numbers)
}

// read reads a slot's two files below one open directory, so that both are of one reader.
func read(dir string, n int, buf []byte) (Slot, error) {
	path := filepath.Join(dir, strconv.Itoa(n))
	at, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return Slot{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return Slot{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	s := Slot{Number: n, ID: ID{uint64(st.Dev), st.Ino}, Status: make(map[string]string, 16), Stats: make(map[string]int64, 64)}
	status, err := text(at, path, "status", buf)
	if err != nil {
		return Slot{}, err
	}
	for line := range bytes.Lines(status) {
		key, value := cut(line)
		s.Status[key] = value
	}
	stats, err := text(at, path, "stats", buf)
	if err != nil {
		return Slot{}, err
	}
	for line := range bytes.Lines(stats) {
		key, value := cut(line)
		number, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return Slot{}, fmt.Errorf("%s/stats: %q is no counter", path, line)
		}
		s.Stats[key] = number
	}
	return s, nil
}

func cut(line []byte) (key, value string) {
	k, v, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	return string(k), string(v)
}

// text reads a file of whole lines. A read that is shorter than buf and ends with a line was
// the last: to ask for the end of the file would be one request more.
func text(at int, dir, name string, buf []byte) ([]byte, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(at, name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(dir, name), Err: err}
	}
	defer unix.Close(fd)
	for have := 0; ; {
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[have:]) })
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: filepath.Join(dir, name), Err: err}
		}
		have += n
		switch {
		case n == 0, have < len(buf) && buf[have-1] == '\n':
			return buf[:have], nil
		case have == len(buf):
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// retry repeats a call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
