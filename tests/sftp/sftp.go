// Package sftp mounts directories through sshfs without SSH: sshfs connects to a port of this
// machine, and each connection gets an sftp-server of its own, as sshd's subsystem would give
// it. In between is a line that may be slow, that counts what crosses it, and that can be cut.
package sftp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// program is where Debian has it.
const program = "/usr/lib/openssh/sftp-server"

// Server is one machine, as its SFTP clients see it.
type Server struct {
	Delay time.Duration // each way

	listener net.Listener
	accepts  sync.WaitGroup
	serves   sync.WaitGroup
	requests [256]atomic.Int64 // by type

	mu       sync.Mutex
	sessions map[*session]bool
	closed   bool
}

// session is a connection and its sftp-server.
type session struct {
	conn *net.TCPConn
	cmd  *exec.Cmd
}

// Listen makes a server at a free port of the loopback interface. What is sent arrives after
// delay, in both directions; how much is under way at a time is not limited.
func Listen(delay time.Duration) (*Server, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w (Debian: openssh-sftp-server)", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{listener: l, Delay: delay, sessions: make(map[*session]bool)}
	s.accepts.Go(s.accept)
	return s, nil
}

// Port is the TCP port at 127.0.0.1.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		if err := s.serve(conn.(*net.TCPConn)); err != nil {
			fmt.Fprintln(os.Stderr, "sftp:", err)
			_ = conn.Close()
		}
	}
}

func (s *Server) serve(conn *net.TCPConn) error {
	x := &session{conn: conn, cmd: exec.Command(program)}
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := x.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if err := x.cmd.Start(); err != nil {
		return err
	}
	s.sessions[x] = true
	// Like sshd, a lost connection does not kill an sftp-server that waits for a file. It ends
	// when it has an answer for nobody.
	s.serves.Go(func() {
		defer in.Close()
		_ = carry(in, conn, s.Delay, s.count())
	})
	s.serves.Go(func() {
		_ = carry(conn, out, s.Delay, nil)
		_ = conn.Close()
		_ = out.Close()
		_ = x.cmd.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, x)
	})
	return nil
}

// chunk is bytes on the line.
type chunk struct {
	data []byte
	due  time.Time
}

// carry copies from src to dst. What it reads arrives after delay.
func carry(dst io.Writer, src io.Reader, delay time.Duration, see func([]byte)) error {
	line := make(chan chunk, 1<<12)
	arrived := make(chan error, 1)
	go func() {
		var err error
		for c := range line {
			if err != nil {
				continue // the reader must not wait for the room of a full line
			}
			if delay > 0 {
				time.Sleep(time.Until(c.due))
			}
			_, err = dst.Write(c.data)
		}
		arrived <- err
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if see != nil {
				see(buf[:n])
			}
			line <- chunk{append([]byte(nil), buf[:n]...), time.Now().Add(delay)}
		}
		if err != nil {
			close(line)
			return errors.Join(err, <-arrived)
		}
	}
}

// count returns a function that takes a stream of requests as it comes, and counts them by
// type: four bytes of length, one of type, and so on (draft-ietf-secsh-filexfer-02 §3).
func (s *Server) count() func([]byte) {
	var head []byte // of a request: length and type
	skip := 0       // bytes of the request that follow
	return func(p []byte) {
		for len(p) > 0 {
			if skip > 0 {
				n := min(skip, len(p))
				skip, p = skip-n, p[n:]
				continue
			}
			n := min(5-len(head), len(p))
			head, p = append(head, p[:n]...), p[n:]
			if len(head) == 5 {
				s.requests[head[4]].Add(1)
				skip = (int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])) - 1
				head = head[:0]
			}
		}
	}
}

// Requests are how many requests came so far, by their names in the draft.
func (s *Server) Requests() map[string]int64 {
	m := make(map[string]int64)
	for kind := range s.requests {
		if n := s.requests[kind].Load(); n > 0 {
			m[requestName(byte(kind))] = n
		}
	}
	return m
}

// Total is how many requests came so far.
func (s *Server) Total() (n int64) {
	for kind := range s.requests {
		n += s.requests[kind].Load()
	}
	return n
}

// PerCall is how many requests a call takes, by the difference of many calls to few. use makes n
// calls, and what goes with them.
func (s *Server) PerCall(few, many int, use func(n int) error) (float64, error) {
	var counted [2]int64
	for i, n := range []int{few, many} {
		before := s.Total()
		if err := use(n); err != nil {
			return 0, err
		}
		counted[i] = s.Total() - before
	}
	return float64(counted[1]-counted[0]) / float64(many-few), nil
}

var requestNames = map[byte]string{
	1: "INIT", 3: "OPEN", 4: "CLOSE", 5: "READ", 6: "WRITE", 7: "LSTAT", 8: "FSTAT", 9: "SETSTAT", 10: "FSETSTAT",
	11: "OPENDIR", 12: "READDIR", 13: "REMOVE", 14: "MKDIR", 15: "RMDIR", 16: "REALPATH", 17: "STAT", 18: "RENAME",
	19: "READLINK", 20: "SYMLINK", 200: "EXTENDED",
}

func requestName(kind byte) string {
	if name := requestNames[kind]; name != "" {
		return name
	}
	return fmt.Sprintf("%d", kind)
}

// Pids are the processes of the sftp-servers, one for each connection.
func (s *Server) Pids() (pids []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.sessions {
		pids = append(pids, x.cmd.Process.Pid)
	}
	return pids
}

// Cut ends all connections. New ones are accepted.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.sessions {
		_ = x.conn.SetLinger(0)
		_ = x.conn.Close()
	}
}

// Close cuts the line and ends the sftp-servers.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for x := range s.sessions {
		_ = x.conn.Close()
		_ = x.cmd.Process.Kill()
	}
	s.mu.Unlock()
	s.accepts.Wait()
	s.serves.Wait()
	return err
}
