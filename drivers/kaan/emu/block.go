package emu

import (
	"context"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
)

// message is a block that came whole; nil: something that was none.
type message []byte

// collect makes blocks of what comes, until the terminal is unplugged. lines is told of the
// modem lines.
func collect(l *serialtest.Line, out chan<- message, lines func(serial.Lines)) {
	defer close(out)
	var b []byte
	wrong := false // what comes is not a block, until the line is quiet
	pass := func(m message) bool {
		select {
		case out <- m:
			return true
		case <-l.Context().Done():
			return false
		}
	}
	for {
		gap := time.Duration(0)
		switch {
		case wrong:
			gap = 100 * time.Millisecond
		case len(b) > 0:
			gap = time.Second
		}
		e, ok := l.NextWithin(gap)
		if !ok {
			return
		}
		switch e.Kind {
		case serialtest.LinesChange:
			b, wrong = nil, false
			lines(e.Lines)
		case serialtest.Timeout: // the block broke off, or what was none is over
			b, wrong = nil, false
			if !pass(nil) {
				return
			}
		case serialtest.Char:
			b = append(b, e.Char)
			if e.Wrong {
				b[0] ^= 0xFF // spoils the sum
			}
			if wrong || len(b) < 3 || len(b) < int(b[2])+4 {
				continue
			}
			sum := byte(0)
			for _, c := range b {
				sum ^= c
			}
			if sum != 0 || b[2] == 0xFF {
				wrong = true
				continue
			}
			m := message(b)
			b = nil
			if !pass(m) {
				return
			}
		}
	}
}

// peer is the terminal's end of T=1: one pair of sequence numbers for all nodes.
type peer struct {
	send func(b []byte)
	// execute answers a command to a node. It ends early with ctx.
	execute func(ctx context.Context, node byte, command []byte) []byte
	most    int // that a block to the host carries
	takes   int // bytes of a block from the host

	ours, theirs byte // N(S): of our next I-block, and expected of the host
	command      []byte
	node         byte
	rest         []byte // of an answer, from the block that was sent last
	last         []byte // the block sent last

	stop   context.CancelFunc // of the command under way; nil: none
	result chan []byte
	mute   bool        // there was none: it answers nothing until S(RESYNCH)
	timer  *time.Timer // until more time is asked for
}

// patience is how long the terminal takes before it asks for more time.
const patience = 3 * time.Second

func (p *peer) block(node, pcb byte, inf []byte) {
	b := append([]byte{node<<4 | node>>4, pcb, byte(len(inf))}, inf...)
	sum := byte(0)
	for _, c := range b {
		sum ^= c
	}
	p.last = append(b, sum)
	p.send(p.last)
}

// part sends the next part of the answer.
func (p *peer) part() {
	n := min(len(p.rest), p.most)
	pcb := p.ours << 6
	if n < len(p.rest) {
		pcb |= 0x20
	}
	p.block(p.node, pcb, p.rest[:n])
}

func (p *peer) forget() {
	if p.stop != nil {
		p.stop()
		<-p.result
		p.stop = nil
	}
	p.command, p.rest = nil, nil
}

// run serves the connection until in is closed.
func (p *peer) run(ctx context.Context, in <-chan message) {
	p.result = make(chan []byte, 1)
	p.timer = time.NewTimer(time.Hour)
	defer p.timer.Stop()
	defer p.forget()
	for {
		var result chan []byte
		if p.stop != nil {
			result = p.result
		}
		select {
		case m, ok := <-in:
			if !ok {
				return
			}
			p.take(ctx, m)
		case p.rest = <-result:
			p.stop()
			p.stop = nil
			if p.mute = p.rest == nil; !p.mute {
				p.part()
			}
		case <-p.timer.C:
			if p.stop != nil {
				p.block(p.node, 0xC3, []byte{1})
			}
		}
	}
}

// wrong asks for a repetition.
func (p *peer) wrong(node byte) { p.block(node, 0x82|p.theirs<<4, nil) }

func (p *peer) take(ctx context.Context, m message) {
	if p.mute && (m == nil || m[1] != 0xC0) {
		return
	}
	if m == nil {
		if p.stop == nil {
			p.wrong(0x12)
		}
		return
	}
	node, pcb, inf := m[0], m[1], m[3:len(m)-1]
	switch {
	case node != 0x12 && node != 0x02 && node != 0x32:
		if p.stop == nil {
			p.wrong(0x12)
		}
	case pcb&0x80 == 0:
		p.information(ctx, node, pcb, inf)
	case pcb&0x40 == 0:
		switch acked := pcb >> 4 & 1; {
		case p.stop != nil: // the answer will come
		case len(inf) > 0 || pcb&0x20 != 0:
			p.wrong(node)
		case p.rest != nil && acked != p.ours && len(p.rest) > p.most:
			p.ours ^= 1
			p.rest = p.rest[p.most:]
			p.part()
		case p.rest != nil && acked == p.ours:
			p.part()
		case p.rest == nil && p.last != nil && p.last[1]&0xC0 == 0xC0:
			p.send(p.last)
		default:
			p.wrong(node)
		}
	case pcb == 0xC0:
		p.forget()
		p.ours, p.theirs, p.mute = 0, 0, false
		p.block(node, 0xE0, nil)
	case pcb == 0xC1 || pcb == 0xC2:
		p.block(node, pcb|0x20, inf)
	case pcb == 0xE3:
		p.timer.Reset(patience)
	case p.stop == nil:
		p.wrong(node)
	}
}

func (p *peer) information(ctx context.Context, node, pcb byte, inf []byte) {
	if p.stop != nil {
		return
	}
	if pcb&0x1F != 0 || pcb>>6 != p.theirs || len(inf) > p.takes {
		p.wrong(node)
		return
	}
	if p.rest != nil { // the host has all of the answer
		p.ours ^= 1
		p.rest = nil
	}
	p.theirs ^= 1
	p.node = node
	p.command = append(p.command, inf...)
	if pcb&0x20 != 0 {
		p.block(node, 0x80|p.theirs<<4, nil)
		return
	}
	command := p.command
	p.command = nil
	ctx, p.stop = context.WithCancel(ctx)
	p.timer.Reset(patience)
	go func() { p.result <- p.execute(ctx, node, command) }()
}
