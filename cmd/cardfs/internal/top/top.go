// Package top shows all slots of a mount live: on a terminal, or as text.
//
// What is shown, and what keys do, is model's, which does nothing by itself. Run has the
// terminal and everything that waits, each in a goroutine of its own: the files are read by
// look, so that keys work also while the daemon is slow.
package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// Options say what to show.
type Options struct {
	Mount    *client.Mount
	Interval time.Duration           // between looks
	Name     func(atr string) string // of a card, "" for one that is not known
	Sort     string                  // one of Sorts
	Filter   string
	Times    int // Print: how often; 0: until ctx ends
}

// redraw is the shortest time between two drawings that no key asked for.
const redraw = 50 * time.Millisecond

// soon is how long after an event the slot is looked at: events come in groups.
const soon = 50 * time.Millisecond

// terminal is where a model is drawn.
type terminal interface {
	keys() <-chan any // of string: a key; of resize: the size
	draw([]line)
	sync()
	suspend() error
	ascii() bool
	close()
}

type resize struct{ width, height int }

// files are what top does with a mount.
type files interface {
	look(numbers []int, all bool) ([]survey.Slot, error)
	follow(show func(slot int, left, lost bool)) error // until the mount ends, or cannot be used
	power(slot int, word string) error
	trace(slot int) (io.ReadCloser, error)
	explain(error) error
}

// Run shows the slots on the terminal until the user, ctx or the mount ends it. However it
// ends, the terminal is as it was.
func Run(ctx context.Context, o Options) error {
	t, err := openTerminal()
	if err != nil {
		return err
	}
	return show(ctx, t, mount{o.Mount}, o)
}

func show(ctx context.Context, t terminal, f files, o Options) error {
	// Deferred, it is done before a panic is printed.
	defer t.close()
	return newLoop(f, t, o).run(ctx)
}

// loop carries what happens to the model, and what it wants out.
type loop struct {
	files    files
	terminal terminal
	model    *model
	interval time.Duration

	looked  chan looked
	events  chan happened
	ended   chan error // the mount's end
	done    chan done
	traced  chan traced
	crashed chan crash

	looking bool // a look is under way
	trace   io.Closer
	tracing int // counts traces: what a former one still sends is dropped
}

type looked struct {
	asked []int
	all   bool
	found []survey.Slot
	at    time.Time
	err   error
}

type happened struct {
	slot       int
	left, lost bool
}

type done struct {
	action action
	err    error
}

type traced struct {
	number int // of the trace
	file   io.ReadCloser
	text   string
	err    error
}

type crash struct {
	value any
	stack []byte
}

func newLoop(f files, t terminal, o Options) *loop {
	l := &loop{
		files: f, terminal: t, interval: o.Interval, model: modelFor(o),
		looked: make(chan looked, 1), events: make(chan happened, 64), ended: make(chan error, 1),
		done: make(chan done), traced: make(chan traced), crashed: make(chan crash),
	}
	l.model.behind = true // the first look is at all
	return l
}

func modelFor(o Options) *model {
	m := newModel(o.Mount.Dir, o.Interval, o.Name)
	m.filter = o.Filter
	for i, s := range sorts {
		if s.name == o.Sort {
			m.sort = i
		}
	}
	return m
}

// spawn runs f beside the loop. Its panic is the loop's, for who runs that restores the
// terminal.
func (l *loop) spawn(ctx context.Context, f func()) {
	go func() {
		defer func() {
			if v := recover(); v != nil {
				send(ctx, l.crashed, crash{v, debug.Stack()})
			}
		}()
		f()
	}()
}

// send gives v to the loop, or to nobody if that has ended.
func send[T any](ctx context.Context, to chan<- T, v T) {
	select {
	case to <- v:
	case <-ctx.Done():
	}
}

