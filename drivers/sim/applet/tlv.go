package applet

import (
	"errors"
	"fmt"
	"slices"
)

// ErrTLV: the bytes are no BER-TLV data objects as cards use them.
var ErrTLV = errors.New("no BER-TLV data objects")

// Object is a BER-TLV data object. Its Tag holds the bytes of the tag field: 7C, 7F49, 5FC105.
type Object struct {
	Tag   int
	Value []byte
}

// Next reads the first data object of b and returns what follows it. Tags have up to
// three bytes and lengths up to five (ISO/IEC 7816-4:2013 §5.2.2.1, §5.2.2.2). The
// indefinite length is refused. The value is that of b.
func Next(b []byte) (o Object, rest []byte, err error) {
	n, err := tagLength(b)
	if err != nil {
		return o, nil, err
	}
	for _, t := range b[:n] {
		o.Tag = o.Tag<<8 | int(t)
	}
	b = b[n:]
	if len(b) == 0 {
		return o, nil, fmt.Errorf("no length: %w", ErrTLV)
	}
	length, more := uint64(b[0]), 0
	if b[0] >= 0x80 {
		more = int(b[0] & 0x7F)
		if more == 0 || more > 4 || len(b) < 1+more {
			return o, nil, fmt.Errorf("length field: %w", ErrTLV)
		}
		length = 0
		for _, l := range b[1 : 1+more] {
			length = length<<8 | uint64(l)
		}
	}
	b = b[1+more:]
	if length > uint64(len(b)) {
		return o, nil, fmt.Errorf("length beyond the end: %w", ErrTLV)
	}
	o.Value = b[:length:length]
	return o, b[length:], nil
}

// tagLength is how many bytes the tag field at the beginning of b has.
func tagLength(b []byte) (int, error) {
	switch {
	case len(b) == 0 || b[0] == 0:
		return 0, fmt.Errorf("no tag: %w", ErrTLV)
	case b[0]&0x1F != 0x1F:
		return 1, nil
	case len(b) >= 2 && b[1]&0x80 == 0:
		return 2, nil
	case len(b) >= 3 && b[1] != 0x80 && b[2]&0x80 == 0:
		return 3, nil
	}
	return 0, fmt.Errorf("tag field: %w", ErrTLV)
}

// Objects reads all the data objects of b, which holds nothing else.
func Objects(b []byte) ([]Object, error) {
	var all []Object
	for len(b) > 0 {
		o, rest, err := Next(b)
		if err != nil {
			return nil, err
		}
		all, b = append(all, o), rest
	}
	return all, nil
}

// Find returns the value of the first data object with that tag.
func Find(all []Object, tag int) ([]byte, bool) {
	i := slices.IndexFunc(all, func(o Object) bool { return o.Tag == tag })
	if i < 0 {
		return nil, false
	}
	return all[i].Value, true
}

// AppendObject appends a data object whose value is that of the parts together.
func AppendObject(dst []byte, tag int, parts ...[]byte) []byte {
	for shift := 16; shift >= 0; shift -= 8 {
		if shift == 0 || tag>>shift != 0 {
			dst = append(dst, byte(tag>>shift))
		}
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	switch {
	case n < 0x80:
		dst = append(dst, byte(n))
	case n <= 0xFF:
		dst = append(dst, 0x81, byte(n))
	case n <= 0xFFFF:
		dst = append(dst, 0x82, byte(n>>8), byte(n))
	default:
		dst = append(dst, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// TLV makes a data object.
func TLV(tag int, parts ...[]byte) []byte { return AppendObject(nil, tag, parts...) }
