package main

import (
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
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// defaultMount is where cardfs is looked for when nothing else says where.
const defaultMount = "/mnt/cards"

// mountEnv names a mount for the client commands.
const mountEnv = "CARDFS_MOUNT"

// client uses a mounted cardfs by its files, as any program can.
type client struct {
	dir string // the mount point
}

// mountFlag adds --mount to a client command and returns where its value will be, which
// newClient takes.
func mountFlag(cmd *cobra.Command) *string {
	dir := cmd.Flags().StringP("mount", "m", "", "`DIR` where cardfs is mounted (default: $"+mountEnv+", else the one in the mount table, else "+defaultMount+")")
	cmd.RegisterFlagCompletionFunc("mount", completeMount)
	return dir
}

// newClient finds the mount: dir if not empty, else $CARDFS_MOUNT, else the one
// cardfs in the mount table that this user may enter, else /mnt/cards.
func newClient(dir string) (*client, error) {
	said := true
	if dir == "" {
		dir = os.Getenv(mountEnv)
	}
	if dir == "" {
		said = false
		var err error
		if dir, err = theMount(); err != nil {
			return nil, err
		}
	}
	c := &client{dir: dir}
	err := c.enter()
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, os.ErrNotExist) && !said:
		return nil, fmt.Errorf("no cardfs is mounted; start one, as in: cardfs mount --sim ikey3k DIR")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%s: no cardfs is mounted there", dir)
	}
	return nil, c.explain(err)
}

// enter returns nil if the mount is there, alive, and open to this user.
func (c *client) enter() error {
	// The kernel may answer stat(2) from memory after the server's death.
	var alive unix.Statfs_t
	if err := unix.Statfs(c.dir, &alive); err != nil {
		return err
	}
	_, err := os.Lstat(c.path("ctl"))
	return err
}

// mounted is a cardfs in the mount table.
type mounted struct {
	dir string
	uid string // of the user who mounted it
	err error  // why it cannot be used
}

// mounts lists the cardfs mounts of this mount namespace, but no slots that were bound
// alone.
func mounts() ([]mounted, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("fuse.cardfs"))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	list := reachable(slices.DeleteFunc(infos, func(i *mountinfo.Info) bool { return i.Root != "/" }))
	for i := range list {
		list[i].err = (&client{dir: list[i].dir}).enter()
	}
	return list, nil
}

// reachable are the mounts that their paths lead to. The mount table is in the order of
// mounting; one that is mounted over is hidden by the later one.
func reachable(infos []*mountinfo.Info) (list []mounted) {
	for _, i := range infos {
		m := mounted{dir: i.Mountpoint}
		for option := range strings.SplitSeq(i.VFSOptions, ",") {
			if uid, ok := strings.CutPrefix(option, "user_id="); ok {
				m.uid = uid
			}
		}
		if at := slices.IndexFunc(list, func(m mounted) bool { return m.dir == i.Mountpoint }); at >= 0 {
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
	all, err := mounts()
	if err != nil {
		return "", err
	}
	slots, _ := bound()
	return choose(all, slots)
}

// choose is theMount among these mounts, and slots that were bound alone.
func choose(all []mounted, bound map[string]int) (string, error) {
	var usable []string
	for _, m := range all {
		if m.err == nil {
			usable = append(usable, m.dir)
		}
	}
	switch {
	case len(usable) == 1:
		return usable[0], nil
	case len(usable) > 1:
		return "", usageError("cardfs is mounted at %s; say which with --mount or $%s", strings.Join(usable, ", "), mountEnv)
	case len(all) > 0:
		c := client{dir: all[0].dir}
		return "", c.explain(all[0].err)
	}
	if len(bound) > 0 {
		return "", usageError("only single slots of a cardfs are mounted here; say which: %s", strings.Join(slices.Sorted(maps.Keys(bound)), ", "))
	}
	return defaultMount, nil
}

// owner is the name of the user whose mount it is.
func (c *client) owner() string {
	dir, _ := filepath.Abs(c.dir)
	all, _ := mounts()
	for _, m := range all {
		if m.dir != dir {
			continue
		}
		if u, err := user.LookupId(m.uid); err == nil {
			return u.Username
		}
		return "user " + m.uid
	}
	return "another user"
}

// path of a file of the mount.
func (c *client) path(name ...string) string {
	return filepath.Join(append([]string{c.dir}, name...)...)
}

// numbers lists the slots that are there.
func (c *client) numbers() ([]int, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, c.explain(err)
	}
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && e.IsDir() {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

// explain puts err, from a file of the mount itself, into words for the user.
func (c *client) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return fmt.Errorf("the cardfs that served %s is dead; start it again: cardfs mount %s", c.dir, c.dir)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: the mount belongs to %s, who may let others in with cardfs mount --allow-other --group --mode", c.dir, c.owner())
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("the cardfs that served %s has left", c.dir)
	}
	return err
}

// there lists the readers that are there, as the end of an error.
func (c *client) there() string {
	list, err := c.numbers()
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
