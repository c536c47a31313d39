// Package ctapi answers CT-BCS, the command set of German card terminals that
// CT-API programs send to address CT. It stands beside package fs and speaks for
// one reader with all its slots.
//
// The rules are those of CT-BCS 1.0 (MKT, part 4), as far as other people's
// libraries and terminals show them; the MKT documents are not public. Where
// these differ, the comment says whom we follow.
package ctapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Terminal is one program's conversation with the terminal: it has its own
// selected file, its own preference of protocols, and a session with each card
// that it activated. Slots are numbered as P1 has them, from 1.
type Terminal struct {
	home  *core.Slot
	by    core.Caller
	file  *file        // selected by SELECT FILE; nil: the master file
	want  map[int]int  // protocol preference, from SET INTERFACE PARAMETER
	cards map[int]*icc // how the program stands to each slot's card
	unit  byte         // who made the status word of the command at hand
	at    core.Moment
}

// WrittenAt says when the next command was handed over. Unless this program itself
// brought another card since, what is for a card is for the one that was there then.
func (t *Terminal) WrittenAt(at core.Moment) { t.at = at }

// New makes a terminal of the reader that slot belongs to.
func New(slot *core.Slot, by core.Caller) *Terminal {
	return &Terminal{home: slot, by: by, want: make(map[int]int), cards: make(map[int]*icc)}
}

// sw is a status word. CT-BCS 1.0 and the manuals of its libraries name them.
type sw uint16

const (
	swOK          sw = 0x9000 // done; synchronous card
	swAsync       sw = 0x9001 // done; asynchronous card, or card removed
	swNoCardYet   sw = 0x6200 // no card, or not removed, within the time
	swActive      sw = 0x6201 // card already present and activated
	swFewer       sw = 0x6282 // end of data before Le
	swFailed      sw = 0x6400 // reset failed; at the keypad: time over
	swCancelled   sw = 0x6401
	swDiffer      sw = 0x6402 // the new PIN and its repetition
	swNoCard      sw = 0x64A1
	swNotActive   sw = 0x64A2
	swNoProtocol  sw = 0x64A3 // card could not be brought into the protocol
	swLength      sw = 0x6700
	swNoFile      sw = 0x6982 // no EF selected
	swNotNow      sw = 0x6985
	swP1P2        sw = 0x6A00
	swUnsupported sw = 0x6A80
	swNotFound    sw = 0x6A82
	swTLV         sw = 0x6A85
	swOffset      sw = 0x6B00
	swINS         sw = 0x6D00
	swCLA         sw = 0x6E00
	swTransport   sw = 0x6F00
)

// command is a CT-BCS command taken apart. CT-BCS has short lengths only.
type command struct {
	cla, ins, p1, p2 byte
	data             []byte
	le               int // -1: absent
}

// parse goes by the length: 4 bytes, Le, Lc and data, all.
func parse(b []byte) (c command, ok bool) {
	c = command{cla: b[0], ins: b[1], p1: b[2], p2: b[3], le: -1}
	switch body := b[4:]; {
	case len(body) == 0:
	case len(body) == 1:
		c.le = int(body[0])
	case body[0] == 0 || len(body) < 1+int(body[0]) || len(body) > 2+int(body[0]):
		return c, false
	default:
		n := 1 + int(body[0])
		c.data = body[1:n]
		if len(body) > n {
			c.le = int(body[n])
		}
	}
	return c, true
}

// Check refuses what is not even the head of a command.
func Check(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("CT-BCS: a command has at least 4 bytes, here are %d: %w", len(b), reader.ErrInvalid)
	}
	return nil
}

// Exchange answers a command. What is wrong with a command, a card or a slot is a
// status word; an error is returned only where the reader is gone or ctx ended
// a wait.
//
// ctx ends only what comes before the command's first act, with
// reader.ErrInterrupted: then nothing was done and the command may be sent again.
// An act is whatever a card, a reader or a card holder can notice: power, a
// protocol, a text on the display, an entry at the keypad. Handlers go on after
// one with context.WithoutCancel.
func (t *Terminal) Exchange(ctx context.Context, b, dst []byte) ([]byte, error) {
	dst, _, err := t.exchange(ctx, b, dst)
	return dst, err
}

// exchange is Exchange that also says which unit's status word the answer has.
func (t *Terminal) exchange(ctx context.Context, b, dst []byte) ([]byte, byte, error) {
	if err := Check(b); err != nil {
		return dst, 0, err
	}
	t.unit = addrCT
	c, ok := parse(b)
	var data []byte
	code := swLength
	var err error
	if ok {
		data, code, err = t.do(ctx, c)
	} else if handler(c) == nil {
		code = refusal(c)
	}
	if err != nil {
		return dst, 0, err
	}
	base := len(dst)
	dst = iso7816.AppendResponse(append(dst, data...), base, byte(code>>8), byte(code))
	if c.cla == 0x20 && c.ins == 0x16 { // INPUT: what was typed may be a PIN
		clear(data)
	}
	return dst, t.unit, nil
}

