package reader

import (
	"context"
	"encoding/binary"
	"fmt"
)

// PINPad is a slot whose reader asks for a PIN at its own keys and puts it into
// the command by itself, so that the host never sees it (PC/SC part 10 §2.5,
// CCID 1.1 §6.1.11).
//
// The answer is the card's R-APDU; 64 00 if no PIN was entered in time, 64 01
// if the entry was cancelled, 64 02 if the two entries of a new PIN differ. At TPDU level
// under T=1 the caller gives the prologue of the block that is to carry the command, and gets
// back the card's block or the two bytes above.
type PINPad interface {
	// PINSupport says what the reader can do; the zero value: it has no PIN pad.
	PINSupport() PINSupport
	// VerifyPIN asks for a PIN. It returns when the card has answered, or when the time
	// for the entry is over; ctx ends it early. Errors: as Slot.Exchange, and
	// ErrUnsupported, ErrInvalid.
	VerifyPIN(ctx context.Context, v *PINVerify, dst []byte) ([]byte, error)
	// ModifyPIN asks for a new PIN, and for the old one if m says so.
	ModifyPIN(ctx context.Context, m *PINModify, dst []byte) ([]byte, error)
}

// PINSupport is what a PIN pad can do.
type PINSupport struct {
	Verify, Modify bool
	// Lines and Columns of its display; 0: none.
	Lines, Columns int
}

// PINFormat is how a PIN gets into a command: what PIN_VERIFY and PIN_MODIFY of
// PC/SC part 10 (v2.02.09 §2.5.2) have in common, by its names.
type PINFormat struct {
	Timeout        byte // bTimerOut, s; 0: the reader's default
	Format         byte // bmFormatString: 80 position in bytes; 78 position; 04 right; 03 binary, BCD, ASCII
	Block          byte // bmPINBlockString: F0 bits of the length field, 0F bytes of the PIN block
	Length         byte // bmPINLengthFormat: 10 position in bytes, 0F position of the length field
	MinDigits      byte // wPINMaxExtraDigit
	MaxDigits      byte
	Condition      byte // bEntryValidationCondition: 01 all digits, 02 OK key, 04 time
	Messages       byte // bNumberMessage
	Language       uint16
	Prologue       [3]byte // bTeoPrologue: NAD PCB LEN
	APDU           []byte  // the command with room for the PIN
	MessageIndexes [3]byte // bMsgIndex; modify: bMsgIndex1 to 3
}

// PINVerify is PIN_VERIFY.
type PINVerify struct{ PINFormat }

// PINModify is PIN_MODIFY.
type PINModify struct {
	PINFormat
	OffsetOld, OffsetNew byte // bInsertionOffset, from the start of the command's data
	Confirm              byte // bConfirmPIN: 01 ask for the new PIN twice, 02 ask for the old one
}

// String leaves the command out: a template may hold a PIN's default.
func (f PINFormat) String() string {
	return fmt.Sprintf("PIN of %d to %d digits, format %02X %02X %02X, command of %d bytes",
		f.MinDigits, f.MaxDigits, f.Format, f.Block, f.Length, len(f.APDU))
}

const (
	pinVerifyLen = 19 // without abData
	pinModifyLen = 24
)

// ParsePINVerify reads a PIN_VERIFY structure of either byte order: big endian
// is what PC/SC part 10 before 2.02.06 and programs on such machines use, little
// endian what most send. Error: ErrInvalid.
func ParsePINVerify(b []byte) (*PINVerify, error) {
	order, err := pinOrder("PIN_VERIFY", b, pinVerifyLen)
	if err != nil {
		return nil, err
	}
	v := &PINVerify{}
	digits := order.Uint16(b[5:])
	v.PINFormat = PINFormat{
		Timeout: b[0], Format: b[2], Block: b[3], Length: b[4],
		MinDigits: byte(digits >> 8), MaxDigits: byte(digits),
		Condition: b[7], Messages: b[8], Language: order.Uint16(b[9:]),
		MessageIndexes: [3]byte{b[11]}, Prologue: [3]byte(b[12:15]), APDU: b[pinVerifyLen:],
	}
	return v, nil
}

// ParsePINModify reads a PIN_MODIFY structure of either byte order. Error: ErrInvalid.
func ParsePINModify(b []byte) (*PINModify, error) {
	order, err := pinOrder("PIN_MODIFY", b, pinModifyLen)
	if err != nil {
		return nil, err
	}
	m := &PINModify{OffsetOld: b[5], OffsetNew: b[6], Confirm: b[9]}
	digits := order.Uint16(b[7:])
	m.PINFormat = PINFormat{
		Timeout: b[0], Format: b[2], Block: b[3], Length: b[4],
		MinDigits: byte(digits >> 8), MaxDigits: byte(digits),
		Condition: b[10], Messages: b[11], Language: order.Uint16(b[12:]),
		MessageIndexes: [3]byte(b[14:17]), Prologue: [3]byte(b[17:20]), APDU: b[pinModifyLen:],
	}
	return m, nil
}

// Append appends the PIN_VERIFY structure, little endian.
func (v *PINVerify) Append(dst []byte) []byte {
	dst = append(dst, v.Timeout, 0, v.Format, v.Block, v.Length, v.MaxDigits, v.MinDigits, v.Condition, v.Messages)
	dst = binary.LittleEndian.AppendUint16(dst, v.Language)
	dst = append(dst, v.MessageIndexes[0])
	return v.appendData(dst)
}

// Append appends the PIN_MODIFY structure, little endian.
func (m *PINModify) Append(dst []byte) []byte {
	dst = append(dst, m.Timeout, 0, m.Format, m.Block, m.Length, m.OffsetOld, m.OffsetNew, m.MaxDigits, m.MinDigits, m.Confirm, m.Condition, m.Messages)
	dst = binary.LittleEndian.AppendUint16(dst, m.Language)
	dst = append(dst, m.MessageIndexes[:]...)
	return m.appendData(dst)
}

// appendData appends the end of both structures: bTeoPrologue, ulDataLength and abData.
func (f *PINFormat) appendData(dst []byte) []byte {
	dst = append(dst, f.Prologue[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.APDU)))
	return append(dst, f.APDU...)
}

// pinOrder finds the byte order by ulDataLength, the last field of fixed size.
func pinOrder(what string, b []byte, fixed int) (binary.ByteOrder, error) {
	if len(b) < fixed+4 {
		return nil, fmt.Errorf("%s of %d bytes, at least %d: %w", what, len(b), fixed+4, ErrInvalid)
	}
	n := uint32(len(b) - fixed)
	switch at := b[fixed-4 : fixed]; n {
	case binary.LittleEndian.Uint32(at):
		return binary.LittleEndian, nil
	case binary.BigEndian.Uint32(at):
		return binary.BigEndian, nil
	default:
		return nil, fmt.Errorf("%s: ulDataLength does not fit the %d bytes of abData: %w", what, n, ErrInvalid)
	}
}
