package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
)

// slot is a slot's directory: of a mount, or alone, as where it was bound into a container.
type slot struct {
	mount *client // nil: the directory is all there is
	dir   string
	name  string // what messages call it: its number, or the directory
}

// numbered is the slot with that number.
func (c *client) numbered(n int) slot {
	name := strconv.Itoa(n)
	return slot{mount: c, dir: c.path(name), name: name}
}

// slotHelp is the part about N in the help of the commands that take a slot.
const slotHelp = `N is a slot: its number, its name in by-id, its reader's name (cardfs list shows them
all), or its directory, also where that was bound to another place on its own.`

// findSlot finds the slot that an argument names: a directory by its path, all else in the
// mount at dir.
func findSlot(dir, arg string) (slot, error) {
	if isPath(arg) {
		return inDirectory(arg)
	}
	c, err := newClient(dir)
	if err == nil {
		var s slot
		if s, err = c.find(arg); err == nil {
			return s, nil
		}
	}
	if _, notNumber := number(arg); notNumber != nil && isSlot(arg) {
		return inDirectory(arg)
	}
	if c == nil {
		if s, ok := findBound(dir, arg); ok {
			return s, nil
		}
	}
	return slot{}, err
}

func isPath(arg string) bool {
	return strings.ContainsRune(arg, '/') || arg == "." || arg == ".."
}

func isSlot(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "status"))
	return err == nil
}

// number is the slot number that arg is.
func number(arg string) (int, error) {
	n, err := strconv.ParseUint(arg, 10, 31)
	return int(n), err
}

// find finds a slot by its number, its name in by-id, or its reader's name.
func (c *client) find(arg string) (slot, error) {
	if n, err := number(arg); err == nil {
		return c.numbered(n), nil
	}
	if target, err := os.Readlink(c.path("by-id", arg)); err == nil {
		if n, err := number(filepath.Base(target)); err == nil {
			return c.numbered(n), nil
		}
	}
	return c.named(arg)
}

// inDirectory is the slot whose directory is dir, in a mount or alone.
func inDirectory(dir string) (slot, error) {
	s := slot{dir: dir, name: dir}
	_, err := os.Lstat(s.path("status"))
	switch {
	case err == nil:
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			if real, err = filepath.Abs(real); err == nil && isMount(filepath.Dir(real)) {
				s.mount, s.name = &client{dir: filepath.Dir(real)}, filepath.Base(real)
			}
		}
		return s, nil
	case errors.Is(err, os.ErrNotExist) && isMount(dir):
		return slot{}, usageError("%s is a whole mount; say which slot: %s", dir, filepath.Join(dir, "0"))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return slot{}, exitStatus{exitNone, fmt.Errorf("%s: no slot's directory is there", dir)}
	}
	return slot{}, s.explain(err)
}

// bound are the directories of slots that were bound alone, as into a container, by the
// slots' numbers.
func bound() (map[string]int, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("fuse.cardfs"))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	list := make(map[string]int)
	for _, i := range infos {
		if n, err := number(strings.TrimPrefix(i.Root, "/")); err == nil {
			list[i.Mountpoint] = n
		}
	}
	return list, nil
}

// findBound finds a slot that was bound alone, by its number or by a name in its status. If
// dir or the environment names a directory, the slot has to be in that.
func findBound(dir, arg string) (found slot, ok bool) {
	if dir == "" {
		dir = os.Getenv(mountEnv)
	}
	if dir != "" {
		dir, _ = filepath.Abs(dir)
	}
	list, _ := bound()
	return among(list, dir, arg)
}

// among is findBound among these slots, by their directories.
func among(slots map[string]int, dir, arg string) (found slot, ok bool) {
	n, notNumber := number(arg)
	for at, is := range slots {
		s := slot{dir: at, name: at}
		if dir != "" && filepath.Dir(at) != dir {
			continue
		}
		fits := notNumber == nil && n == is
		if notNumber != nil {
			lines, _ := s.status()
			fits = lines.value("by-id") == arg || isNamed(lines.value("reader"), arg)
		}
		if fits && ok {
			return slot{}, false // two of that name
		}
		if fits {
			found, ok = s, true
		}
	}
	return found, ok
}

func isMount(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "ctl"))
	return err == nil
}

