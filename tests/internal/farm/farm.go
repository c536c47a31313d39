// Package farm runs many cardfs as if each were on a machine of its own, and one more that has
// the readers of all of them, through sshfs and the driver remote.
package farm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/sftp"
)

// Patience bounds the wait for a farm to be ready.
const Patience = 5 * time.Minute

// Options say how large a farm is.
type Options struct {
	Cardfs   string        // the program
	Dir      string        // an empty directory for the mount points, which the caller removes
	Machines int           // besides the one that has all readers
	Readers  int           // of each machine
	Delay    time.Duration // of the line, each way
}

// Farm is a cardfs with the readers of other machines.
type Farm struct {
	Dir      string // where it is mounted
	Machines []*Machine
	Took     time.Duration // from the first attach until all readers were ready
	Empty    int           // KiB, of its daemon before the first attach

	daemon *proc.Process
}

// Machine is one of the machines that have the readers.
type Machine struct {
	Name  string
	Far   string // its own mount
	Near  string // the same, by sshfs
	Slots []int  // the numbers of its readers in the farm, by their numbers there
	Line  *sftp.Server

	daemon *proc.Process
	mount  *sftp.Mounted
}

// Start starts a farm and waits until its readers are ready. What was started is in the farm
// that it returns, with an error too.
func Start(ctx context.Context, o Options) (*Farm, error) {
	f := &Farm{Dir: filepath.Join(o.Dir, "here"), Machines: make([]*Machine, o.Machines)}
	errs := make([]error, o.Machines)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 8) // as many machines start at a time
	for i := range f.Machines {
		name := fmt.Sprintf("m%03d", i)
		f.Machines[i] = &Machine{Name: name, Far: filepath.Join(o.Dir, name, "far"), Near: filepath.Join(o.Dir, name, "near")}
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			errs[i] = f.Machines[i].start(ctx, o)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return f, err
	}
	return f, f.start(ctx, o)
}

// mount starts a cardfs.
func mount(ctx context.Context, program, dir string, args ...string) (*proc.Process, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p, err := proc.Start(exec.Command(program, append(append([]string{"mount", "--usb=off"}, args...), dir)...), new(proc.Log))
	if err != nil {
		return nil, err
	}
	return p, p.Await(ctx, "mounted at")
}

func (m *Machine) start(ctx context.Context, o Options) (err error) {
	if err := os.MkdirAll(m.Near, 0o755); err != nil {
		return err
	}
	if m.daemon, err = mount(ctx, o.Cardfs, m.Far, slices.Repeat([]string{"--sim", "apdu"}, o.Readers)...); err != nil {
		return err
	}
	if m.Line, err = sftp.Listen(o.Delay); err != nil {
		return err
	}
	// With a connection for each open file and one more, no file shares one with a read of
	// events, which waits. sshfs makes them when it needs them.
	m.mount, err = m.Line.Mount(ctx, m.Far, m.Near, fmt.Sprintf("max_conns=%d", max(10, o.Readers+4)))
	return err
}

// start starts the cardfs that has all readers, and attaches the machines.
func (f *Farm) start(ctx context.Context, o Options) (err error) {
	if f.daemon, err = mount(ctx, o.Cardfs, f.Dir); err != nil {
		return err
	}
	events, err := os.Open(filepath.Join(f.Dir, "event"))
	if err != nil {
		return err
	}
	defer events.Close()
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = events.Close() })()

	if f.Empty, err = proc.RSS(f.daemon.Pid()); err != nil {
		return err
	}
	began := time.Now()
	ctl, err := os.OpenFile(filepath.Join(f.Dir, "ctl"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer ctl.Close()
	for _, m := range f.Machines {
		if _, err := fmt.Fprintf(ctl, "attach remote %s host=%s\n", m.Near, m.Name); err != nil {
			return err
		}
	}
	ready := 0
	for lines := bufio.NewScanner(events); ready < o.Machines*o.Readers; {
		if !lines.Scan() {
			return fmt.Errorf("%d readers of %d are ready: %w\n%s", ready, o.Machines*o.Readers, errors.Join(lines.Err(), ctx.Err()), f.daemon.Log.Tail(4000))
		}
		switch w := strings.Fields(lines.Text()); {
		case len(w) > 2 && w[2] == "ready":
			ready++
		case len(w) > 2 && w[2] == "failed":
			return fmt.Errorf("event: %s", lines.Text())
		}
	}
	f.Took = time.Since(began)
	return f.find()
}

// find finds the numbers of the machines' readers, by their names.
func (f *Farm) find() error {
	names, err := os.ReadDir(filepath.Join(f.Dir, "by-id"))
	if err != nil {
		return err
	}
	for _, m := range f.Machines {
		there := make(map[string]int) // by name
		entries, err := os.ReadDir(filepath.Join(m.Far, "by-id"))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if there[e.Name()], err = number(filepath.Join(m.Far, "by-id", e.Name())); err != nil {
				return err
			}
		}
		m.Slots = make([]int, len(there))
		found := 0
		for _, e := range names {
			name, ours := strings.CutPrefix(e.Name(), "remote-"+m.Name+":")
			n, known := there[name]
			if !ours || !known {
				continue
			}
			if m.Slots[n], err = number(filepath.Join(f.Dir, "by-id", e.Name())); err != nil {
				return err
			}
			found++
		}
		if found != len(there) {
			return fmt.Errorf("%s: %d readers of %d are in by-id", m.Name, found, len(there))
		}
	}
	return nil
}

// number is that of the slot that a name in by-id is a link to.
func number(link string) (int, error) {
	to, err := os.Readlink(link)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(filepath.Base(to))
}

// Pids are the processes of the cardfs that has all readers: the daemon, and its children.
func (f *Farm) Pids() ([]int, error) {
	pids := []int{f.daemon.Pid()}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", f.daemon.Pid()))
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, err
}

// Memory is what the readers take in the farm's cardfs and its children, in KiB: beyond what it
// took before the first attach.
func (f *Farm) Memory() (kib int, err error) {
	pids, err := f.Pids()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		n, err := proc.RSS(pid)
		if err != nil {
			return 0, err
		}
		kib += n
	}
	return kib - f.Empty, nil
}

// Pids are the processes of sshfs and of the sftp-servers behind it.
func (m *Machine) Pids() (sshfs int, servers []int) { return m.mount.Pid(), m.Line.Pids() }

// Hang stops the cardfs of a machine: whatever asks for its files waits. A signal to its
// sftp-servers would end their calls with EINTR.
func (m *Machine) Hang() { _ = m.daemon.Cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends Hang.
func (m *Machine) Resume() { _ = m.daemon.Cmd.Process.Signal(syscall.SIGCONT) }

// Close ends a farm.
func (f *Farm) Close() error {
	var errs []error
	if f.daemon != nil {
		errs = append(errs, f.daemon.Stop())
	}
	for _, m := range f.Machines {
		if m.daemon == nil {
			continue
		}
		if m.mount != nil {
			errs = append(errs, m.mount.Close())
		}
		if m.Line != nil {
			errs = append(errs, m.Line.Close())
		}
		m.Resume()
		errs = append(errs, m.daemon.Stop())
	}
	return errors.Join(errs...)
}
