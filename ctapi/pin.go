package ctapi

import (
	"context"
	"errors"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// prompt shows what a program wants the card holder to read, where there is a
// display; F in the high nibble of P2 asks for no prompt.
func (t *Terminal) prompt(ctx context.Context, b *reader.Bay, p2 byte, o objects) {
	if p2>>4 != 0x0F && len(o.text) > 0 {
		b.Show(ctx, o.text[0], o.timeout, t.by)
	}
}

// output is OUTPUT: a text on the display.
func (t *Terminal) output(ctx context.Context, c command) ([]byte, sw, error) {
	if !t.has(func(s reader.Slot) bool { _, ok := s.(reader.Display); return ok }) {
		return nil, swINS, nil
	}
	if c.p1 != unitDisplay || c.p2 != 0 {
		return nil, swP1P2, nil
	}
	if len(c.data) < 2 || c.le >= 0 {
		return nil, swLength, nil
	}
	o, code := parseObjects(c.data, tagTimeout, tagText)
	switch {
	case code != swOK:
		return nil, code, nil
	case len(o.text) == 0 || o.text[0] == "":
		return nil, swNotFound, nil // REINER SCT
	}
	if err := t.bay.Show(ctx, o.text[0], o.timeout, t.by); err != nil {
		code, err := failure(err, swNotNow)
		if code == swFailed {
			code = swNotNow
		}
		return nil, code, err
	}
	return nil, swOK, nil
}

// firstKey is how long a card holder has for the first key by default.
const firstKey = 15 * time.Second

// input is INPUT: digits from the keypad, for the program to see.
func (t *Terminal) input(ctx context.Context, c command) ([]byte, sw, error) {
	if !t.has(func(s reader.Slot) bool { _, ok := s.(reader.Keypad); return ok }) {
		return nil, swINS, nil
	}
	if c.p1 != unitKeypad || c.p2>>4 > 1 || c.p2&0x0F > 2 {
		return nil, swP1P2, nil
	}
	if c.le < 0 {
		return nil, swLength, nil
	}
	o, code := parseObjects(c.data, tagTimeout, tagText)
	if code != swOK {
		return nil, code, nil
	}
	k := reader.KeyInput{Max: c.le, Raw: c.p2>>4 == 1, Echo: reader.Echo(c.p2 & 0x0F), First: firstKey}
	if k.Max == 0 {
		k.Max = 256
	}
	if o.timed {
		k.First = o.timeout
	}
	if len(o.text) > 0 {
		k.Prompt = o.text[0]
	}
	keys, err := t.bay.Input(ctx, k, t.by)
	switch {
	case errors.Is(err, reader.ErrTimeout):
		return nil, swFailed, nil
	case errors.Is(err, reader.ErrCancelled):
		return nil, 0x6401, nil
	case err != nil:
		code, err := failure(err, swNotNow)
		return nil, code, err
	}
	return keys, swOK, nil
}

// pinCommand is the value of data object 52: how the PIN gets into which command.
type pinCommand struct {
	control  byte
	old, new int    // positions in the command, from 1: 6 is its first data byte; new: MODIFY only
	apdu     []byte // with its template
	given    bool   // the template came from the program
}

// Low bits of the control byte.
const (
	pinBCD = iota
	pinASCII
	pinFormat2 // ISO 9564-1 format 2 block: length nibble, BCD digits, filled with F
)

// parsePINCommand reads object 52. Without a template it makes the one that
// REINER SCT's terminals make.
func parsePINCommand(v []byte, modify bool) (p pinCommand, code sw) {
	head := 2
	if modify {
		head = 3
	}
	if len(v) < head+4 {
		return p, swLength
	}
	p.control, p.old = v[0], int(v[1])
	if modify {
		p.new = int(v[2])
	}
	if p.control&3 == 3 || p.control&0x0C != 0 {
		return p, swP1P2
	}
	p.apdu = append(p.apdu, v[head:head+4]...)
	template := v[head+4:]
	if p.old < 6 || modify && p.new < 6 && !(p.new == 0 && p.kind() == pinFormat2) {
		return p, swLength
	}
	if p.kind() == pinFormat2 && p.digits() != 0 && (p.digits() < 4 || p.digits() > 12) {
		return p, swLength
	}
	if modify && p.new == 0 {
		p.new = p.old + 8 // the new block follows the old one
	}
	if len(template) > 0 {
		if int(template[0]) != len(template)-1 || len(template) < 2 {
			return p, swLength
		}
		p.given = true
		p.apdu = append(p.apdu, template...)
	} else {
		size := p.blockSize()
		total := max(p.old, p.new) - 6 + size
		p.apdu = append(p.apdu, byte(total))
		for range total {
			p.apdu = append(p.apdu, 0xFF)
		}
	}
	if last := max(p.old, p.new) - 6 + p.digitBytes(); last > len(p.apdu)-5 {
		return p, swLength
	}
	return p, swOK
}

func (p pinCommand) kind() int { return int(p.control & 3) }

// digits is the fixed length of the PIN, 0 if the card holder ends it by OK.
func (p pinCommand) digits() int { return int(p.control >> 4) }

// blockSize is the room for a PIN in a template that we make.
func (p pinCommand) blockSize() int {
	switch n := p.digits(); {
	case p.kind() == pinFormat2, p.kind() == pinBCD && n == 0:
		return 8
	case p.kind() == pinBCD:
		return (n + 1) / 2
	case n > 0:
		return n
	}
	return 8
}

// digitBytes is the least room that the PIN takes.
func (p pinCommand) digitBytes() int {
	if p.digits() == 0 && p.kind() != pinFormat2 {
		return 1
	}
	return p.blockSize()
}

// format turns objects and command to perform into PC/SC part 10's terms.
func (p pinCommand) format(o objects) (f reader.PINFormat, code sw) {
	f.Timeout = byte(firstKey / time.Second)
	if o.timed {
		f.Timeout = byte(o.timeout / time.Second)
	}
	f.APDU = p.apdu
	at := p.old - 6
	room := len(p.apdu) - 5 - at
	if p.new > p.old {
		room = p.new - p.old
	}
	const inBytes = 0x80
	switch p.kind() {
	case pinASCII:
		f.Format = inBytes | 0x02
		f.MaxDigits = byte(min(room, 16))
		f.Block = byte(min(room, 15))
	case pinBCD:
		f.Format = inBytes | 0x01
		f.MaxDigits = byte(min(2*room, 16))
		f.Block = byte(min(room, 15))
	case pinFormat2:
		// The digits start behind a byte of control and length nibble; the
		// length goes into the low four bits of that byte.
		f.Format = inBytes | 1<<3 | 0x01
		f.MaxDigits = 12
		f.Block = 0x40 | 8
		f.Length = 0x04
		if len(p.apdu) > 5+at {
			p.apdu[5+at] = p.apdu[5+at]&0x0F | 0x20
		}
	}
	// A verification inserts at a position counted in the command's data; the
	// field has four bits.
	if pos := f.Format>>3&0x0F + byte(min(at, 15)); at > 15 || pos > 15 {
		return f, swNotNow
	} else if p.new == 0 {
		f.Format = f.Format&^0x78 | pos<<3
		if f.Length != 0 && at > 0 {
			return f, swNotNow
		}
	}
	f.MinDigits = 4
	f.Condition = 0x02 // the OK key ends the entry
	if n := p.digits(); n > 0 {
		f.MinDigits, f.MaxDigits = byte(n), byte(n)
		f.Condition |= 0x01
	}
	if o.lengths != nil {
		f.MinDigits, f.MaxDigits = o.lengths[0], min(o.lengths[1], f.MaxDigits)
	}
	if f.MinDigits > f.MaxDigits {
		f.MinDigits = f.MaxDigits
	}
	f.Messages = 0xFF // the reader's own texts
	if o.messages != nil {
		f.Messages = o.messages[0]
	}
	copy(f.MessageIndexes[:], o.indexes)
	f.Language = 0x0407 // German: CT-BCS is at home there
	return f, swOK
}

var pinTags = []byte{tagTimeout, tagText, tagCommand, tagLengths, tagIndexes, tagMessages}

// pinEntry does what PERFORM VERIFICATION and MODIFY VERIFICATION DATA share.
func (t *Terminal) pinEntry(c command, able bool, modify bool) (b *reader.Bay, p pinCommand, f reader.PINFormat, code sw) {
	if !able {
		return nil, p, f, swINS
	}
	if b = t.slot(c.p1); b == nil || c.p2 != 0 {
		return nil, p, f, swP1P2
	}
	if len(c.data) < 2 || c.le > 0 {
		return nil, p, f, swLength
	}
	o, code := parseObjects(c.data, pinTags...)
	if code != swOK {
		return nil, p, f, code
	}
	if p, code = parsePINCommand(o.command, modify); code != swOK {
		return nil, p, f, code
	}
	switch b.Info().State {
	case "empty":
		return nil, p, f, swNoCard
	case "present":
		return nil, p, f, swNotActive
	}
	f, code = p.format(o)
	return b, p, f, code
}

// verify is PERFORM VERIFICATION: the PIN goes from the keypad to the card.
func (t *Terminal) verify(ctx context.Context, c command) ([]byte, sw, error) {
	b, _, f, code := t.pinEntry(c, t.bay.PINSupport().Verify, false)
	if code != swOK {
		return nil, code, nil
	}
	return pinAnswer(b.VerifyPIN(ctx, &reader.PINVerify{PINFormat: f}, t.by))
}

// modify is MODIFY VERIFICATION DATA. Where both positions are the same no old
// PIN is asked for.
func (t *Terminal) modify(ctx context.Context, c command) ([]byte, sw, error) {
	b, p, f, code := t.pinEntry(c, t.bay.PINSupport().Modify, true)
	if code != swOK {
		return nil, code, nil
	}
	m := &reader.PINModify{PINFormat: f, OffsetOld: byte(p.old - 6), OffsetNew: byte(p.new - 6)}
	m.Confirm = 0x01 // ask for the new PIN twice
	if p.old != p.new {
		m.Confirm |= 0x02
	}
	return pinAnswer(b.ModifyPIN(ctx, m, t.by))
}

// pinAnswer is the card's status word, or 64 00, 64 01, 64 02 of the reader.
func pinAnswer(answer []byte, err error) ([]byte, sw, error) {
	switch {
	case err == nil && len(answer) >= 2:
		n := len(answer) - 2
		return answer[:n], sw(answer[n])<<8 | sw(answer[n+1]), nil
	case errors.Is(err, reader.ErrInvalid), errors.Is(err, reader.ErrUnsupported):
		return nil, swNotNow, nil
	}
	code, err := failure(err, swNoCard)
	if code == swFailed {
		code = swTransport
	}
	return nil, code, err
}