type handlerFunc func(*Terminal, context.Context, command) ([]byte, sw, error)

// handler finds who answers; nil: nobody.
func handler(c command) handlerFunc {
	switch uint16(c.cla)<<8 | uint16(c.ins) {
	case 0x2010, 0x2011:
		return (*Terminal).reset
	case 0x2012:
		return (*Terminal).request
	case 0x2013:
		return (*Terminal).status
	case 0x2014:
		return (*Terminal).deactivate
	case 0x2015:
		return (*Terminal).eject
	case 0x2016:
		return (*Terminal).input
	case 0x2017:
		return (*Terminal).output
	case 0x2018:
		return (*Terminal).verify
	case 0x2019:
		return (*Terminal).modify
	case 0x8060:
		return (*Terminal).setInterface
	case 0x8070:
		return (*Terminal).freeze
	case 0x00A4:
		return (*Terminal).selectFile
	case 0x00B0:
		return (*Terminal).readBinary
	}
	return nil
}

func refusal(c command) sw {
	if c.cla == 0x20 || c.cla == 0x80 || c.cla == 0x00 {
		return swINS
	}
	return swCLA
}

func (t *Terminal) do(ctx context.Context, c command) ([]byte, sw, error) {
	h := handler(c)
	if h == nil {
		return nil, refusal(c), nil
	}
	if err := t.home.WaitReady(ctx, t.by.Wait); err != nil {
		return nil, 0, err
	}
	return h(t, ctx, c)
}

// slot finds the slot that P1 names, counted from 1.
func (t *Terminal) slot(p1 byte) *core.Slot {
	slots := t.home.Siblings()
	if p1 < 1 || int(p1) > len(slots) {
		return nil
	}
	return slots[p1-1]
}

// failure turns an error of the core into a status word: absent is what the
// command says of a slot without a card.
func failure(err error, absent sw) (sw, error) {
	switch {
	case errors.Is(err, reader.ErrGone), errors.Is(err, reader.ErrInterrupted):
		return 0, err
	case errors.Is(err, reader.ErrNoCard):
		return absent, nil
	case errors.Is(err, reader.ErrLocked):
		return swNotNow, nil
	}
	return swFailed, nil
}

// reset is RESET CT, and with INS 10 its older form on B1 terminals.
func (t *Terminal) reset(ctx context.Context, c command) ([]byte, sw, error) {
	if c.p1 == 0 {
		switch {
		case c.p2 != 0:
			return nil, swP1P2, nil
		case len(c.data) > 0 || c.le > 0:
			return nil, swLength, nil
		}
		// The terminal's software reset switches the cards off (REINER SCT).
		for _, s := range t.home.Siblings() {
			if err := s.Power(ctx, core.PowerDown, t.by); err != nil {
				code, err := failure(err, swOK)
				if code != swOK {
					return nil, code, err
				}
			}
			ctx = context.WithoutCancel(ctx)
		}
		t.file = nil
		clear(t.want)
		t.forget()
		return nil, swOK, nil
	}
	s := t.slot(c.p1)
	if s == nil || c.p2 > 2 {
		return nil, swP1P2, nil
	}
	if c.p2 == 0 && c.le > 0 || c.p2 != 0 && c.le != 0 {
		return nil, swLength, nil
	}
	want := t.preference(int(c.p1))
	if len(c.data) > 1 { // libtowitoko: a PPS request to use instead of the default
		if c.data[0] != 0xFF || c.data[1]&0x0F > 1 {
			return nil, swUnsupported, nil
		}
		want = int(c.data[1] & 0x0F)
	}
	absent := swFailed
	if c.ins == 0x10 {
		absent = swNoCard
	}
	if err := s.Power(ctx, core.ResetCold, t.by); err != nil {
		code, err := failure(err, absent)
		return nil, code, err
	}
	return t.activated(context.WithoutCancel(ctx), s, c, want, absent)
}

// activated brings a card that has power into the protocol wanted, begins a
// session with it and answers what P2 asks for.
func (t *Terminal) activated(ctx context.Context, slot *core.Slot, c command, want int, absent sw) ([]byte, sw, error) {
	if want >= 0 {
		if code, err := t.protocol(ctx, slot, want, absent); code != swOK {
			return nil, code, err
		}
	}
	s, err := t.begin(ctx, slot, int(c.p1), true)
	if err != nil {
		code, err := failure(err, absent)
		return nil, code, err
	}
	i := slot.Info()
	code := swAsync
	if i.Synchronous() {
		code = swOK
	}
	switch c.p2 & 0x0F {
	case 1:
		return s.ATR(), code, nil
	case 2:
		return i.Historical(), code, nil
	}
	return nil, code, nil
}

