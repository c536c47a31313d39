package usbtest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// wait is what ends a transfer: the host's context, its time-out, the end of its
// claim, or unplugging. It is the context that Model.Control gets. Nothing is set up until
// something waits, because most transfers are answered at once.
//
// One goroutine uses it.
type wait struct {
	context.Context // the host's
	port            *Port
	claim           context.Context // ends with the host's claim; nil: there is none
	timeout         time.Duration   // 0: none
	fault           *Fault          // that befalls the transfer

	end    time.Time // zero until it is asked for
	timer  *time.Timer
	merged context.Context
	cancel context.CancelFunc
}

var _ context.Context = (*wait)(nil)

// Deadline is context.Context. An emulated card that takes its time looks at it.
func (w *wait) Deadline() (time.Time, bool) {
	end, ok := w.Context.Deadline()
	if w.timeout <= 0 {
		return end, ok
	}
	if w.end.IsZero() {
		w.end = time.Now().Add(w.timeout)
	}
	if ok && end.Before(w.end) {
		return end, true
	}
	return w.end, true
}

// Err is context.Context: the error with which the transfer ended for the host.
func (w *wait) Err() error {
	if err := w.Context.Err(); err != nil {
		return err
	}
	if w.port.ctx.Err() != nil || w.claim != nil && w.claim.Err() != nil {
		return reader.ErrGone
	}
	if !w.end.IsZero() && !time.Now().Before(w.end) {
		return usb.ErrTimeout
	}
	return nil
}

// Done is context.Context.
func (w *wait) Done() <-chan struct{} {
	if w.merged == nil {
		ctx, cancel := context.WithCancel(w.Context)
		stops := []func() bool{context.AfterFunc(w.port.ctx, cancel)}
		if w.claim != nil {
			stops = append(stops, context.AfterFunc(w.claim, cancel))
		}
		if w.timeout > 0 {
			w.Deadline()
			stops = append(stops, time.AfterFunc(time.Until(w.end), cancel).Stop)
		}
		w.merged, w.cancel = ctx, func() {
			for _, stop := range stops {
				stop()
			}
			cancel()
		}
	}
	return w.merged.Done()
}

// Value is context.Context.
func (w *wait) Value(key any) any { return w.Context.Value(key) }

// stop releases what waiting has set up.
func (w *wait) stop() {
	if w.cancel != nil {
		w.cancel()
	}
	if w.timer != nil {
		w.timer.Stop()
	}
}

// until waits for wake, which may be nil. It returns an error if the transfer ended before.
func (w *wait) until(wake <-chan struct{}) error {
	select {
	case <-wake:
		return nil
	case <-w.Context.Done():
	case <-w.port.ctx.Done():
	case <-w.released():
	case <-w.late():
		return usb.ErrTimeout
	}
	return w.Err()
}

// turn waits for a place in queue.
func (w *wait) turn(queue chan<- struct{}) error {
	select {
	case queue <- struct{}{}:
		return nil
	default:
	}
	select {
	case queue <- struct{}{}:
		return nil
	case <-w.Context.Done():
	case <-w.port.ctx.Done():
	case <-w.released():
	case <-w.late():
		return usb.ErrTimeout
	}
	return w.Err()
}

func (w *wait) released() <-chan struct{} {
	if w.claim == nil {
		return nil
	}
	return w.claim.Done()
}

func (w *wait) late() <-chan time.Time {
	if w.timeout <= 0 {
		return nil
	}
	if w.timer == nil {
		w.Deadline()
		w.timer = time.NewTimer(time.Until(w.end))
	}
	return w.timer.C
}

// pause waits for d.
func (w *wait) pause(d time.Duration) error {
	if err := w.Err(); err != nil {
		return err
	}
	over := make(chan struct{})
	t := time.AfterFunc(d, func() { close(over) })
	defer t.Stop()
	return w.until(over)
}

// in reads from an IN endpoint.
func (d *Device) in(w *wait, ep uint8, p []byte) (int, error) {
	for resets := -1; ; {
		if err := w.Err(); err != nil {
			return 0, err
		}
		d.mu.Lock()
		if resets < 0 {
			resets = d.resets
		}
		if resets != d.resets {
			d.mu.Unlock()
			return 0, usb.ErrReset
		}
		e := d.at(ep)
		n, err, ok := e.next(p)
		ok = ok && !d.dead
		if ok {
			d.noteIn(w, ep, p[:n], len(p), err)
			d.mu.Unlock()
			return n, err
		}
		wake := d.wake
		ask := !d.dead && !e.held && d.model.In != nil
		d.mu.Unlock()
		if ask {
			if data, ok := d.model.In(ep); ok {
				d.Send(ep, data)
				continue
			}
		}
		if err := w.until(wake); err != nil {
			if err == usb.ErrTimeout {
				d.mu.Lock()
				d.noteIn(w, ep, nil, len(p), err)
				d.mu.Unlock()
			}
			return 0, err
		}
	}
}

