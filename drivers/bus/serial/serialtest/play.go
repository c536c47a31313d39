package serialtest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// T is what a player needs of a testing.TB.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Player is the device of a session, for a driver under test: it expects what the
// session's host does, in its order, and sends what the session's device sent. How the
// driver divides its reads and writes does not matter. What is not due fails the test at
// once; what never came, when the player ends.
type Player struct {
	t     T
	ctx   context.Context // ends with unplug, or with the test
	leave context.CancelFunc

	mu      sync.Mutex
	entries Session
	at      int           // the entry that is due
	off     int           // how much of its Data has gone
	wake    chan struct{} // closed and replaced when at moves
	last    time.Time     // when it moved
	lost    bool          // the host left the session, which was reported
	mode    serial.Mode
	lines   serial.Lines
}

var (
	_ serial.Opener = (*Player)(nil)
	_ serial.Port   = (*playerPort)(nil)
)

// NewPlayer plays the device of s until the test ends, when the rest of the session must
// be empty.
func NewPlayer(t T, s Session) *Player {
	p := &Player{t: t, entries: s, wake: make(chan struct{}), last: time.Now()}
	p.ctx, p.leave = context.WithCancel(context.Background())
	p.skip()
	t.Cleanup(p.end)
	return p
}

// end checks that the session was played to its end.
func (p *Player) end() {
	p.t.Helper()
	p.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.at < len(p.entries) && (p.entries[p.at].Kind == Flush || p.entries[p.at].Kind == Wait) {
		p.next()
	}
	if !p.lost && !p.t.Failed() && p.at < len(p.entries) {
		p.t.Errorf("the session ended at %s", p.due())
	}
}

// Step fails the test unless the session has reached the step of that name, and goes on
// behind it.
func (p *Player) Step(name string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.is(Flush) || p.before(Step) {
		p.pause("the step " + name)
		if p.is(Flush) {
			p.next()
		}
	}
	if !p.is(Step) || p.entries[p.at].Name != name {
		p.t.Errorf("at the step %q the session is at %s", name, p.due())
		p.lost = true
		return
	}
	p.next()
}

// is reports whether an entry of that kind is due. p.mu is held.
func (p *Player) is(k EntryKind) bool { return p.at < len(p.entries) && p.entries[p.at].Kind == k }

// due describes the entry that is due. p.mu is held.
func (p *Player) due() string {
	if p.at == len(p.entries) {
		return "its end"
	}
	e := &p.entries[p.at]
	return fmt.Sprintf("line %d, byte %d: %v", e.number, p.off, e)
}

// next goes on to the next entry. p.mu is held.
func (p *Player) next() {
	p.at, p.off = p.at+1, 0
	p.skip()
	p.moved()
}

func (p *Player) moved() {
	p.last = time.Now()
	close(p.wake)
	p.wake = make(chan struct{})
}

// skip passes over what the device does. p.mu is held.
func (p *Player) skip() {
	for ; p.at < len(p.entries); p.at++ {
		switch e := &p.entries[p.at]; e.Kind {
		case Happens:
		case DeviceLines:
			p.lines = p.lines&hostHas | e.Lines
		case Unplug:
			p.leave()
		default:
			return
		}
	}
}

// pause checks the host's pause before what it does now, if one is due. p.mu is held.
func (p *Player) pause(what string) {
	for p.is(Wait) {
		if d := time.Since(p.last); d < p.entries[p.at].Time {
			p.t.Errorf("the host does %s after %v\nthe session is at %s", what, d, p.due())
		}
		p.at++
		p.skip()
	}
}

// wrong reports what the host did instead of what is due. p.mu is held.
func (p *Player) wrong(got string) error {
	if !p.lost {
		p.lost = true
		p.t.Errorf("the host does %s\nthe session is at %s", got, p.due())
	}
	return fmt.Errorf("session: %w", reader.ErrProtocol)
}

// before reports whether a pause of the host's is due, and behind it an entry of that
// kind. p.mu is held.
func (p *Player) before(k EntryKind) bool {
	return p.is(Wait) && p.at+1 < len(p.entries) && p.entries[p.at+1].Kind == k
}

