package sshd

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// Line is a port of the loopback address that leads to a Server, until it is cut.
type Line struct {
	Port int

	listener net.Listener
	server   string
	mu       sync.Mutex
	held     bool // nothing gets through, and nobody is told
	released *sync.Cond
	conns    map[net.Conn]bool
}

// NewLine makes a line to the server, whose key is then known for its port, too.
func (s *Server) NewLine(t testing.TB) *Line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{
		Port: listener.Addr().(*net.TCPAddr).Port, listener: listener,
		server: fmt.Sprintf("127.0.0.1:%d", s.Port), conns: make(map[net.Conn]bool),
	}
	l.released = sync.NewCond(&l.mu)
	s.Trust(t, l.Port)
	var accepting sync.WaitGroup
	accepting.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		accepting.Wait()
		l.Cut()
	})
	return l
}

func (l *Line) accept() {
	for {
		here, err := l.listener.Accept()
		if err != nil {
			return
		}
		there, err := net.Dial("tcp", l.server)
		if err != nil {
			here.Close()
			continue
		}
		l.mu.Lock()
		l.conns[here], l.conns[there] = true, true
		l.mu.Unlock()
		go l.carry(here, there)
		go l.carry(there, here)
	}
}

func (l *Line) carry(from, to net.Conn) {
	_, _ = io.Copy(to, held{from, l})
	for _, c := range []net.Conn{from, to} {
		c.Close()
		l.mu.Lock()
		delete(l.conns, c)
		l.mu.Unlock()
	}
}

// held reads nothing while the line is held.
type held struct {
	net.Conn
	line *Line
}

func (h held) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.line.mu.Lock()
	defer h.line.mu.Unlock()
	for h.line.held {
		h.line.released.Wait()
	}
	return n, err
}

// Hold stops the line, as a pulled cable does: both sides wait.
func (l *Line) Hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

// Cut ends all connections of the line, and a Hold. New connections get through.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
	l.held = false
	l.released.Broadcast()
}
