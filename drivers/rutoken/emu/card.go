package emu

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"hash/fnv"
	"slices"

	"github.com/cardfs/cardfs/reader/icc"
)

// ATR is the Rutoken S's.
var ATR = []byte{0x3B, 0x6F, 0x00, 0xFF, 0x00, 'V', 'r', 'u', 'T', 'o', 'k', 'n', 's', '0', ' ', 0x00, 0x00, 0x90, 0x00}

// Status words.
const (
	swOK          = 0x9000
	swTries       = 0x63C0
	swLength      = 0x6700
	swSecurity    = 0x6982
	swBlocked     = 0x6983
	swConditions  = 0x6985
	swNoEF        = 0x6986
	swData        = 0x6A80
	swNoFile      = 0x6A82
	swFull        = 0x6A84
	swP1P2        = 0x6A86
	swNoReference = 0x6A88
	swExists      = 0x6A89
	swOffset      = 0x6B00
	swINS         = 0x6D00
	swCLA         = 0x6E00
)

const (
	recordLen = 32
	memory    = 64 << 10
	typeDF    = 0x38
	typePIN   = 0x01
	tries     = 10
	user      = 0x02 // number of the user's PIN
	admin     = 0x01 // and of the administrator's
)

// Card is a card with the file system of a Rutoken S, as far as OpenCT's driver and
// OpenSC's use it. On the wire the IDs and sizes of files have the low byte first, and
// files and objects are described by records of 32 bytes. So a host that writes
//
//	00 A4 00 00 02 3F 00
//
// needs a driver that makes it 00 A4 00 00 02 00 3F. Which order a real card leaves the
// factory with is unknown. OpenSC swaps the bytes before the driver does, so that the tokens
// that it formats have the high byte first; this card then has, too.
//
// There is a user's PIN, 12345678, and an administrator's, 87654321. As the cards of package
// sim it has its serial number in GET DATA 005A, and 80 EE answers with its data.
type Card struct {
	serial string
	mf, df *file // nil: erased
	ef     *file
	dos    []*object
	rights [3]bool // PINs that were verified, by number
	pins   [3]*object
	format bool // being formatted, which needs no PIN
	out    []byte
}

// file is a DF or an EF. Its record is what SELECT answers.
type file struct {
	record   [recordLen]byte
	data     []byte
	parent   *file
	children []*file
}

// object is what CREATE DO made, a PIN or a key.
type object struct {
	record [recordLen]byte
	body   []byte
	left   int // tries
}

var (
	_ icc.Card   = (*Card)(nil)
	_ icc.T0Card = (*Card)(nil)
)

// NewCard makes a card.
func NewCard(serial string) *Card {
	c := &Card{serial: serial}
	c.mf = newFile([]byte{0x00, 0x3F}, typeDF, nil)
	ef := newFile([]byte{0x01, 0x10}, 0x01, make([]byte, 128))
	ef.record[17] = 0x02 // access rule for UPDATE:
	ef.record[19] = 1    // a PIN,
	ef.record[26] = user // the user's
	c.mf.add(ef)
	for number, pin := range map[byte]string{user: "12345678", admin: "87654321"} {
		o := &object{body: []byte(pin), left: tries}
		o.record[0], o.record[2], o.record[3] = byte(len(pin)), typePIN, number
		c.dos = append(c.dos, o)
		c.pins[number] = o
	}
	slices.SortFunc(c.dos, func(a, b *object) int { return int(a.record[3]) - int(b.record[3]) })
	c.Reset(false)
	return c
}

func newFile(id []byte, kind byte, data []byte) *file {
	f := &file{data: data}
	binary.LittleEndian.PutUint16(f.record[0:], uint16(len(data)+recordLen))
	binary.LittleEndian.PutUint16(f.record[2:], uint16(len(data)))
	f.record[4] = kind
	copy(f.record[6:8], id)
	f.record[8] = 0x05 // operational, activated
	return f
}

func (f *file) isDF() bool { return f.record[4]&typeDF == typeDF }
func (f *file) id() []byte { return f.record[6:8] }

func (f *file) add(child *file) {
	child.parent = f
	f.children = append(f.children, child)
}

func (f *file) child(id []byte) *file {
	for _, c := range f.children {
		if bytes.Equal(c.id(), id) {
			return c
		}
	}
	return nil
}

// ATR is part of icc.Card.
func (c *Card) ATR() []byte { return ATR }

// Reset is part of icc.Card.
func (c *Card) Reset(bool) {
	c.df, c.ef, c.format = c.mf, nil, false
	c.rights = [3]bool{}
}

// Incoming is part of icc.T0Card.
func (c *Card) Incoming(cla, ins byte) bool {
	switch ins {
	case 0x20, 0x24, 0x2C, 0xA4, 0xD6, 0xDA, 0xE0, 0xE4:
		return cla == 0x00
	case 0x30, 0xEE:
		return cla == 0x80
	}
	return false
}

// Process is part of icc.Card.
func (c *Card) Process(command []byte) []byte {
	c.out = c.out[:0]
	sw := c.run(command)
	c.out = append(c.out, byte(sw>>8), byte(sw))
	return c.out
}

