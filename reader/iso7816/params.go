package iso7816

import (
	"fmt"
	"time"
)

// DefaultClockHz is the card's clock if the reader does not report it: the 3.5795
// MHz of most readers.
const DefaultClockHz = 3_579_545

// Defaults of ISO/IEC 7816-3:2006 §8.3, §10.2 and §11.4.
const (
	DefaultTA1  = 0x11
	DefaultWI   = 10
	DefaultIFSC = 32
	DefaultBWI  = 4
	DefaultCWI  = 13
)

// fdF is Fi and f(max) in kHz by the high nibble of TA1, ISO/IEC 7816-3:2006
// table 7; 0: reserved.
var fdF = [16]struct{ f, maxKHz int }{
	{372, 4000}, {372, 5000}, {558, 6000}, {744, 8000},
	{1116, 12000}, {1488, 16000}, {1860, 20000}, {},
	{}, {512, 5000}, {768, 7500}, {1024, 10000},
	{1536, 15000}, {2048, 20000}, {}, {},
}

// fdD is Di by the low nibble of TA1, table 8; 0: reserved. 64 came with the
// 2006 edition.
var fdD = [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0}

// DefaultParams are the parameters of protocol t in a card that says nothing.
func DefaultParams(t int) Params {
	return Params{T: t, TA1: DefaultTA1, WI: DefaultWI,
		IFSC: DefaultIFSC, BWI: DefaultBWI, CWI: DefaultCWI}
}

// FD gives the factors F and D and the highest clock in Hz that TA1 codes. ok
// is false where one of them is reserved; f is then 372, d 1 and maxHz 5 MHz.
func (p Params) FD() (f, d, maxHz int, ok bool) { return decodeFD(p.TA1) }

func decodeFD(ta1 byte) (f, d, maxHz int, ok bool) {
	e, d := fdF[ta1>>4], fdD[ta1&0x0F]
	if e.f == 0 || d == 0 {
		return 372, 1, 5_000_000, false
	}
	return e.f, d, e.maxKHz * 1000, true
}

// cycles is the time of n clock cycles, rounded up; clockHz 0 is the default.
func cycles(n int64, clockHz int) time.Duration {
	if clockHz <= 0 {
		clockHz = DefaultClockHz
	}
	f := int64(clockHz)
	s, r := n/f, n%f
	return time.Duration(s)*time.Second + time.Duration((r*int64(time.Second)+f-1)/f)
}

// etus is the time of n elementary time units of F/D clock cycles.
func (p Params) etus(n int64, clockHz int) time.Duration {
	f, d, _, _ := p.FD()
	return cycles((n*int64(f)+int64(d)-1)/int64(d), clockHz)
}

// ETU is the elementary time unit F/(D·f), ISO/IEC 7816-3:2006 §7.1.
func (p Params) ETU(clockHz int) time.Duration { return p.etus(1, clockHz) }

// WWT is the work waiting time of T=0, WI·960·Fi/f: between two characters of
// the card, and between our last and its next (ISO/IEC 7816-3:2006 §10.2).
func (p Params) WWT(clockHz int) time.Duration {
	wi := int64(p.WI)
	if wi == 0 { // reserved
		wi = DefaultWI
	}
	f, _, _, _ := p.FD()
	return cycles(wi*960*int64(f), clockHz)
}

// BWT is the block waiting time of T=1, 11 etu + 2^BWI·960·372/f
// (ISO/IEC 7816-3:2006 §11.4.3). The second term uses 372 whatever F is.
func (p Params) BWT(clockHz int) time.Duration {
	bwi := min(p.BWI, 9) // 10..15 are reserved
	return p.etus(11, clockHz) + cycles(960*372<<bwi, clockHz)
}

// CWT is the character waiting time of T=1, (11 + 2^CWI) etu
// (ISO/IEC 7816-3:2006 §11.4.3).
func (p Params) CWT(clockHz int) time.Duration {
	return p.etus(11+1<<(p.CWI&0x0F), clockHz)
}

// BGT is the block guard time of T=1, 22 etu: between the last character
// received and the first one sent (ISO/IEC 7816-3:2006 §11.4.3).
func (p Params) BGT(clockHz int) time.Duration { return p.etus(22, clockHz) }

// GT is the guard time: between the leading edges of two characters that we
// send. 12 etu + N etu; N = FF means 12 etu for T=0 and 11 etu for T=1
// (ISO/IEC 7816-3:2006 §8.3, TC1).
func (p Params) GT(clockHz int) time.Duration { return p.etus(int64(p.guardETU()), clockHz) }

func (p Params) guardETU() int {
	switch {
	case p.N != 0xFF:
		return 12 + int(p.N)
	case p.T == 1:
		return 11
	}
	return 12
}

// String is for logs: "T=1 F=512 D=8 N=0 IFSC=254 BWI=4 CWI=5 LRC".
func (p Params) String() string {
	f, d, _, _ := p.FD()
	s := fmt.Sprintf("T=%d F=%d D=%d N=%d", p.T, f, d, p.N)
	switch p.T {
	case 0:
		s += fmt.Sprintf(" WI=%d", p.WI)
	case 1:
		edc := "LRC"
		if p.CRC {
			edc = "CRC"
		}
		s += fmt.Sprintf(" IFSC=%d BWI=%d CWI=%d %s", p.IFSC, p.BWI, p.CWI, edc)
	}
	return s
}
