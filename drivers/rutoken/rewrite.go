package rutoken

import "github.com/cardfs/cardfs/reader/iso7816"

// Programs for the Rutoken S, OpenSC's among them, were written for drivers that rewrite
// commands. The card describes a file or an object by a record, and has the bytes of IDs
// and numbers in another order than such programs. What they send and get are ISO/IEC
// 7816-4 control parameters (FCP), in these commands:
//
//	00 A4        SELECT         ID or path: pairs of bytes swapped; answer: record to FCP
//	00 E4        DELETE FILE    the same, without an answer
//	00 E0        CREATE FILE    FCP to record
//	00 DA 01 62  CREATE DO      TLV to record
//	00 DA 01 65  GENERATE KEY   the same
//	80 30        GET DO INFO    answer: record to TLV
//	00 CA 01 81  serial number  answer: each four bytes reversed
//	00 CA 01 8A  free memory    the same
//	00 CA 01 11  current EF     answer: pairs of bytes swapped
//
// OpenSC 0.23 swaps the bytes of IDs and sizes by itself, so that they reach the card as
// ISO/IEC 7816-4 has them, high byte first, and so are those of the tokens that it formats.
// Other programs get at those with the IDs swapped, or with rewrite=off.
//
// Answers are rewritten after 90 00 alone. What cannot be rewritten, because it is too
// short, no TLV, or lacks a tag that must be there, stays as it is.
//
// The table and the records are OpenCT 0.6.20's, and so is what the card is sent for a
// command that it rewrites rightly. Where it does not:
//
//   - SELECT by name (P1 = 04): it swaps the name, too. Here neither the name nor the answer
//     is touched.
//   - Case 4 (with Le): it counts Le as data. A SELECT of an odd length has Le and the last
//     byte exchanged, and a CREATE FILE or CREATE DO loses its last byte. Here Le is no
//     data.
//   - SELECT of 4 bytes: it sends P3 = 00, the maker's later driver 20, the length of the
//     record. Here P3 is 20, and the record, which nobody asked for, is dropped.
//   - 6Cxx after a SELECT or GET DO INFO without data: it insists on the P3 that it knows
//     (20, FF) for ever. Here xx is tried, once.
//   - The length of a body (A5): of the two bytes of tag 80 and of the record it looks at
//     the first alone, low byte first, and drops the body if they differ. OpenSC writes the
//     low byte first, ISO the high one. Here either will do.
//   - GET DO INFO whose body did not come: it reads past the end. Here there is no A5.

// form is how the answer to a command is rewritten.
type form int

const (
	asIs form = iota
	fileRecord
	objectRecord
	reversedFours
	swappedPairs
)

const (
	recordLen   = 32
	attributes  = 40  // length of tag 86
	mostObject  = 255 // bytes of an object's TLV
	objectFirst = 55  // the tags before A5, with their lengths
)

func isSelect(c *iso7816.Command) bool { return c.CLA == 0x00 && c.INS == 0xA4 }
func isInfo(c *iso7816.Command) bool   { return c.CLA == 0x80 && c.INS == 0x30 }

// formOf is the form of the answer to c.
func formOf(c *iso7816.Command) form {
	switch {
	case isSelect(c) && c.P1 != 0x04:
		return fileRecord
	case isInfo(c):
		return objectRecord
	case c.CLA != 0x00 || c.INS != 0xCA || c.P1 != 0x01:
	case c.P2 == 0x81, c.P2 == 0x8A:
		return reversedFours
	case c.P2 == 0x11:
		return swappedPairs
	}
	return asIs
}

// rewritten appends to dst what the card is sent for the data of c.
func rewritten(c *iso7816.Command, dst []byte) []byte {
	switch {
	case c.CLA != 0x00:
	case c.INS == 0xA4 && c.P1 != 0x04, c.INS == 0xE4:
		start := len(dst)
		dst = append(dst, c.Data...)
		swapPairs(dst[start:])
		return dst
	case c.INS == 0xE0:
		if r, ok := appendFileRecord(dst, c.Data); ok {
			return r
		}
	case c.INS == 0xDA && c.P1 == 0x01 && (c.P2 == 0x62 || c.P2 == 0x65):
		if r, ok := appendObjectRecord(dst, c.Data); ok {
			return r
		}
	}
	return append(dst, c.Data...)
}

// restored appends to dst what the program gets for the data of an answer.
func restored(f form, data, dst []byte) []byte {
	start := len(dst)
	switch {
	case f == fileRecord && len(data) == recordLen:
		return appendFCP(dst, data)
	case f == objectRecord && len(data) >= recordLen:
		return appendObject(dst, data)
	}
	dst = append(dst, data...)
	switch f {
	case reversedFours:
		reverseFours(dst[start:])
	case swappedPairs:
		swapPairs(dst[start:])
	}
	return dst
}

// swapPairs exchanges bytes 0 and 1, 2 and 3 …; an odd one at the end stays.
func swapPairs(p []byte) {
	for ; len(p) >= 2; p = p[2:] {
		p[0], p[1] = p[1], p[0]
	}
}

// reverseFours reverses each four bytes; a rest stays.
func reverseFours(p []byte) {
	for ; len(p) >= 4; p = p[4:] {
		p[0], p[1], p[2], p[3] = p[3], p[2], p[1], p[0]
	}
}

