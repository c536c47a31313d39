package ccid

import (
	"errors"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// An interrupt endpoint that fails this often in a row is given up, and the slots are
// polled every fallbackPoll instead. The count restarts if the failed transfer had been
// pending for interruptHealthy: a system that sleeps every night also resets the device
// every night.
const (
	interruptTries   = 4
	interruptHealthy = 10 * time.Second
	fallbackPoll     = time.Second
)

// listen keeps one transfer pending on the interrupt endpoint. It needs no timer.
func (f *function) listen() {
	size := max(int(f.Intr.PacketSize), 2+int(f.MaxSlotIndex)/4, 64)
	buf := make([]byte, (size+63)/64*64)
	for failures := 0; failures < interruptTries; {
		began := time.Now()
		n, err := f.conn.In(f.ctx, f.Intr.Address, buf, 0)
		if time.Since(began) >= interruptHealthy {
			failures = 0
		}
		failures++
		switch {
		case f.ctx.Err() != nil, errors.Is(err, reader.ErrGone):
			return
		case err == nil:
			failures = 0
			f.interrupt(buf[:n])
			continue
		case errors.Is(err, usb.ErrReset):
			// The cards have lost their power, and no message reports that.
			f.notifyAll()
		case errors.Is(err, usb.ErrNoEndpoint):
			failures = interruptTries
		case errors.Is(err, usb.ErrStall):
			f.conn.ClearHalt(f.ctx, f.Intr.Address)
		}
		f.log.Warn("interrupt endpoint", "interface", f.Number, "error", err)
		if sleep(f.ctx, time.Duration(failures)*100*time.Millisecond) != nil {
			return
		}
	}
	f.log.Warn("interrupt endpoint given up, polling instead", "interface", f.Number)
	tick := time.NewTicker(fallbackPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.notifyAll()
		case <-f.gone:
			return
		case <-f.ctx.Done():
			return
		}
	}
}

// notify signals a possible change to whoever follows slot n.
func (f *function) notify(n int) {
	select {
	case f.notifies[n] <- struct{}{}:
	default:
	}
}

func (f *function) notifyAll() {
	for n := range f.notifies {
		f.notify(n)
	}
}

// interrupt handles one Interrupt-IN message.
func (f *function) interrupt(b []byte) {
	switch {
	case len(b) >= 2 && b[0] == intrSlotChange:
		slotChange(b, len(f.notifies), func(n int, present, changed bool) {
			if n < len(f.own) {
				s := f.own[n]
				if !changed && present == (s.seen.Load() != int32(reader.Absent)) {
					return
				}
				s.hidden.Store(false)
			}
			f.notify(n)
		})
	case len(b) >= 4 && b[0] == intrHardware && int(b[1]) < len(f.own):
		f.log.Warn("hardware error", "interface", f.Number, "bSlot", b[1], "code", b[3])
		f.own[b[1]].lane.hardware.Store(uint32(b[3]))
		f.notify(int(b[1]))
	default:
		// KeyEvent of REINER SCT readers (40), and other messages of makers' own.
		f.log.Debug("interrupt message", "interface", f.Number, "bytes", len(b))
	}
}