// noteIn is note for an IN endpoint, unless a fault will change it.
func (d *Device) noteIn(w *wait, ep uint8, p []byte, asked int, err error) {
	if w.fault == nil {
		d.note(Line{Kind: Transfer, In: true, Endpoint: ep, Asked: asked, Timeout: w.timeout, Data: p, Err: err})
	}
}

// next returns the IN transfer that is due, if any.
func (e *endpoint) next(p []byte) (n int, err error, ok bool) {
	switch {
	case e.packet == 0, e.halted:
		return 0, usb.ErrStall, true
	case e.held, e.first == len(e.queue):
		return 0, nil, false
	}
	t := &e.queue[e.first]
	n = copy(p, t.data)
	switch rest := t.data[n:]; {
	case t.err != nil:
		e.halted = errors.Is(t.err, usb.ErrStall)
		n, err = 0, t.err
	case len(rest) > 0 && n > 0 && n%e.packet == 0:
		t.data = rest // comes with the host's next transfer
		return n, nil, true
	case len(rest) > 0:
		n, err = 0, usb.ErrOverflow
	case t.exact && e.fills(t.data) && n == len(p) && t.zlp:
		t.data, t.exact = nil, false // comes with the host's next transfer
		return n, nil, true
	case t.exact && e.fills(t.data) && n < len(p) && !t.zlp:
		return 0, nil, false
	}
	e.pop()
	return n, err, true
}

// out writes to an OUT endpoint.
func (d *Device) out(w *wait, ep uint8, p []byte, zlp bool) (int, error) {
	if err := w.Err(); err != nil {
		return 0, err
	}
	d.mu.Lock()
	e := d.at(ep)
	for e.held && !e.halted {
		wake := d.wake
		d.mu.Unlock()
		if err := w.until(wake); err != nil {
			return 0, err
		}
		d.mu.Lock()
	}
	line := Line{Kind: Transfer, Endpoint: ep, Data: p, ZLP: zlp && e.fills(p), Timeout: w.timeout}
	switch {
	case e.halted || e.packet == 0:
		line.Err = usb.ErrStall
	case d.dead:
		d.mu.Unlock()
		return len(p), nil // the device's controller took it, and nobody reads it
	case d.model.Accepts != nil:
		d.mu.Unlock()
		accepted := d.model.Accepts(ep, p)
		d.mu.Lock()
		if !accepted {
			e.halted, line.Err = true, usb.ErrStall
		}
	}
	if w.fault == nil {
		d.note(line)
	}
	d.mu.Unlock()
	if line.Err != nil {
		return 0, line.Err
	}
	if d.model.Out != nil {
		d.model.Out(ep, slices.Clone(p))
	}
	return len(p), nil
}

// fills reports whether p fills its last packet.
func (e *endpoint) fills(p []byte) bool { return len(p) > 0 && e.packet > 0 && len(p)%e.packet == 0 }

// control does a control transfer.
func (d *Device) control(w *wait, s usb.Setup, data []byte) (n int, err error) {
	standard := isStandard(s)
	d.mu.Lock()
	for !standard && (d.dead || d.at(0).held) {
		wake := d.wake
		d.mu.Unlock()
		if err := w.until(wake); err != nil {
			return 0, err
		}
		d.mu.Lock()
	}
	d.mu.Unlock()
	switch {
	case standard:
		n, err = d.standard(s, data)
	case d.model.Control != nil:
		n, err = d.model.Control(w, s, data)
	default:
		err = usb.ErrStall
	}
	switch {
	case err == ErrNAK:
		return 0, w.until(nil)
	case err != nil && w.port.ctx.Err() != nil:
		err = reader.ErrGone // a device that left stalls no more
	case err != nil && !errors.Is(err, usb.ErrStall):
		if end := w.Err(); end != nil {
			err = end // Control saw that the transfer ended, and that is no failure of its own
		}
	}
	return n, err
}
