package memcard

import (
	"bytes"
	"context"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// section is a part of the memory that was selected like a file.
type section struct{ from, size int }

func (c *Card) whole() section { return section{0, c.chip.Size} }

// Files (ISO/IEC 7816-4:2013 §8.2.1.1; the identifiers are those of libtowitoko).
const (
	fileMaster  = 0x3F00
	fileDIR     = 0x2F00
	fileATRData = 0x2F01
)

// selectFile is SELECT by file identifier or by AID. What was selected stays so if it fails.
func (c *Card) selectFile(ctx context.Context, cmd iso7816.Command) (uint16, error) {
	var s section
	var err error
	switch {
	case cmd.P1 == 4:
		if len(cmd.Data) == 0 {
			return swLength, nil
		}
		s, err = c.application(ctx, cmd.Data)
	case cmd.P1 != 0:
		return swP1P2, nil
	case len(cmd.Data) == 0: // ISO/IEC 7816-4:2013 §11.2.2: the master file
		s = c.whole()
	case len(cmd.Data) != 2:
		return swLength, nil
	default:
		switch int(cmd.Data[0])<<8 | int(cmd.Data[1]) {
		case fileMaster:
			s = c.whole()
		case fileDIR:
			s, err = c.dir(ctx)
		case fileATRData:
			s, err = c.atrData(ctx)
		}
	}
	if err != nil || s.size == 0 {
		return swNotFound, err
	}
	c.selected = s
	return swDone, nil
}

// header is how many bytes of the memory are H1 to H4.
const header = 4

// reference is the address of the DIR data, from H3 and H4 in the memory (ISO/IEC
// 7816-10:1999 §5.3); 0: there are none.
func (c *Card) reference(ctx context.Context) (int, error) {
	h, err := c.Read(ctx, 0, header, nil)
	if err != nil || len(h) < header || h[2] != 0x10 || h[3]&0x80 == 0 {
		return 0, err
	}
	if at := int(h[3] & 0x7F); at >= header && at < c.chip.Size {
		return at, nil
	}
	return 0, nil
}

// atrData is what stands between H4 and the DIR data.
func (c *Card) atrData(ctx context.Context) (section, error) {
	at, err := c.reference(ctx)
	if err != nil || at == 0 {
		return section{}, err
	}
	return section{header, at - header}, nil
}

// dir is the object of the DIR data.
func (c *Card) dir(ctx context.Context) (section, error) {
	at, err := c.reference(ctx)
	if err != nil || at == 0 {
		return section{}, err
	}
	return c.object(ctx, at)
}

// object is the data object at an address; none if it is empty or does not fit.
func (c *Card) object(ctx context.Context, at int) (section, error) {
	b, err := c.Read(ctx, at, 5, nil)
	if err != nil {
		return section{}, err
	}
	if o, ok := parseObject(b); ok && o.value > 0 && at+o.head+o.value <= c.chip.Size {
		return section{at, o.head + o.value}, nil
	}
	return section{}, nil
}

// application is the data object of the application whose AID begins with aid, or the other
// way round. The DIR data name it in one of three ways (libtowitoko):
//
//	4F AID                      the object behind it
//	61 { 4F AID … }             the object behind it
//	30 { 61 { 4F AID 51 path } … }  the object at the address in the last two bytes of the path
func (c *Card) application(ctx context.Context, aid []byte) (section, error) {
	dir, err := c.dir(ctx)
	if err != nil || dir.size == 0 {
		return section{}, err
	}
	b, err := c.Read(ctx, dir.from, dir.size, nil)
	if err != nil {
		return section{}, err
	}
	o, _ := parseObject(b)
	inside := b[o.head:]
	switch o.tag {
	case 0x4F:
		if sameAID(inside, aid) {
			return c.object(ctx, dir.from+dir.size)
		}
	case 0x61:
		if name, ok := find(inside, 0x4F); ok && sameAID(name, aid) {
			return c.object(ctx, dir.from+dir.size)
		}
	case 0x30:
		for len(inside) > 0 {
			o, ok := parseObject(inside)
			if !ok || o.head+o.value > len(inside) {
				break
			}
			entry := inside[o.head : o.head+o.value]
			inside = inside[o.head+o.value:]
			name, named := find(entry, 0x4F)
			path, placed := find(entry, 0x51)
			if n := len(path); o.tag == 0x61 && named && placed && n >= 2 && sameAID(name, aid) {
				if at := int(path[n-2])<<8 | int(path[n-1]); at < c.chip.Size {
					return c.object(ctx, at)
				}
			}
		}
	}
	return section{}, nil
}

func sameAID(a, b []byte) bool {
	n := min(len(a), len(b))
	return n > 0 && bytes.Equal(a[:n], b[:n])
}

// object is a BER-TLV data object (ISO/IEC 7816-4:2013 §5.2.2) with a tag of one byte.
type object struct {
	tag         byte
	head, value int // lengths of tag and length, and of the value
}

// parseObject takes the head of an object. Its value may be longer than b.
func parseObject(b []byte) (o object, ok bool) {
	if len(b) < 2 || b[0] == 0 || b[0] == 0xFF || b[0]&0x1F == 0x1F {
		return o, false
	}
	o = object{tag: b[0], head: 2, value: int(b[1])}
	if more := int(b[1]) - 0x80; more >= 0 {
		if more < 1 || more > 2 || len(b) < 2+more {
			return o, false
		}
		o.head, o.value = 2+more, 0
		for _, digit := range b[2:o.head] {
			o.value = o.value<<8 | int(digit)
		}
	}
	return o, true
}

// find returns the value of the first object with a tag.
func find(b []byte, tag byte) (value []byte, ok bool) {
	for len(b) > 0 {
		o, ok := parseObject(b)
		if !ok || o.head+o.value > len(b) {
			return nil, false
		}
		if o.tag == tag {
			return b[o.head : o.head+o.value], true
		}
		b = b[o.head+o.value:]
	}
	return nil, false
}
