package icc

import "time"

// i2c is an I2C memory (Atmel's data sheets AT24C01A to AT24C512). Chips above 2 KiB take an address of two bytes,
// others one, with bits 10 to 8 in the device select code.
type i2c struct {
	cells []byte
	page  int
	until time.Time // it is busy until then
}

func newI2C(size, page int) *i2c { return &i2c{cells: high(size), page: page} }

func (m *i2c) contents() []byte { return m.cells }

// reset: the chip has none.
func (m *i2c) reset(bool) []byte { return high(4) }

// writeTime is how long a page takes.
const writeTime = 5 * time.Millisecond

func (m *i2c) long() bool { return len(m.cells) > 2048 }

func (m *i2c) command(out []byte, n int, now time.Time) (in []byte, busy time.Duration, ok bool) {
	if now.Before(m.until) || len(out) == 0 || out[0]&0xF1 != 0xA0 {
		return nil, 0, false
	}
	at, rest := int(out[0]&0x0E)<<7, out[1:]
	if at >= len(m.cells) || m.long() && at != 0 {
		return nil, 0, false // another chip's device select code
	}
	count := 1
	if m.long() {
		count = 2
	}
	if len(rest) < count {
		return nil, 0, n == 0 // selected, nothing more
	}
	if at |= int(rest[0]); m.long() {
		at = int(rest[0])<<8 | int(rest[1])
	}
	at %= len(m.cells)
	data := rest[count:]
	if n > 0 { // random read; it goes on at 0 behind the end
		in = make([]byte, n)
		for i := range in {
			in[i] = m.cells[(at+i)%len(m.cells)]
		}
		return in, 0, true
	}
	start := at / m.page * m.page
	for i, b := range data { // behind the end of its page it goes on at the page's beginning
		m.cells[start+(at-start+i)%m.page] = b
	}
	if len(data) > 0 {
		m.until = now.Add(writeTime)
	}
	return nil, 0, true
}

// counter is a counter card such as SLE 4406 or SLE 4436: after a reset its bits are clocked out
// from the first on. It has no addresses. Writing needs what no reader here does.
type counter struct{ cells []byte }

func newCounter(bits int) *counter {
	c := &counter{cells: make([]byte, (bits+7)/8)}
	// Chip data and issuer, then five stages of the counter; invented.
	copy(c.cells, []byte{0x11, 0x22, 0x33, 0x44, 0x15, 0x26, 0x37, 0x48, 0x00, 0x01, 0x03, 0x07, 0x0F})
	return c
}

func (c *counter) contents() []byte { return c.cells }

func (c *counter) reset(bool) []byte { return append([]byte(nil), c.cells[:4]...) }

func (c *counter) command(out []byte, n int, _ time.Time) (in []byte, busy time.Duration, ok bool) {
	in = high(n)
	if len(out) == 0 {
		copy(in, c.cells)
	}
	return in, 0, true
}