// nextTLV cuts a data object with a tag of one byte from p (ISO/IEC 7816-4:2013 §5.2).
func nextTLV(p []byte) (tag byte, value, rest []byte, ok bool) {
	if len(p) < 2 || p[0]&0x1F == 0x1F {
		return 0, nil, nil, false
	}
	tag, n, at := p[0], int(p[1]), 2
	if n == 0x81 && len(p) > 2 {
		n, at = int(p[2]), 3
	} else if n > 0x7F {
		return 0, nil, nil, false
	}
	if len(p) < at+n {
		return 0, nil, nil, false
	}
	return tag, p[at : at+n], p[at+n:], true
}

// The record of a file:
//
//	0   complete size     FCP 81, bytes swapped
//	2   size              FCP 80, bytes swapped
//	4   type              FCP 82
//	6   ID                FCP 83, bytes swapped
//	8   life cycle        FCP 8A, from the card only
//	9   zero
//	17  access rules      FCP 86: bytes 0 to 7, 8, 12, 16, 20, 24, 28, 32; its others are zero
//
// and of an object:
//
//	0   length of the body  TLV 80, bytes swapped
//	2   type, number        TLV 83
//	4   options, flags, maximum of tries   TLV 85
//	7   zero
//	17  access rules        TLV 86, as of a file
//	32  body                TLV A5

// appendFileRecord makes a file's record of its FCP.
func appendFileRecord(dst, fcp []byte) ([]byte, bool) {
	if len(fcp) < recordLen {
		return dst, false
	}
	tag, p, _, ok := nextTLV(fcp)
	if !ok || tag != 0x62 {
		return dst, false
	}
	var r [recordLen]byte
	kind, id := false, false
	for len(p) > 0 {
		var value []byte
		if tag, value, p, ok = nextTLV(p); !ok {
			return dst, false
		}
		switch n := len(value); {
		case tag == 0x81 && n == 2:
			r[0], r[1] = value[1], value[0]
		case tag == 0x80 && n == 2:
			r[2], r[3] = value[1], value[0]
		case tag == 0x82 && n == 2:
			copy(r[4:6], value)
			kind = true
		case tag == 0x83 && n == 2:
			r[6], r[7] = value[1], value[0]
			id = true
		case tag == 0x86 && n == attributes:
			packRules(r[17:], value)
		}
	}
	if !kind || !id {
		return dst, false
	}
	return append(dst, r[:]...), true
}

// appendFCP makes a file's FCP of its record, of recordLen bytes.
func appendFCP(dst, r []byte) []byte {
	dst = append(dst, 0x62, 0x3D,
		0x81, 2, r[1], r[0],
		0x80, 2, r[3], r[2],
		0x82, 2, r[4], r[5],
		0x83, 2, r[7], r[6],
		0x8A, 1, r[8])
	return appendRules(dst, r)
}

// appendObjectRecord makes an object's record, and its body, of its TLV.
func appendObjectRecord(dst, tlv []byte) ([]byte, bool) {
	var r [recordLen]byte
	var body, given []byte
	for p := tlv; len(p) > 0; {
		tag, value, rest, ok := nextTLV(p)
		if !ok {
			return dst, false
		}
		p = rest
		switch n := len(value); {
		case tag == 0x80 && n == 2:
			r[0], r[1] = value[1], value[0]
		case tag == 0x83 && n == 2:
			copy(r[2:4], value)
		case tag == 0x85 && n == 3:
			copy(r[4:7], value)
		case tag == 0x86 && n == attributes:
			packRules(r[17:], value)
		case tag == 0xA5:
			given = value
		}
	}
	if isLength(r[:2], len(given)) {
		body = given
	}
	if len(tlv) < recordLen+len(body) {
		return dst, false
	}
	return append(append(dst, r[:]...), body...), true
}

// appendObject makes an object's TLV of its record, of recordLen bytes and more.
func appendObject(dst, r []byte) []byte {
	body := r[recordLen:]
	if !isLength(r, len(body)) {
		body = body[:min(int(r[0]), len(body))]
		if len(body) < int(r[0]) {
			body = nil
		}
	}
	start := len(dst)
	head := 2
	if len(body) > 0x7F {
		head = 3
	}
	if (r[0] != 0 || r[1] != 0) && objectFirst+head+len(body) <= mostObject {
		dst = append(dst, 0x80, 2, r[1], r[0])
	}
	dst = append(dst, 0x83, 2, r[2], r[3], 0x85, 3, r[4], r[5], r[6])
	dst = appendRules(dst, r)
	switch {
	case len(body) == 0 || len(dst)-start+head+len(body) > mostObject:
		return dst
	case head == 3:
		dst = append(dst, 0xA5, 0x81, byte(len(body)))
	default:
		dst = append(dst, 0xA5, byte(len(body)))
	}
	return append(dst, body...)
}

// isLength reports whether two bytes, in either order, say n.
func isLength(p []byte, n int) bool {
	a, b := int(p[0]), int(p[1])
	return n == a|b<<8 || n == b|a<<8
}

// packRules puts the access rules of tag 86 into the 15 bytes that a record has for them.
func packRules(rules, value []byte) {
	copy(rules[:8], value)
	for i := range 7 {
		rules[8+i] = value[8+4*i]
	}
}

// appendRules appends tag 86 of the record r.
func appendRules(dst, r []byte) []byte {
	dst = append(dst, 0x86, attributes)
	dst = append(dst, r[17:25]...)
	for _, b := range r[25:recordLen] {
		dst = append(dst, b, 0, 0, 0)
	}
	return append(dst, 0, 0, 0, 0)
}
