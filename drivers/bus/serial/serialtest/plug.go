package serialtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
)

// Plugged is a device that is plugged in, and the link to it for a driver in this process:
// a serial.Opener. It ends when the device is unplugged; another Plug makes another.
type Plugged struct {
	line *Line
	over chan struct{} // closed when Serve has returned

	mu   sync.Mutex
	open bool
}

var _ serial.Opener = (*Plugged)(nil)

// Plug plugs a device in. If it has a method Mode, that is the mode in which it begins;
// others set it when they are served, and until then may miss what a host sends.
func Plug(d Device) *Plugged {
	p := &Plugged{line: newLine(), over: make(chan struct{})}
	if m, ok := d.(interface{ Mode() serial.Mode }); ok {
		p.line.mode = m.Mode()
	}
	go func() {
		defer close(p.over)
		d.Serve(p.line)
	}()
	return p
}

// Unplug unplugs the device, and returns when it has noticed.
func (p *Plugged) Unplug() {
	p.line.Drop()
	<-p.over
}

// Gone is closed when the device is unplugged.
func (p *Plugged) Gone() <-chan struct{} { return p.line.ctx.Done() }

// Line is the device's end of the line.
func (p *Plugged) Line() *Line { return p.line }

// Inject has faults happen.
func (p *Plugged) Inject(f ...Fault) {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	p.line.faults = append(p.line.faults, f...)
}

// Sent is how many characters went to the device and to the host since Plug.
func (p *Plugged) Sent() (toDev, toHst int) {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	return p.line.sent[toDevice], p.line.sent[toHost]
}

// Observe has f called with each entry of the session from now on. f must not call the
// line, nor keep Data.
func (p *Plugged) Observe(f func(Entry)) {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	p.line.observe = f
}

// OpenSerial is serial.Opener. One port is open at a time.
func (p *Plugged) OpenSerial(ctx context.Context, m serial.Mode) (serial.Port, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.Connect(m, hostHas)
}

// Connect is OpenSerial for something between the host and the line, such as an adapter:
// lines are on at first.
func (p *Plugged) Connect(m serial.Mode, lines serial.Lines) (serial.Port, error) {
	if err := m.Valid(); err != nil {
		return nil, err
	}
	l := p.line
	p.mu.Lock()
	defer p.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ctx.Err() != nil:
		return nil, fail("open", reader.ErrGone)
	case p.open:
		return nil, fail("open", reader.ErrClaimed)
	}
	p.open = true
	l.hostMode = m
	l.toHost = nil
	l.note(Entry{Kind: SetMode, Mode: serial.Mode{Baud: m.Baud, Frame: m.Frame}})
	l.hostLines(lines, 0)
	port := &port{plugged: p, line: l, gone: make(chan struct{})}
	port.stop = context.AfterFunc(l.ctx, port.leave)
	return port, nil
}

func fail(what string, err error) error { return fmt.Errorf("line: %s: %w", what, err) }

// hostLines switches the host's lines. l.mu is held.
func (l *Line) hostLines(on, off serial.Lines) {
	before := l.lines
	l.lines = (l.lines | on) &^ off
	if l.lines == before {
		return
	}
	l.note(Entry{Kind: HostLines, Lines: l.lines & hostHas})
	l.toDevice = append(l.toDevice, Event{Kind: LinesChange, Lines: l.lines})
	l.changed()
}

// port is the host's end of a Line.
type port struct {
	plugged *Plugged
	line    *Line
	gone    chan struct{}
	once    sync.Once
	stop    func() bool
}

func (p *port) leave() { p.once.Do(func() { close(p.gone) }) }

// Gone is serial.Port.
func (p *port) Gone() <-chan struct{} { return p.gone }

// Close is serial.Port.
func (p *port) Close() error {
	p.stop()
	first := false
	p.once.Do(func() { close(p.gone); first = true })
	if !first {
		select {
		case <-p.line.ctx.Done():
		default:
			return nil // closed before
		}
	}
	p.plugged.mu.Lock()
	p.plugged.open = false
	p.plugged.mu.Unlock()
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	if p.line.ctx.Err() == nil {
		p.line.hostLines(0, hostHas)
	}
	p.line.changed()
	return nil
}