// expect takes an entry that is not of bytes. same reports whether it is what the host
// does.
func (p *Player) expect(got Entry, same func(*Entry) bool) error {
	p.pause(got.String())
	for p.is(Flush) {
		p.next()
		p.pause(got.String())
	}
	switch {
	case p.ctx.Err() != nil:
		return fail("session", reader.ErrGone)
	case p.lost:
		return fail("session", reader.ErrProtocol)
	case !p.is(got.Kind) || !same(&p.entries[p.at]):
		return p.wrong(got.String())
	}
	p.next()
	return nil
}

// OpenSerial is serial.Opener. The session says the mode that it opens the port with, and
// may say host DTR RTS behind it.
func (p *Player) OpenSerial(ctx context.Context, m serial.Mode) (serial.Port, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.setMode(m); err != nil {
		return nil, err
	}
	p.lines |= hostHas
	if p.is(HostLines) && p.entries[p.at].Lines == hostHas {
		p.next()
	}
	return &playerPort{p: p, gone: make(chan struct{})}, nil
}

// Gone is closed by unplug.
func (p *Player) Gone() <-chan struct{} { return p.ctx.Done() }

// setMode is SetMode with p.mu held.
func (p *Player) setMode(m serial.Mode) error {
	if err := m.Valid(); err != nil {
		return err
	}
	got := Entry{Kind: SetMode, Mode: serial.Mode{Baud: m.Baud, Frame: m.Frame}}
	if old := p.mode; old.Baud != m.Baud || old.Frame != m.Frame {
		if err := p.expect(got, func(e *Entry) bool { return e.Mode == got.Mode }); err != nil {
			return err
		}
	}
	p.mode = m
	return nil
}

// playerPort is a Port of a Player.
type playerPort struct {
	p    *Player
	gone chan struct{}
	once sync.Once
}

// begin locks the player for something that the host does.
func (c *playerPort) begin(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-c.gone:
		return fail(what, reader.ErrGone)
	default:
	}
	c.p.mu.Lock()
	switch {
	case c.p.ctx.Err() != nil:
		c.p.mu.Unlock()
		return fail(what, reader.ErrGone)
	case c.p.lost:
		c.p.mu.Unlock()
		return fail(what, reader.ErrProtocol)
	}
	return nil
}

// SetMode is serial.Port.
func (c *playerPort) SetMode(ctx context.Context, m serial.Mode) error {
	if err := c.begin(ctx, "set mode"); err != nil {
		return err
	}
	defer c.p.mu.Unlock()
	return c.p.setMode(m)
}

// Mode is serial.Port.
func (c *playerPort) Mode() serial.Mode {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.p.mode
}

// Write is serial.Port.
func (c *playerPort) Write(ctx context.Context, data []byte) error {
	if err := c.begin(ctx, "write"); err != nil {
		return err
	}
	p := c.p
	defer p.mu.Unlock()
	for i, b := range data {
		got := Entry{Kind: Out, Data: data[i:]}
		p.pause(got.String())
		for p.is(Flush) {
			p.next()
			p.pause(got.String())
		}
		if !p.is(Out) || p.entries[p.at].Data[p.off] != b && !p.entries[p.at].any(p.off) {
			return p.wrong(got.String())
		}
		if p.off++; p.off == len(p.entries[p.at].Data) {
			p.next()
		}
	}
	p.last = time.Now()
	return nil
}

