package vpcd

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// port is a listening address and its permanent slot.
type port struct {
	dev  reader.Device
	opts options
	ln   net.Listener
	slot *slot
	log  *slog.Logger

	gone    chan struct{}
	closing chan struct{}
	close   func() error
	wg      sync.WaitGroup // the accepting goroutine and each connection's

	mu     sync.Mutex // inner to conn.mu
	closed bool
	full   bool          // all places are taken, and that was logged
	conns  map[*conn]int // 1: in the slot; guests are numbered from 2
}

var (
	_ reader.Reader     = (*port)(nil)
	_ reader.Identifier = (*port)(nil)
)

func newPort(dev reader.Device, o options, ln net.Listener, log *slog.Logger) *port {
	if o.network == "tcp" {
		o.address = ln.Addr().String() // with the number that stands for port 0
	}
	p := &port{
		dev: dev, opts: o, ln: ln, slot: newSlot(false), log: log,
		gone: make(chan struct{}), closing: make(chan struct{}), conns: map[*conn]int{},
	}
	p.close = sync.OnceValue(p.shut)
	p.wg.Add(1)
	reader.Go(dev.Host, p.accept)
	return p
}

// Slots returns the permanent slot.
func (p *port) Slots() []reader.Slot { return []reader.Slot{p.slot} }

// Gone is closed if listening has failed permanently.
func (p *port) Gone() <-chan struct{} { return p.gone }

// Identify returns the address. If port 0 was asked for, it has the port number chosen by
// the system.
func (p *port) Identify() (string, map[string]string) {
	return "Virtual card port", map[string]string{"listen": p.opts.String()}
}

// Close stops listening and ends all cards of the port, in the slot and in readers of
// their own, like a hub that is unplugged with its devices.
func (p *port) Close() error { return p.close() }

func (p *port) shut() error {
	close(p.closing)
	err := p.ln.Close()
	p.leave(fmt.Errorf("vpcd: %s was detached: %w", p.opts, reader.ErrGone))
	p.wg.Wait()
	return err
}

// leave ends all cards and accepts no more.
func (p *port) leave(why error) {
	p.mu.Lock()
	p.closed = true
	conns := slices.Collect(maps.Keys(p.conns))
	p.mu.Unlock()
	p.slot.leave()
	for _, c := range conns {
		c.end(why)
	}
}

// accept is the goroutine that accepts connections.
func (p *port) accept() {
	defer p.wg.Done()
	const first, most = 5 * time.Millisecond, time.Second
	pause := first
	for {
		nc, err := p.ln.Accept()
		if err == nil {
			pause = first
			p.add(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Too many open files, or a connection that ended before it was accepted: try
		// again later.
		var ne net.Error
		//lint:ignore SA1019 no other method tells EMFILE from a listener that is dead
		if !errors.As(err, &ne) || !ne.Temporary() {
			p.log.Error("listening ended", "error", err)
			p.leave(fmt.Errorf("vpcd: listen at %s: %w: %w", p.opts, err, reader.ErrGone))
			close(p.gone)
			return
		}
		p.log.Warn("accept", "error", err, "again in", pause)
		select {
		case <-time.After(pause):
			pause = min(2*pause, most)
		case <-p.closing:
			return
		}
	}
}

// add gives a new connection its place: the permanent slot, or a reader of its own.
func (p *port) add(nc net.Conn) {
	p.mu.Lock()
	if p.closed || len(p.conns) >= p.opts.cards {
		told := p.closed || p.full
		p.full = true
		p.mu.Unlock()
		if !told {
			p.log.Warn("connections are closed, as all places are taken", "cards", p.opts.cards)
		}
		_ = nc.Close()
		return
	}
	p.full = false
	c := newConn(nc, p.opts.timeout, p.log, p.free)
	p.conns[c] = 1
	p.wg.Add(1)
	p.mu.Unlock()

	standing := p.slot.offer(c)
	if !standing {
		c.lost = reader.ErrGone
	}
	reader.Go(p.dev.Host, func() {
		defer p.wg.Done()
		c.read()
	})
	if standing {
		return
	}
	if err := p.announce(c); err != nil {
		c.end(fmt.Errorf("vpcd: card at %s: no reader for it: %w", c.peer, err))
		p.log.Warn("a further card was turned away", "peer", c.peer, "error", err)
	}
}

// free gives the place of c to another.
func (p *port) free(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// announce makes c a reader of its own. It gets the lowest free number from 2 on, so that
// a set of cards gets the same names each time.
func (p *port) announce(c *conn) error {
	if p.dev.Host == nil {
		return fmt.Errorf("the slot is occupied: %w", reader.ErrUnsupported)
	}
	p.mu.Lock()
	used := map[int]bool{}
	for _, n := range p.conns {
		used[n] = true
	}
	n := 2
	for used[n] {
		n++
	}
	if p.conns[c] > 0 { // else it has ended
		p.conns[c] = n
	}
	p.mu.Unlock()

	return p.dev.Host.Announce(reader.Device{
		Driver: Driver{}.Name(), Address: fmt.Sprintf("%s+%d", p.opts, n),
		Bus: p.opts.network, Port: fmt.Sprintf("%s+%d", p.opts.address, n),
		Params: p.dev.Params, T0Plain: p.dev.T0Plain, Slots: 1, Link: c, Host: p.dev.Host,
	})
}

// guest is a reader that exists as long as the connection of its card.
type guest struct {
	slot *slot
	conn *conn
	gone chan struct{}
}

var (
	_ reader.Reader     = (*guest)(nil)
	_ reader.Identifier = (*guest)(nil)
)

func newGuest(c *conn) *guest {
	g := &guest{slot: newSlot(true), conn: c, gone: make(chan struct{})}
	g.slot.card = c
	c.whenEnded(func() {
		g.slot.remove(c)
		close(g.gone)
	})
	return g
}

// Slots returns the one slot.
func (g *guest) Slots() []reader.Slot { return []reader.Slot{g.slot} }

// Gone is closed when the connection ends.
func (g *guest) Gone() <-chan struct{} { return g.gone }

// Identify returns the other end of the connection.
func (g *guest) Identify() (string, map[string]string) {
	return "Virtual card", map[string]string{"peer": g.conn.peer}
}

// Close ends the connection and waits for its goroutine.
func (g *guest) Close() error {
	g.conn.end(fmt.Errorf("vpcd: the reader was detached: %w", reader.ErrGone))
	<-g.conn.done
	return nil
}