func (c *Card) run(b []byte) int {
	if len(b) < 4 {
		return swLength
	}
	cla, ins, p1, p2 := b[0], b[1], b[2], b[3]
	var data []byte
	le := 0
	switch {
	case len(b) == 5:
		if le = int(b[4]); le == 0 {
			le = 256
		}
	case len(b) > 5:
		if len(b) < 5+int(b[4]) {
			return swLength
		}
		data = b[5 : 5+int(b[4])]
	}
	switch {
	case cla == 0x80:
		return c.proprietary(ins, p2, data)
	case cla != 0x00:
		return swCLA
	}
	switch ins {
	case 0x20:
		return c.verify(p2, data)
	case 0x24:
		return c.change(p2, data)
	case 0x2C:
		return c.unblock(p2)
	case 0x84:
		c.out = append(c.out, make([]byte, le)...)
		rand.Read(c.out)
		return swOK
	case 0xA4:
		return c.selectFile(p1, p2, data)
	case 0xB0:
		return c.read(int(p1)<<8|int(p2), le)
	case 0xCA:
		return c.getData(p1, p2)
	case 0xD6:
		return c.update(int(p1)<<8|int(p2), data)
	case 0xDA:
		return c.putData(p1, p2, data)
	case 0xE0:
		return c.create(data)
	case 0xE4:
		return c.remove(data)
	}
	return swINS
}

func (c *Card) proprietary(ins, p2 byte, data []byte) int {
	switch ins {
	case 0xEE:
		c.out = append(c.out, data...)
		return swOK
	case 0x30: // GET DO INFO
		return c.objectInfo(p2, data)
	case 0x40: // RESET ACCESS RIGHTS
		c.rights = [3]bool{}
		return swOK
	case 0x8A: // INIT: all is erased
		c.mf, c.df, c.ef = nil, nil, nil
		c.dos, c.pins = nil, [3]*object{}
		c.rights, c.format = [3]bool{}, true
		return swOK
	case 0x7B: // END OF FORMAT
		c.Reset(true)
		return swOK
	}
	return swINS
}

// number reads two bytes in the order that the MF's ID shows.
func (c *Card) number(p []byte) int {
	if c.mf != nil && c.mf.record[6] == 0x3F {
		return int(binary.BigEndian.Uint16(p))
	}
	return int(binary.LittleEndian.Uint16(p))
}

// allowed reports whether the access rule of the bit is met. Bytes 17 to 31 of a record
// are bits for which there is a rule, what the rule is, and the numbers of PINs.
func (c *Card) allowed(record *[recordLen]byte, bit int) bool {
	if c.format || record[17]>>bit&1 == 0 {
		return true
	}
	switch record[18+bit] {
	case 0x00:
		return true
	case 0x01:
		number := record[25+bit]
		return int(number) < len(c.rights) && c.rights[number]
	}
	return false
}

func (c *Card) selectFile(p1, p2 byte, data []byte) int {
	var f *file
	quiet := p2&0x0C == 0x0C // ISO/IEC 7816-4:2013 table 40: no answer
	p2 &^= 0x0C
	switch {
	case c.mf == nil:
		return swNoFile
	case p1 == 0x00 && p2 == 0x00 && len(data) == 0: // first of the current DF
		if len(c.df.children) > 0 {
			f = c.df.children[0]
		}
	case p1 == 0x00 && p2 == 0x02 && len(data) == 2: // the one after this
		i := slices.IndexFunc(c.df.children, func(f *file) bool { return bytes.Equal(f.id(), data) })
		if i >= 0 && i+1 < len(c.df.children) {
			f = c.df.children[i+1]
		}
	case p1 == 0x00 && len(data) == 2:
		if f = c.df.child(data); f == nil && bytes.Equal(data, c.mf.id()) {
			f = c.mf
		}
	case p1 == 0x03 && len(data) == 0:
		f = c.df.parent
	case p1 == 0x08 && len(data) > 0 && len(data)%2 == 0: // path from the MF
		for f = c.mf; f != nil && len(data) > 0; data = data[2:] {
			f = f.child(data[:2])
		}
	case p1 == 0x04: // there are no names
	default:
		return swP1P2
	}
	if f == nil {
		return swNoFile
	}
	c.enter(f)
	if !quiet {
		c.out = append(c.out, f.record[:]...)
	}
	return swOK
}

// enter makes f current.
func (c *Card) enter(f *file) {
	if f.isDF() {
		c.df, c.ef = f, nil
	} else {
		c.df, c.ef = f.parent, f
	}
}

func (c *Card) read(offset, le int) int {
	switch {
	case c.ef == nil:
		return swNoEF
	case !c.allowed(&c.ef.record, 0):
		return swSecurity
	case offset >= len(c.ef.data):
		return swOffset
	}
	c.out = append(c.out, c.ef.data[offset:min(offset+le, len(c.ef.data))]...)
	return swOK
}