// protocol brings the card into T=want.
func (t *Terminal) protocol(ctx context.Context, s *core.Slot, want int, absent sw) (sw, error) {
	err := s.SelectProtocol(ctx, want, t.by)
	if err == nil {
		return swOK, nil
	}
	code, err := failure(err, absent)
	if code == swFailed {
		code = swNoProtocol
	}
	return code, err
}

func (t *Terminal) preference(slot int) int {
	if want, ok := t.want[slot]; ok {
		return want
	}
	return -1
}

// request is REQUEST ICC: wait for a card and activate it. 62 01, after which
// programs must reset the card to learn its ATR, is for a card that this program
// activated before. One that another program, or an earlier run of this one, left
// with power is as good as just activated: OpenSC takes 62 01 for a failure and
// never ejects, and would work once.
func (t *Terminal) request(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2&0x0F > 2 {
		return nil, swP1P2, nil
	}
	if c.le > 0 {
		return nil, swLength, nil
	}
	o, code := parseObjects(c.data, tagTimeout, tagText)
	if code != swOK {
		return nil, code, nil
	}
	switch state := s.Info().State; {
	case t.card(int(c.p1)).ours:
		return nil, swActive, nil
	case state == core.StateEmpty && o.timeout > 0:
		var done func()
		ctx, done = t.prompt(ctx, s, c.p2, o)
		defer done()
		arrived, err := waitFor(ctx, s, o.timeout, func(state core.State) bool { return state != core.StateEmpty })
		if err != nil {
			return nil, 0, err
		}
		if !arrived {
			t.absent(int(c.p1))
			return nil, swNoCardYet, nil
		}
	}
	if err := s.Power(ctx, core.PowerUp, t.by); err != nil {
		code, err := failure(err, swNoCardYet)
		if code == swNoCardYet {
			t.absent(int(c.p1))
		}
		return nil, code, err
	}
	return t.activated(context.WithoutCancel(ctx), s, c, t.preference(int(c.p1)), swNoCardYet)
}

// absent notes that there is no card. The next one's first command opens it.
func (t *Terminal) absent(slot int) {
	t.card(slot).end()
	delete(t.cards, slot)
}

// waitFor waits until the slot's state is as wanted, or the time is over.
func waitFor(ctx context.Context, s *core.Slot, limit time.Duration, wanted func(core.State) bool) (bool, error) {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	events := s.Follow()
	defer events.Close()
	for !wanted(s.Info().State) {
		if _, _, err := events.Next(timed); err != nil {
			if errors.Is(err, reader.ErrInterrupted) && ctx.Err() == nil {
				return wanted(s.Info().State), nil
			}
			return false, err
		}
	}
	return true, nil
}

// status is GET STATUS. Answers are data objects (CT-BCS 1.0); the older form
// without tag and length is not used any more.
func (t *Terminal) status(ctx context.Context, c command) ([]byte, sw, error) {
	if c.p1 != 0 && (c.p2 != 0x80 || t.slot(c.p1) == nil) {
		return nil, swP1P2, nil
	}
	if len(c.data) > 0 || c.le != 0 {
		return nil, swLength, nil
	}
	switch c.p2 {
	case 0x46: // manufacturer: country and maker, type, software version
		return append([]byte{0x46, 15}, "EUCFS"+"CRDFS"+"01.00"...), swOK, nil
	case 0x80:
		object := []byte{0x80, 0}
		for i, slot := range t.home.Siblings() {
			if c.p1 == 0 || int(c.p1) == i+1 {
				object = append(object, slotState(slot))
			}
		}
		object[1] = byte(len(object) - 2)
		return object, swOK, nil
	case 0x81:
		object := []byte{0x81, 0}
		for i := range t.home.Siblings() {
			object = append(object, byte(i+1))
		}
		if t.home.Features().Display != nil {
			object = append(object, unitDisplay)
		}
		if s := t.home.PINSupport(); s.Verify || s.Modify {
			object = append(object, unitKeypad)
		}
		object[1] = byte(len(object) - 2)
		return object, swOK, nil
	}
	return nil, swP1P2, nil
}

// Functional units (CT-BCS 1.0, values of P1 and of data object 81).
const (
	unitDisplay = 0x40
	unitKeypad  = 0x50
)

// slotState is the byte of data object 80: b1 card present; b3 b2: 10
// connected, 01 not.
func slotState(s *core.Slot) byte {
	switch s.Info().State {
	case core.StatePresent:
		return 0x03
	case core.StatePowered:
		return 0x05
	}
	return 0x00
}

