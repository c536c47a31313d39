package sim

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"hash/fnv"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// Status words (ISO/IEC 7816-4:2013 tables 5 and 6).
const (
	swOK           = 0x9000
	swEndOfFile    = 0x6282
	swLength       = 0x6700
	swChannel      = 0x6881
	swSecureMsg    = 0x6882
	swChaining     = 0x6884
	swStructure    = 0x6981
	swSecurity     = 0x6982
	swBlocked      = 0x6983
	swConditions   = 0x6985
	swNoEF         = 0x6986
	swData         = 0x6A80
	swNoFile       = 0x6A82
	swNoRecord     = 0x6A83
	swFull         = 0x6A84
	swP1P2         = 0x6A86
	swLcP1P2       = 0x6A87
	swNoReference  = 0x6A88
	swOffset       = 0x6B00
	swLe           = 0x6C00
	swINS          = 0x6D00
	swCLA          = 0x6E00
	swTries        = 0x63C0
	maxShort       = 256
	maxExtended    = 65536
	insEcho        = 0xEE
	insPattern     = 0xEC
	insBusy        = 0xE8
	insStatus      = 0xE6
	claProprietary = 0x80
	dataSerial     = 0x005A
	dataHistorical = 0x5F52
	dataCommands   = 0x0101
	busyUnit       = 10 * time.Millisecond
)

// card is the virtual card. Its factory content is shared by all cards; a card
// that nobody wrote to is a few hundred bytes.
type card struct {
	atr    []byte
	t0     bool   // speaks T=0 only
	serial string // of the reader it came with

	own map[*file][]byte // content that differs from the factory's

	df  *file
	ef  *file
	rec int // current record; 0: none

	pins  [2]pin
	count uint32

	busy time.Duration // of the last command
	out  []byte
}

var (
	_ icc.Card   = (*card)(nil)
	_ icc.Busier = (*card)(nil)
	_ icc.T0Card = (*card)(nil)
)

func newCard(atr []byte, t0 bool, serial string) *card {
	c := &card{atr: atr, t0: t0, serial: serial, pins: [2]pin{newPIN("1234"), newPIN("5678")}}
	c.Reset(false)
	return c
}

func (c *card) ATR() []byte { return c.atr }

func (c *card) Reset(warm bool) {
	c.df, c.ef, c.rec = masterFile(), nil, 0
	for i := range c.pins {
		c.pins[i].verified = false
	}
}

func (c *card) Busy([]byte) time.Duration { return c.busy }

// Incoming tells the T=0 engine which commands have data.
func (c *card) Incoming(cla, ins byte) bool {
	if cla&0x80 != 0 {
		return ins == insEcho
	}
	switch ins {
	case 0x20, 0x24, 0x2C, 0xA4, 0xD6, 0xDC, 0xE2:
		return true
	}
	return false
}

// iccsn returns the card's serial number: ten bytes of BCD.
func (c *card) iccsn() []byte {
	h := fnv.New64a()
	h.Write([]byte(c.serial))
	n := h.Sum64()
	s := []byte{0x89, 0x49, 0, 0, 0, 0, 0, 0, 0, 0}
	for i := 9; i >= 2; i-- {
		s[i] = byte(n%10) | byte(n/10%10)<<4
		n /= 100
	}
	return s
}

// historical is the ATR's last part.
func (c *card) historical() []byte {
	k := int(c.atr[1] & 0x0F)
	end := len(c.atr)
	if !c.t0 {
		end-- // TCK
	}
	return c.atr[end-k : end]
}

// command is a parsed C-APDU.
type command struct {
	cla, ins, p1, p2 byte
	data             []byte
	le               int // 0: no answer wanted
}

func (k command) p1p2() int { return int(k.p1)<<8 | int(k.p2) }

