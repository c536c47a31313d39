package core

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cardfs/cardfs/reader"
)

// opening is one opening of the device by its driver: its slots are of this opening and of no other.
type opening struct {
	ifd    *ifd
	ctx    context.Context // ends when the slots leave
	cancel context.CancelFunc
	over   chan struct{} // closed by end
	once   sync.Once
	why    error // why it is over; set before over is closed

	died atomic.Pointer[<-chan struct{}] // the reader's own Gone, once it is open
}

func newOpening(d *ifd) *opening {
	o := &opening{ifd: d, over: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancel(d.manager.ctx)
	return o
}

// end gives the signal that o is over; the first reason counts.
func (o *opening) end(why error) {
	o.once.Do(func() {
		o.why = why
		close(o.over)
	})
}

// dead reports whether o's reader says that it is gone.
func (o *opening) dead() bool {
	died := o.died.Load()
	return died != nil && closed(*died)
}

// present reports whether o goes on. What its device says of that counts before
// anybody has noticed it.
func (o *opening) present() bool {
	switch d := o.ifd; {
	case closed(o.over):
	case closed(d.gone), closed(d.linkGone):
		d.left()
		o.end(reader.ErrGone)
	case o.dead():
		o.lost(reader.ErrGone)
	default:
		return true
	}
	return false
}

// lost ends o when its reader says that it is gone. Where the device's link does not
// tell death from departure the device counts as gone. A reader that failed before, and
// was closed, says so too, and that means nothing.
func (o *opening) lost(err error) {
	o.once.Do(func() {
		if o.ifd.linkGone == nil {
			o.ifd.left()
		}
		o.why = err
		close(o.over)
	})
}

// err is what those hear who come when o is over.
func (o *opening) err() error {
	if closed(o.over) && errors.Is(o.why, reader.ErrFailed) {
		return o.why
	}
	return reader.ErrGone
}

// recovered is deferred around every call of o's driver.
func (o *opening) recovered(what string, err *error) {
	if v := recover(); v != nil {
		*err = o.crash(what, v)
	}
}

// crash fails the reader because of a panic.
func (o *opening) crash(what string, v any) error {
	d := o.ifd
	err := reader.Recovered(d.manager.log, d.name()+": "+what, v)
	o.end(err)
	for _, s := range d.list() {
		if s.opening == o {
			s.fail(err)
		}
	}
	return err
}

// reason is why r says that it is gone.
func (o *opening) reason(r reader.Reader) (err error) {
	defer o.recovered("Err", &err)
	if e, ok := r.(interface{ Err() error }); ok {
		if err := e.Err(); err != nil {
			return fmt.Errorf("%w: %w", reader.ErrGone, err)
		}
	}
	return fmt.Errorf("it answers nothing any more: %w", reader.ErrGone)
}
