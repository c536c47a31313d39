package ccid

import (
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// listen keeps one transfer pending on the interrupt endpoint.
func (f *function) listen() {
	usb.Listener{
		Endpoint: f.Intr.Address, Size: max(int(f.Intr.PacketSize), 2+int(f.MaxSlotIndex)/4),
		Message: f.interrupt, Missed: f.notifyAll, Log: f.log.With("interface", f.Number),
	}.Run(f.ctx, f.conn)
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