func (c *Card) update(offset int, data []byte) int {
	switch {
	case c.ef == nil:
		return swNoEF
	case !c.allowed(&c.ef.record, 1):
		return swSecurity
	case len(data) == 0:
		return swLength
	case offset+len(data) > len(c.ef.data):
		return swOffset
	}
	copy(c.ef.data[offset:], data)
	return swOK
}

// create is CREATE FILE: the data are the file's record.
func (c *Card) create(data []byte) int {
	if len(data) != recordLen {
		return swData
	}
	size := c.number(data[2:])
	if c.used()+size > memory {
		return swFull
	}
	f := &file{record: [recordLen]byte(data)}
	clear(f.record[9:17])
	f.record[8] = 0x05
	if !f.isDF() {
		f.data = make([]byte, size)
	}
	switch {
	case c.mf == nil && !f.isDF():
		return swData
	case c.mf == nil:
		c.mf = f
	case c.df.child(f.id()) != nil:
		return swExists
	case !c.allowed(&c.df.record, 0):
		return swSecurity
	default:
		c.df.add(f)
	}
	c.enter(f)
	return swOK
}

// remove is DELETE FILE, of a file in the current DF or of the current file.
func (c *Card) remove(data []byte) int {
	if c.df == nil {
		return swNoFile
	}
	f := c.ef
	if len(data) == 2 {
		f = c.df.child(data)
	} else if f == nil {
		f = c.df
	}
	switch {
	case f == nil:
		return swNoFile
	case f == c.mf || len(f.children) > 0:
		return swConditions
	case !c.allowed(&f.record, 6):
		return swSecurity
	}
	c.df, c.ef = f.parent, nil
	c.df.children = slices.DeleteFunc(c.df.children, func(x *file) bool { return x == f })
	return swOK
}

func (c *Card) used() int {
	var sum func(f *file) int
	sum = func(f *file) int {
		if f == nil {
			return 0
		}
		n := recordLen + len(f.data)
		for _, x := range f.children {
			n += sum(x)
		}
		return n
	}
	return sum(c.mf)
}

// getData is GET DATA.
func (c *Card) getData(p1, p2 byte) int {
	h := fnv.New64a()
	h.Write([]byte(c.serial))
	n := h.Sum64()
	switch int(p1)<<8 | int(p2) {
	case 0x005A: // as the cards of package sim have it: ten bytes of BCD
		s := []byte{0x89, 0x49, 0, 0, 0, 0, 0, 0, 0, 0}
		for i := 9; i >= 2; i-- {
			s[i] = byte(n%10) | byte(n/10%10)<<4
			n /= 100
		}
		c.out = append(c.out, s...)
	case 0x0111: // current EF
		if c.ef == nil {
			return swNoEF
		}
		c.out = append(c.out, c.ef.id()...)
	case 0x0181: // serial number
		c.out = binary.LittleEndian.AppendUint32(c.out, uint32(n))
	case 0x0189: // what the token is
		c.out = append(c.out, 0x00, 0x01, 0x02, 0x00, memory>>10, 0x00, 0x00, 0x00)
	case 0x018A: // free memory
		c.out = binary.LittleEndian.AppendUint32(c.out, uint32(memory-c.used()))
	default:
		return swNoReference
	}
	return swOK
}

// putData creates and deletes objects.
func (c *Card) putData(p1, p2 byte, data []byte) int {
	switch {
	case p1 == 0x01 && p2 == 0x64 && len(data) == 1: // DELETE DO
		i := slices.IndexFunc(c.dos, func(o *object) bool { return o.record[3] == data[0] })
		if i < 0 {
			return swNoFile
		}
		if !c.allowed(&c.dos[i].record, 6) {
			return swSecurity
		}
		c.dos = slices.Delete(c.dos, i, i+1)
		return swOK
	case p1 == 0x01 && (p2 == 0x62 || p2 == 0x65) && len(data) >= recordLen: // CREATE DO, GENERATE KEY
	default:
		return swP1P2
	}
	o := &object{record: [recordLen]byte(data), body: bytes.Clone(data[recordLen:])}
	switch n := c.number(data); {
	case p2 == 0x65 && len(o.body) == 0:
		o.body = make([]byte, n)
		rand.Read(o.body)
	case n != len(o.body):
		return swData
	}
	if slices.ContainsFunc(c.dos, func(x *object) bool { return x.record[3] == data[3] }) {
		return swExists
	}
	if n := data[3]; data[2] == typePIN && (n == user || n == admin) {
		o.left = tries
		c.pins[n] = o
	}
	c.dos = append(c.dos, o)
	return swOK
}

// objectInfo is GET DO INFO: of the first object, of the one with this number, or of the
// one after it. Bodies of PINs and keys are not told.
func (c *Card) objectInfo(p2 byte, data []byte) int {
	i := 0
	if len(data) == 1 {
		i = slices.IndexFunc(c.dos, func(o *object) bool { return o.record[3] == data[0] })
		if i >= 0 && p2 == 0x02 {
			i++
		}
	}
	if i < 0 || i >= len(c.dos) {
		return swNoFile
	}
	o := c.dos[i]
	c.out = append(c.out, o.record[:]...)
	if o.record[2] > 0x02 {
		c.out = append(c.out, o.body...)
	}
	return swOK
}
