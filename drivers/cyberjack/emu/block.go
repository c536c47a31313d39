package emu

import (
	"context"
	"time"
)

// peer is the reader's end of T=1: one pair of sequence numbers for all nodes. Reader.mu
// guards it.
type peer struct {
	part    []byte   // of a frame that has not all arrived
	pending [][]byte // notices that the host has not fetched

	ours, theirs byte // N(S): of our next I-block, and expected of the host
	command      []byte
	node         byte // of the command under way, as the host writes it
	rest         []byte
	last         []byte // the block sent last

	stop     context.CancelFunc // of the command under way; nil: none
	mute     bool               // there was no answer to it: nothing is, until S(RESYNCH)
	timer    *time.Timer        // until more time is asked for
	granted  byte               // PCB E3 is wanted: a question for time is under way
	told     []byte             // S-blocks to send before the next answer
	awaiting byte               // the PCB that the host has to send before it goes on; 0: none
	then     func()             // what goes on
	cards    int
	keys     int
}

// mostNotices is how many notices are kept for a host that fetches none.
const mostNotices = 16

// notice is usbtest.Model.In.
func (r *Reader) notice(ep uint8) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ep != notices || len(r.pending) == 0 {
		return nil, false
	}
	p := r.pending[0]
	r.pending = r.pending[1:]
	return p, true
}

// out collects frames: 00, the length of a block, the block.
func (r *Reader) out(_ uint8, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.part = append(r.part, p...)
	for len(r.part) > 0 {
		if r.part[0] != 0 {
			r.part = nil // not a frame
			return
		}
		if len(r.part) < 3 {
			return
		}
		n := 3 + int(r.part[1]) + int(r.part[2])<<8
		if n > 3+4+255 {
			r.part = nil
			return
		}
		if len(r.part) < n {
			return
		}
		block := r.part[3:n:n]
		r.part = r.part[n:]
		r.take(block)
	}
}

// send sends a block to the host, and a notice of it before.
func (r *Reader) send(node, pcb byte, inf []byte) {
	b := append([]byte{node<<4 | node>>4, pcb, byte(len(inf))}, inf...)
	sum := byte(0)
	for _, c := range b {
		sum ^= c
	}
	r.last = append(b, sum)
	r.sendLast()
}

func (r *Reader) sendLast() {
	n := len(r.last)
	if len(r.pending) == mostNotices {
		r.pending = r.pending[1:]
	}
	r.pending = append(r.pending, []byte{0x01, 0x00, byte(n), byte(n >> 8)})
	r.Wake()
	r.SendPackets(bulkIn, append([]byte{0, byte(n), byte(n >> 8)}, r.last...), r.cfg.ZLP)
}

// piece sends the next piece of the answer.
func (r *Reader) piece() {
	n := min(len(r.rest), r.cfg.Most)
	pcb := r.ours << 6
	if n < len(r.rest) {
		pcb |= 0x20
	}
	r.send(r.node, pcb, r.rest[:n])
}

// restart is S(RESYNCH), or a loss of power. What is under way ends without an answer.
func (r *Reader) restart() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
		r.timer.Stop()
	}
	r.command, r.rest, r.last = nil, nil, nil
	r.ours, r.theirs, r.mute = 0, 0, false
	r.granted, r.awaiting, r.then = 0, 0, nil
}

// wrong asks for a repetition.
func (r *Reader) wrong(node, code byte) { r.send(node, 0x80|r.theirs<<4|code, nil) }

// take handles a block of the host's.
func (r *Reader) take(b []byte) {
	sum := byte(0)
	for _, c := range b {
		sum ^= c
	}
	switch whole := len(b) >= 4 && len(b) == 4+int(b[2]); {
	case whole && sum == 0 && b[1] == 0xC0:
		r.restart()
		r.send(b[0], 0xE0, nil)
		return
	case r.mute:
		return
	case !whole || sum != 0:
		if r.stop == nil {
			r.wrong(0x12, 1)
		}
		return
	}
	node, pcb, inf := b[0], b[1], b[3:len(b)-1]
	switch {
	case node == 0xE2 && r.awaiting != 0 && pcb == r.awaiting && len(inf) == 0:
		then := r.then
		r.awaiting, r.then = 0, nil
		if r.stop != nil {
			r.timer.Reset(r.cfg.Patience)
		}
		then()
	case node == 0xE2: // S(IFS request) without a value, and what nothing is known of
	case node != 0x12 && node != 0x02:
		if r.stop == nil {
			r.wrong(0x12, 2)
		}
	case pcb&0x80 == 0:
		r.information(node, pcb, inf)
	case pcb&0x40 == 0:
		r.receipt(node, pcb, inf)
	case pcb == 0xC1 || pcb == 0xC2:
		r.send(node, pcb|0x20, inf)
	case pcb == 0xE3 && r.granted != 0:
		if want := 1; r.cfg.EmptyWTX && len(inf) != 0 || !r.cfg.EmptyWTX && (len(inf) != want || inf[0] != 1) {
			return // it goes on waiting for a right one
		}
		r.granted = 0
		if r.stop != nil {
			r.timer.Reset(r.cfg.Patience)
		} else if r.then != nil {
			then := r.then
			r.then = nil
			then()
		}
	case r.stop == nil:
		r.wrong(node, 2)
	}
}

