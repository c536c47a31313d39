package core

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cardfs/cardfs/reader"
)

// opening is one opening of the device by its driver. Its slots belong to no other opening.
type opening struct {
	ifd *ifd
	// ctx ends when the opening is over; its cause says why. It ends with the ifd's when
	// the device left, by lost when the reader reports that it is gone, and by crash.
	ctx context.Context
	end context.CancelCauseFunc // the first reason counts

	died atomic.Pointer[<-chan struct{}] // reader.Reader.Gone, once it is open
}

func newOpening(d *ifd) *opening {
	o := &opening{ifd: d}
	o.ctx, o.end = context.WithCancelCause(d.ctx)
	return o
}

// over is closed when o is over.
func (o *opening) over() <-chan struct{} { return o.ctx.Done() }

// dead reports whether o's reader says that it is gone.
func (o *opening) dead() bool {
	died := o.died.Load()
	return died != nil && closed(*died)
}

// present reports whether o goes on. It asks the device's link and its reader, so that a
// departure counts before anybody has reacted to it.
func (o *opening) present() bool {
	switch {
	case closed(o.over()):
		o.left() // the goroutine that ended it may not have come to that
		return false
	case o.ifd.gone():
		return false
	case o.dead():
		o.lost(reader.ErrGone)
		return false
	}
	return true
}

// lost ends o when its reader reports that it is gone. A reader that failed and was closed
// also reports that it is gone; this has no effect.
func (o *opening) lost(err error) {
	o.end(err)
	o.left()
}

// left makes the device count as gone if o is over, unless it failed, and if the device's link
// cannot distinguish death from departure.
func (o *opening) left() {
	if o.ifd.linkGone == nil && !errors.Is(context.Cause(o.ctx), reader.ErrFailed) {
		o.ifd.leave()
	}
}

// err is the error for callers that come after o is over.
func (o *opening) err() error {
	if why := context.Cause(o.ctx); errors.Is(why, reader.ErrFailed) {
		return why
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
	err := reader.Recovered(d.log, d.name()+": "+what, v)
	o.end(err)
	for _, s := range d.list() {
		if s.opening == o {
			s.fail(err)
		}
	}
	return err
}

// reason returns why r reports that it is gone.
func (o *opening) reason(r reader.Reader) (err error) {
	defer o.recovered("Err", &err)
	if e, ok := r.(interface{ Err() error }); ok {
		if err := e.Err(); err != nil {
			return fmt.Errorf("%w: %w", reader.ErrGone, err)
		}
	}
	return fmt.Errorf("it answers nothing any more: %w", reader.ErrGone)
}
