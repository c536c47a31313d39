package usbtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/cardfs/cardfs/drivers/bus/usb"
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
// session's host sends, in its order, and answers as the session's device did.
// A transfer on an IN endpoint waits until its line is due. A missing transfer fails the
// test when the player ends. A transfer that is not due fails the test at once, and
// returns usb.ErrBus.
//
// The driver need not send the session's standard requests: Descriptors and String return
// their answers.
type Player struct {
	t           T
	descriptors []byte
	strings     map[uint8]string
	ctx         context.Context // ends with unplug, or with the test
	leave       context.CancelFunc

	mu    sync.Mutex
	lines Session
	at    int
	wake  chan struct{} // closed and replaced when at moves
	last  time.Time     // when it moved
	off   bool          // the host left the session, which was reported
}

var (
	_ usb.Opener = (*Player)(nil)
	_ usb.Conn   = (*Player)(nil)
)

// NewPlayer plays the device of s until the test ends, when the rest of the
// session must be empty.
func NewPlayer(t T, s Session) *Player {
	p := &Player{t: t, strings: make(map[uint8]string), wake: make(chan struct{}), last: time.Now()}
	p.ctx, p.leave = context.WithCancel(context.Background())
	var device, config []byte
	for _, l := range s {
		if !l.standard() {
			p.lines = append(p.lines, l)
			continue
		}
		if l.Setup.Request != getDescriptor || l.Err != nil {
			continue
		}
		switch kind, index := l.Setup.Value>>8, uint8(l.Setup.Value); kind {
		case deviceDesc:
			device = l.Data
		case configDesc:
			config = l.Data
		case stringDesc:
			var text []uint16
			for i := 2; i+1 < len(l.Data); i += 2 {
				text = append(text, uint16(l.Data[i])|uint16(l.Data[i+1])<<8)
			}
			p.strings[index] = string(utf16.Decode(text))
		}
	}
	p.descriptors = slices.Concat(device, config)
	p.skip()
	t.Cleanup(p.end)
	return p
}

// Describe gives the player the descriptors, for a session that has none.
func (p *Player) Describe(descriptors []byte) *Player {
	p.descriptors = descriptors
	return p
}

// end checks that the session was played to its end.
func (p *Player) end() {
	p.t.Helper()
	p.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.off && !p.t.Failed() && p.at < len(p.lines) {
		p.t.Errorf("line %d of the session never came: %v", p.lines[p.at].number, p.lines[p.at])
	}
}

// Step fails the test unless the session has reached the step of that name, and continues
// after it.
func (p *Player) Step(name string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == len(p.lines) || p.lines[p.at].Kind != Step || p.lines[p.at].Name != name {
		p.t.Errorf("at the step %q the session is at %s", name, p.due())
		p.off = true
		return
	}
	p.next()
}

// due describes the line that is due. p.mu is held.
func (p *Player) due() string {
	if p.at == len(p.lines) {
		return "its end"
	}
	return fmt.Sprintf("line %d: %v", p.lines[p.at].number, p.lines[p.at])
}

// next goes on to the next line. p.mu is held.
func (p *Player) next() {
	p.at++
	p.last = time.Now()
	p.skip()
	close(p.wake)
	p.wake = make(chan struct{})
}

// skip passes over lines that no transfer belongs to, and carries out an unplug. p.mu is held.
func (p *Player) skip() {
	for ; p.at < len(p.lines); p.at++ {
		switch p.lines[p.at].Kind {
		case Event:
		case Unplug:
			p.leave()
		default:
			return
		}
	}
}

// wrong reports what the host did instead of what is due. p.mu is held.
func (p *Player) wrong(got string) error {
	if !p.off {
		p.off = true
		p.t.Errorf("the host does %s\nthe session is at %s", got, p.due())
	}
	return usb.ErrBus
}

// pause checks the host's pause before got, if one is due. p.mu is held.
func (p *Player) pause(got *Line) {
	if p.at == len(p.lines) || p.lines[p.at].Kind != Wait {
		return
	}
	if got.waits() && (p.at+1 == len(p.lines) || !p.lines[p.at+1].sameAddress(got)) {
		return
	}
	if d := time.Since(p.last); d < p.lines[p.at].Held {
		p.t.Errorf("the host does %v after %v\nthe session is at %s", got, d, p.due())
	}
	p.at++
}

// take waits until the line of got is due, moves its bytes, and goes on to the next.
func (p *Player) take(ctx context.Context, got *Line, data []byte) (int, error) {
	if !got.In {
		got.Data = data
	}
	timeout := got.Timeout
	if timeout <= 0 && !got.In {
		timeout = time.Minute
	}
	var late <-chan time.Time
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		p.mu.Lock()
		if p.ctx.Err() != nil {
			if p.at < len(p.lines) && p.lines[p.at].Err == reader.ErrGone && p.lines[p.at].sameAddress(got) {
				p.next()
			}
			p.mu.Unlock()
			return 0, reader.ErrGone
		}
		if p.off {
			p.mu.Unlock()
			return 0, usb.ErrBus
		}
		p.pause(got)
		wake := p.wake
		due := Line{Kind: Step}
		if p.at < len(p.lines) {
			due = p.lines[p.at]
		}
		if due.sameAddress(got) {
			if !due.expects(got) {
				err := p.wrong(got.String())
				p.mu.Unlock()
				return 0, err
			}
			if due.Held == 0 && due.Err != usb.ErrTimeout {
				p.next()
				p.mu.Unlock()
				return due.move(data)
			}
			p.mu.Unlock()
			return p.hold(ctx, &due, got, data)
		}
		// A transfer of the host's is due now or wrong. Only where the device is to
		// send something may the host do another thing meanwhile, and not for long.
		if !got.waits() && !due.waits() {
			err := p.wrong(got.String())
			p.mu.Unlock()
			return 0, err
		}
		p.mu.Unlock()
		if late == nil && timeout > 0 {
			t := time.NewTimer(timeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-wake:
		case <-ctx.Done():
		case <-p.ctx.Done():
		case <-late:
			p.mu.Lock()
			err := p.wrong(got.String() + ", and gives it up")
			p.mu.Unlock()
			return 0, err
		}
	}
}

