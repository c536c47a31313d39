package sshfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// group starts sshfs, whose words follow, beside a subshell that outlives it. That waits until
// the pipe at descriptor 3 ends, detaches the mount "$0" and kills the process group: itself,
// sshfs, and the ssh processes.
const group = `
{ read -r _ <&3; fusermount3 -u -z -- "$0"; kill -KILL 0; } >/dev/null 2>&1 &
exec "$@" 3<&-
`

// drain bounds the wait for the last words of processes that were killed.
const drain = time.Second

// Mount is a directory of another machine, mounted here until its connection ends.
type Mount struct {
	address Address
	place   *place
	cmd     *exec.Cmd // sshfs, and the leader of the process group
	said    complaintLog
	hangUp  func() error // ends the group: closes the pipe that its shell reads

	mu     sync.Mutex // never held while something is waited for
	closed bool       // by Close

	done   chan struct{} // closed when all is gone; what follows is set before
	reason error         // why it ended by itself
	left   error         // what could not be cleared up
}

// Start mounts the directory that url names and returns when it answers. It may take as long
// as ssh takes, and ends with ctx. Errors say in words what is wrong; those that time does not
// mend are reader.ErrInvalid, ErrNoPermission or ErrUnsupported (a program is not installed).
func Start(ctx context.Context, url string, o Options) (*Mount, error) {
	a, err := Parse(url)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(o.check(), installed(), o.readable()); err != nil {
		return nil, err
	}
	above, err := RuntimeDir()
	if err != nil {
		return nil, err
	}
	if err := sweep(above); err != nil && o.Log != nil {
		o.Log.Warn("a mount that a killed cardfs left cannot be removed", "reason", err)
	}
	p, err := newPlace(above)
	if err != nil {
		return nil, err
	}
	m := &Mount{address: a, place: p, done: make(chan struct{})}
	if err := m.run(o); err != nil {
		return nil, errors.Join(err, p.remove())
	}
	if err := m.await(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// installed says what to install.
func installed() error {
	for _, need := range []struct{ program, pkg string }{{"sshfs", "sshfs"}, {"ssh", "openssh-client"}, {"fusermount3", "fuse3"}} {
		if _, err := exec.LookPath(need.program); err != nil {
			return fmt.Errorf("the program %s is not installed (Debian: apt-get install %s): %w", need.program, need.pkg, reader.ErrUnsupported)
		}
	}
	return nil
}

// run starts the process group, and a goroutine that waits for its end.
func (m *Mount) run(o Options) error {
	life, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	defer life.Close()
	stderr, theirs, err := os.Pipe()
	if err != nil {
		hold.Close()
		return err
	}
	defer theirs.Close()
	words := append([]string{"-c", group, m.place.mount(), "sshfs"}, o.arguments(m.address, m.place.mount())...)
	m.cmd = exec.Command("sh", words...)
	m.cmd.Env = append(os.Environ(), "LC_ALL=C") // for words.go
	m.cmd.Stderr, m.cmd.ExtraFiles = theirs, []*os.File{life}
	// The signals of a terminal are for the daemon, which then ends the group in order.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	m.hangUp = sync.OnceValue(hold.Close)
	if err := m.cmd.Start(); err != nil {
		hold.Close()
		stderr.Close()
		return fmt.Errorf("start sshfs: %w", err)
	}
	heard := make(chan struct{})
	go func() {
		// Where one connection of several ends, sshfs ends only when no call waits on the
		// others, and serves no more until then (libfuse, fuse_session_loop_mt).
		m.said.read(stderr, func() { m.hangUp() })
		close(heard)
	}()
	go m.watch(stderr, heard)
	return nil
}

// watch waits for the end of sshfs and clears up.
func (m *Mount) watch(stderr io.Closer, heard <-chan struct{}) {
	_ = m.cmd.Wait()
	// What it leaves: ssh processes, and the shell.
	_ = m.hangUp()
	select {
	case <-heard:
	case <-time.After(drain):
	}
	stderr.Close()
	<-heard
	m.left = m.place.remove()
	m.mu.Lock()
	if !m.closed {
		m.reason = m.address.explain(m.said.all())
	}
	m.mu.Unlock()
	close(m.done)
}

// await waits until the directory answers, or sshfs has ended. sshfs mounts first and connects
// then; it answers nothing before both are done.
func (m *Mount) await(ctx context.Context) error {
	err := m.probe(ctx)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("ssh: connect to %s: %w", m.address.Name(), context.Cause(ctx))
	}
	// It is ending: its own words are the reason. Where it is not, err is.
	select {
	case <-m.done:
		return m.reason
	case <-time.After(drain):
		return fmt.Errorf("ssh: connect to %s: %w", m.address.Name(), err)
	case <-ctx.Done():
		return fmt.Errorf("ssh: connect to %s: %w", m.address.Name(), context.Cause(ctx))
	}
}

// probe enters the directory, in a process of its own: a thread that waits for a mount cannot
// be interrupted.
func (m *Mount) probe(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-m.done:
			stop()
		case <-ctx.Done():
		}
	}()
	if err := m.awaitMount(ctx); err != nil {
		return err
	}
	cd := exec.Command("sh", "-c", `cd -- "$0"`, m.place.mount())
	if err := cd.Start(); err != nil {
		return err
	}
	entered := make(chan error, 1)
	go func() { entered <- cd.Wait() }()
	select {
	case err := <-entered:
		if err != nil {
			return fmt.Errorf("enter %s: %w", m.place.mount(), err)
		}
	case <-ctx.Done():
		// It ends when the mount does, and that does soon.
		_ = cd.Process.Kill()
		return ctx.Err()
	}
	// The mount may have gone before, and it was the empty directory.
	if is, err := m.place.mounted(); err != nil || !is {
		return errors.Join(err, errors.New("sshfs unmounted"))
	}
	return nil
}

// lookAgain is how long a mount may be in the table without poll(2) having told.
const lookAgain = 100 * time.Millisecond

// awaitMount waits until sshfs has mounted. Polling /proc/self/mountinfo tells of changes
// (proc(5)), but sometimes before the new mount is in the table, and not again.
func (m *Mount) awaitMount(ctx context.Context) error {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer table.Close()
	awake, wake, err := os.Pipe()
	if err != nil {
		return err
	}
	defer awake.Close()
	closeWake := sync.OnceFunc(func() { wake.Close() })
	defer closeWake()
	defer context.AfterFunc(ctx, closeWake)()
	fds := []unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}, {Fd: int32(awake.Fd()), Events: unix.POLLIN}}
	for {
		if is, err := m.place.mounted(); err != nil || is {
			return err
		}
		if _, err := unix.Poll(fds, int(lookAgain.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the mount: %w", err)
		}
		if fds[1].Revents != 0 {
			return ctx.Err()
		}
	}
}

// Dir is where the directory is mounted.
func (m *Mount) Dir() string { return m.place.mount() }

// Done is closed when the connection has ended, by itself or by Close, and sshfs with it. No
// call waits in the mount any more then.
func (m *Mount) Done() <-chan struct{} { return m.done }

// Err waits for Done and says why the connection ended; nil if by Close.
func (m *Mount) Err() error {
	<-m.done
	return m.reason
}

// Close ends the mount and what waits in it, and returns what could not be cleared up. It may
// be called more than once.
func (m *Mount) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	_ = m.hangUp()
	// Should the shell be gone, this ends sshfs, and its end the ssh processes that wait for
	// nothing at the other side.
	_ = m.cmd.Process.Kill()
	<-m.done
	return m.left
}
