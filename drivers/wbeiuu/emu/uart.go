package emu

import (
	"math/bits"
	"time"
)

// uart is the reader's end of the line to the card.
type uart struct {
	on     bool
	speed  float64 // bit/s; 0: none that is known
	parity byte    // 01 even, 02 odd, others none
	free   time.Time
	rx     []arrival // what came from the card and was not received
}

type arrival struct {
	b  byte
	at time.Time
}

// convention is how card and UART take characters.
type convention struct {
	inverse bool // the card's
	drops   bool // the UART drops characters with wrong parity
}

// clockHz is the card's clock, as the kernel's driver sets it.
const clockHz = 3_579_000

// bufferSize is how many characters are kept for the host. How many a real reader keeps is not
// known; its count is one byte.
const bufferSize = 255

var namedSpeeds = map[[2]byte]float64{
	{0x03, 0x98}: 2400, {0x02, 0x98}: 9600, {0x01, 0x64}: 19200, {0x01, 0x98}: 28800,
	{0x01, 0xB2}: 38400, {0x00, 0x30}: 57600, {0x00, 0x98}: 115200,
}

// dividedSpeed is the speed of a timer with a reload value.
func dividedSpeed(timer, reload byte) float64 {
	hz := []float64{24e6, 6e6, 2e6, 500e3}
	if int(timer) >= len(hz) {
		return 0
	}
	return hz[timer] / (2 * float64(256-int(reload)))
}

// F and D by TA1 (ISO/IEC 7816-3:2006 tables 7 and 8).
var (
	clockRate = [16]float64{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048}
	bitRate   = [16]float64{0, 1, 2, 4, 8, 16, 32, 64, 12, 20}
)

// etu is the card's elementary time unit in seconds.
func etu(ta1 byte) float64 {
	f, d := clockRate[ta1>>4], bitRate[ta1&0x0F]
	if f == 0 || d == 0 {
		return 372. / clockHz
	}
	return f / d / clockHz
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// matches reports whether UART and card have the same speed, to within 3 %.
func (u *uart) matches(ta1 byte) bool {
	ratio := u.speed * etu(ta1)
	return u.on && ratio > 0.97 && ratio < 1.03
}

// fits reports whether the parity is the card's.
func (u *uart) fits(c convention) bool {
	if c.inverse {
		return u.parity == 0x02
	}
	return u.parity == 0x01
}

// busy makes the line busy for n characters and returns the time of one.
func (u *uart) busy(n int, bit float64) time.Duration {
	char := seconds(12 * bit)
	if now := time.Now(); u.free.Before(now) {
		u.free = now
	}
	u.free = u.free.Add(time.Duration(n) * char)
	return char
}

// fromCard takes characters from a card at the rate ta1.
func (u *uart) fromCard(c convention, ta1 byte, p []byte) {
	if !u.on {
		return
	}
	char := u.busy(len(p), etu(ta1))
	for i, b := range p {
		switch {
		case !u.matches(ta1):
			b = b<<3 ^ 0x5A
		case !u.fits(c) && c.drops:
			continue
		case c.inverse:
			b = ^bits.Reverse8(b)
		}
		u.rx = append(u.rx, arrival{b, u.free.Add(-time.Duration(len(p)-1-i) * char)})
	}
}

// toCard sends characters to a card at the rate ta1, which sees them as it returns. It reports
// false if the card sees none.
func (u *uart) toCard(c convention, ta1 byte, p []byte) ([]byte, bool) {
	if !u.on || u.speed == 0 {
		return nil, false
	}
	u.busy(len(p), 1/u.speed)
	if c.inverse {
		for i, b := range p {
			p[i] = ^bits.Reverse8(b)
		}
	}
	return p, u.matches(ta1) && u.fits(c)
}

// cut ends what is on the line.
func (u *uart) cut(now time.Time) {
	for len(u.rx) > 0 && u.rx[len(u.rx)-1].at.After(now) {
		u.rx = u.rx[:len(u.rx)-1]
	}
	u.free = now
}

// received returns the characters that have come. More than there is room for were lost.
func (u *uart) received(now time.Time) []byte {
	if !u.on {
		return nil
	}
	n := 0
	for n < len(u.rx) && !u.rx[n].at.After(now) {
		n++
	}
	var p []byte
	for _, a := range u.rx[:min(n, bufferSize)] {
		p = append(p, a.b)
	}
	u.rx = u.rx[n:]
	return p
}
