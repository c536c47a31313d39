package icc

import (
	"math/rand/v2"
	"time"
)

// Faults is how a card misbehaves. The zero value is a card in order.
type Faults struct {
	// Mute: the card answers nothing, a reset included.
	Mute bool
	// Slow is added to the time of each command. In T=1 the card asks for it
	// by S(WTX request) when it does not fit the block waiting time; in T=0 it
	// sends NULL.
	Slow time.Duration
	// Every damages every n-th T=1 block, counted over both directions; 0
	// none. In T=0 at character level every n-th procedure byte is preceded by
	// NULLs or moves a single byte instead of all.
	Every int
	// Fraction damages that part of the blocks at random: 0 to 1. Seed makes
	// the sequence repeatable.
	Fraction float64
	Seed     uint64
	// RequestIFS, 1..254, has a T=1 card ask for that IFSC by S(IFS request)
	// in the answer to its next command, once after each reset.
	RequestIFS int
	// AbortChain has a T=1 card end every n-th chain of the other side by
	// S(ABORT request); 0 none.
	AbortChain int
}

// SetFaults changes how the card misbehaves, at once: what waits because of
// Slow ends when the new value allows it, and a card made Mute answers nothing
// any more.
func (c *Contact) SetFaults(f Faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
	c.noise = noise{every: f.Every, fraction: f.Fraction}
	if f.Every > 0 || f.Fraction > 0 {
		c.noise.pcg = rand.NewPCG(f.Seed, 0)
	}
	c.wakeAll()
}

// Faults is what SetFaults set last.
func (c *Contact) Faults() Faults {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults
}

// noise decides which messages are hit.
type noise struct {
	every    int
	fraction float64
	count    int
	pcg      *rand.PCG
}

// hit reports whether the next message is damaged.
func (n *noise) hit() bool {
	if n.pcg == nil {
		return false
	}
	n.count++
	if n.every > 0 && n.count%n.every == 0 {
		return true
	}
	return n.fraction > 0 && float64(n.pcg.Uint64()>>11)/(1<<53) < n.fraction
}

// damage spoils block in place so that any EDC shows it: one bit flipped, or
// the last character lost. LEN stays as it is: a block cut by a wrong LEN has a
// right LRC by chance once in 256, and a witness must not err by chance.
func (n *noise) damage(block []byte) []byte {
	r := n.pcg.Uint64()
	if len(block) == 0 {
		return block
	}
	if r&3 == 0 {
		return block[:len(block)-1]
	}
	i := int(r >> 32 % uint64(len(block)))
	if i == 2 {
		i = 0
	}
	block[i] ^= 1 << (r >> 8 & 7)
	return block
}
