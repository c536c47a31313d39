package iso7816

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// modelCard is a T=1 card written from the card's side of the rules. It counts
// how often each command was executed.
type modelCard struct {
	crc      bool
	ns       byte // N(S) of its next new I-block
	expect   byte // N(S) expected
	ifsd     int  // what it may send
	chain    []byte
	rest     []byte // of the response
	lastI    []byte
	lastS    []byte // S-request waiting for its response
	wtx      int    // S(WTX request)s before each answer
	waits    int
	executed map[string]int
}

func (c *modelCard) reset() {
	c.ns, c.expect, c.ifsd = 0, 0, 32
	c.chain, c.rest, c.lastI, c.lastS = nil, nil, nil, nil
}

// answerTo is what the model card's application answers.
func answerTo(capdu []byte) []byte {
	n := 1 + int(capdu[3])*3
	r := bytes.Repeat(capdu[1:4], n)
	return append(r, 0x90, capdu[3])
}

func (c *modelCard) block(pcb byte, inf ...byte) []byte {
	return appendEDC(append([]byte{0, pcb, byte(len(inf))}, inf...), 0, c.crc)
}

func (c *modelCard) r(code byte) []byte { return c.block(0x80 | c.expect<<4 | code) }

func (c *modelCard) next() []byte {
	n := min(len(c.rest), c.ifsd)
	pcb := c.ns << 6
	if n < len(c.rest) {
		pcb |= 0x20
	}
	c.lastI = c.block(pcb, c.rest[:n]...)
	c.rest = c.rest[n:]
	c.ns ^= 1
	return c.lastI
}

func (c *modelCard) invalid() []byte {
	if c.lastS != nil {
		return c.lastS
	}
	return c.r(1)
}

func (c *modelCard) process(b []byte) []byte {
	if len(b) < 4 || len(b) != 3+int(b[2])+edcLen(c.crc) || !checkEDC(b, c.crc) {
		return c.invalid()
	}
	pcb, inf := b[1], b[3:3+int(b[2])]
	switch {
	case pcb == 0xC0:
		c.reset()
		return c.block(0xE0)
	case pcb == 0xC1:
		c.ifsd = int(inf[0])
		return c.block(0xE1, inf[0])
	case pcb == 0xC2:
		c.rest, c.chain = nil, nil
		return c.block(0xE2)
	case pcb == 0xE3 && c.lastS != nil:
		return c.ready()
	case c.lastS != nil:
		return c.lastS
	case pcb&0x80 == 0:
		if pcb>>6&1 != c.expect {
			return c.r(2)
		}
		c.expect ^= 1
		c.chain = append(c.chain, inf...)
		c.rest = nil
		if pcb&0x20 != 0 {
			return c.r(0)
		}
		c.waits = c.wtx
		return c.ready()
	case pcb&0xC0 == 0x80:
		switch nr := pcb >> 4 & 1; {
		case nr != c.ns && c.lastI != nil:
			return c.lastI
		case nr == c.ns && len(c.rest) > 0:
			return c.next()
		}
		return c.r(0)
	}
	return c.r(2)
}

func (c *modelCard) ready() []byte {
	if c.waits > 0 {
		c.waits--
		c.lastS = c.block(0xC3, 2)
		return c.lastS
	}
	c.lastS = nil
	c.executed[string(c.chain)]++
	c.rest = answerTo(c.chain)
	c.chain = nil
	return c.next()
}

// TestT1Noise runs commands over a line that loses, damages and delays blocks
// both ways, and holds the machine to what it promises:
//
//   - a command is never executed twice unless Repeatable allows it
//   - an answer is always the answer to that command, late ones notwithstanding
//   - an error without ErrInDoubt means that it was not executed
//   - it always ends, mostly well: two retransmissions and RESYNCH see to it
func TestT1Noise(t *testing.T) {
	rates := []float64{0, 0.02, 0.1, 0.3, 0.6}
	succeed := []float64{1, 0.99, 0.94, 0.53, 0.012} // at least so much does; the noise is always the same
	type count struct{ ok, failed, inDoubt, dead int }
	counts := make([]count, len(rates))
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 7816))
		rate, count := rates[seed%5], &counts[seed%5]
		repeatable := seed%3 == 0
		cfg := T1Config{Params: DefaultParams(1)}
		cfg.Params.CRC = seed%2 == 0
		if repeatable {
			cfg.Repeatable = func([]byte) bool { return true }
		}
		card := &modelCard{crc: cfg.Params.CRC, wtx: int(seed % 3), executed: map[string]int{}}
		card.reset()
		m := NewT1(cfg)
		var queue [][]byte
		damage := func(b []byte) []byte {
			b = bytes.Clone(b)
			b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			return b
		}
		steps := 0
		run := func(s Step) Step {
			for !s.Done {
				if steps++; steps > 20000 {
					t.Fatalf("seed %d: no end", seed)
				}
				out := s.Send
				if rnd.Float64() < rate {
					out = damage(out)
				}
				if rnd.Float64() >= rate/4 { // else lost
					if r := card.process(out); r != nil {
						queue = append(queue, r)
					}
				}
				if len(queue) == 0 || rnd.Float64() < rate/4 { // silence; what is in the queue comes late
					s = m.Next(nil, ErrTimeout)
					continue
				}
				in := queue[0]
				queue = queue[1:]
				switch x := rnd.Float64(); {
				case x < rate/4:
					s = m.Next(nil, errors.New("parity error"))
				case x < rate:
					s = m.Next(damage(in), nil)
				default:
					s = m.Next(in, nil)
				}
			}
			return s
		}
		run(m.Setup())
		for i := range 30 {
			if m.Dead() {
				count.dead++
				queue = nil
				card.reset()
				m = NewT1(cfg)
				run(m.Setup())
			}
			if m.Dead() {
				continue
			}
			capdu := append([]byte{0, byte(seed), byte(i), byte(rnd.IntN(100))}, make([]byte, rnd.IntN(100))...)
			s := run(m.Start(capdu, nil))
			n := card.executed[string(capdu)]
			name := fmt.Sprintf("seed %d, command %d: executed %d times, error %v", seed, i, n, s.Err)
			if n > 1 && !repeatable {
				t.Fatal(name)
			}
			switch {
			case s.Err == nil:
				count.ok++
				if n == 0 || !bytes.Equal(m.Response(), answerTo(capdu)) {
					t.Fatalf("%s: the answer is that of another command", name)
				}
			case errors.Is(s.Err, ErrInDoubt):
				count.inDoubt++
			default:
				count.failed++
				if n != 0 {
					t.Fatal(name)
				}
			}
			if rate == 0 && s.Err != nil {
				t.Fatal(name)
			}
		}
	}
	for i, c := range counts {
		all := c.ok + c.failed + c.inDoubt
		t.Logf("noise %v: %d of %d exchanges succeeded, %d failed without being executed, %d in doubt; %d resets", rates[i], c.ok, all, c.failed, c.inDoubt, c.dead)
		if float64(c.ok) < succeed[i]*float64(all) {
			t.Errorf("noise %v: %d of %d exchanges succeeded, at least %v of them must", rates[i], c.ok, all, succeed[i])
		}
	}
}
