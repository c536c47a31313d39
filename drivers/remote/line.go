package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/drivers/remote/sshfs"
	"github.com/cardfs/cardfs/reader"
)

const (
	// readMost is how much one read asks for: no more than one request of SFTP brings.
	readMost = 32 << 10
	// callsMost is how many calls may wait for a machine's file system.
	callsMost = 256
	// slotsMost is how many slots of a machine are served.
	slotsMost = 4096
)

// line is the way to a machine from its files' being there until it is lost. One goroutine
// reads the machine's events throughout.
type line struct {
	machine  *machine
	host     reader.Host
	dir      string
	mount    *sshfs.Mount // nil: somebody else's
	files    *files.Group
	instance string
	single   bool // the directory is that of one slot
	events   *files.File
	ctx      context.Context // ends with the line; its cause says why
	cancel   context.CancelCauseFunc
	close    func()

	slots map[int]*slot // by their numbers there; the reading goroutine's
}

// connect makes a line, and announces the readers that are there.
func (m *machine) connect(ctx context.Context, host reader.Host) (*line, error) {
	process, err := m.driver.acquire()
	if err != nil {
		return nil, err
	}
	l := &line{machine: m, host: host, dir: m.address, slots: make(map[int]*slot)}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.close = sync.OnceFunc(func() {
		if l.events != nil {
			l.events.Close()
		}
		if l.mount != nil {
			_ = l.mount.Close()
		}
		m.driver.release()
	})
	if m.url {
		if l.mount, err = sshfs.Start(ctx, m.address, m.ssh); err != nil {
			l.end(err)
			return nil, err
		}
		l.dir = l.mount.Dir()
	}
	l.files = process.Group(l.dir, callsMost)
	known := make(chan struct{}) // closed when the present state is known
	if err := l.begin(ctx, known); err != nil {
		l.end(err)
		return nil, err
	}
	select {
	case <-known:
		return l, nil
	case <-l.ctx.Done():
		return nil, context.Cause(l.ctx)
	case <-ctx.Done():
		l.end(ctx.Err())
		return nil, ctx.Err()
	}
}

// begin looks whether the directory is a cardfs, and which, and starts to read its events.
func (l *line) begin(ctx context.Context, known chan<- struct{}) error {
	m := l.machine
	readers, err := l.look(ctx)
	if err != nil {
		return err
	}
	if own := reader.InstanceOf(l.host); own != "" && own == l.instance {
		return fmt.Errorf("it is the mount of this cardfs itself: %w", reader.ErrInvalid)
	}
	if l.events, err = l.files.Open(ctx, "event", os.O_RDONLY); err != nil {
		return err
	}
	host := mountSource(l.dir)
	m.mu.Lock()
	if m.over {
		m.mu.Unlock()
		return reader.ErrGone
	}
	if m.host == "" {
		m.host = host
	}
	m.line = l
	m.mu.Unlock()
	reader.Go(l.host, func() { l.receive(readers, known) })
	return nil
}

// look finds out what the directory is, and how many slots are there.
func (l *line) look(ctx context.Context) (readers int, err error) {
	text, err := l.files.ReadFile(ctx, "ctl", maxText+1)
	if err == nil {
		o, err := parseCtl(text)
		l.instance = o.instance
		return o.readers, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	text, err = l.files.ReadFile(ctx, "status", maxText+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, errors.New("nothing is mounted there, or no cardfs: it has neither ctl nor status")
	case err != nil:
		return 0, err
	}
	st, err := parseStatus(text)
	if err != nil {
		return 0, err
	}
	if st.instance == "" {
		return 0, fmt.Errorf("status there has no line `instance`: it is of an older cardfs: %w", reader.ErrUnsupported)
	}
	l.instance, l.single = st.instance, true
	return 1, nil
}

// path is that of a file of a slot.
func (l *line) path(slot int, name string) string {
	if l.single {
		return name
	}
	return strconv.Itoa(slot) + "/" + name
}

// err is why the line ended, for the core.
func (l *line) err() error {
	if l.ctx.Err() == nil {
		return nil
	}
	return l.machine.away(context.Cause(l.ctx))
}

// end ends the line, for the reason why. It waits for no file.
func (l *line) end(why error) {
	if l.ctx.Err() == nil {
		l.machine.lose(l)
	}
	l.cancel(why)
	l.close()
}

// bound is ctx, which ends with the line too.
func (l *line) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// explain is err with what was tried, or the end of the line if that is the reason.
func (l *line) explain(what string, err error) error {
	if l.ctx.Err() != nil {
		return fmt.Errorf("remote: %s: %w: %w", what, context.Cause(l.ctx), reader.ErrAway)
	}
	return fmt.Errorf("remote: %s: %w", what, err)
}

// receive is the goroutine that reads the events. The first of them are the present state:
// readers slots, or what has changed since they were counted.
func (l *line) receive(readers int, known chan<- struct{}) {
	var rest []byte
	tell := sync.OnceFunc(func() {
		l.machine.settle(l)
		close(known)
	})
	if readers == 0 {
		tell()
	}
	for {
		text, err := l.events.Read(l.ctx, readMost)
		if err == nil && len(text) == 0 {
			err = errors.New("the events have ended")
		}
		for err == nil {
			line, after, whole := bytes.Cut(text, []byte{'\n'})
			rest = append(rest, line...)
			if !whole {
				if len(rest) > maxLine {
					err = malformed("event has a line of more than %d bytes", maxLine)
				}
				break
			}
			var e event
			if e, err = parseEvent(rest); err == nil {
				err = l.handle(e)
			}
			rest, text = rest[:0], after
		}
		if err != nil {
			l.end(fmt.Errorf("the way is lost: %w", err))
			return
		}
		if len(l.slots) >= readers {
			tell()
		}
	}
}

// handle takes one event.
func (l *line) handle(e event) error {
	if e.more["lost"] != "" {
		return errors.New("events were lost") // the next line begins with the present state
	}
	s := l.slots[e.slot]
	switch e.what {
	case "arrived":
		if s != nil {
			return malformed("slot %d arrived twice", e.slot)
		}
		return l.arrived(e)
	case "left":
		if s != nil {
			delete(l.slots, e.slot)
			l.left(s)
		}
		return nil
	}
	if s != nil {
		s.happened(e)
	}
	return nil
}

func (l *line) arrived(e event) error {
	p, err := parsePlace(e.more)
	if err != nil {
		return err
	}
	if l.single { // it is a reader of its own here, whatever others its reader has
		p.reader, p.index = e.more["by-id"], 0
	}
	if len(l.slots) >= slotsMost {
		return malformed("more than %d slots", slotsMost)
	}
	s := newSlot(l, e.slot)
	s.reader = p.reader
	l.slots[e.slot] = s
	m := l.machine
	if own := reader.InstanceOf(l.host); own != "" && slices.Contains(p.via, own) {
		m.log.Warn("a reader of the machine is refused: it is one of this cardfs, which comes back over other machines", "slot", e.slot)
		return nil
	}
	f := m.announce(l, p, e.slot)
	if f == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.line == l && len(f.slots) == p.index {
		s.of = f
		f.slots = append(f.slots, s)
	}
	f.touch()
	return nil
}

// left makes a slot's reader leave; its other slots' events follow.
func (l *line) left(s *slot) {
	s.leave()
	l.machine.mu.Lock()
	defer l.machine.mu.Unlock()
	delete(l.machine.shunned, s.reader)
	if s.of != nil {
		s.of.leave()
	}
}
