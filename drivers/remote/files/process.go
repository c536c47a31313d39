package files

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// argv0 is what the process is called that does the I/O. It is this program.
const argv0 = "cardfs-files"

// The program becomes that process before anything else of it runs, whichever program it is:
// a package's tests are one, too.
func init() {
	if len(os.Args) == 1 && os.Args[0] == argv0 {
		serve(3)
		unix.Exit(0) // with a race detector os.Exit takes a second
	}
}

// opened is a file of the process.
type opened struct {
	fd   int
	uses int  // calls under way, and 1 until it is closed
	shut bool // close was asked for
}

// opens are those under way below a directory. They share the lock, and who has it alone keeps
// all others off.
type opens struct {
	sync.RWMutex
	n int
}

// settle is how long an open that is alone keeps others off, if it takes that long: it has its
// connection by then, be it that this is only being made, or that the file waits.
const settle = 100 * time.Millisecond

// process serves the requests of one connection until that ends.
//
// Its workers take turns in reading it. The one that has read a request carries it out itself,
// and lets another one read: a request that waits holds up no other, and one that does not is
// handed to nobody.
type process struct {
	reading sync.Mutex // of in: who has it waits for the next request
	in      *bufio.Reader

	writing sync.Mutex // of conn: a reply may have to wait for the daemon, which sends meanwhile
	conn    *os.File

	mu      sync.Mutex // of all below; held by nobody who waits
	waiting int        // workers that wait for a request
	opens   map[string]*opens
	files   map[uint32]*opened
	last    uint32
}

func serve(fd int) {
	unix.CloseOnExec(fd)
	// A thread that waits in read(2) keeps its P until the runtime's monitor takes it away. One
	// waits for the next request, one for events: a third needs a P at once.
	if runtime.GOMAXPROCS(0) < 4 {
		runtime.GOMAXPROCS(4)
	}
	conn := os.NewFile(uintptr(fd), "connection") // it blocks: its readers are threads
	p := &process{conn: conn, in: bufio.NewReader(conn), files: make(map[uint32]*opened), opens: make(map[string]*opens)}
	ended := make(chan struct{})
	go p.work(sync.OnceFunc(func() { close(ended) })) // this one must not wait for a file
	<-ended
}

// work is a worker. It ends when enough others wait for requests. ended is called when the
// connection has ended: the daemon has, or wants nothing more.
func (p *process) work(ended func()) {
	for {
		p.mu.Lock()
		if p.waiting >= 2 {
			p.mu.Unlock()
			return
		}
		p.waiting++
		p.mu.Unlock()
		p.reading.Lock()
		f, err := readFrame(p.in)
		for err == nil && f.op == opClose { // in order: no later request finds the file open
			p.close(f.handle)
			f, err = readFrame(p.in)
		}
		p.reading.Unlock()
		if err != nil {
			ended()
			return
		}
		p.mu.Lock()
		p.waiting--
		alone := p.waiting == 0
		p.mu.Unlock()
		if alone {
			go p.work(ended)
		}
		p.do(f)
	}
}

// do carries out one request. It takes as long as the file system does.
func (p *process) do(f frame) {
	reply := frame{id: f.id}
	var err error
	switch f.op {
	case opOpen, opOpenAlone:
		dir, path, _ := strings.Cut(string(f.data), "\x00")
		reply.handle, err = p.open(dir, path, int(f.arg), f.op == opOpenAlone)
	default:
		reply.data, err = p.use(f)
	}
	clear(f.data)
	if errno, ok := err.(unix.Errno); ok {
		reply.arg = uint32(errno)
	} else if err != nil {
		reply.arg = uint32(unix.EIO)
	}
	out := reply.append(nil)
	p.writing.Lock()
	_, _ = p.conn.Write(out)
	p.writing.Unlock()
	clear(out)
	clear(reply.data)
}

// findBelow finds a regular file below dir. Whoever serves the file system decides what is
// there: a symbolic link that leads elsewhere, a device, or a pipe that blocks its opener.
//
// openat2(2) would do it in one call, but a service with RestrictSUIDSGID= has none
// (systemd.exec(5)).
func findBelow(dir, path string) (at int, err error) {
	at, err = retried(func() (int, error) { return unix.Open(dir, pathOnly|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(at)
		}
	}()
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == ".." {
			return at, unix.EXDEV
		}
		// Of a symbolic link this opens the link, below which there is nothing.
		next, err := retried(func() (int, error) { return unix.Openat(at, name, pathOnly|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
		if err != nil {
			return at, err
		}
		unix.Close(at)
		at = next
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return at, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return at, unix.ELOOP
	default:
		return at, unix.ENOTSUP
	}
	return at, nil
}

// enter begins an open below dir, when those under way let it. leave is called after it, maybe
// more than once.
func (p *process) enter(dir string, alone bool) (leave func()) {
	p.mu.Lock()
	o := p.opens[dir]
	if o == nil {
		o = new(opens)
		p.opens[dir] = o
	}
	o.n++
	p.mu.Unlock()
	unlock := o.RUnlock
	if alone {
		o.Lock()
		unlock = o.Unlock
	} else {
		o.RLock()
	}
	return sync.OnceFunc(func() {
		unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		if o.n--; o.n == 0 {
			delete(p.opens, dir)
		}
	})
}

func (p *process) open(dir, path string, flags int, alone bool) (uint32, error) {
	leave := p.enter(dir, alone)
	defer leave()
	at, err := findBelow(dir, path)
	if err != nil {
		return 0, err
	}
	defer unix.Close(at)
	if alone {
		defer time.AfterFunc(settle, leave).Stop()
	}
	link := fmt.Sprintf("/proc/self/fd/%d", at)
	fd, err := retried(func() (int, error) { return unix.Open(link, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0) })
	if err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	p.files[p.last] = &opened{fd: fd, uses: 1}
	return p.last, nil
}

// use reads or writes. The file is closed after the last use, so that its descriptor is
// nobody else's meanwhile.
func (p *process) use(f frame) (data []byte, err error) {
	p.mu.Lock()
	o := p.files[f.handle]
	if o == nil || o.shut {
		p.mu.Unlock()
		return nil, unix.EBADF
	}
	o.uses++
	p.mu.Unlock()
	defer p.release(f.handle, o)
	if f.op != opRead {
		// A write that a signal ended wrote nothing, and none is sent to this process: it
		// is not written again.
		n, err := unix.Write(o.fd, f.data)
		switch {
		case err != nil:
			return nil, err
		case n < len(f.data):
			return nil, unix.EIO
		}
	}
	if f.op == opWrite {
		return nil, nil
	}
	data = make([]byte, min(f.arg, maxData))
	n, err := retried(func() (int, error) { return unix.Read(o.fd, data) })
	if err != nil && f.op == opExchange {
		return nil, errWritten
	}
	return data[:max(n, 0)], err
}

func (p *process) close(handle uint32) {
	p.mu.Lock()
	o := p.files[handle]
	known := o != nil && !o.shut
	if known {
		o.shut = true
	}
	p.mu.Unlock()
	if known {
		p.release(handle, o)
	}
}

func (p *process) release(handle uint32, o *opened) {
	p.mu.Lock()
	o.uses--
	last := o.uses == 0
	if last {
		delete(p.files, handle)
	}
	p.mu.Unlock()
	if last {
		go unix.Close(o.fd) // it may wait, too, and nobody for it
	}
}

// retried repeats a call that changes nothing while a signal ends it: the runtime sends some
// to its own threads.
func retried(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}
