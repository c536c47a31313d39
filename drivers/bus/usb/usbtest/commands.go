package usbtest

import (
	"context"
	"sync"
)

// Commands is what devices with a pair of bulk endpoints have in common: they collect a command
// from the packets that it comes in, for they do not see transfers, carry out one after the
// other, and answer each. Out belongs into Model.Out, and Lost into Model.Reset and
// Model.Unplugged. The fields are set before the device is used.
type Commands struct {
	Device *Device
	In     uint8 // endpoint for the answers
	ZLP    bool  // an empty packet follows a full last one
	// Length is how long the command is that begins with p, which is not empty; 0: that is not known yet. -1: it
	// is none, and dropped.
	Length func(p []byte) int
	// Answer carries out a command and returns the answer; nil: there is none. ctx ends
	// with Lost.
	Answer func(ctx context.Context, command []byte) []byte

	mu     sync.Mutex
	part   []byte   // of a command that has not all arrived
	queue  [][]byte // commands to carry out
	cancel context.CancelFunc
	life   int // counts what Lost ended: its answers are not sent
	busy   bool
}

// Out takes a command, or a part of it. What is behind it in the same transfer is dropped: some
// hosts fill up the last packet.
func (c *Commands) Out(_ uint8, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part = append(c.part, p...)
	if len(c.part) == 0 {
		return
	}
	n := c.Length(c.part)
	if n < 0 {
		c.part = nil
	}
	if n <= 0 || len(c.part) < n {
		return
	}
	c.queue = append(c.queue, c.part[:n])
	c.part = nil
	if c.busy {
		return
	}
	ctx, cancel := context.WithCancel(c.Device.Context())
	life := c.life
	c.busy, c.cancel = true, cancel
	c.Device.Go(func() {
		defer cancel()
		c.work(ctx, life)
	})
}

// Part returns what has arrived of a command, for Model.Accepts.
func (c *Commands) Part() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.part
}

// Drop forgets it.
func (c *Commands) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part = nil
}

// Lost ends the command under way and forgets the others, as when the power goes.
func (c *Commands) Lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
	c.part, c.queue, c.busy, c.cancel = nil, nil, false, nil
	c.life++
}

func (c *Commands) work(ctx context.Context, life int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.life == life {
		if len(c.queue) == 0 {
			c.busy = false
			return
		}
		command := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		answer := c.Answer(ctx, command)
		c.mu.Lock()
		if answer != nil && c.life == life {
			c.Device.SendPackets(c.In, answer, c.ZLP)
		}
	}
}