func (l *loop) run(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	defer l.endTrace()
	l.spawn(ctx, func() {
		err := l.files.follow(func(slot int, left, lost bool) { send(ctx, l.events, happened{slot, left, lost}) })
		l.ended <- err
	})
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	var after, paint <-chan time.Time // to look at what events told of; to draw
	l.want(ctx, false)
	l.draw()
	for {
		shown := true // a change is to be seen; at once if a key asked for it
		atOnce := false
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.ended:
			return l.files.explain(err)
		case c := <-l.crashed:
			panic(fmt.Sprintf("%v\n\n%s", c.value, c.stack))
		case k := <-l.terminal.keys():
			if quit, err := l.press(ctx, k); quit || err != nil {
				return err
			}
			atOnce = true
		case e := <-l.events:
			l.model.event(e.slot, e.left, e.lost)
			set(&after, soon)
		case <-after:
			after = nil
			l.want(ctx, false)
			shown = false
		case <-tick.C:
			l.want(ctx, true)
			shown = false
		case r := <-l.looked:
			l.looking = false
			if r.err != nil {
				return l.files.explain(r.err)
			}
			l.model.looked(r.asked, r.all, r.found, r.at)
			if len(l.model.dirty) > 0 || l.model.behind {
				set(&after, soon)
			}
		case d := <-l.done:
			l.model.did(d.action, d.err)
		case t := <-l.traced:
			l.takeTrace(t)
		case <-paint:
			paint = nil
			l.draw()
			shown = false
		}
		switch {
		case atOnce:
			l.draw()
		case shown:
			set(&paint, redraw)
		}
	}
}

// set sets a timer that is not set yet.
func set(timer *<-chan time.Time, d time.Duration) {
	if *timer == nil {
		*timer = time.After(d)
	}
}

func (l *loop) draw() { l.terminal.draw(l.model.view(l.terminal.ascii())) }

// want looks at what the model wants to know. While a look is under way it does not: what
// events told is kept.
func (l *loop) want(ctx context.Context, tick bool) {
	if l.looking {
		return
	}
	asked, all := l.model.wanted(tick)
	if len(asked) == 0 && !all {
		return
	}
	l.looking = true
	l.spawn(ctx, func() {
		found, err := l.files.look(asked, all)
		send(ctx, l.looked, looked{asked, all, found, time.Now(), err})
	})
}

// press takes a key, or a change of the screen's size.
func (l *loop) press(ctx context.Context, k any) (quit bool, err error) {
	if size, ok := k.(resize); ok {
		l.model.resized(size.width, size.height)
		l.terminal.sync()
		return false, nil
	}
	name, ok := k.(string)
	if !ok {
		return true, nil // the terminal is gone
	}
	switch a := l.model.key(name); a.what {
	case "quit":
		return true, nil
	case "redraw":
		l.terminal.sync()
	case "suspend":
		return false, l.terminal.suspend()
	case "power":
		l.spawn(ctx, func() { send(ctx, l.done, done{a, l.files.power(a.slot, a.word)}) })
	case "trace":
		l.tracing++
		number := l.tracing
		l.spawn(ctx, func() { l.follow(ctx, number, a.slot) })
	case "untrace":
		l.endTrace()
	}
	return false, nil
}

func (l *loop) endTrace() {
	l.tracing++
	if l.trace != nil {
		l.trace.Close()
		l.trace = nil
	}
}

// follow reads a slot's trace until that, or the loop, closes it.
func (l *loop) follow(ctx context.Context, number, slot int) {
	f, err := l.files.trace(slot)
	if err != nil {
		send(ctx, l.traced, traced{number: number, err: err})
		return
	}
	send(ctx, l.traced, traced{number: number, file: f})
	buf := make([]byte, 1<<16)
	for {
		n, err := f.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case n > 0:
			send(ctx, l.traced, traced{number: number, text: string(buf[:n])})
		}
		if err != nil {
			f.Close()
			send(ctx, l.traced, traced{number: number, err: err})
			return
		}
	}
}

func (l *loop) takeTrace(t traced) {
	switch {
	case t.number != l.tracing:
		if t.file != nil {
			t.file.Close()
		}
	case t.file != nil:
		l.trace = t.file
	case t.err != nil:
		l.trace = nil
		l.model.trace.ended = l.files.explain(t.err).Error()
		if t.err == io.EOF {
			l.model.trace.ended = "the reader left"
		}
	default:
		l.model.trace.add(t.text)
	}
}
