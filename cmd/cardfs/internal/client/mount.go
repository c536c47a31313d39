// Package client is the client side of a mount: it finds the mount and its slots, opens
// their files with waiting, and puts what goes wrong into words with an exit code. It uses
// the files as any program can.
package client

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// Default is where cardfs is looked for when nothing else says where.
const Default = "/mnt/cards"

// Env names a mount for the client commands.
const Env = "CARDFS_MOUNT"

// Mount uses a mounted cardfs by its files, as any program can.
type Mount struct {
	Dir string // the mount point
}

// FindMount finds the mount: dir if not empty, else $CARDFS_MOUNT, else the one
// cardfs in the mount table that this user may enter, else /mnt/cards.
func FindMount(dir string) (*Mount, error) {
	said := true
	if dir == "" {
		dir = os.Getenv(Env)
	}
	if dir == "" {
		said = false
		var err error
		if dir, err = theMount(); err != nil {
			return nil, err
		}
	}
	c := &Mount{Dir: dir}
	err := c.Enter()
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, os.ErrNotExist) && !said:
		return nil, fmt.Errorf("no cardfs is mounted; start one, as in: cardfs mount --sim ikey3k DIR")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%s: no cardfs is mounted there", dir)
	}
	return nil, c.Explain(err)
}

// FindSlots finds the absolute path of the directory in which the C libraries are to look for
// slots: that of the mount, as FindMount finds it, or one into which single slots were bound,
// as into a container. A slot at least may be used by this user.
func FindSlots(dir string) (string, error) {
	c, err := FindMount(dir)
	if err != nil {
		c = &Mount{Dir: cmp.Or(dir, os.Getenv(Env), Default)}
		if IsMount(c.Dir) || !c.holdsSlots() {
			return "", err
		}
	}
	if err := c.barred(); err != nil {
		return "", err
	}
	return filepath.Abs(c.Dir)
}

// holdsSlots reports whether slots are there, readable or not.
func (c *Mount) holdsSlots() bool {
	numbers, _ := survey.Numbers(c.Dir)
	return slices.ContainsFunc(numbers, func(n int) bool {
		_, err := c.Slot(n).Status()
		return err == nil || errors.Is(err, os.ErrPermission)
	})
}

// barred returns an error if there are slots, but none that this user may look into.
func (c *Mount) barred() error {
	numbers, err := c.Numbers()
	var barred error
	for _, n := range numbers {
		s := c.Slot(n)
		if _, err := s.Status(); !errors.Is(err, os.ErrPermission) {
			return nil
		}
		barred = fmt.Errorf("%s: no permission; its owner may let others in with cardfs mount --allow-other --group --mode", s.Dir)
		if group := groupOf(s.Dir); group != "" {
			barred = fmt.Errorf("%s: the reader is for group %s, which this login is not in: sudo usermod --append --groups %[2]s USER, then log in again", s.Dir, group)
		}
	}
	return cmp.Or(err, barred)
}

// Enter returns nil if the mount is there, alive, and open to this user.
func (c *Mount) Enter() error {
	// The kernel may answer stat(2) from memory after the server's death.
	var alive unix.Statfs_t
	if err := unix.Statfs(c.Dir, &alive); err != nil {
		return err
	}
	_, err := os.Lstat(c.Path("ctl"))
	return err
}

// Mounted is a cardfs in the mount table.
type Mounted struct {
	Dir        string
	UID        string // of the user who mounted it
	AllowOther bool   // others than that user may be let in
	Err        error  // why it cannot be used
}

// Mounts lists the cardfs Mounts of this mount namespace, but no slots that were bound
// alone.
func Mounts() ([]Mounted, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("fuse.cardfs"))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	list := Reachable(infos)
	for i := range list {
		list[i].Err = (&Mount{Dir: list[i].Dir}).Enter()
	}
	return list, nil
}

