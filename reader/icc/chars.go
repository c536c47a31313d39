package icc

import (
	"context"
	"time"
)

// chars is the card's end of the line at character level: it puts characters
// together to what the protocol's engine wants, and hands out the answer one
// character at a time.
type chars struct {
	in  []byte // characters that are no message yet
	out []byte // characters that the card sends
	got int    // how many of them were fetched

	// T=0: a command under way.
	h       [5]byte
	data    int // characters of its data still to come
	single  bool
	pending []byte // its answer, once its time has passed
	busy    time.Duration
	passed  time.Duration
	waiting bool // pending counts

	buf []byte
}

func (s *chars) reset() {
	*s = chars{in: s.in[:0], out: s.out[:0], pending: s.pending[:0], buf: s.buf[:0]}
}

func (s *chars) exchange(ctx context.Context, c *Contact, tx []byte, want int) []byte {
	if len(tx) > 0 {
		s.out, s.got = s.out[:0], 0
		s.in = append(s.in, tx...)
		if !s.take(ctx, c) {
			return nil
		}
	}
	if want <= 0 {
		return nil
	}
	if len(s.in) > 0 && c.powered && c.p.t == 1 && !c.fresh {
		// No further character within CWT: the block is what came so far.
		if !s.block(ctx, c, len(s.in)) {
			return nil
		}
	}
	for len(s.out)-s.got < want && s.waiting {
		piece := c.p.wait() / 2
		gen, start := c.gen, time.Now()
		left, ok := c.passUpTo(ctx, s.busy, s.passed, piece)
		if c.gen != gen {
			return nil // all of s belongs to another life of the card
		}
		s.passed += time.Since(start)
		if !ok {
			return nil
		}
		if left > 0 {
			s.out = append(s.out, 0x60) // NULL: more time, please
			continue
		}
		s.waiting = false
		s.out = append(s.out, s.pending...)
	}
	rx := s.out[s.got:min(s.got+want, len(s.out))]
	s.got += len(rx)
	if len(rx) == 0 {
		return nil
	}
	return rx
}

// block gives the first n characters to the T=1 engine. It is false when the
// card left or was reset meanwhile.
func (s *chars) block(ctx context.Context, c *Contact, n int) bool {
	gen := c.gen
	rx := c.block(ctx, s.in[:n])
	if c.gen != gen {
		return false
	}
	s.out, s.got = append(s.out[:0], rx...), 0
	s.in = append(s.in[:0], s.in[n:]...)
	return true
}

// take works through the characters that came. It is false when the card left
// meanwhile.
func (s *chars) take(ctx context.Context, c *Contact) bool {
	for len(s.in) > 0 {
		if c.fresh && !c.p.specific && s.in[0] == ppss {
			if !s.takePPS(c) {
				return true
			}
			continue
		}
		if c.p.t == 1 {
			c.fresh = false
			edc := 1
			if c.p.crc {
				edc = 2
			}
			if len(s.in) < 3 || len(s.in) < 3+int(s.in[2])+edc {
				return true
			}
			if !s.block(ctx, c, 3+int(s.in[2])+edc) {
				return false
			}
			continue
		}
		c.fresh = false
		if !s.takeT0(c) {
			return true
		}
	}
	return true
}

// takePPS consumes a PPS request once it is complete.
func (s *chars) takePPS(c *Contact) bool {
	if len(s.in) < 2 {
		return false
	}
	n := 3
	for b := byte(0x10); b <= 0x40; b <<= 1 {
		if s.in[1]&b != 0 {
			n++
		}
	}
	if len(s.in) < n {
		return false
	}
	req := append([]byte(nil), s.in[:n]...)
	rest := s.in[n:]
	ans := c.pps(req) // which resets s
	s.in = append(s.in[:0], rest...)
	s.out = append(s.out[:0], ans...)
	return true
}

// takeT0 consumes a header or data; false: more must come first.
func (s *chars) takeT0(c *Contact) bool {
	if s.data == 0 {
		if len(s.in) < 5 {
			return false
		}
		s.h = [5]byte(s.in)
		s.in = append(s.in[:0], s.in[5:]...)
		s.buf = s.buf[:0]
		s.waiting = false
		if h := s.h; h[4] > 0 && incoming(c.card, h[0], h[1]) {
			s.data = int(h[4])
			s.procedure(c)
			return true
		}
		s.run(c)
		return true
	}
	n := min(len(s.in), s.data)
	if s.single {
		n = min(n, 1)
	}
	s.buf = append(s.buf, s.in[:n]...)
	s.in = append(s.in[:0], s.in[n:]...)
	s.data -= n
	switch {
	case s.data == 0:
		s.run(c)
	case s.single:
		s.procedure(c)
	}
	return true
}

// procedure asks for the data of the command (§10.3.3): all of them at once, or
// where the line is noisy by single bytes and after some NULLs.
func (s *chars) procedure(c *Contact) {
	s.single = false
	if c.noise.hit() {
		s.out = append(s.out, 0x60, 0x60)
		s.single = true
	}
	ins := s.h[1]
	if s.single {
		ins ^= 0xFF
	}
	s.out = append(s.out, ins)
}

// run executes the command and lines up its answer: INS and data, SW1 SW2.
func (s *chars) run(c *Contact) {
	rx, busy := c.t0.run(c, s.h, s.buf)
	data, sw := rx[:len(rx)-2], rx[len(rx)-2:]
	s.pending = s.pending[:0]
	if c.noise.hit() {
		s.pending = append(s.pending, 0x60)
		for _, v := range data {
			s.pending = append(s.pending, s.h[1]^0xFF, v)
		}
		data = nil
	}
	if len(data) > 0 {
		s.pending = append(append(s.pending, s.h[1]), data...)
	}
	s.pending = append(s.pending, sw...)
	s.busy, s.passed = busy, 0
	s.waiting = true
	if busy == 0 && c.faults.Slow == 0 {
		s.waiting = false
		s.out = append(s.out, s.pending...)
	}
}
