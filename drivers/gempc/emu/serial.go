package emu

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Serial is an emulated GemPC410 or another reader on a serial line. Its card goes into
// Contact. It has no warm start: power lost is everything lost.
type Serial struct {
	core
	cfg  SerialConfig
	off  atomic.Bool
	cuts atomic.Int64 // of the power
}

// SerialConfig is what differs.
type SerialConfig struct {
	Version string
	// AnyBaud: the reader understands every speed. For pseudo-terminals, which do not show
	// how fast a character was.
	AnyBaud bool
	// Baud is the speed that the reader had from an earlier program; 0: 9600.
	Baud int
	// OldBaud: the change of the speed is answered at the old one. OpenCT waits for that.
	OldBaud bool
	// Fixed: the reader does not know how to change the speed.
	Fixed bool
	// Pause is how long the reader takes for everything; 0: no time at all.
	Pause time.Duration
	// Gullible: the reader does not look at the number of a command.
	Gullible bool
}

// New410 makes a GemPC410.
func New410() *Serial {
	return NewSerial(SerialConfig{Version: "OROS-R2.99-R1.21", Pause: time.Millisecond})
}

// NewSerial makes a reader.
func NewSerial(c SerialConfig) *Serial {
	return &Serial{core: core{text: c.Version}, cfg: c}
}

// Switch switches the reader's power supply, which is not the line's.
func (s *Serial) Switch(on bool) {
	if s.off.Swap(!on) == on {
		s.cuts.Add(1)
		s.Contact.Deactivate()
		s.forget()
	}
}

// Contacts returns the one card position.
func (s *Serial) Contacts() []*icc.Contact { return []*icc.Contact{&s.Contact} }

// characterTime is how long the reader waits for the next character of a block. libgcr410
// knows one of 200 ms.
const characterTime = 200 * time.Millisecond

// Serve is serialtest.Device.
func (s *Serial) Serve(l *serialtest.Line) {
	g := &gbp{s: s, l: l, cuts: s.cuts.Load()}
	defer func() {
		s.Contact.Deactivate()
		s.forget()
	}()
	g.setBaud(cmp.Or(s.cfg.Baud, 9600))
	for g.next() {
	}
}

// gbp is a reader's side of the Gemplus Block Protocol, while it has power.
type gbp struct {
	s    *Serial
	l    *serialtest.Line
	mine int    // number of the next block with an answer
	want int    // number of the next block with a command
	last []byte // the last block sent
	cuts int64  // of the power, so far
}

func (g *gbp) setBaud(baud int) {
	if g.s.cfg.AnyBaud {
		baud = 0
	}
	g.l.SetMode(serial.Mode{Baud: baud, Frame: serial.Frame8N1})
}

// next takes what comes next. It returns false when the reader has lost its power.
func (g *gbp) next() bool {
	var nad, pcb, n, xor byte
	var data []byte
	for i := 0; i < 4+int(n) || i < 4; {
		var patience time.Duration
		if i > 0 {
			patience = characterTime
		}
		e, on := g.l.NextWithin(patience)
		switch {
		case !on:
			return false
		case e.Kind == serialtest.Timeout:
			g.again(2)
			return true
		case e.Kind != serialtest.Char:
			continue
		}
		if cuts := g.s.cuts.Load(); cuts != g.cuts {
			*g = gbp{s: g.s, l: g.l, cuts: cuts}
			g.setBaud(9600)
			return true
		}
		if g.s.off.Load() {
			return true
		}
		switch i {
		case 0:
			nad = e.Char
		case 1:
			pcb = e.Char
		case 2:
			n = e.Char
		default:
			data = append(data, e.Char)
		}
		xor ^= e.Char
		i++
	}
	if g.s.cfg.Pause > 0 {
		time.Sleep(g.s.cfg.Pause)
	}
	switch data = data[:n]; {
	case xor != 0:
		g.again(1)
	case nad != 0x42:
		g.again(2)
	case pcb == 0xC0 && n == 0:
		g.mine, g.want = 0, 0
		g.s.forget()
		g.send(0xE0, nil)
	case pcb&0xEC == 0x80 && n == 0:
		if g.last == nil {
			g.again(2)
		} else {
			g.l.Send(g.last...)
		}
	case pcb == byte(g.want)<<6, g.s.cfg.Gullible && pcb&^0x40 == 0:
		g.want = 1 - int(pcb>>6)
		g.carryOut(data)
	default:
		g.again(2)
	}
	return g.l.Context().Err() == nil
}

// again asks for the block that was expected. It is not a block to be sent again itself.
func (g *gbp) again(reason byte) {
	before := g.last
	g.send(0x80|byte(g.want)<<4|reason, nil)
	g.last = before
}

func (g *gbp) send(pcb byte, data []byte) {
	b := []byte{0x24, pcb, byte(len(data))}
	b = append(b, data...)
	var xor byte
	for _, c := range b {
		xor ^= c
	}
	g.last = append(b, xor)
	g.l.Send(g.last...)
}

func (g *gbp) answer(data []byte) {
	pcb := byte(g.mine) << 6
	g.mine = 1 - g.mine
	g.send(pcb, data)
}

// bauds are the speeds that the low three bits of a line parameter mean.
var bauds = map[byte]int{7: 1200, 6: 2400, 5: 4800, 4: 9600, 3: 19200, 2: 38400, 1: 76800}

func (g *gbp) carryOut(cmd []byte) {
	if len(cmd) == 0 || cmd[0] != 0x0A {
		g.answer(g.s.command(g.l.Context(), cmd))
		return
	}
	switch p := cmd[1:]; {
	case g.s.cfg.Fixed:
		g.answer([]byte{0x01})
	case len(p) == 0: // asks
		g.answer([]byte{0, 0x02})
	case len(p) > 1 || bauds[p[0]] == 0: // 8 data bits and no parity are all that is emulated
		g.answer([]byte{0x03})
	case g.s.cfg.OldBaud:
		g.answer([]byte{0})
		g.setBaud(bauds[p[0]])
	default:
		g.setBaud(bauds[p[0]])
		g.answer([]byte{0})
	}
}
