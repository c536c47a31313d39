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
	machine *machine
	host    reader.Host
	process *files.Process
	lanes   *lanes // nil: it has not begun
	found
	events *files.File
	ctx    context.Context // ends with the line; its cause says why
	cancel context.CancelCauseFunc
	close  func()

	slots map[int]*slot // by their numbers there; the reading goroutine's
}

// connect makes a line, and announces the readers that are there.
func (m *machine) connect(ctx context.Context, host reader.Host) (*line, error) {
	process, err := m.driver.acquire()
	if err != nil {
		return nil, err
	}
	l := &line{machine: m, host: host, process: process, slots: make(map[int]*slot)}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.close = sync.OnceFunc(func() {
		if l.events != nil {
			l.events.Close()
		}
		if l.lanes != nil {
			l.lanes.close()
		}
		m.driver.release()
	})
	first := &lane{dir: m.address, files: process.Group(m.address, callsMost), close: func() {}}
	if m.url {
		if first, err = l.mount(ctx); err != nil {
			l.end(err)
			return nil, err
		}
		first.room, first.gone = firstCards, nil // the events tell
	}
	l.lanes = newLanes(first, m.log, host)
	if m.url {
		l.lanes.start, l.lanes.lost = l.another, l.lostLane
	}
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

// mount starts an sshfs.
func (l *line) mount(ctx context.Context) (*lane, error) {
	m, err := sshfs.Start(ctx, l.machine.address, l.machine.ssh)
	if err != nil {
		return nil, err
	}
	return &lane{dir: m.Dir(), files: l.process.Group(m.Dir(), callsMost), room: cardsMost, gone: m.Done(), err: m.Err, close: func() { _ = m.Close() }}, nil
}

// another starts one more lane. One name may stand for several machines, or somebody may have
// ended the cardfs there meanwhile.
func (l *line) another(ctx context.Context) (*lane, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errors.New("it does not answer"))
	defer cancel()
	n, err := l.mount(ctx)
	if err != nil {
		return nil, err
	}
	there, err := look(ctx, n.files)
	if err == nil && there.instance != l.instance {
		err = errors.New("it leads to another cardfs than the first")
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// lostLane ends the sessions in a lane that has ended.
func (l *line) lostLane(n *lane) {
	l.machine.mu.Lock()
	defer l.machine.mu.Unlock()
	for _, f := range l.machine.readers {
		if f.line == l {
			for _, s := range f.slots {
				s.lostLane(n)
			}
		}
	}
}

// begin looks whether the directory is a cardfs, and which, and starts to read its events.
func (l *line) begin(ctx context.Context, known chan<- struct{}) (err error) {
	m, first := l.machine, l.lanes.first
	if l.found, err = look(ctx, first.files); err != nil {
		return err
	}
	if own := reader.InstanceOf(l.host); own != "" && own == l.instance {
		return fmt.Errorf("it is the mount of this cardfs itself: %w", reader.ErrInvalid)
	}
	if l.events, err = first.files.Open(ctx, "event", os.O_RDONLY); err != nil {
		return err
	}
	host := mountSource(first.dir)
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
	reader.Go(l.host, func() { l.receive(l.readers, known) })
	return nil
}

// found is what a directory is.
type found struct {
	instance string
	readers  int  // slots that are there
	single   bool // it is the directory of one slot
}

// look finds out what a directory is.
func look(ctx context.Context, dir *files.Group) (found, error) {
	text, err := dir.ReadFile(ctx, "ctl", maxText+1)
	if err == nil {
		o, err := parseCtl(text)
		return found{instance: o.instance, readers: o.readers}, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return found{}, err
	}
	text, err = dir.ReadFile(ctx, "status", maxText+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found{}, errors.New("nothing is mounted there, or no cardfs: it has neither ctl nor status")
	case err != nil:
		return found{}, err
	}
	st, err := parseStatus(text)
	if err != nil {
		return found{}, err
	}
	if st.instance == "" {
		return found{}, fmt.Errorf("status there has no line `instance`: it is of an older cardfs: %w", reader.ErrUnsupported)
	}
	return found{instance: st.instance, readers: 1, single: true}, nil
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
