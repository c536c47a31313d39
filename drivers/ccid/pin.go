package ccid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// bPINOperation (CCID 1.1 §6.1.11).
const (
	pinVerify = 0x00
	pinModify = 0x01
)

// bPINSupport.
const (
	canVerify = 0x01
	canModify = 0x02
)

// bEntryValidationCondition.
const (
	conditionOK   = 0x02
	conditionMost = 0x07
)

// pinLimit is the least time allowed for an entry; the reader has a limit of its own.
const pinLimit = 90 * time.Second

// PINSupport returns bPINSupport and wLcdLayout.
func (s *slot) PINSupport() reader.PINSupport {
	if s.level() == reader.Character {
		return reader.PINSupport{} // such a reader cannot build a command
	}
	return reader.PINSupport{
		Verify: s.Interface.PINSupport&canVerify != 0,
		Modify: s.Interface.PINSupport&canModify != 0,
		Lines:  int(s.LCDLayout >> 8), Columns: int(s.LCDLayout & 0xFF),
	}
}

// VerifyPIN sends Secure with a PIN verification structure.
func (s *slot) VerifyPIN(ctx context.Context, v *reader.PINVerify, dst []byte) ([]byte, error) {
	if !s.PINSupport().Verify {
		return nil, fmt.Errorf("ccid: PIN verification: bPINSupport %02X: %w", s.Interface.PINSupport, reader.ErrUnsupported)
	}
	if err := checkTemplate(v.APDU); err != nil {
		return nil, err
	}
	if s.appendPIN != nil && len(v.APDU) == 4 && v.Block>>4 == 0 {
		if _, err := s.Escape(ctx, s.appendPIN); err != nil {
			return nil, fmt.Errorf("append the PIN without padding: %w", err)
		}
	}
	condition, err := s.condition(ctx, v.Condition)
	if err != nil {
		return nil, err
	}
	if s.verifyOKOnly {
		condition = conditionOK
	}
	messages := v.Messages
	if s.verifyMessages >= 0 {
		messages = byte(s.verifyMessages)
	}
	b := []byte{pinVerify, v.Timeout, v.Format, v.Block, v.Length}
	b = s.appendDigits(b, &v.PINFormat)
	b = append(b, condition, messages)
	b = binary.LittleEndian.AppendUint16(b, v.Language)
	b = append(b, v.MessageIndexes[0])
	b = append(b, v.Prologue[:]...)
	return s.secure(ctx, append(b, v.APDU...), v.Timeout, dst)
}

// ModifyPIN sends Secure with a PIN modification structure.
func (s *slot) ModifyPIN(ctx context.Context, m *reader.PINModify, dst []byte) ([]byte, error) {
	if !s.PINSupport().Modify {
		return nil, fmt.Errorf("ccid: PIN modification: bPINSupport %02X: %w", s.Interface.PINSupport, reader.ErrUnsupported)
	}
	if err := checkTemplate(m.APDU); err != nil {
		return nil, err
	}
	const readerDefault = 0xFF
	if m.Messages > 3 && m.Messages != readerDefault {
		return nil, fmt.Errorf("ccid: PIN modification: bNumberMessage %02X: 0 to 3 or FF: %w", m.Messages, reader.ErrInvalid)
	}
	condition, err := s.condition(ctx, m.Condition)
	if err != nil {
		return nil, err
	}
	messages := m.Messages
	switch {
	case s.modifyMessages >= 0:
		messages = byte(s.modifyMessages)
	case s.notZero && messages == 0:
		messages = readerDefault
	}
	indexes := 1
	switch {
	case messages >= 3 || s.modifyIndexes && !s.pinVariable:
		indexes = 3
	case messages != 0:
		indexes = 2
	}
	b := []byte{pinModify, m.Timeout, m.Format, m.Block, m.Length, m.OffsetOld, m.OffsetNew}
	b = s.appendDigits(b, &m.PINFormat)
	b = append(b, m.Confirm, condition, messages)
	b = binary.LittleEndian.AppendUint16(b, m.Language)
	b = append(b, m.MessageIndexes[:indexes]...)
	b = append(b, m.Prologue[:]...)
	return s.secure(ctx, append(b, m.APDU...), m.Timeout, dst)
}

func checkTemplate(apdu []byte) error {
	if len(apdu) < 4 {
		return fmt.Errorf("ccid: a PIN command of %d bytes, at least CLA INS P1 P2: %w", len(apdu), reader.ErrInvalid)
	}
	return nil
}

// appendDigits appends wPINMaxExtraDigit: on the wire the maximum comes first.
func (s *slot) appendDigits(b []byte, f *reader.PINFormat) []byte {
	if s.swapDigits {
		return append(b, f.MinDigits, f.MaxDigits)
	}
	return append(b, f.MaxDigits, f.MinDigits)
}

// condition returns a bEntryValidationCondition that the reader accepts. 00 and undefined
// bits become 02, the OK key.
func (s *slot) condition(ctx context.Context, c byte) (byte, error) {
	if c == 0 || c > conditionMost {
		c = conditionOK
	}
	if !s.conditionMask {
		return c, nil
	}
	if s.pinMask == 0 {
		// Gemalto's feature structure: offset 3 has the conditions; bit 2 of offset 8
		// means that modify takes a variable number of indexes.
		features, err := s.Escape(ctx, []byte{0x6A})
		switch {
		case errors.Is(err, reader.ErrGone), ctx.Err() != nil:
			return c, err
		case err == nil && len(features) > 8 && features[8]&0x04 != 0:
			s.pinVariable = true
		}
		s.pinMask = conditionMost
		if err == nil && len(features) > 3 && features[3]&conditionMost != 0 {
			s.pinMask = features[3] & conditionMost
		}
	}
	if c &= s.pinMask; c == 0 {
		c = s.pinMask & -s.pinMask
	}
	return c, nil
}

// secure sends the structure and returns the card's answer. Neither is ever logged.
func (s *slot) secure(ctx context.Context, b []byte, timeout byte, dst []byte) ([]byte, error) {
	defer clear(b)
	if err := s.fits("PIN command", len(b)); err != nil {
		return nil, err
	}
	if s.secureDelay > 0 {
		if err := sleep(ctx, s.secureDelay); err != nil {
			return nil, err
		}
	}
	limit := max(pinLimit, time.Duration(timeout)*time.Second+10*time.Second) + exchangeTime(s.pace, 512, 0)
	a, err := s.do(ctx, withLevel(cmdSecure, 0, 0), b, limit)
	var failed *Error
	if errors.As(err, &failed) {
		// PC/SC part 10 §2.5.2: SW1 SW2 report how the entry ended.
		switch failed.Code {
		case codePINTimeout:
			return append(dst, 0x64, 0x00), nil
		case codePINCancelled:
			return append(dst, 0x64, 0x01), nil
		case codePINsDiffer:
			return append(dst, 0x64, 0x02), nil
		}
	}
	if err != nil {
		return nil, s.ended(false, err)
	}
	if s.level() == reader.TPDU { // bChainParameter is reserved there
		return a.appendTo(dst, len(dst)), nil
	}
	rx, err := collect(ctx, s, a, dst, limit)
	if err != nil {
		return nil, s.ended(true, err)
	}
	return rx, nil
}