// Reachable returns those of these lines of a mount table that are whole mounts of a cardfs
// and that their paths lead to. The table is in the order of mounting: a mount is hidden by
// a later one at the same path.
func Reachable(infos []*mountinfo.Info) (list []Mounted) {
	for _, i := range infos {
		if i.Root != "/" {
			continue // a slot that was bound alone
		}
		m := Mounted{Dir: i.Mountpoint}
		for option := range strings.SplitSeq(i.VFSOptions, ",") {
			if uid, ok := strings.CutPrefix(option, "user_id="); ok {
				m.UID = uid
			}
			m.AllowOther = m.AllowOther || option == "allow_other"
		}
		if at := slices.IndexFunc(list, func(m Mounted) bool { return m.Dir == i.Mountpoint }); at >= 0 {
			list[at] = m
		} else {
			list = append(list, m)
		}
	}
	return list
}

// theMount is the only mount that can be used, or /mnt/cards if there is none
// at all. Several, or only useless ones, are an error that names them.
func theMount() (string, error) {
	all, err := Mounts()
	if err != nil {
		return "", err
	}
	slots, _ := Bound()
	return choose(all, slots)
}

// choose is theMount among these mounts, and slots that were bound alone.
func choose(all []Mounted, bound map[string]int) (string, error) {
	var usable []string
	for _, m := range all {
		if m.Err == nil {
			usable = append(usable, m.Dir)
		}
	}
	switch {
	case len(usable) == 1:
		return usable[0], nil
	case len(usable) > 1:
		return "", exit.Usage("cardfs is mounted at %s; say which with --mount or $%s", strings.Join(usable, ", "), Env)
	case len(all) > 0:
		c := Mount{Dir: all[0].Dir}
		return "", c.Explain(all[0].Err)
	}
	if len(bound) > 0 {
		return "", exit.Usage("only single slots of a cardfs are mounted here; say which: %s", strings.Join(slices.Sorted(maps.Keys(bound)), ", "))
	}
	return Default, nil
}

// Owner is the name of the user whose mount it is.
func (c *Mount) Owner() string {
	dir, _ := filepath.Abs(c.Dir)
	all, _ := Mounts()
	for _, m := range all {
		if m.Dir != dir {
			continue
		}
		if u, err := user.LookupId(m.UID); err == nil {
			return u.Username
		}
		return "user " + m.UID
	}
	return "another user"
}

// groupOf is the group that may enter a directory, to which this process does not belong; ""
// if there is none but root's, or if that cannot be seen.
func groupOf(dir string) string {
	var st unix.Stat_t
	const enter = unix.S_IRGRP | unix.S_IXGRP
	if unix.Stat(dir, &st) != nil || st.Mode&enter != enter || st.Gid == 0 || int(st.Gid) == unix.Getegid() {
		return ""
	}
	number := strconv.FormatUint(uint64(st.Gid), 10)
	if g, err := user.LookupGroupId(number); err == nil {
		return g.Name
	}
	return number
}

// Path of a file of the mount.
func (c *Mount) Path(name ...string) string {
	return filepath.Join(append([]string{c.Dir}, name...)...)
}

// Numbers lists the slots that are there.
func (c *Mount) Numbers() ([]int, error) {
	list, err := survey.Numbers(c.Dir)
	return list, c.Explain(err)
}

// Explain puts err, from a file of the mount itself, into words for the user.
func (c *Mount) Explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return fmt.Errorf("the cardfs that served %s is dead; start it again: cardfs mount %s", c.Dir, c.Dir)
	case errors.Is(err, os.ErrPermission):
		if group := groupOf(c.Dir); group != "" {
			return fmt.Errorf("%s: the mount belongs to %s, and is for group %s, which this login is not in: sudo usermod --append --groups %[3]s USER, then log in again",
				c.Dir, c.Owner(), group)
		}
		return fmt.Errorf("%s: the mount belongs to %s, who may let others in with cardfs mount --allow-other --group --mode", c.Dir, c.Owner())
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("the cardfs that served %s has left", c.Dir)
	}
	return err
}

// there lists the readers that are there, as the end of an error.
func (c *Mount) there() string {
	list, err := c.Numbers()
	switch {
	case err != nil:
		return err.Error()
	case len(list) == 0:
		return "there is none at all; attach one, as in: cardfs attach sim ikey3k"
	case len(list) == 1:
		return fmt.Sprintf("there is %d", list[0])
	}
	return "there are " + strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}