// isNamed reports whether a reader's name is arg. Events have it without blanks.
func isNamed(reader, arg string) bool {
	return reader != "" && (strings.EqualFold(reader, arg) || strings.EqualFold(strings.ReplaceAll(reader, " ", "_"), arg))
}

// named finds the slot by its reader's name, which must be the name of one slot only.
func (c *client) named(name string) (slot, error) {
	list, err := c.list()
	if err != nil {
		return slot{}, err
	}
	var found []int
	for _, s := range list {
		if isNamed(s.Reader, name) {
			found = append(found, s.Number)
		}
	}
	switch len(found) {
	case 0:
		return slot{}, usageError("%q is no slot's number, name or directory; cardfs list shows the names", name)
	case 1:
		return c.numbered(found[0]), nil
	}
	return slot{}, usageError("%q is the name of slots %s; say one by its number, or by its name in by-id", name,
		strings.Trim(strings.ReplaceAll(fmt.Sprint(found), " ", ", "), "[]"))
}

// number is the slot's number, for commands that go by the mount's ctl.
func (s slot) number() (int, error) {
	if s.mount == nil {
		return 0, usageError("%s: the number of a slot is wanted, or its name in by-id", s.dir)
	}
	return strconv.Atoi(s.name)
}

func (s slot) path(file string) string { return filepath.Join(s.dir, file) }

// status is what a slot's status file says: its lines as key and value, in order.
type status [][2]string

func (s slot) status() (status, error) {
	text, err := os.ReadFile(s.path("status"))
	if err != nil {
		return nil, err
	}
	var lines status
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		lines = append(lines, [2]string{key, value})
	}
	return lines, nil
}

// value is "" for a key that is not there.
func (s status) value(key string) string {
	for _, pair := range s {
		if pair[0] == key {
			return pair[1]
		}
	}
	return ""
}

// siblings are the numbers of all slots of the same reader.
func (s status) siblings() []int {
	list := []int{}
	for word := range strings.FieldsSeq(s.value("siblings")) {
		if n, err := strconv.Atoi(word); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// explain puts err, from a file of the slot, into words for the user, with the exit code.
func (s slot) explain(err error) error {
	none := func(format string, args ...any) error {
		return exitStatus{exitNone, fmt.Errorf(format, args...)}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist) && s.mount != nil:
		return none("no reader %s; %s", s.name, s.mount.there())
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENODEV):
		return none("reader %s is gone", s.name)
	case errors.Is(err, syscall.ENOMEDIUM):
		return none("no card in slot %s", s.name)
	case s.failed():
		// The errno is of the start, and means another thing there.
		return fmt.Errorf("reader %s failed to start%s", s.name, s.reason())
	case errors.Is(err, syscall.ESTALE):
		return fmt.Errorf("slot %s: the card was reset, changed or powered off meanwhile, so its security state is lost; begin again", s.name)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("slot %s: another program holds the transaction, or has the card to itself; try again when it has ended", s.name)
	case errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Errorf("slot %s: no answer in the time the protocol allows%s", s.name, s.reason())
	case errors.Is(err, syscall.EPROTO):
		return fmt.Errorf("slot %s: the answer breaks the protocol%s", s.name, s.reason())
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("slot %s: this reader or card cannot do that", s.name)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("slot %s: the reader is still starting; a longer --wait waits for it", s.name)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("slot %s: it failed%s", s.name, s.reason())
	case s.mount != nil:
		return s.mount.explain(err)
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return fmt.Errorf("the cardfs that served %s is dead", s.dir)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: no permission: %w", s.dir, err)
	}
	return err
}

// failed reports whether the driver could not initialise the reader.
func (s slot) failed() bool {
	lines, err := s.status()
	return err == nil && lines.value("state") == "failed"
}

// reason is the error in words that `status` keeps, or nothing.
func (s slot) reason() string {
	lines, err := s.status()
	if err != nil || lines.value("error") == "" {
		return ""
	}
	return ": " + lines.value("error")
}

// list reads every slot's status.
func (c *client) list() ([]slotJSON, error) {
	numbers, err := c.numbers()
	if err != nil {
		return nil, err
	}
	slots := []slotJSON{}
	for _, n := range numbers {
		s := c.numbered(n)
		lines, err := s.status()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			continue // it left between the two looks
		}
		if err != nil {
			return nil, s.explain(err)
		}
		slots = append(slots, lines.json(n, s.dir))
	}
	return slots, nil
}
