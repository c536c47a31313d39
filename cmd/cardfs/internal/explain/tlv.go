package explain

import (
	"errors"
	"fmt"
)

// Limits of a tree. What is beyond them is shown as bytes.
const (
	maxDepth  = 12
	maxTag    = 3 // bytes, ISO/IEC 7816-4:2020 §6.3
	maxLength = 4 // bytes of a length field, 81 to 84 and what follows included: 65,536 needs 83
)

// Object is a BER-TLV data object.
type Object struct {
	Tag      uint32
	Value    []byte
	Children []Object // of a constructed one
}

// Constructed reports whether the value consists of data objects.
func (o *Object) Constructed() bool { return constructed(o.Tag) }

func constructed(tag uint32) bool { return first(tag)&0x20 != 0 }

// first is the tag's first byte, which has its class and kind.
func first(tag uint32) byte {
	for tag > 0xFF {
		tag >>= 8
	}
	return byte(tag)
}

var (
	errTag    = errors.New("no tag")
	errLength = errors.New("the length field is malformed")
	errShort  = errors.New("the value is cut off")
	errDepth  = fmt.Errorf("nested deeper than %d", maxDepth)
)

// ParseTLV takes b apart, wholly or not at all (ISO/IEC 7816-4:2020 §6.3). The values point
// into b. The indefinite length, which cards must not use, is refused, as are the bytes 00
// and FF in the place of a tag.
func ParseTLV(b []byte) ([]Object, error) { return parseTLV(b, maxDepth) }

func parseTLV(b []byte, depth int) (list []Object, err error) {
	if depth == 0 {
		return nil, errDepth
	}
	for len(b) > 0 {
		var o Object
		if o, b, err = cutObject(b); err != nil {
			return nil, err
		}
		if o.Constructed() {
			if o.Children, err = parseTLV(o.Value, depth-1); err != nil {
				return nil, fmt.Errorf("in %X: %w", o.Tag, err)
			}
		}
		list = append(list, o)
	}
	return list, nil
}

// cutObject takes the object at the beginning of b, without its children.
func cutObject(b []byte) (o Object, rest []byte, err error) {
	if o.Tag, b, err = cutTag(b); err != nil {
		return o, nil, err
	}
	n, b, err := cutLength(b)
	if err != nil {
		return o, nil, err
	}
	if n > len(b) {
		return o, nil, errShort
	}
	o.Value = b[:n:n]
	return o, b[n:], nil
}

// cutTag takes the tag at the beginning of b.
func cutTag(b []byte) (tag uint32, rest []byte, err error) {
	if len(b) == 0 || b[0] == 0 || b[0] == 0xFF {
		return 0, nil, errTag
	}
	tag = uint32(b[0])
	if b[0]&0x1F != 0x1F {
		return tag, b[1:], nil
	}
	for i := 1; i < len(b) && i < maxTag; i++ {
		if i == 1 && b[i] == 0x80 { // a number that begins with zeros
			break
		}
		tag = tag<<8 | uint32(b[i])
		if b[i]&0x80 == 0 {
			return tag, b[i+1:], nil
		}
	}
	return 0, nil, errTag
}

// cutLength takes the length field at the beginning of b.
func cutLength(b []byte) (n int, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errLength
	}
	if b[0] < 0x80 {
		return int(b[0]), b[1:], nil
	}
	k := int(b[0] & 0x7F)
	if k == 0 || k >= maxLength || k >= len(b) {
		return 0, nil, errLength
	}
	for _, c := range b[1 : 1+k] {
		n = n<<8 | int(c)
	}
	return n, b[1+k:], nil
}

// padding are the bytes 00 or FF that fill a file or record behind its last object.
func padding(b []byte) []byte {
	i := len(b)
	for i > 0 && (b[i-1] == 0 || b[i-1] == 0xFF) && b[i-1] == b[len(b)-1] {
		i--
	}
	return b[i:]
}

// parsePadded is ParseTLV for the content of files: bytes 00 or FF may follow the last
// object.
func parsePadded(b []byte) (list []Object, pad []byte, err error) {
	if list, err = ParseTLV(b); err == nil {
		return list, nil, nil
	}
	// An object may end in such bytes itself, so where they begin is found from the front.
	for rest := b; len(rest) > 0; {
		if p := padding(rest); len(p) == len(rest) && len(rest) < len(b) {
			if list, err = ParseTLV(b[:len(b)-len(rest)]); err != nil {
				return nil, nil, err
			}
			return list, rest, nil
		}
		var e error
		if _, rest, e = cutObject(rest); e != nil {
			return nil, nil, err
		}
	}
	return nil, nil, err
}