// Read is serial.Port.
func (c *playerPort) Read(ctx context.Context, data []byte, wait time.Duration) (int, error) {
	p := c.p
	what := fmt.Sprintf("read of %d with %v", len(data), wait)
	var late <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		late = t.C
	}
	for {
		if err := c.begin(ctx, "read"); err != nil {
			return 0, err
		}
		if p.before(In) {
			p.pause(what)
		}
		if !p.is(In) { // a driver may wait while another goroutine of it goes on
			wake := p.wake
			p.mu.Unlock()
			select {
			case <-wake:
				continue
			case <-ctx.Done():
			case <-p.ctx.Done():
			case <-c.gone:
			case <-late:
				p.mu.Lock()
				defer p.mu.Unlock()
				return 0, p.wrong(what + ", in vain")
			}
			continue
		}
		e, off, wake := &p.entries[p.at], p.off, p.wake
		if off == 0 && e.Timeout > 0 && e.Timeout != wait {
			err := p.wrong(what)
			p.mu.Unlock()
			return 0, err
		}
		hold := e.Held - time.Since(p.last)
		if off > 0 || !e.Late && hold <= 0 {
			n, err := p.deliver(e, data)
			p.mu.Unlock()
			return n, err
		}
		p.mu.Unlock()
		if !e.Late {
			t := time.NewTimer(hold)
			select {
			case <-t.C:
				continue
			case <-wake:
			case <-ctx.Done():
			case <-p.ctx.Done():
			case <-c.gone:
			case <-late:
				t.Stop()
				return 0, fail("read", serial.ErrTimeout)
			}
			t.Stop()
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.ctx.Done():
		case <-c.gone:
		case <-late:
			p.mu.Lock()
			defer p.mu.Unlock()
			p.next()
			return 0, fail("read", serial.ErrTimeout)
		}
	}
}

// deliver moves bytes of e to the host. p.mu is held.
func (p *Player) deliver(e *Entry, data []byte) (n int, err error) {
	for n < len(data) && p.off < len(e.Data) && err == nil {
		data[n] = e.Data[p.off]
		if e.wrong(p.off) && p.mode.Check {
			err = fail("read", serial.ErrParity)
		}
		n++
		p.off++
	}
	if p.off == len(e.Data) {
		p.next()
	} else {
		p.last = time.Now()
	}
	return n, err
}

// Drain is serial.Port.
func (c *playerPort) Drain(ctx context.Context) error {
	if err := c.begin(ctx, "drain"); err != nil {
		return err
	}
	c.p.mu.Unlock()
	return nil
}

// Flush is serial.Port. It passes over what the device has sent by now.
func (c *playerPort) Flush() error {
	if err := c.begin(context.Background(), "flush"); err != nil {
		return err
	}
	p := c.p
	defer p.mu.Unlock()
	if p.before(Flush) {
		p.pause("flush")
	}
	for p.is(In) && !p.entries[p.at].Late && (p.off > 0 || p.entries[p.at].Held == 0) {
		p.next()
	}
	if p.is(Flush) {
		p.next()
	}
	return nil
}

// SetLines is serial.Port.
func (c *playerPort) SetLines(ctx context.Context, on, off serial.Lines) error {
	if err := c.begin(ctx, "switch modem lines"); err != nil {
		return err
	}
	p := c.p
	defer p.mu.Unlock()
	now := (p.lines | on) &^ off
	if now == p.lines {
		return nil
	}
	got := Entry{Kind: HostLines, Lines: now & hostHas}
	if err := p.expect(got, func(e *Entry) bool { return e.Lines == got.Lines }); err != nil {
		return err
	}
	p.lines = p.lines&deviceHas | got.Lines
	return nil
}

// Lines is serial.Port.
func (c *playerPort) Lines(ctx context.Context) (serial.Lines, error) {
	if err := c.begin(ctx, "read modem lines"); err != nil {
		return 0, err
	}
	defer c.p.mu.Unlock()
	return c.p.lines, nil
}

// Break is serial.Port.
func (c *playerPort) Break(ctx context.Context, d time.Duration) error {
	if err := c.begin(ctx, "break"); err != nil {
		return err
	}
	got := Entry{Kind: SendBreak, Time: d}
	err := c.p.expect(got, func(e *Entry) bool { return e.Time == d })
	c.p.mu.Unlock()
	if err != nil {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.p.ctx.Done():
		return fail("break", reader.ErrGone)
	}
}

// Gone is serial.Port.
func (c *playerPort) Gone() <-chan struct{} { return c.p.ctx.Done() }

// Close is serial.Port. The session may say host - where the port was closed.
func (c *playerPort) Close() error {
	c.once.Do(func() {
		close(c.gone)
		p := c.p
		p.mu.Lock()
		defer p.mu.Unlock()
		for p.is(Flush) {
			p.next()
		}
		p.lines &^= hostHas
		p.mode = serial.Mode{}
		if p.is(HostLines) && p.entries[p.at].Lines == 0 {
			p.next()
		}
	})
	return nil
}
