package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// Slot is a slot's directory: of a mount, or alone, as where it was bound into a container.
type Slot struct {
	Mount *Mount // nil: the directory is all there is
	Dir   string
	Name  string // what messages call it: its number, or the directory
}

// Slot is the slot with that number.
func (c *Mount) Slot(n int) Slot {
	name := strconv.Itoa(n)
	return Slot{Mount: c, Dir: c.Path(name), Name: name}
}

// FindSlot finds the slot that an argument names: a directory by its path, all else in the
// mount at dir.
func FindSlot(dir, arg string) (Slot, error) {
	if isPath(arg) {
		return inDirectory(arg)
	}
	c, err := FindMount(dir)
	if err == nil {
		var s Slot
		if s, err = c.Find(arg); err == nil {
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
	return Slot{}, err
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

// Find finds a slot by its number, its name in by-id, or its reader's name.
func (c *Mount) Find(arg string) (Slot, error) {
	if n, err := number(arg); err == nil {
		return c.Slot(n), nil
	}
	if target, err := os.Readlink(c.Path("by-id", arg)); err == nil {
		if n, err := number(filepath.Base(target)); err == nil {
			return c.Slot(n), nil
		}
	}
	return c.named(arg)
}

// inDirectory is the slot whose directory is dir, in a mount or alone.
func inDirectory(dir string) (Slot, error) {
	s := Slot{Dir: dir, Name: dir}
	_, err := os.Lstat(s.Path("status"))
	switch {
	case err == nil:
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			if real, err = filepath.Abs(real); err == nil && IsMount(filepath.Dir(real)) {
				s.Mount, s.Name = &Mount{Dir: filepath.Dir(real)}, filepath.Base(real)
			}
		}
		return s, nil
	case errors.Is(err, os.ErrNotExist) && IsMount(dir):
		return Slot{}, exit.Usage("%s is a whole mount; say which slot: %s", dir, filepath.Join(dir, "0"))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return Slot{}, exit.Status{Code: exit.None, Err: fmt.Errorf("%s: no slot's directory is there", dir)}
	}
	return Slot{}, s.Explain(err)
}

// Bound are the directories of slots that were bound alone, as into a container, by the
// slots' numbers.
func Bound() (map[string]int, error) {
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
func findBound(dir, arg string) (found Slot, ok bool) {
	if dir == "" {
		dir = os.Getenv(Env)
	}
	if dir != "" {
		dir, _ = filepath.Abs(dir)
	}
	list, _ := Bound()
	return among(list, dir, arg)
}

// among is findBound among these slots, by their directories.
func among(slots map[string]int, dir, arg string) (found Slot, ok bool) {
	n, notNumber := number(arg)
	for at, is := range slots {
		s := Slot{Dir: at, Name: at}
		if dir != "" && filepath.Dir(at) != dir {
			continue
		}
		fits := notNumber == nil && n == is
		if notNumber != nil {
			lines, _ := s.Status()
			fits = lines.Value("by-id") == arg || isNamed(lines.Value("reader"), arg)
		}
		if fits && ok {
			return Slot{}, false // two of that name
		}
		if fits {
			found, ok = s, true
		}
	}
	return found, ok
}

func IsMount(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "ctl"))
	return err == nil
}

// isNamed reports whether a reader's name is arg. Events have it without blanks.
func isNamed(reader, arg string) bool {
	return reader != "" && (strings.EqualFold(reader, arg) || strings.EqualFold(strings.ReplaceAll(reader, " ", "_"), arg))
}

// named finds the slot by its reader's name, which must be the name of one slot only.
func (c *Mount) named(name string) (Slot, error) {
	list, err := c.List()
	if err != nil {
		return Slot{}, err
	}
	var found []int
	for _, s := range list {
		if isNamed(s.Reader, name) {
			found = append(found, s.Number)
		}
	}
	switch len(found) {
	case 0:
		return Slot{}, exit.Usage("%q is no slot's number, name or directory; cardfs list shows the names", name)
	case 1:
		return c.Slot(found[0]), nil
	}
	return Slot{}, exit.Usage("%q is the name of slots %s; say one by its number, or by its name in by-id", name,
		strings.Trim(strings.ReplaceAll(fmt.Sprint(found), " ", ", "), "[]"))
}

// Number is the slot's number, for commands that go by the mount's ctl.
func (s Slot) Number() (int, error) {
	if s.Mount == nil {
		return 0, exit.Usage("%s: the number of a slot is wanted, or its name in by-id", s.Dir)
	}
	return strconv.Atoi(s.Name)
}

func (s Slot) Path(file string) string { return filepath.Join(s.Dir, file) }

// Status is what a slot's status file says: its lines as key and value, in order.
type Status [][2]string

func (s Slot) Status() (Status, error) {
	text, err := os.ReadFile(s.Path("status"))
	if err != nil {
		return nil, err
	}
	return parseStatus(text), nil
}

func parseStatus(text []byte) (lines Status) {
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		lines = append(lines, [2]string{key, value})
	}
	return lines
}