// waits reports whether the transfer is one that a device may leave waiting while
// others go on.
func (l *Line) waits() bool { return l.Kind == Transfer && l.In && !l.Control }

// sameAddress reports whether both are transfers on one endpoint, and one way.
func (l *Line) sameAddress(m *Line) bool {
	return l.Kind == Transfer && m.Kind == Transfer && l.In == m.In && l.Control == m.Control && l.Endpoint == m.Endpoint
}

// expects reports whether got, whose outcome is open, is the transfer of the line.
func (l *Line) expects(got *Line) bool {
	g := *got
	g.Err = l.Err
	if l.In || l.Err != nil && len(l.Data) == 0 {
		g.Data = l.Data
	}
	return l.Same(&g)
}

// move is the outcome of the line's transfer.
func (l *Line) move(data []byte) (int, error) {
	switch {
	case l.In && len(l.Data) > len(data):
		return 0, usb.ErrOverflow
	case l.In:
		return copy(data, l.Data), l.Err
	case l.Err != nil:
		return 0, l.Err
	}
	return len(data), nil
}

// hold has a transfer wait as long as its line says.
func (p *Player) hold(ctx context.Context, due, got *Line, data []byte) (int, error) {
	d, err := due.Held, error(nil)
	if due.Err == usb.ErrTimeout || got.Timeout > 0 && got.Timeout < d {
		d = got.Timeout
		if err = usb.ErrTimeout; d <= 0 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return 0, p.wrong(got.String() + " without a time-out")
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.ctx.Done():
		err = reader.ErrGone
	}
	p.mu.Lock()
	p.next()
	p.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return due.move(data)
}

// plain takes a line that is no transfer.
func (p *Player) plain(got Line) error {
	if p.ctx.Err() != nil {
		return reader.ErrGone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pause(&got)
	if p.off {
		return usb.ErrBus
	}
	if p.at == len(p.lines) || !p.lines[p.at].Same(&got) {
		return p.wrong(got.String())
	}
	p.next()
	return nil
}

// OpenUSB is usb.Opener. A claim line is expected where the session has one.
func (p *Player) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	p.mu.Lock()
	due := p.at < len(p.lines) && p.lines[p.at].Kind == Claim
	p.mu.Unlock()
	if due {
		if err := p.plain(Line{Kind: Claim, Endpoint: iface}); err != nil {
			return nil, err
		}
	}
	return &playerConn{Player: p, iface: iface}, nil
}

// playerConn is a claim of a Player.
type playerConn struct {
	*Player
	iface uint8
	once  sync.Once
}

// Close is usb.Conn. A release line is expected where the session has one.
func (c *playerConn) Close() error {
	c.once.Do(func() {
		c.mu.Lock()
		due := c.at < len(c.lines) && c.lines[c.at].Kind == Release
		c.mu.Unlock()
		if due {
			c.plain(Line{Kind: Release, Endpoint: c.iface})
		}
	})
	return nil
}

// Control is usb.Conn.
func (p *Player) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	return p.take(ctx, &Line{Kind: Transfer, In: s.In(), Control: true, Setup: s, Asked: len(data), Timeout: timeout}, data)
}

// Out is usb.Conn.
func (p *Player) Out(ctx context.Context, ep uint8, data []byte, zlp bool, timeout time.Duration) (int, error) {
	size := 64
	for _, i := range usb.Interfaces(p.descriptors) {
		for _, e := range i.Endpoints {
			if e.Address == ep && e.MaxPacket > 0 {
				size = e.MaxPacket
			}
		}
	}
	zlp = zlp && len(data) > 0 && len(data)%size == 0
	return p.take(ctx, &Line{Kind: Transfer, Endpoint: ep, ZLP: zlp, Timeout: timeout}, data)
}

// In is usb.Conn.
func (p *Player) In(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	return p.take(ctx, &Line{Kind: Transfer, In: true, Endpoint: ep, Asked: len(data), Timeout: timeout}, data)
}

// ClearHalt is usb.Conn.
func (p *Player) ClearHalt(ctx context.Context, ep uint8) error {
	return p.plain(Line{Kind: ClearHalt, Endpoint: ep})
}

// Reset is usb.Conn.
func (p *Player) Reset(context.Context) error { return p.plain(Line{Kind: Reset}) }

// Descriptors is usb.Conn.
func (p *Player) Descriptors() []byte { return slices.Clone(p.descriptors) }

// String is usb.Conn.
func (p *Player) String(i uint8) string { return p.strings[i] }

// Gone is usb.Conn.
func (p *Player) Gone() <-chan struct{} { return p.ctx.Done() }

// Close is usb.Conn.
func (p *Player) Close() error { return nil }
