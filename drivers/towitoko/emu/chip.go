package emu

import (
	"context"

	"github.com/cardfs/cardfs/reader/icc"
)

// chip is what the reader knows of a memory card: what it reads and writes next.
type chip struct {
	deaf   bool // an I2C chip did not acknowledge
	header []byte

	read  []byte // the chip's command for reading; nil: none
	gone  int    // bytes that were read since
	i2c   bool
	long  bool
	at    int
	stage int // of an I2C chip's write address: 1 read address, 2 7E 10

	write func(ctx context.Context, r *Reader, p []byte)
}

// clocked gives the chip a command, if it has power.
func (r *Reader) clocked(ctx context.Context, out []byte, n int) ([]byte, bool) {
	r.mu.Lock()
	power, cold := r.power, r.cold
	r.mu.Unlock()
	switch {
	case !power:
		return nil, false
	case cold:
		r.resetMemory(ctx)
	}
	return r.Contact.Clock(ctx, out, n)
}

// isI2C reports whether the card is an I2C chip: others do not acknowledge.
func (r *Reader) isI2C() bool {
	m, ok := r.Contact.Card().(*icc.Memory)
	return ok && m.Kind()[:2] == "at"
}

// command carries out a command for memory cards; ok is false if there is none like it.
func (c *chip) command(ctx context.Context, r *Reader, p []byte) (answer []byte, ok bool) {
	is := func(n int, tail byte, head ...byte) bool {
		if len(p) != n || p[n-1] != tail {
			return false
		}
		for i, b := range head {
			if p[i] != b {
				return false
			}
		}
		return true
	}
	stage := c.stage
	c.stage = 0
	switch {
	case is(4, 0x0F, 0x70, 0x80, 0x62):
		*c = chip{header: r.resetMemory(ctx)}
		return nil, true
	case is(8, 0x0F, 0x70, 0x64, 0x42) && p[6] == 0x65: // 2-wire
		*c = chip{read: []byte{p[3], p[4], p[5]}}
		return nil, true
	case is(9, 0x0F, 0x70, 0xA0, 0x42) && p[6] == 0x80 && p[7] == 0x50 && p[3]&0x3F == 0x0E: // 3-wire
		*c = chip{read: []byte{p[3], p[4], p[5]}}
		return nil, true
	case is(9, 0x0F, 0x7C, 0x64, 0x41) && p[5] == 0x64 && p[6] == 0x40 && p[7] == p[3]|1 && p[3]&1 == 0:
		c.addressI2C(ctx, r, []byte{p[3], p[4]}, false)
		return nil, true
	case is(10, 0x0F, 0x7C, 0x64, 0x42, 0xA0) && p[6] == 0x64 && p[7] == 0x40 && p[8] == 0xA1:
		c.addressI2C(ctx, r, []byte{p[3], p[4], p[5]}, true)
		return nil, true
	case is(2, 0x10, 0x7E):
		c.stage = 2 * stage
		return []byte{0xFF}, true
	case is(7, 0x0F, 0x7E, 0x66, 0x6E) && stage == 2 && !c.long:
		c.writeI2C([]byte{p[4]}, int(p[3]))
		return nil, true
	case is(7, 0x0F, 0x7F, 0x66, 0x6E) && stage == 2 && c.long && p[5] == 0xA0:
		c.writeI2C([]byte{0xA0}, int(p[4])<<8|int(p[3]))
		return nil, true
	case is(6, 0x0F, 0x72, 0x6E) && p[4] == 0x03: // 2-wire
		c.writeWire(p[3], int(p[2]), false)
		return nil, true
	case is(7, 0x0F, 0x73, 0x67, 0x6E) && p[5] == 0x02: // 3-wire
		c.writeWire(p[4], int(p[4]>>6)<<8|int(p[3]), true)
		return nil, true
	case len(p) == 1 && p[0] >= 0x10 && p[0] <= 0x1E:
		return c.take(ctx, r, int(p[0]&0x0F)+1)
	case len(p) > 2 && p[0] >= 0x40 && p[0] <= 0x4E && c.write != nil:
		n := int(p[0]&0x0F) + 1
		bare := n == 15 && r.opt.Bare
		if bare && len(p) != 1+n || !bare && (len(p) != 2+n || p[1+n] != 0x0F) {
			return nil, false
		}
		c.write(ctx, r, p[1:1+n])
		return nil, true
	}
	return nil, false
}

// resetMemory resets the card as a memory card. The line is high where nobody drives it.
func (r *Reader) resetMemory(ctx context.Context) []byte {
	none := []byte{0xFF, 0xFF, 0xFF, 0xFF}
	r.mu.Lock()
	power, cold := r.power, r.cold
	r.cold = false
	r.mu.Unlock()
	if !power {
		return none
	}
	if cold { // what came before was no reset for it
		r.Contact.Deactivate()
	}
	h, err := r.Contact.ActivateMemory(ctx)
	if err != nil {
		return none
	}
	return h
}

// addressI2C sets the read address of an I2C chip: device select code and address.
func (c *chip) addressI2C(ctx context.Context, r *Reader, out []byte, long bool) {
	*c = chip{i2c: true, long: long, stage: 1, read: []byte{out[0]}}
	if c.at = int(out[1]); long {
		c.at = int(out[1])<<8 | int(out[2])
	}
	_, ok := r.clocked(ctx, out, 0)
	c.deaf = !ok || !r.isI2C()
}

// take reads n bytes from where it is.
func (c *chip) take(ctx context.Context, r *Reader, n int) ([]byte, bool) {
	in := make([]byte, n)
	for i := range in {
		in[i] = 0xFF
	}
	switch {
	case c.header != nil:
		c.header = c.header[copy(in, c.header):]
	case c.read == nil:
		return nil, false
	case c.i2c:
		if got, ok := r.clocked(ctx, c.i2cOut(c.read, c.at), n); ok && r.isI2C() {
			copy(in, got)
			c.at += n
		}
	default:
		if got, ok := r.clocked(ctx, c.read, c.gone+n); ok && len(got) == c.gone+n {
			copy(in, got[c.gone:])
		}
		c.gone += n
	}
	return in, true
}

// i2cOut is device select code and address. Addresses go on in the device select code of a
// short one.
func (c *chip) i2cOut(device []byte, at int) []byte {
	if c.long {
		return []byte{device[0], byte(at >> 8), byte(at)}
	}
	return []byte{device[0] + byte(at>>8)<<1, byte(at)}
}

func (c *chip) writeI2C(device []byte, at int) {
	long := c.long
	*c = chip{i2c: true, long: long}
	c.write = func(ctx context.Context, r *Reader, p []byte) {
		_, ok := r.clocked(ctx, append(c.i2cOut(device, at), p...), 0)
		c.deaf = !ok || !r.isI2C()
		at += len(p)
	}
}

// writeWire writes to a 2-wire or 3-wire chip. The address runs on, but not where a 3-wire
// chip's PSC is, which libtowitoko writes byte by byte.
func (c *chip) writeWire(control byte, at int, three bool) {
	*c = chip{}
	c.write = func(ctx context.Context, r *Reader, p []byte) {
		for _, b := range p {
			out := []byte{control, byte(at), b}
			if three {
				out[0] = control&0x3F | byte(at>>8)<<6
			}
			r.clocked(ctx, out, 0)
			if !three || at < 1021 {
				at++
			}
		}
	}
}
