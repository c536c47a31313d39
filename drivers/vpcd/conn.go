package vpcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/reader"
	"golang.org/x/sys/unix"
)

// conn is one virtual card's connection.
//
//	idle --ask--> waiting --answer--> idle
//	  any state --end: closed, late, talkative, refused--> ended
//
// A card that has been silent for a while is probed by the connection itself. Other
// requests wait until the probe has ended.
//
// One goroutine reads throughout the life of the connection. So the end of the connection
// is noticed at once, and so is a card that sends without being asked.
type conn struct {
	net     net.Conn
	raw     syscall.RawConn // nil where the connection has none
	peer    string
	timeout time.Duration
	log     *slog.Logger
	free    func(*conn)   // gives its place to another, before anybody is told that it ended
	done    chan struct{} // closed when the reading goroutine has ended

	// Used by the asking side only.
	out     []byte
	expire  *time.Timer
	proof   *time.Timer           // runs probe
	writeFn func(fd uintptr) bool // c.tryWrite, made once
	wrote   int

	mu       sync.Mutex
	busy     bool          // somebody asks or tells
	proven   bool          // it has answered once
	probing  chan struct{} // not nil while probe asks; closed at its end
	waiting  bool
	deadline time.Time
	answer   []byte
	err      error         // of the answer
	ended    error         // why the connection ended
	lost     error         // what a caller gets of that: ErrNoCard or ErrGone
	onEnd    func()        // called once, without mu
	wake     chan struct{} // buffer of one: the answer or its error is there
}

func newConn(nc net.Conn, timeout time.Duration, log *slog.Logger, free func(*conn)) *conn {
	c := &conn{
		net: nc, peer: peerName(nc), timeout: timeout, log: log, free: free, done: make(chan struct{}),
		wake: make(chan struct{}, 1), lost: reader.ErrNoCard,
	}
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		// Go's default, stated: a command is one small segment that must not
		// wait for the acknowledgement of the one before.
		_ = t.SetNoDelay(true)
	}
	c.writeFn = c.tryWrite
	c.expire = time.AfterFunc(time.Hour, c.late)
	c.expire.Stop()
	c.proof = time.AfterFunc(time.Hour, c.probe)
	c.proof.Reset(proofTime) // which uses c.proof
	return c
}

// peerName describes the other end.
func peerName(nc net.Conn) string {
	if u, ok := nc.(*net.UnixConn); ok {
		if rc, err := u.SyscallConn(); err == nil {
			pid, known := 0, false
			_ = rc.Control(func(fd uintptr) { pid, known = peerPID(int(fd)) })
			if known {
				return fmt.Sprintf("pid %d", pid)
			}
		}
		return "a local process"
	}
	return nc.RemoteAddr().String()
}

// read is the goroutine that owns the connection's input.
func (c *conn) read() {
	defer close(c.done)
	in := new(inbox)
	for {
		n, err := c.net.Read(in.space())
		in.add(n)
		if n > 0 && !c.received(in) {
			return
		}
		if err != nil {
			defer in.reset()
			switch {
			case in.n > 0:
				c.end(fmt.Errorf("vpcd: card at %s: the connection ended inside a message, after %d bytes of it", c.peer, in.n))
			case errors.Is(err, io.EOF):
				c.end(fmt.Errorf("vpcd: card at %s: closed the connection", c.peer))
			default:
				c.end(fmt.Errorf("vpcd: card at %s: %w", c.peer, err))
			}
			return
		}
	}
}

// received processes new input. It returns false if the connection has ended.
func (c *conn) received(in *inbox) bool {
	c.mu.Lock()
	if c.ended != nil {
		c.mu.Unlock()
		return false
	}
	if !c.waiting {
		c.mu.Unlock()
		c.end(fmt.Errorf("vpcd: card at %s: sent %d bytes that nobody asked for: %w", c.peer, in.n, reader.ErrProtocol))
		return false
	}
	payload, extra, ok := in.message()
	if !ok {
		c.mu.Unlock()
		return true
	}
	if extra > 0 {
		c.mu.Unlock()
		c.end(fmt.Errorf("vpcd: card at %s: sent %d bytes more than one answer: %w", c.peer, extra, reader.ErrProtocol))
		return false
	}
	c.answer = append(c.answer, payload...)
	in.reset()
	c.deliver(nil)
	c.mu.Unlock()
	return true
}

// deliver ends the wait. The caller holds mu.
func (c *conn) deliver(err error) {
	c.waiting, c.busy, c.err = false, false, err
	c.proven = c.proven || err == nil
	c.wake <- struct{}{}
}

// end closes the connection once, for the reason why. A call under way fails with why if
// that is a time-out or a protocol error, and otherwise with the absence of the card.
func (c *conn) end(why error) {
	c.mu.Lock()
	if c.ended != nil {
		c.mu.Unlock()
		return
	}
	c.ended = why
	c.free(c)
	if c.waiting {
		if errors.Is(why, reader.ErrTimeout) || errors.Is(why, reader.ErrProtocol) {
			c.deliver(why)
		} else {
			c.deliver(c.away())
		}
	}
	onEnd := c.onEnd
	c.mu.Unlock()
	c.proof.Stop()
	_ = c.net.Close()
	if errors.Is(why, reader.ErrTimeout) || errors.Is(why, reader.ErrProtocol) {
		c.log.Warn("virtual card disconnected", "peer", c.peer, "reason", why)
	}
	if onEnd != nil {
		onEnd()
	}
}