// parse reads a C-APDU of any case (ISO/IEC 7816-3:2006 §12.1).
func parse(b []byte) (k command, ok bool) {
	if len(b) < 4 {
		return k, false
	}
	k = command{cla: b[0], ins: b[1], p1: b[2], p2: b[3]}
	most, b := maxShort, b[4:]
	switch {
	case len(b) == 0:
		return k, true
	case len(b) == 1:
		k.le = int(b[0])
	case b[0] != 0:
		n := int(b[0])
		if len(b) != 1+n && len(b) != 2+n {
			return k, false
		}
		k.data = b[1 : 1+n]
		if len(b) == 1+n {
			return k, true
		}
		k.le = int(b[1+n])
	case len(b) < 3:
		return k, false
	default:
		most = maxExtended
		n := int(b[1])<<8 | int(b[2])
		switch {
		case len(b) == 3:
			k.le = n
		case n == 0 || len(b) != 3+n && len(b) != 5+n:
			return k, false
		case len(b) == 3+n:
			k.data = b[3:]
			return k, true
		default:
			k.data = b[3 : 3+n]
			k.le = int(b[3+n])<<8 | int(b[4+n])
		}
	}
	if k.le == 0 {
		k.le = most
	}
	return k, true
}

// Process answers a C-APDU.
func (c *card) Process(capdu []byte) []byte {
	c.count++
	c.busy = 0
	c.out = c.out[:0]
	k, ok := parse(capdu)
	sw := swLength
	if ok {
		sw = c.run(k)
	}
	if k.le == 0 {
		c.out = c.out[:0]
	} else if len(c.out) > k.le && !(c.t0 && k.le == maxShort) {
		// In T=0 an answer beyond 256 bytes is fetched by GET RESPONSE.
		c.out = c.out[:k.le]
	}
	c.out = append(c.out, byte(sw>>8), byte(sw))
	return c.out
}

func (c *card) run(k command) int {
	switch {
	case k.cla == claProprietary:
		return c.runProprietary(k)
	case k.cla&0x80 != 0 || k.cla&0xE0 == 0x20:
		return swCLA
	case k.cla&0x40 != 0 || k.cla&0x03 != 0:
		return swChannel
	case k.cla&0x0C != 0:
		return swSecureMsg
	case k.cla&0x10 != 0:
		return swChaining
	}
	switch k.ins {
	case 0x20:
		return c.verify(k)
	case 0x24:
		return c.changePIN(k)
	case 0x2C:
		return c.resetRetryCounter(k)
	case 0x84:
		return c.getChallenge(k)
	case 0xA4:
		return c.selectFile(k)
	case 0xB0:
		return c.readBinary(k)
	case 0xB2:
		return c.readRecord(k)
	case 0xCA:
		return c.getData(k)
	case 0xD6:
		return c.updateBinary(k)
	case 0xDC:
		return c.updateRecord(k)
	case 0xE2:
		return c.appendRecord(k)
	}
	return swINS
}

func (c *card) runProprietary(k command) int {
	switch k.ins {
	case insEcho:
		if k.p1p2() != 0 {
			return swP1P2
		}
		c.out = append(c.out, k.data...)
		return swOK
	case insPattern:
		if len(k.data) > 0 {
			return swLength
		}
		n := k.p1p2()
		if n == 0 {
			n = k.le
		}
		for i := range n {
			c.out = append(c.out, byte(i))
		}
		return swOK
	case insBusy:
		if len(k.data) > 0 {
			return swLength
		}
		c.busy = time.Duration(k.p1p2()) * busyUnit
		return swOK
	case insStatus:
		if len(k.data) > 0 {
			return swLength
		}
		if k.p1 <= 0x60 || k.p1 >= 0x70 && k.p1 < 0x90 || k.p1 >= 0xA0 {
			return swP1P2
		}
		return k.p1p2()
	}
	return swINS
}

func (c *card) getChallenge(k command) int {
	switch {
	case k.p1p2() != 0:
		return swP1P2
	case k.le == 0 || len(k.data) > 0:
		return swLength
	}
	n := len(c.out)
	c.out = append(c.out, make([]byte, k.le)...)
	rand.Read(c.out[n:])
	return swOK
}

func (c *card) getData(k command) int {
	if k.le == 0 || len(k.data) > 0 {
		return swLength
	}
	switch k.p1p2() {
	case dataSerial:
		c.out = append(c.out, c.iccsn()...)
	case dataHistorical:
		c.out = append(c.out, c.historical()...)
	case dataCommands:
		c.out = binary.BigEndian.AppendUint32(c.out, c.count)
	default:
		return swNoReference
	}
	if len(c.out) > k.le {
		n := len(c.out)
		c.out = c.out[:0]
		return swLe | n
	}
	return swOK
}

