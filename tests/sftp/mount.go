package sftp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/proc"
)

// options are those that a cardfs needs: reads and writes that reach it as they are made, and
// connections for calls that wait. Names and attributes are not kept from one call to the next.
const options = "direct_io,sshfs_sync,max_conns=8,dir_cache=no,entry_timeout=0,attr_timeout=0,negative_timeout=0"

// Mounted is a directory of another machine, mounted by sshfs.
type Mounted struct {
	Dir string
	run *proc.Process
}

// Mount mounts the directory far of the server at near, as the function Mount does.
func (s *Server) Mount(ctx context.Context, far, near string, more ...string) (*Mounted, error) {
	return Mount(ctx, "127.0.0.1:"+far, near, append([]string{fmt.Sprintf("directport=%d", s.Port())}, more...)...)
}

// Mount mounts source, a directory of another machine as sshfs takes it, at near. It returns when
// the files are there. Options are as after sshfs -o; they follow those that a cardfs needs.
func Mount(ctx context.Context, source, near string, more ...string) (*Mounted, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer table.Close()
	run, err := proc.Start(exec.Command("sshfs", "-f", "-o", strings.Join(append([]string{options}, more...), ","), source, near), new(proc.Log))
	if err != nil {
		return nil, fmt.Errorf("%w (Debian: sshfs)", err)
	}
	m := &Mounted{near, run}
	ctx, cancel := context.WithTimeout(ctx, proc.Patience)
	defer cancel()
	for {
		mounted, err := isMounted(near)
		switch {
		case err != nil:
		case mounted:
			return m, nil
		case !run.Alive():
			err = fmt.Errorf("%w\n%s", proc.ErrEnded, run.Log)
		case ctx.Err() != nil:
			err = ctx.Err()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("sshfs at %s: %w", near, err), m.Close())
		}
		// The kernel tells of each change of the table. The end of sshfs it does not tell.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}}, 100)
	}
}

// Pid is sshfs's.
func (m *Mounted) Pid() int { return m.run.Pid() }

// Close unmounts, and ends sshfs.
func (m *Mounted) Close() error {
	_ = unix.Unmount(m.Dir, unix.MNT_DETACH)
	if m.run.Alive() {
		_ = exec.Command("fusermount3", "-uz", m.Dir).Run() // a user's own mount
	}
	m.run.Kill()
	if mounted, err := isMounted(m.Dir); err != nil || mounted {
		return errors.Join(fmt.Errorf("%s is still mounted", m.Dir), err)
	}
	return nil
}

func isMounted(dir string) (bool, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	return slices.ContainsFunc(strings.Split(string(table), "\n"), func(line string) bool {
		f := strings.Fields(line)
		return len(f) > 4 && f[4] == dir
	}), err
}
