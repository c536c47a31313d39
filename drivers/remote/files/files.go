// Package files opens, reads and writes files in a process of its own.
//
// A thread that waits for a network file system cannot be interrupted: once a FUSE request is
// with its server, not even SIGKILL ends it before the server has answered (Linux,
// fs/fuse/dev.c, request_wait_answer), and sshfs does not pass an interrupt on. A program with
// such a thread cannot end. So the threads that may wait belong to a child process, which is
// this program under another name. Calls here end with their context. What they began then
// stays behind in the child, and so does the child when its Process is closed, until the file
// system answers or is gone.
package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a child process. Its methods may be called at once.
type Process struct {
	conn net.Conn
	cmd  *exec.Cmd
	gone chan struct{} // closed when the connection has ended

	mu      sync.Mutex // of what is written to conn, too
	last    uint64
	pending map[uint64]chan<- frame
	err     error // why it has ended
}

// File is an open file of the child.
type File struct {
	group  *Group
	path   string
	handle uint32
	over   func()       // see OpenUntil
	uses   atomic.Int32 // calls under way, and 1 until it is closed
}

// ErrEnded: the child process has ended.
var ErrEnded = errors.New("the process that reads and writes files has ended")

// errWritten is ErrWritten in a reply. No system has an errno of that number.
const errWritten = syscall.Errno(0xFFF)

// ErrWritten: of Exchange, the data were written, and the read failed.
var ErrWritten = errors.New("written, but not answered")

// ErrStuck: as many calls as are allowed are waiting already.
var ErrStuck = errors.New("the file system does not answer: too many calls wait for it")

// Start starts a child process.
func Start() (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("files: socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "connection"), os.NewFile(uintptr(pair[1]), "connection")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{argv0}, Dir: "/", Env: []string{},
		ExtraFiles: []*os.File{theirs},
		// A session of its own: what a terminal sends to the daemon is not for the child.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("files: start a process for them: %w", err)
	}
	p := &Process{conn: conn, cmd: cmd, gone: make(chan struct{}), pending: make(map[uint64]chan<- frame)}
	go func() { _ = cmd.Wait() }()
	go p.receive()
	return p, nil
}

// Close ends the child. Calls under way end with ErrEnded.
func (p *Process) Close() {
	_ = p.conn.Close()
	<-p.gone
}

// Gone is closed when the child has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

func (p *Process) receive() {
	in := bufio.NewReader(p.conn)
	for {
		f, err := readFrame(in)
		p.mu.Lock()
		if err != nil {
			p.err = ErrEnded
			clear(p.pending)
			p.mu.Unlock()
			_ = p.conn.Close()
			close(p.gone)
			return
		}
		to := p.pending[f.id]
		delete(p.pending, f.id)
		p.mu.Unlock()
		if to != nil {
			to <- f
		}
	}
}

// send sends a request. The reply goes to to, which has room for it.
func (p *Process) send(f frame, to chan<- frame) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.last++
	f.id = p.last
	if to != nil {
		p.pending[f.id] = to
	}
	out := f.append(make([]byte, 0, headerLen+len(f.data)))
	_, err := p.conn.Write(out)
	clear(out)
	if err != nil {
		delete(p.pending, f.id)
		return ErrEnded
	}
	return nil
}

// Group is the files of one file system: it bounds how many calls wait for it.
type Group struct {
	p     *Process
	dir   string
	calls chan struct{}
}

// Group returns the group of the files below dir, for which at most n calls wait at once.
func (p *Process) Group(dir string, n int) *Group {
	return &Group{p: p, dir: dir, calls: make(chan struct{}, n)}
}

// call sends a request of a file's and waits for its reply until ctx ends. A reply that comes
// later goes to late, if that is not nil.
func (g *Group) call(ctx context.Context, file *File, f frame, late func(frame)) (frame, error) {
	if err := ctx.Err(); err != nil {
		return frame{}, err
	}
	select {
	case g.calls <- struct{}{}:
	default:
		return frame{}, ErrStuck
	}
	file.uses.Add(1)
	end := func() {
		<-g.calls
		file.leave()
	}
	to := make(chan frame, 1)
	if err := g.p.send(f, to); err != nil {
		end()
		return frame{}, err
	}
	select {
	case reply := <-to:
		end()
		return reply, reply.errno()
	case <-g.p.gone:
		end()
		return frame{}, ErrEnded
	case <-ctx.Done():
		go func() {
			defer end()
			select {
			case reply := <-to:
				if late != nil {
					late(reply)
				}
				clear(reply.data)
			case <-g.p.gone:
			}
		}()
		return frame{}, ctx.Err()
	}
}

