package vpcd

import "encoding/binary"

// header is the length in front of each message.
const header = 2

// appendFrame appends one message: its length, then the payload of at most
// maxMessage bytes.
func appendFrame(dst, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	return append(dst, payload...)
}

// inbox collects one message from a stream that may cut it anywhere. It has room for the
// longest message and one more byte: so one read returns all that the card has sent, and
// surplus data is noticed before the next command. (Pages that no message has reached cost
// no memory.)
type inbox struct {
	buf [header + maxMessage + 1]byte
	n   int
}

// space returns the buffer for the next bytes. It is never empty while the message is
// incomplete.
func (b *inbox) space() []byte { return b.buf[b.n:] }

// add records that n bytes were written to space.
func (b *inbox) add(n int) { b.n += n }

// message returns the payload once it is complete. extra is the number of bytes behind it.
// The payload is valid until reset.
func (b *inbox) message() (payload []byte, extra int, ok bool) {
	if b.n < header {
		return nil, 0, false
	}
	end := header + int(binary.BigEndian.Uint16(b.buf[:]))
	if b.n < end {
		return nil, 0, false
	}
	return b.buf[header:end], b.n - end, true
}

// reset makes room for the next message and wipes this one.
func (b *inbox) reset() {
	clear(b.buf[:b.n])
	b.n = 0
}
