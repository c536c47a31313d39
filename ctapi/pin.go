package ctapi

import (
	"context"
	"errors"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// prompt shows what a program wants the card holder to read while it waits,
// where there is a display; done takes it away. F in the high nibble of P2 asks
// for no prompt. What follows goes on with the context returned.
func (t *Terminal) prompt(ctx context.Context, s *core.Slot, p2 byte, o objects) (_ context.Context, done func()) {
	if p2>>4 == 0x0F {
		o.text = nil
	}
	ctx, done, _ = t.show(ctx, s, o.text, o.timeout)
	return ctx, done
}

// show shows the first of the texts, if there is one and a display that takes it.
// If ctx ends the waiting for the display, it ends that of what follows, too.
func (t *Terminal) show(ctx context.Context, s *core.Slot, text []string, limit time.Duration) (_ context.Context, done func(), shown bool) {
	if len(text) == 0 || s.Show(ctx, text[0], limit, t.by) != nil {
		return ctx, func() {}, false
	}
	ctx = context.WithoutCancel(ctx)
	return ctx, func() { s.Show(ctx, "", 0, t.by) }, true
}

// output executes OUTPUT: it shows a text on the display.
func (t *Terminal) output(ctx context.Context, c command) ([]byte, sw, error) {
	if t.home.Features().Display == nil {
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
	if err := t.home.Show(ctx, o.text[0], o.timeout, t.by); err != nil {
		code, err := failure(err, swNotNow)
		if code == swFailed {
			code = swNotNow
		}
		return nil, code, err
	}
	return nil, swOK, nil
}

// firstKey is how long a card holder has for the first key, if the program does
// not say or says 0.
const firstKey = 15 * time.Second

// input executes INPUT: it returns digits from the keypad to the program.
func (t *Terminal) input(ctx context.Context, c command) ([]byte, sw, error) {
	if t.home.Features().Keypad == nil {
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
	if c.p2>>4 == 1 && c.le != 1 {
		return nil, swLength, nil // key codes come one by one (REINER SCT)
	}
	k := reader.KeyInput{Max: c.le, Raw: c.p2>>4 == 1, Echo: reader.Echo(c.p2 & 0x0F), First: firstKey}
	if k.Max == 0 {
		k.Max = 256
	}
	if o.timeout > 0 {
		k.First = o.timeout
	}
	if len(o.text) > 0 {
		k.Prompt = o.text[0]
	}
	keys, err := t.home.Input(ctx, k, t.by)
	switch {
	case errors.Is(err, reader.ErrTimeout):
		return nil, swFailed, nil
	case errors.Is(err, reader.ErrCancelled):
		return nil, swCancelled, nil
	case err != nil:
		code, err := failure(err, swNotNow)
		if code == swFailed { // which here says that nobody typed
			code = swTransport
		}
		return nil, code, err
	}
	return keys, swOK, nil
}

// pinCommand is the value of data object 52: a command and how the PIN is inserted into it.
type pinCommand struct {
	control  byte
	old, new int    // where in the data field; new: MODIFY only
	apdu     []byte // with its template
}

// Low bits of the control byte.
const (
	pinBCD = iota
	pinASCII
	pinFormat2 // ISO 9564-1 format 2 block: 2, length, BCD digits, filled with F
)

// format2Block is the length of a format 2 block.
const format2Block = 8

// parsePINCommand reads object 52. Positions count the bytes of the command from
// 1, so that 6 is the first of the data field.
func parsePINCommand(v []byte, modify bool) (p pinCommand, code sw) {
	const dataAt = 6
	head := 2
	if modify {
		head = 3
	}
	if len(v) < head+4 {
		return p, swLength
	}
	p.control, p.old = v[0], int(v[1])-dataAt
	p.new = p.old
	if modify {
		p.new = int(v[2]) - dataAt
	}
	if p.control&0x0F > pinFormat2 {
		return p, swP1P2
	}
	if modify && v[2] == 0 && p.kind() == pinFormat2 {
		p.new = p.old + format2Block
	}
	if p.old < 0 || p.new < 0 {
		return p, swLength
	}
	if n := p.digits(); p.kind() == pinFormat2 && n != 0 && (n < 4 || n > 12) {
		return p, swLength
	}
	// One buffer, so that no copy of a part of the template remains elsewhere.
	p.apdu = append(make([]byte, 0, len(v)+256), v[head:head+4]...)
	if template := v[head+4:]; len(template) > 0 {
		if len(template) < 2 || int(template[0]) != len(template)-1 {
			return p, swLength
		}
		p.apdu = append(p.apdu, template...)
	} else {
		p.fill(modify)
	}
	if p.room() < p.least() || len(p.apdu) > 4+1+255 {
		return p, swLength
	}
	if p.kind() == pinFormat2 {
		p.apdu[5+p.old] = 0x20
		p.apdu[5+p.new] = 0x20
	}
	return p, swOK
}

// fill makes the template that REINER SCT's terminals make where the program
// gives none.
func (p *pinCommand) fill(modify bool) {
	size := 8
	switch n := p.digits(); {
	case p.kind() == pinBCD && n > 0:
		size = (n + 1) / 2
	case p.kind() == pinASCII && n > 0:
		size = n
	case p.kind() == pinASCII && !modify && p.old == 0:
		return // the data field is the digits and no more
	}
	total := max(p.old, p.new) + size
	p.apdu = append(p.apdu, byte(total))
	for range total {
		p.apdu = append(p.apdu, 0xFF)
	}
}

func (p pinCommand) kind() int { return int(p.control & 3) }

// digits is the fixed length of the PIN, 0 if the card holder ends it by OK.
func (p pinCommand) digits() int { return int(p.control >> 4) }

// bare reports whether the command has no data field until the PIN is in it.
func (p pinCommand) bare() bool { return len(p.apdu) == 4 }

// room returns the number of bytes for the PIN, or for each of two.
func (p pinCommand) room() int {
	if p.bare() {
		return 16
	}
	room := len(p.apdu) - 5 - max(p.old, p.new)
	if p.old != p.new {
		room = min(room, max(p.old-p.new, p.new-p.old))
	}
	return room
}

// least is the least room that the PIN takes.
func (p pinCommand) least() int {
	switch n := p.digits(); {
	case p.kind() == pinFormat2:
		return format2Block
	case n == 0:
		return 1
	case p.kind() == pinBCD:
		return (n + 1) / 2
	default:
		return n
	}
}

// format says the same in the terms of PC/SC part 10, §2.5.2 of which has the
// bits; 69 85 for what they cannot say.
func (p pinCommand) format(o objects, modify bool) (f reader.PINFormat, code sw) {
	const (
		inBytes = 0x80 // bmFormatString: the position counts bytes
		bcd     = 0x01
		ascii   = 0x02
	)
	f.APDU = p.apdu
	f.Timeout = byte(firstKey / time.Second)
	if o.timeout > 0 {
		f.Timeout = byte(o.timeout / time.Second)
	}
	// A verification has one position for the digits; a modification has two for
	// the PINs and counts that of the digits from there.
	at := p.old
	if modify {
		at = 0
	}
	room := min(p.room(), 15)
	switch p.kind() {
	case pinASCII:
		f.Format, f.MaxDigits = inBytes|ascii, byte(p.room())
		if !p.bare() {
			f.Block = byte(room)
		}
	case pinBCD:
		f.Format, f.Block, f.MaxDigits = inBytes|bcd, byte(room), byte(2*room)
	case pinFormat2:
		// The digits are the seven bytes behind the first, whose low half takes
		// how many they are: 89 47 04, as programs for cards with such PINs send
		// it. OpenSC's 21 48 04 puts digits and length at the same bit, which
		// leaves it to the reader what is meant.
		f.Format, f.Block, f.Length, f.MaxDigits = inBytes|bcd, 4<<4|(format2Block-1), byte(8*at+4), 12
		if at++; 8*(at-1)+4 > 15 {
			return f, swNotNow
		}
	}
	if at > 15 {
		return f, swNotNow
	}
	f.Format |= byte(at << 3)
	f.MaxDigits = min(f.MaxDigits, 16)
	f.MinDigits = 4
	f.Condition = 0x02 // the OK key ends the entry
	if n := p.digits(); n > 0 {
		f.MinDigits, f.MaxDigits = byte(n), byte(n)
		f.Condition |= 0x01
	} else if o.lengths != nil {
		f.MinDigits, f.MaxDigits = o.lengths[0], min(o.lengths[1], f.MaxDigits)
	}
	f.MinDigits = min(f.MinDigits, f.MaxDigits)
	f.Messages = 0xFF // the reader's own texts
	if o.messages != nil {
		f.Messages = o.messages[0]
	}
	copy(f.MessageIndexes[:], o.indexes)
	f.Language = 0x0407 // German: CT-BCS is at home there
	return f, swOK
}

var pinTags = []byte{tagTimeout, tagText, tagCommand, tagLengths, tagIndexes, tagMessages}

// pinEntry is the common part of PERFORM VERIFICATION and MODIFY VERIFICATION DATA.
type pinEntry struct {
	slot    *core.Slot
	by      core.Caller
	command pinCommand
	format  reader.PINFormat
	objects objects
}

func (t *Terminal) pinEntry(c command, able, modify bool) (e pinEntry, code sw) {
	if !able {
		return e, swINS
	}
	if e.slot = t.slot(c.p1); e.slot == nil || c.p2 != 0 {
		return e, swP1P2
	}
	if len(c.data) < 2 || c.le > 0 {
		return e, swLength
	}
	if e.objects, code = parseObjects(c.data, pinTags...); code != swOK {
		return e, code
	}
	if e.command, code = parsePINCommand(e.objects.command, modify); code != swOK {
		return e, code
	}
	switch e.slot.Info().State {
	case core.StateEmpty:
		return e, swNoCard
	case core.StatePresent:
		return e, swNotActive
	}
	e.by = t.by
	e.by.At = e.slot.Now() // before the look
	switch i := t.card(int(c.p1)); {
	case i.lapsed: // powered, but not by this program
		return e, swNotActive
	case i.session == nil:
		e.by.At = t.at
	}
	e.format, code = e.command.format(e.objects, modify)
	return e, code
}

// ask shows the program's own text, in place of the reader's. Where the reader has
// no display that takes one, its own it is.
func (t *Terminal) ask(ctx context.Context, e *pinEntry) (_ context.Context, done func()) {
	ctx, done, shown := t.show(ctx, e.slot, e.objects.text, 0)
	if shown && e.objects.messages == nil {
		e.format.Messages = 0x00
	}
	return ctx, done
}

// verify executes PERFORM VERIFICATION: the PIN goes from the keypad to the card.
func (t *Terminal) verify(ctx context.Context, c command) ([]byte, sw, error) {
	e, code := t.pinEntry(c, t.home.PINSupport().Verify, false)
	defer clear(e.command.apdu)
	if code != swOK {
		return nil, code, nil
	}
	ctx, done := t.ask(ctx, &e)
	defer done()
	answer, err := e.slot.VerifyPIN(ctx, &reader.PINVerify{PINFormat: e.format}, e.by)
	return t.pinAnswer(c, answer, err)
}

// modify is MODIFY VERIFICATION DATA. Where both positions are the same no old
// PIN is asked for.
func (t *Terminal) modify(ctx context.Context, c command) ([]byte, sw, error) {
	e, code := t.pinEntry(c, t.home.PINSupport().Modify, true)
	defer clear(e.command.apdu)
	if code != swOK {
		return nil, code, nil
	}
	ctx, done := t.ask(ctx, &e)
	defer done()
	m := &reader.PINModify{PINFormat: e.format, OffsetOld: byte(e.command.old), OffsetNew: byte(e.command.new)}
	m.Confirm = 0x01 // ask for the new PIN twice
	if m.OffsetOld != m.OffsetNew {
		m.Confirm |= 0x02
	}
	answer, err := e.slot.ModifyPIN(ctx, m, e.by)
	return t.pinAnswer(c, answer, err)
}

// pinAnswer is the card's status word, or 64 00, 64 01, 64 02 of the reader.
func (t *Terminal) pinAnswer(c command, answer []byte, err error) ([]byte, sw, error) {
	switch {
	case err == nil && len(answer) >= 2:
		n := len(answer) - 2
		code := sw(answer[n])<<8 | sw(answer[n+1])
		switch code {
		case swFailed, swCancelled, swDiffer:
		default:
			t.unit = unitOf(int(c.p1))
		}
		return answer[:n], code, nil
	case errors.Is(err, reader.ErrInvalid), errors.Is(err, reader.ErrUnsupported):
		return nil, swNotNow, nil
	case errors.Is(err, reader.ErrStale): // another card, or another state of it
		return nil, swNotActive, nil
	}
	code, err := failure(err, swNoCard)
	if code == swFailed {
		code = swTransport
	}
	return nil, code, err
}