// ready locks the line, for a call that is possible.
func (p *port) ready(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.line.mu.Lock()
	select {
	case <-p.gone:
	default:
		if p.line.ctx.Err() == nil {
			return nil
		}
	}
	p.line.mu.Unlock()
	return fail(what, reader.ErrGone)
}

// SetMode is serial.Port.
func (p *port) SetMode(ctx context.Context, m serial.Mode) error {
	if err := m.Valid(); err != nil {
		return err
	}
	if err := p.ready(ctx, "set mode"); err != nil {
		return err
	}
	defer p.line.mu.Unlock()
	if m != p.line.hostMode {
		p.line.hostMode = m
		p.line.note(Entry{Kind: SetMode, Mode: serial.Mode{Baud: m.Baud, Frame: m.Frame}})
	}
	return nil
}

// Mode is serial.Port.
func (p *port) Mode() serial.Mode { return p.line.HostMode() }

// Write is serial.Port.
func (p *port) Write(ctx context.Context, data []byte) error {
	if err := p.ready(ctx, "write"); err != nil {
		return err
	}
	l := p.line
	defer l.mu.Unlock()
	if len(data) == 0 {
		return nil
	}
	l.note(Entry{Kind: Out, Data: slices.Clone(data)})
	for _, c := range data {
		for _, got := range l.disturb(toDevice, char{c, false}, l.hostMode, l.mode) {
			l.toDevice = append(l.toDevice, Event{Kind: Char, Char: got.c, Wrong: got.wrong, Lines: l.lines})
		}
		if l.ctx.Err() != nil {
			return fail("write", reader.ErrGone)
		}
	}
	l.changed()
	return nil
}

// Read is serial.Port.
func (p *port) Read(ctx context.Context, data []byte, wait time.Duration) (int, error) {
	if len(data) == 0 {
		return 0, ctx.Err()
	}
	var late <-chan time.Time
	for {
		if err := p.ready(ctx, "read"); err != nil {
			return 0, err
		}
		l := p.line
		if n, err := l.take(data); n > 0 {
			l.mu.Unlock()
			return n, err
		}
		wake := l.wake
		l.mu.Unlock()
		if late == nil && wait > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-wake:
		case <-ctx.Done():
		case <-p.gone:
		case <-late:
			return 0, fail("read", serial.ErrTimeout)
		}
	}
}

// take takes what has come for the host. l.mu is held.
func (l *Line) take(data []byte) (n int, err error) {
	for n < len(data) && n < len(l.toHost) && err == nil {
		c := l.toHost[n]
		data[n] = c.c
		if n++; c.wrong && l.hostMode.Check {
			err = fail("read", serial.ErrParity)
		}
	}
	l.toHost = l.toHost[n:]
	return n, err
}

// Drain is serial.Port.
func (p *port) Drain(ctx context.Context) error {
	if err := p.ready(ctx, "drain"); err != nil {
		return err
	}
	p.line.mu.Unlock()
	return nil
}

// Flush is serial.Port.
func (p *port) Flush() error {
	if err := p.ready(context.Background(), "flush"); err != nil {
		return err
	}
	defer p.line.mu.Unlock()
	p.line.toHost = nil
	return nil
}

// SetLines is serial.Port.
func (p *port) SetLines(ctx context.Context, on, off serial.Lines) error {
	if (on|off)&^hostHas != 0 || on&off != 0 {
		return fail("switch modem lines", reader.ErrInvalid)
	}
	if err := p.ready(ctx, "switch modem lines"); err != nil {
		return err
	}
	defer p.line.mu.Unlock()
	p.line.hostLines(on, off)
	return nil
}

// Lines is serial.Port.
func (p *port) Lines(ctx context.Context) (serial.Lines, error) {
	if err := p.ready(ctx, "read modem lines"); err != nil {
		return 0, err
	}
	defer p.line.mu.Unlock()
	return p.line.lines, nil
}

// Break is serial.Port.
func (p *port) Break(ctx context.Context, d time.Duration) error {
	if err := p.ready(ctx, "break"); err != nil {
		return err
	}
	l := p.line
	l.note(Entry{Kind: SendBreak, Time: d})
	l.toDevice = append(l.toDevice, Event{Kind: Break, Lines: l.lines})
	l.changed()
	l.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.gone:
		return fail("break", reader.ErrGone)
	}
}
