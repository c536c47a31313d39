// Package ctapi presents a reader and its slots as a card terminal to programs written for
// CT-API, such as German banking and health programs.
//
// CT-API is a C library with three functions: CT_init, CT_data, CT_close. Each CT_data has
// a command and the address of its destination (DAD): 0 is the first card, 1 the terminal
// (CT), 2 to 14 are further cards. The answer has the address of its source (SAD).
// Terminal.Data is CT_data; the C library in clib/ctapi only passes it through a file.
//
// The terminal itself understands the commands of CT-BCS (card terminal basic command
// set). They look like C-APDUs, mostly of class 20. RESET CT and REQUEST ICC activate a
// card, EJECT ICC powers it off, GET STATUS returns the states of the slots, INPUT and
// OUTPUT use keypad and display, PERFORM VERIFICATION asks for a PIN. P1 numbers the slots
// from 1. Answers are status words and data objects of tag, length and value.
// Terminal.Exchange answers these commands.
//
// The rules are those of CT-BCS 1.0 (MKT, part 4). The MKT documents are not public, so
// the rules are inferred from existing libraries and terminals. Where these differ, a
// comment says which one is followed.
package ctapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Terminal is one program's conversation with the terminal. It has its own
// selected file, its own preferences of protocols, and a session with each card
// that it activated. Slots are numbered from 1, as in P1.
type Terminal struct {
	home  *core.Slot
	by    core.Caller
	file  *file        // selected by SELECT FILE; nil: the master file
	want  map[int]int  // protocol preference, from SET INTERFACE PARAMETER
	cards map[int]*icc // the program's relation to the card in each slot
	unit  byte         // address of the unit that made the current status word
	at    core.Moment
}

// WrittenAt records when the program wrote the next command. A command for a card is meant
// for the card present at that time, unless this program has activated another one since.
func (t *Terminal) WrittenAt(at core.Moment) { t.at = at }

// New makes a terminal of the reader to which slot belongs.
func New(slot *core.Slot, by core.Caller) *Terminal {
	return &Terminal{home: slot, by: by, want: make(map[int]int), cards: make(map[int]*icc)}
}

// sw is a status word. CT-BCS 1.0 and the manuals of its libraries list them.
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

// parse derives the parts from the length: a header, with Le, with Lc and data, or with
// all of these.
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

// Check returns an error if b is shorter than a header.
func Check(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("CT-BCS: a command has at least 4 bytes, here are %d: %w", len(b), reader.ErrInvalid)
	}
	return nil
}

// Exchange answers a command. Faults of a command, a card or a slot are reported as a
// status word. Exchange returns an error only if the reader is gone or ctx ended a wait.
//
// ctx ends a command only before its first act, with reader.ErrInterrupted. Nothing was
// done then, and the command may be repeated. An act is anything that a card, a reader or
// a card holder can notice: power, a protocol, a text on the display, an entry at the
// keypad. After the first one, handlers continue with context.WithoutCancel.
func (t *Terminal) Exchange(ctx context.Context, b, dst []byte) ([]byte, error) {
	dst, _, err := t.exchange(ctx, b, dst)
	return dst, err
}

// exchange is Exchange. It also returns the unit that made the status word.
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
	if c.cla == 0x20 && c.ins == 0x16 { // INPUT: the digits may be a PIN
		clear(data)
	}
	return dst, t.unit, nil
}

type handlerFunc func(*Terminal, context.Context, command) ([]byte, sw, error)

// handler returns the method that answers c, and nil if c is no command of CT-BCS.
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

// slot returns the slot with number P1, counted from 1, and nil if there is none.
func (t *Terminal) slot(p1 byte) *core.Slot {
	slots := t.home.Siblings()
	if p1 < 1 || int(p1) > len(slots) {
		return nil
	}
	return slots[p1-1]
}

// failure converts an error of the core to a status word. absent is the command's status
// word for a slot without a card.
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