func (f frame) errno() error {
	if f.arg != 0 {
		return syscall.Errno(f.arg)
	}
	return nil
}

// Open opens a regular file below the group's directory, following no symbolic link. If ctx
// ends before, the file is closed as soon as it is open.
func (g *Group) Open(ctx context.Context, path string, flags int) (*File, error) {
	return g.OpenUntil(ctx, path, flags, func() {})
}

// OpenUntil is Open, and calls over once when nothing waits in the file system because of it
// any more: it failed, or the file was closed, and calls that nobody here waits for are over too.
func (g *Group) OpenUntil(ctx context.Context, path string, flags int, over func()) (*File, error) {
	return g.open(ctx, opOpen, path, flags, over)
}

// OpenAlone is OpenUntil for a file that may wait. sshfs has a file's calls carried by the
// connection that has the fewest calls and files when it opens it, and counts them a moment
// later. The server answers what a connection carries in order. So that no two such files, and
// nothing else, share one, no other open of the group finds its connection at the same time.
func (g *Group) OpenAlone(ctx context.Context, path string, flags int, over func()) (*File, error) {
	return g.open(ctx, opOpenAlone, path, flags, over)
}

func (g *Group) open(ctx context.Context, op byte, path string, flags int, over func()) (*File, error) {
	f := &File{group: g, path: path, over: sync.OnceFunc(over)}
	f.uses.Store(1)
	reply, err := g.call(ctx, f, frame{op: op, arg: uint32(flags), data: []byte(g.dir + "\x00" + path)}, func(reply frame) {
		if reply.arg == 0 {
			_ = g.p.send(frame{op: opClose, handle: reply.handle}, nil)
		}
	})
	if err != nil {
		f.leave()
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f.handle = reply.handle
	return f, nil
}

// leave ends one of the uses.
func (f *File) leave() {
	if f.uses.Add(-1) == 0 {
		f.over()
	}
}

// ReadFile reads a file of at most most bytes from its beginning to its end, by one read: text
// files in a cardfs mount do not fall apart.
func (g *Group) ReadFile(ctx context.Context, path string, most int) ([]byte, error) {
	f, err := g.Open(ctx, path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Read(ctx, most)
}

// WriteFile writes data to a file that exists, by one write.
func (g *Group) WriteFile(ctx context.Context, path string, data []byte) error {
	f, err := g.Open(ctx, path, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Write(ctx, data)
}

func (f *File) call(ctx context.Context, op byte, name string, data []byte, most int) ([]byte, error) {
	reply, err := f.group.call(ctx, f, frame{op: op, handle: f.handle, arg: uint32(most), data: data}, nil)
	if err == errWritten {
		err = ErrWritten
	}
	if err != nil {
		return nil, &fs.PathError{Op: name, Path: f.path, Err: err}
	}
	return reply.data, nil
}

// Read is one read(2) of at most most bytes. At the end of the file it returns none.
func (f *File) Read(ctx context.Context, most int) ([]byte, error) {
	return f.call(ctx, opRead, "read", nil, most)
}

// Write is one write(2) of all data.
func (f *File) Write(ctx context.Context, data []byte) error {
	_, err := f.call(ctx, opWrite, "write", data, 0)
	return err
}

// Exchange is Write and Read. An error is ErrWritten if only the read failed.
func (f *File) Exchange(ctx context.Context, data []byte, most int) ([]byte, error) {
	return f.call(ctx, opExchange, "exchange", data, most)
}

// Close closes the file, after the calls under way. It does not wait. It is called once.
func (f *File) Close() {
	_ = f.group.p.send(frame{op: opClose, handle: f.handle}, nil)
	f.leave()
}