// granted reports whether the access condition a is met.
func (c *card) granted(a access) int {
	switch {
	case a == always:
		return swOK
	case a == pin1 && c.pins[0].verified, a == pin2 && c.pins[1].verified:
		return swOK
	}
	return swSecurity
}

// selectFile is SELECT (§11.1.1).
func (c *card) selectFile(k command) int {
	if k.p2&0xF0 != 0 || k.p2&0x03 != 0 && k.p1 != 4 {
		return swP1P2
	}
	f, sw := c.find(k)
	if sw != swOK {
		return sw
	}
	c.enter(f)
	switch k.p2 & 0x0C {
	case 0x00:
		c.out = append(c.out, c.controlInfo(f, 0x6F)...)
	case 0x04:
		c.out = append(c.out, c.controlInfo(f, 0x62)...)
	case 0x08:
		c.out = append(c.out, c.controlInfo(f, 0x64)...)
	}
	return swOK
}

// enter makes f current.
func (c *card) enter(f *file) {
	c.ef, c.rec = nil, 0
	if f.kind == dedicated {
		c.df = f
	} else {
		c.df, c.ef = f.parent, f
	}
	if !c.df.within(application()) {
		c.pins[1].verified = false
	}
}

func application() *file { return masterFile().child(0x5000) }

// find looks for the file that SELECT names.
func (c *card) find(k command) (*file, int) {
	mf, d := masterFile(), k.data
	fid := -1
	if len(d) == 2 {
		fid = int(d[0])<<8 | int(d[1])
	}
	found := func(f *file) (*file, int) {
		if f == nil {
			return nil, swNoFile
		}
		return f, swOK
	}
	switch k.p1 {
	case 0x00: // MF, or a file below or beside the current DF
		switch {
		case len(d) == 0 || fid == 0x3F00:
			return mf, swOK
		case fid < 0:
			return nil, swLcP1P2
		case fid == int(c.df.fid):
			return c.df, swOK
		}
		if f := c.df.child(uint16(fid)); f != nil {
			return f, swOK
		}
		if p := c.df.parent; p != nil {
			if int(p.fid) == fid {
				return p, swOK
			}
			if f := p.child(uint16(fid)); f != nil && f.kind == dedicated {
				return f, swOK
			}
		}
		return nil, swNoFile
	case 0x01, 0x02: // child DF; EF under the current DF
		if fid < 0 {
			return nil, swLcP1P2
		}
		f := c.df.child(uint16(fid))
		if f != nil && (f.kind == dedicated) != (k.p1 == 1) {
			f = nil
		}
		return found(f)
	case 0x03: // parent DF
		if len(d) != 0 {
			return nil, swLcP1P2
		}
		return found(c.df.parent)
	case 0x04:
		return c.findAID(d, k.p2&0x03)
	case 0x08, 0x09: // path from the MF; from the current DF
		if len(d) == 0 || len(d)%2 != 0 {
			return nil, swLcP1P2
		}
		f := mf
		if k.p1 == 0x09 {
			f = c.df
		}
		for ; len(d) > 0; d = d[2:] {
			if f = f.child(binary.BigEndian.Uint16(d)); f == nil {
				return nil, swNoFile
			}
		}
		return f, swOK
	}
	return nil, swP1P2
}

// findAID looks for a DF whose name begins with aid: the first (0) or last (1)
// occurrence, or the next (2) or previous (3) to the current DF.
func (c *card) findAID(aid []byte, which byte) (*file, int) {
	if len(aid) == 0 || len(aid) > 16 {
		return nil, swLcP1P2
	}
	var hits []*file
	at := -1
	for _, f := range masterFile().children {
		if f.aid != nil && bytes.HasPrefix(f.aid, aid) {
			if f == c.df {
				at = len(hits)
			}
			hits = append(hits, f)
		}
	}
	i := 0
	switch which {
	case 1:
		i = len(hits) - 1
	case 2:
		i = at + 1
	case 3:
		i = at - 1
		if at < 0 {
			i = len(hits) - 1
		}
	}
	if i < 0 || i >= len(hits) {
		return nil, swNoFile
	}
	return hits[i], swOK
}
