package ccid

import (
	"bytes"
	"encoding/binary"
)

// On a serial line a message of either side goes as a frame: 03 06, the message, and the
// exclusive or of all of these. Beside frames there are, from the reader:
//
//	03 15 16   what the host sent last came damaged
//	50 02      the card has left; 50 03: a card has come
//	80 … FF    the card needs more time, one character each
//
// The host may send 03 15 16 as well, upon which the reader repeats its last frame. Source:
// libccid 1.5.2, observed behaviour of its host side (libccidtwin) at a pseudo-terminal.
const (
	soh     = 0x03
	ack     = 0x06
	nak     = 0x15
	nakSum  = soh ^ nak
	notice  = 0x50
	cardOut = 0x02
	cardIn  = 0x03

	frameHead = 2 // 03 06
	frameTail = 1 // the sum
)

// inner returns the message of a frame.
func inner(frame []byte) []byte { return frame[frameHead : len(frame)-frameTail] }

// appendFrame appends the frame of a message.
func appendFrame(dst, message []byte) []byte {
	start := len(dst)
	dst = append(dst, soh, ack)
	dst = append(dst, message...)
	return append(dst, xor(dst[start:]))
}

func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

// itemKind is the kind of what a reader sends.
type itemKind int

const (
	itemFrame itemKind = iota // with a message; the reader may repeat the host's
	itemRefusal
	itemNotice
	itemMoreTime
	itemDamage // characters that are nothing of all this
)

// item is something that a reader sent. data is valid until the framer's next item.
type item struct {
	kind itemKind
	data []byte
}

// framer divides what comes into items. Behind damage it looks for the next frame or
// refusal at every place: single characters mean nothing there, as they may be parts of
// what was damaged.
type framer struct {
	most   int // bytes of the longest message
	buf    []byte
	used   int // at its head: in the item returned last
	damage int // behind them: known to be no item
}

// add takes characters that came.
func (f *framer) add(p []byte) {
	f.release()
	f.buf = append(f.buf, p...)
}

// release drops the item returned last. It may have had a PIN in it.
func (f *framer) release() {
	n := copy(f.buf, f.buf[f.used:])
	clear(f.buf[n:])
	f.buf, f.used = f.buf[:n], 0
}

// pending reports whether the end of something has yet to come.
func (f *framer) pending() bool { return len(f.buf) > f.used }

// next returns the next item, if it is there whole. quiet says that nothing has come for so
// long that the rest of an item will not.
func (f *framer) next(quiet bool) (item, bool) {
	f.release()
	for {
		rest := f.buf[f.damage:]
		it, n := f.parse(rest)
		switch {
		case f.damage > 0 && (n > 0 || f.damage > f.most || quiet && len(rest) == 0):
			f.used, f.damage = f.damage, 0
			return item{itemDamage, f.buf[:f.used]}, true
		case n > 0:
			f.used = n
			return it, true
		case len(rest) == 0, n == incomplete && !quiet:
			return item{}, false
		}
		f.damage++
	}
}

// Results of parse in place of a length.
const (
	incomplete = 0
	wrong      = -1
)

// parse returns the item at the beginning of b and its length.
func (f *framer) parse(b []byte) (item, int) {
	switch {
	case len(b) == 0:
		return item{}, incomplete
	case b[0] == soh:
		return f.parseFrame(b)
	case f.damage > 0:
		return item{}, wrong
	case b[0] >= 0x80:
		return item{kind: itemMoreTime}, 1
	case b[0] != notice, len(b) > 1 && b[1] != cardOut && b[1] != cardIn:
		return item{}, wrong
	case len(b) == 1:
		return item{}, incomplete
	}
	return item{itemNotice, b[:2]}, 2
}

func (f *framer) parseFrame(b []byte) (item, int) {
	const length = frameHead + 1 // of dwLength's place
	switch {
	case len(b) == 1:
		return item{}, incomplete
	case b[1] == nak && len(b) == 2:
		return item{}, incomplete
	case b[1] == nak && b[2] == nakSum:
		return item{kind: itemRefusal}, 3
	case b[1] != ack, len(b) > frameHead && (b[2] < cmdSetParameters || b[2] > ansRate):
		return item{}, wrong
	case len(b) < length+4:
		return item{}, incomplete
	}
	n := binary.LittleEndian.Uint32(b[length:])
	if uint64(n) > uint64(f.most-headerLen) {
		return item{}, wrong
	}
	end := frameHead + headerLen + int(n) + frameTail
	switch {
	case len(b) < end:
		return item{}, incomplete
	case xor(b[:end]) != 0:
		return item{}, wrong
	}
	return item{itemFrame, b[:end]}, end
}

// almost reports whether got is sent, but for one character that was lost, added or changed,
// and perhaps for the last one, which is yet to come, or the next, which came already.
func almost(got, sent []byte) bool {
	if d := len(got) - len(sent); d < -1 || d > 1 {
		return false
	}
	n := 0
	for n < min(len(got), len(sent)) && got[n] == sent[n] {
		n++
	}
	from := func(b []byte, n int) []byte { return b[min(n, len(b)):] }
	return bytes.HasPrefix(from(sent, n+1), from(got, n+1)) || // changed, or all the same
		bytes.HasPrefix(from(sent, n), from(got, n+1)) || // added
		bytes.HasPrefix(from(sent, n+1), from(got, n)) || // lost
		bytes.HasPrefix(from(got, n), from(sent, n+1)) // and the next in its place
}