// receipt is an R-block. The maker's library writes 80 for the receipt of a block of either
// number, so that counts. An error asks for the I-block of its number, or for a block that has
// none.
func (r *Reader) receipt(node, pcb byte, inf []byte) {
	switch number := pcb >> 4 & 1; {
	case r.stop != nil && r.granted == 0: // the answer will come
	case len(inf) > 0 || pcb&0x2C != 0:
		r.wrong(node, 2)
	case pcb&0x0F == 0:
		if len(r.rest) <= r.cfg.Most || number == r.ours && number == 1 {
			r.wrong(node, 2)
			return
		}
		r.ours ^= 1
		r.rest = r.rest[r.cfg.Most:]
		r.piece()
	case r.rest != nil && number == r.ours, r.rest == nil && r.last != nil && r.last[1]&0xC0 == 0xC0:
		r.sendLast()
	default:
		r.wrong(node, 2)
	}
}

// information is an I-block. From its first on the reader was seen to take 254 bytes, and its
// maker's library sends 255.
func (r *Reader) information(node, pcb byte, inf []byte) {
	if r.stop != nil {
		return
	}
	if pcb&0x1F != 0 || pcb>>6 != r.theirs {
		r.wrong(node, 2)
		return
	}
	if r.rest != nil { // the host has all of the answer
		r.ours ^= 1
		r.rest = nil
	}
	r.theirs ^= 1
	r.node = node
	r.command = append(r.command, inf...)
	if pcb&0x20 != 0 {
		r.send(node, 0x80|r.theirs<<4, nil)
		return
	}
	command := r.command
	r.command = nil
	ctx, stop := context.WithCancel(r.Context())
	r.stop = stop
	var timer *time.Timer
	timer = time.AfterFunc(r.cfg.Patience, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.timer == timer && ctx.Err() == nil && r.awaiting == 0 {
			r.askTime()
		}
	})
	r.timer = timer
	r.Go(func() {
		defer stop()
		answer := r.execute(ctx, node, command)
		r.mu.Lock()
		defer r.mu.Unlock()
		if ctx.Err() != nil {
			return // S(RESYNCH) came, or the power went
		}
		timer.Stop()
		r.stop = nil
		r.finish(answer)
	})
}

// askTime is S(WTX request).
func (r *Reader) askTime() {
	r.granted = 0xE3
	if r.cfg.EmptyWTX {
		r.send(r.node, 0xC3, nil)
	} else {
		r.send(r.node, 0xC3, []byte{1})
	}
}

// finish sends the answer, when the host has answered all that comes before.
func (r *Reader) finish(answer []byte) {
	switch {
	case r.granted != 0:
		r.then = func() { r.finish(answer) }
	case len(r.told) > 0:
		pcb := r.told[0]
		r.told = r.told[1:]
		r.send(0xE2, pcb, nil)
		if pcb != 0xE5 && pcb != 0xF5 {
			r.finish(answer)
			return
		}
		r.awaiting, r.then = 0xD5, func() { r.cards++; r.finish(answer) }
	default:
		r.rest = answer
		if r.mute = answer == nil; !r.mute {
			r.piece()
		}
	}
}

// key tells the host of a key, and waits until it took note.
func (r *Reader) key(ctx context.Context, pcb byte) bool {
	noted := make(chan struct{})
	r.mu.Lock()
	if ctx.Err() != nil {
		r.mu.Unlock()
		return false
	}
	r.send(0xE2, pcb, nil)
	r.awaiting, r.then = 0xE4, func() { r.keys++; close(noted) }
	r.mu.Unlock()
	select {
	case <-noted:
		return true
	case <-ctx.Done():
		return false
	}
}
