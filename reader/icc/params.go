package icc

import (
	"errors"
	"fmt"
	"time"
)

// clockHz is the card's clock unless the reader sets another.
const clockHz = 3579545

// params is what a card's ATR and a PPS lay down.
type params struct {
	t        int    // protocol in force
	offered  uint16 // bit T: offered by the ATR
	specific bool   // TA2 is there: no PPS
	ta1      byte   // as sent; 0x11 by default
	fd       byte   // F and D in force
	wi       byte   // T=0 waiting integer
	ifsc     int
	bwi, cwi byte
	crc      bool
}

// parseATR reads what the engine needs of an emulated card's own ATR
// (ISO/IEC 7816-3:2006 §8.2). It ignores TCK: an emulated card may send a
// wrong one on purpose.
func parseATR(atr []byte) (params, error) {
	p := params{ta1: 0x11, fd: 0x11, wi: 10, ifsc: 32, bwi: 4, cwi: 13}
	if len(atr) < 2 {
		return p, ErrMute
	}
	rest := atr[2:]
	td, t := atr[1], 0
	first := true
	var seenIFSC, seenBWI, seenEDC bool
	for i := 1; ; i++ {
		var ia [3]byte // TAi, TBi, TCi
		var has [3]bool
		for j := range ia {
			if td&(0x10<<j) == 0 {
				continue
			}
			if len(rest) == 0 {
				return p, fmt.Errorf("ATR % X ends within its interface bytes", atr)
			}
			ia[j], has[j], rest = rest[0], true, rest[1:]
		}
		switch {
		case i == 1:
			if has[0] {
				p.ta1 = ia[0]
			}
		case i == 2:
			if has[0] {
				p.specific = true
				p.t = int(ia[0] & 0x0F)
				p.offered |= 1 << p.t
				if ia[0]&0x10 == 0 {
					p.fd = p.ta1
				}
			}
			if has[2] {
				p.wi = ia[2]
			}
		case t == 1:
			if has[0] && !seenIFSC {
				p.ifsc, seenIFSC = int(ia[0]), true
			}
			if has[1] && !seenBWI {
				p.bwi, p.cwi, seenBWI = ia[1]>>4, ia[1]&0x0F, true
			}
			if has[2] && !seenEDC {
				p.crc, seenEDC = ia[2]&1 == 1, true
			}
		}
		if td&0x80 == 0 {
			break
		}
		if len(rest) == 0 {
			return p, fmt.Errorf("ATR % X ends within its interface bytes", atr)
		}
		td, rest = rest[0], rest[1:]
		t = int(td & 0x0F)
		if t != 15 {
			p.offered |= 1 << t
			if first && !p.specific {
				p.t = t
			}
			first = false
		}
	}
	if p.offered == 0 {
		p.offered = 1
	}
	if p.t > 1 {
		return p, errors.New("the engine knows T=0 and T=1 only")
	}
	if p.ifsc < 1 || p.ifsc > 254 {
		return p, fmt.Errorf("IFSC %d in the ATR % X", p.ifsc, atr)
	}
	return p, nil
}

// wait is the block waiting time (§11.4.3) or the work waiting time (§10.2).
func (p params) wait() time.Duration {
	if p.t == 1 {
		etu := 11 * p.etu()
		return etu + time.Duration(uint64(1)<<p.bwi*960*372*uint64(time.Second)/clockHz)
	}
	return time.Duration(uint64(p.wi) * 960 * uint64(fi[p.fd>>4]) * uint64(time.Second) / clockHz)
}

// etu is the work etu.
func (p params) etu() time.Duration {
	d := di[p.fd&0x0F]
	if d == 0 {
		d = 1
	}
	return time.Duration(fi[p.fd>>4]) * time.Second / time.Duration(d) / clockHz
}

// Fi and Di by index (§8.3 tables 7 and 8); 0: reserved, 372 where a division needs one.
var (
	fi = [16]int{372, 372, 558, 744, 1116, 1488, 1860, 372, 372, 512, 768, 1024, 1536, 2048, 372, 372}
	di = [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20}
)

const ppss = 0xFF

// pps answers a PPS request (§9.2): agreed parameters are echoed, an F and D
// beyond what TA1 offers is left out of the answer (and 11 stays), and anything
// else is met with silence. What the card agreed to is in force from then on.
func (c *Contact) pps(req []byte) []byte {
	c.fresh = false
	want := 3
	if len(req) >= 2 {
		for b := byte(0x10); b <= 0x40; b <<= 1 {
			if req[1]&b != 0 {
				want++
			}
		}
	}
	if len(req) != want || req[0] != ppss || req[1]&0x80 != 0 {
		return nil
	}
	var pck byte
	for _, b := range req {
		pck ^= b
	}
	t := int(req[1] & 0x0F)
	if pck != 0 || t > 1 || c.p.offered&(1<<t) == 0 || c.p.specific {
		return nil
	}
	ans := []byte{ppss, byte(t)}
	c.p.fd = 0x11
	if req[1]&0x10 != 0 && c.p.supports(req[2]) {
		ans[1] |= 0x10
		ans = append(ans, req[2])
		c.p.fd = req[2]
	}
	pck = 0
	for _, b := range ans {
		pck ^= b
	}
	c.p.t = t
	c.startProtocol()
	return append(ans, pck)
}

// supports reports whether F and D lie between the default and TA1 (§9.2).
func (p params) supports(fd byte) bool {
	return fd == 0x11 || fd == p.ta1 || fd>>4 == p.ta1>>4 && di[fd&0x0F] > 0 && di[fd&0x0F] <= di[p.ta1&0x0F]
}
