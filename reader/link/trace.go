package link

import (
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// conceal decides what the trace may show of the exchange that begins. It does so even
// if nobody reads the trace: a reader of it may come in the middle.
func (l *Link) conceal(capdu []byte) {
	l.masked = l.secrecy.Next(capdu)
	l.wireMasked = l.masked || l.late
}

// reveal ends conceal. After an error the card may still send, in the next exchange,
// what belongs to this one.
func (l *Link) reveal(err error) {
	l.late = err != nil && l.wireMasked
	l.masked, l.wireMasked = false, false
}

// traceAPDU writes a command or an answer.
func (l *Link) traceAPDU(dir byte, p []byte) {
	switch {
	case dir == '<' && l.masked:
		l.Trace.Printf("< R-APDU %s", iso7816.MaskedAnswer(p))
	case dir == '<':
		l.Trace.Printf("< R-APDU % X", p)
	case malformed(p):
		l.Trace.Printf("> malformed C-APDU %s", iso7816.Masked)
	case l.masked:
		l.Trace.Printf("> C-APDU %s %s", iso7816.MaskedCommand(p), iso7816.CommandName(p[0], p[1]))
	default:
		l.Trace.Printf("> C-APDU % X %s", p, iso7816.CommandName(p[0], p[1]))
	}
}

// traceError writes why an exchange failed. The reason why a command is malformed tells
// a PIN's length even without numbers.
func (l *Link) traceError(err error) {
	switch {
	case l.masked && errors.Is(err, reader.ErrInvalid):
		err = reader.ErrInvalid
	case l.masked:
		err = concealed{err}
	}
	l.Trace.Printf("! %v", err)
}

// traceWire writes what goes over the contacts below APDU level.
func (l *Link) traceWire(dir byte, p []byte) {
	switch {
	case len(p) == 0 && dir == '<':
		l.Trace.Printf("<   (nothing)")
	case len(p) == 0:
	case l.wireMasked:
		l.Trace.Printf("%c   %s", dir, l.maskedWire(dir, p))
	case l.t1 != nil:
		l.Trace.Printf("%c   % X  %s", dir, p, iso7816.DescribeBlock(p))
	default:
		l.Trace.Printf("%c   % X", dir, p)
	}
}

// maskedWire is what may be shown of a message that carries a secret: under T=1 NAD
// and PCB, under T=0 CLA INS P1 P2 and SW1 SW2. P3 and LEN would tell a PIN's length.
// Single characters are never shown: only the machine knows which of them are
// procedure bytes.
func (l *Link) maskedWire(dir byte, p []byte) string {
	switch {
	case l.traits.Level == reader.Character:
	case l.t1 != nil:
		if l.wholeBlock(p) {
			return fmt.Sprintf("% X %s  %s", p[:2], iso7816.Masked, iso7816.DescribeBlock(p))
		}
	case dir == '<':
		return iso7816.MaskedAnswer(p)
	case len(p) > 4 && !malformed(p): // else nobody knows what the first four are
		return fmt.Sprintf("% X %s", p[:4], iso7816.Masked)
	}
	return iso7816.Masked
}

// wholeBlock reports whether p is as long as its prologue says. If it is not, its first
// bytes may be anything.
func (l *Link) wholeBlock(p []byte) bool {
	edc := 1
	if l.params.CRC {
		edc = 2
	}
	return len(p) >= 3 && p[0] == 0 && len(p) == 3+int(p[2])+edc
}

func malformed(capdu []byte) bool {
	_, err := iso7816.ParseCommand(capdu)
	return err != nil
}