// deactivate is DEACTIVATE ICC: power off.
func (t *Terminal) deactivate(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2 != 0 {
		return nil, swP1P2, nil
	}
	if len(c.data) > 0 || c.le > 0 {
		return nil, swLength, nil
	}
	if s.Info().State == core.StateEmpty {
		return nil, swNoCard, nil
	}
	if err := s.Power(ctx, core.PowerDown, t.by); err != nil {
		code, err := failure(err, swNoCard)
		return nil, code, err
	}
	t.card(int(c.p1)).end()
	return nil, swOK, nil
}

// ejectStay in P2 of EJECT ICC: do not wait for the card to be taken.
const ejectStay = 0x04

// eject is EJECT ICC: power off, throw out where the reader can, and, with a
// time, wait until the card was taken.
func (t *Terminal) eject(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2 > 0x0F {
		return nil, swP1P2, nil
	}
	if c.le > 0 {
		return nil, swLength, nil
	}
	o, code := parseObjects(c.data, tagTimeout, tagText)
	if code != swOK {
		return nil, code, nil
	}
	if s.Info().State == core.StateEmpty {
		t.card(int(c.p1)).end()
		return nil, swOK, nil
	}
	err := s.Power(ctx, core.Eject, t.by)
	if errors.Is(err, reader.ErrUnsupported) { // known only when it is tried
		err = s.Power(ctx, core.PowerDown, t.by)
	}
	if err != nil {
		code, err := failure(err, swOK)
		return nil, code, err
	}
	ctx = context.WithoutCancel(ctx)
	t.card(int(c.p1)).end()
	if o.timeout == 0 || c.p2&ejectStay != 0 {
		return nil, swOK, nil
	}
	_, done := t.prompt(ctx, s, c.p2, o)
	defer done()
	taken, err := waitFor(ctx, s, o.timeout, func(state core.State) bool { return state == core.StateEmpty })
	switch {
	case err != nil:
		return nil, 0, err
	case taken:
		return nil, swAsync, nil
	}
	return nil, swNoCardYet, nil
}

// setInterface is SET INTERFACE PARAMETER: which protocol a card is to speak.
func (t *Terminal) setInterface(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2 != 0 {
		return nil, swP1P2, nil
	}
	if c.le >= 0 || len(c.data) == 0 {
		return nil, swLength, nil
	}
	want := -1
	for rest := c.data; len(rest) > 0; {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return nil, swLength, nil
		}
		tag, value := rest[0], rest[2:2+int(rest[1])]
		rest = rest[2+int(rest[1]):]
		switch {
		case tag != 0x22 && tag != 0x44 && tag != 0x45:
			return nil, swTLV, nil
		case len(value) != 1:
			return nil, swLength, nil
		case tag == 0x22 && (value[0] == 1 || value[0] == 2):
			want = int(value[0]) - 1
		default:
			// Protocols and geometries of memory cards.
			return nil, swUnsupported, nil
		}
	}
	if s.Info().State != core.StatePowered {
		t.want[int(c.p1)] = want
		return nil, swOK, nil // for the next RESET or REQUEST ICC
	}
	was := *t.card(int(c.p1))
	if code, err := t.protocol(ctx, s, want, swNoCard); code != swOK {
		return nil, code, err
	}
	t.want[int(c.p1)] = want
	if was.session != nil { // the card may have been reset for it
		if _, err := t.begin(context.WithoutCancel(ctx), s, int(c.p1), was.ours); err != nil {
			code, err := failure(err, swNoCard)
			return nil, code, err
		}
	}
	return nil, swAsync, nil
}

// freeze is FREEZE: a Telekom B1 then watches its slots by itself and says when
// something changes, which here is always so.
func (t *Terminal) freeze(ctx context.Context, c command) ([]byte, sw, error) {
	switch {
	case c.p1 != 0 || c.p2 != 0:
		return nil, swP1P2, nil
	case len(c.data) < 2 || c.le >= 0:
		return nil, swLength, nil
	case c.data[0] != 0x30 || int(c.data[1]) != len(c.data)-2:
		return nil, swTLV, nil
	}
	return nil, swOK, nil
}

// protocolByte is the value of data object 22: the protocol that a card speaks (CT-BCS
// 1.0, SET INTERFACE PARAMETER), or how a memory card is clocked.
func protocolByte(i core.Info) byte {
	if !i.Synchronous() {
		return byte(i.Params.T + 1)
	}
	switch i.Chip.Bus {
	case reader.ThreeWire:
		return 0x81
	case reader.TwoWire:
		return 0x82
	case reader.CounterCard:
		return 0x90
	}
	return 0x80
}