// Value is "" for a key that is not there.
func (s Status) Value(key string) string {
	for _, pair := range s {
		if pair[0] == key {
			return pair[1]
		}
	}
	return ""
}

// Siblings are the numbers of all slots of the same reader.
func (s Status) Siblings() []int {
	list := []int{}
	for word := range strings.FieldsSeq(s.Value("siblings")) {
		if n, err := strconv.Atoi(word); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// Explain puts err, from a file of the slot, into words for the user, with the exit code.
func (s Slot) Explain(err error) error {
	none := func(format string, args ...any) error {
		return exit.Status{Code: exit.None, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist) && s.Mount != nil:
		return none("no reader %s; %s", s.Name, s.Mount.there())
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENODEV):
		return none("reader %s is gone", s.Name)
	case errors.Is(err, syscall.ENOMEDIUM):
		return none("no card in slot %s", s.Name)
	case s.failed():
		// The errno is of the start, and means another thing there.
		return fmt.Errorf("reader %s failed to start%s", s.Name, s.reason())
	case errors.Is(err, syscall.ESTALE):
		return fmt.Errorf("slot %s: the card was reset, changed or powered off meanwhile, so its security state is lost; begin again", s.Name)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("slot %s: another program holds the transaction, or has the card to itself; try again when it has ended", s.Name)
	case errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Errorf("slot %s: no answer in the time the protocol allows%s", s.Name, s.reason())
	case errors.Is(err, syscall.EPROTO):
		return fmt.Errorf("slot %s: the answer breaks the protocol%s", s.Name, s.reason())
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("slot %s: this reader or card cannot do that", s.Name)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("slot %s: the reader is still starting; a longer --wait waits for it", s.Name)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("slot %s: it failed%s", s.Name, s.reason())
	case s.Mount != nil:
		return s.Mount.Explain(err)
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return fmt.Errorf("the cardfs that served %s is dead", s.Dir)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: no permission: %w", s.Dir, err)
	}
	return err
}

// failed reports whether the driver could not initialise the reader.
func (s Slot) failed() bool {
	lines, err := s.Status()
	return err == nil && lines.Value("state") == "failed"
}

// reason is the error in words that `status` keeps, or nothing.
func (s Slot) reason() string {
	lines, err := s.Status()
	if err != nil || lines.Value("error") == "" {
		return ""
	}
	return ": " + lines.Value("error")
}

// List reads every slot's status.
func (c *Mount) List() ([]Info, error) {
	numbers, err := c.Numbers()
	if err != nil {
		return nil, err
	}
	slots := []Info{}
	for _, n := range numbers {
		s := c.Slot(n)
		lines, err := s.Status()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			continue // it left between the two looks
		}
		if err != nil {
			return nil, s.Explain(err)
		}
		slots = append(slots, lines.info(n, s.Dir))
	}
	return slots, nil
}
