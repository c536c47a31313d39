package emu

import (
	"context"
	"sync"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
)

// iccd is the one slot of a USB card.
type iccd struct {
	mu     sync.Mutex
	op     int
	busy   bool
	cancel context.CancelFunc
	header []byte // A: T=0 header whose data is still to come
	data   []byte // A: data for the host
	sw     []byte // A: SW1 SW2 for the host
	mute   bool
	ready  bool   // A: expects or offers data
	answer []byte // B: the answer to the next DATA_BLOCK
}

// controlICCD answers the requests of ICCD 1.0.
func (e *Reader) controlICCD(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	e.mu.Lock()
	f := e.fault(0, []byte{s.Request})
	e.mu.Unlock()
	if f != nil {
		switch f.Kind {
		case Hang, Stone:
			e.Die(f.Kind == Stone)
			return 0, usbtest.ErrNAK
		case Silence:
			return 0, silent(ctx)
		case Detach:
			e.Drop()
			return 0, reader.ErrGone
		case Runt:
			n, err := e.request(s, data)
			return min(n, 1), err
		case Babble:
			return 0, usb.ErrOverflow
		case Fail:
			e.iccd.mu.Lock()
			e.iccd.answer = []byte{0x40, 0x40, f.Code}
			e.iccd.mu.Unlock()
			return 0, nil
		case Endless:
			e.iccd.mu.Lock()
			e.iccd.busy = true
			e.iccd.op++
			e.iccd.mu.Unlock()
			return 0, nil
		}
		return 0, usb.ErrStall
	}
	return e.request(s, data)
}

// silent stands for a transfer that the host controller gives up after a second.
func silent(ctx context.Context) error {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return usb.ErrTimeout
}

func (e *Reader) request(s usb.Setup, data []byte) (int, error) {
	c := &e.iccd
	c.mu.Lock()
	defer c.mu.Unlock()
	versionA := e.cfg.Protocol == VersionA
	slot := e.slots[0]
	switch {
	case s.RequestType == 0x21 && s.Request == 0x63: // ICC_POWER_OFF
		c.stop()
		slot.contact.Deactivate()
		return 0, nil
	case s.Request == 0x62 && s.RequestType == 0xA1 == versionA: // ICC_POWER_ON
		c.stop()
		atr, err := slot.contact.Activate(e.Context(), false)
		if versionA {
			if err != nil {
				return 0, usb.ErrStall
			}
			return copy(data, atr), nil
		}
		c.answer = append([]byte{0}, atr...)
		if err != nil {
			c.answer = []byte{0x40, 0x40 | slot.icc(), 0xFE}
		}
		return 0, nil
	case s.RequestType == 0x21 && s.Request == 0x65 && versionA:
		return e.headerOrData(data)
	case s.RequestType == 0x21 && s.Request == 0x65:
		return e.xfrBlockB(s.Value>>8, data)
	case s.RequestType == 0xA1 && s.Request == 0x6F && versionA: // DATA_BLOCK
		switch {
		case c.busy:
			return 0, usb.ErrStall
		case len(c.data) > 0:
			n := copy(data, c.data)
			c.data, c.ready = c.data[n:], len(c.data) > n
			return n, nil
		case len(c.sw) > 0:
			n := copy(data, c.sw)
			c.sw = nil
			return n, nil
		}
		return 0, usb.ErrStall
	case s.RequestType == 0xA1 && s.Request == 0x6F:
		if c.busy {
			return copy(data, []byte{0x80, 1, 0}), nil
		}
		if c.answer == nil {
			return 0, usb.ErrStall
		}
		n := copy(data, c.answer)
		c.answer = nil
		return n, nil
	case s.RequestType == 0xA1 && s.Request == 0xA0 && versionA: // GET_ICC_STATUS
		var b byte
		switch {
		case c.mute:
			b = 0x80
		case c.busy:
			b = 0x40
		case c.ready:
			b = 0x10
		case len(c.sw) > 0:
			b = 0x20
		}
		return copy(data, []byte{b}), nil
	case s.RequestType == 0xA1 && s.Request == 0x81 && !versionA: // SLOT_STATUS
		return copy(data, []byte{0x40, slot.icc(), 0}), nil
	}
	return 0, usb.ErrStall
}

// stop drops the command under way. c.mu is held.
func (c *iccd) stop() {
	c.op++
	if c.cancel != nil {
		c.cancel()
	}
	c.busy, c.cancel, c.header, c.data, c.sw, c.answer = false, nil, nil, nil, nil, nil
	c.mute, c.ready = false, false
}

// start runs f in a goroutine: the transfer that caused it ends at once. c.mu is held.
func (e *Reader) start(f func(context.Context) []byte, done func([]byte)) {
	c := &e.iccd
	c.op++
	op := c.op
	ctx, cancel := context.WithCancel(e.Context())
	c.busy, c.cancel = true, cancel
	e.Go(func() {
		defer cancel()
		s := e.slots[0]
		s.run.Lock()
		rx := f(ctx)
		if rx == nil {
			s.silence(ctx)
		} else {
			rx = append([]byte{}, rx...)
		}
		s.run.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.op == op {
			c.busy = false
			done(rx)
		}
	})
}

// headerOrData serves XFR_BLOCK of version A. The request does not give the direction of
// the data, no more than a T=0 header does: it depends on the instruction.
func (e *Reader) headerOrData(p []byte) (int, error) {
	c := &e.iccd
	slot := e.slots[0]
	if c.busy || !slot.contact.Powered() {
		return 0, usb.ErrStall
	}
	tpdu := append([]byte(nil), p...)
	if c.header != nil {
		tpdu = append(c.header, tpdu...)
		c.header, c.ready = nil, false
	} else {
		if len(p) != 5 {
			return 0, usb.ErrStall
		}
		c.data, c.sw, c.mute = nil, nil, false
		if p[4] > 0 && slot.contact.Incoming(p[0], p[1]) {
			c.header, c.ready = tpdu, true
			return len(p), nil
		}
	}
	e.start(func(ctx context.Context) []byte { return slot.contact.TPDU(ctx, tpdu) }, func(rx []byte) {
		if len(rx) < 2 {
			c.mute = true
			return
		}
		c.data = append([]byte(nil), rx[:len(rx)-2]...)
		c.sw = append([]byte(nil), rx[len(rx)-2:]...)
		c.ready = len(c.data) > 0
	})
	return len(p), nil
}

// xfrBlockB serves XFR_BLOCK of version B.
func (e *Reader) xfrBlockB(level uint16, p []byte) (int, error) {
	c := &e.iccd
	slot := e.slots[0]
	if c.busy {
		return 0, usb.ErrStall
	}
	if slot.icc() != 0 {
		c.answer = []byte{0x40, 0x40 | slot.icc(), 0xFE}
		return len(p), nil
	}
	data := append([]byte(nil), p...)
	var r reply
	e.start(func(ctx context.Context) []byte {
		if e.cfg.Level == reader.TPDU || e.cfg.Level == reader.Character {
			return slot.contact.TPDU(ctx, data)
		}
		r = slot.part(ctx, level, data)
		return []byte{}
	}, func(rx []byte) {
		switch {
		case rx == nil:
			r = failure(0xFE)
		case len(rx) > 0:
			r = reply{data: rx}
		}
		if r.fail {
			c.answer = []byte{0x40, 0x40 | slot.icc(), r.code}
			return
		}
		c.answer = append([]byte{r.param}, r.data...)
	})
	return len(p), nil
}