// whenEnded calls f once when the connection ends, or at once if it has ended.
func (c *conn) whenEnded(f func()) {
	c.mu.Lock()
	ended := c.ended != nil
	if !ended {
		c.onEnd = f
	}
	c.mu.Unlock()
	if ended {
		f()
	}
}

// late runs by timer when an answer did not come in time.
func (c *conn) late() {
	c.mu.Lock()
	// A timer that fired while its answer came may run during the next wait.
	due := c.waiting && !time.Now().Before(c.deadline)
	c.mu.Unlock()
	if due {
		c.end(fmt.Errorf("vpcd: card at %s: no answer within %v: %w", c.peer, c.timeout, reader.ErrTimeout))
	}
}

// probe runs by timer. It asks a connection that has sent nothing yet for its ATR, and
// ends the connection if no card answers.
func (c *conn) probe() {
	c.mu.Lock()
	if c.ended != nil || c.proven {
		c.mu.Unlock()
		return
	}
	if c.busy { // the answer to the request under way proves as much
		c.proof.Reset(proofTime)
		c.mu.Unlock()
		return
	}
	c.busy = true
	c.probing = make(chan struct{})
	c.start(nil, true)
	c.mu.Unlock()
	_, _ = c.exchange(context.Background(), []byte{ctlATR}, nil)
	c.mu.Lock()
	close(c.probing)
	c.probing = nil
	c.mu.Unlock()
}

// ask sends one message and appends its answer to dst.
func (c *conn) ask(ctx context.Context, msg, dst []byte) ([]byte, error) {
	if err := c.begin(ctx, dst, true); err != nil {
		return dst, err
	}
	return c.exchange(ctx, msg, dst)
}

// exchange is the rest of ask, after begin.
func (c *conn) exchange(ctx context.Context, msg, dst []byte) ([]byte, error) {
	if err := c.send(ctx, msg); err != nil {
		c.end(err)
	}
	select {
	case <-c.wake:
	case <-ctx.Done():
		// The answer may still come, and would then be taken for the next one.
		c.end(c.givenUp(ctx))
		<-c.wake
	}
	c.expire.Stop()
	answer, err := c.answer, c.err
	c.answer = nil
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return dst, c.givenUp(ctx)
	}
	return dst, err
}

func (c *conn) givenUp(ctx context.Context) error {
	return fmt.Errorf("vpcd: card at %s: the exchange was given up: %w", c.peer, ctx.Err())
}

// tell sends a message that has no answer.
func (c *conn) tell(ctx context.Context, msg ...byte) error {
	if err := c.begin(ctx, nil, false); err != nil {
		return err
	}
	err := c.send(ctx, msg)
	if err != nil {
		c.end(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return c.givenUp(ctx)
	}
	return c.away()
}

// begin waits until the connection may be used.
func (c *conn) begin(ctx context.Context, dst []byte, answer bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.probing != nil {
		probing := c.probing
		c.mu.Unlock()
		select {
		case <-probing:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if c.ended != nil {
		return c.away()
	}
	c.busy = true
	c.start(dst, answer)
	return nil
}

// start sets the state for one message. The caller holds mu.
func (c *conn) start(dst []byte, answer bool) {
	c.waiting, c.answer, c.err = answer, dst, nil
	if answer {
		c.deadline = time.Now().Add(c.timeout)
		c.expire.Reset(c.timeout)
	}
}

// away returns the error of a connection that has ended: what happened, and ErrNoCard or
// ErrGone. The caller holds mu.
func (c *conn) away() error {
	if errors.Is(c.ended, reader.ErrGone) {
		return c.ended
	}
	// %v: the reason was an error of an earlier call, and this one must not match it.
	return fmt.Errorf("%v: %w", c.ended, c.lost)
}

// send writes one message, which may be a PIN, in one write.
func (c *conn) send(ctx context.Context, msg []byte) error {
	c.out = appendFrame(c.out[:0], msg)
	defer func() { clear(c.out) }()
	c.wrote = 0
	if c.raw != nil {
		// Nearly always there is room, and then ctx needs no watching.
		if err := c.raw.Write(c.writeFn); err != nil {
			return fmt.Errorf("vpcd: card at %s: send: %w", c.peer, err)
		}
		if c.wrote == len(c.out) {
			return nil
		}
	}
	stuck := func() {
		c.end(fmt.Errorf("vpcd: card at %s: took no more commands: %w", c.peer, reader.ErrTimeout))
	}
	defer context.AfterFunc(ctx, stuck)()
	defer time.AfterFunc(c.timeout, stuck).Stop()
	if _, err := c.net.Write(c.out[c.wrote:]); err != nil {
		return fmt.Errorf("vpcd: card at %s: send: %w", c.peer, err)
	}
	return nil
}

// tryWrite writes as much as possible without waiting. It ignores errors: the write of the
// rest meets them again.
func (c *conn) tryWrite(fd uintptr) bool {
	n, err := unix.Write(int(fd), c.out)
	if err == nil {
		c.wrote = n
	}
	return true
}

// Gone is closed when the connection ended. It makes a conn a reader.Link.
func (c *conn) Gone() <-chan struct{} { return c.done }
