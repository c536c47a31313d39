package reader

import (
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// FollowTrace subscribes to a decoded log of what crosses the slot, a line an
// entry, from now on. Reference data (PINs) never enters it, nor its length.
func (b *Bay) FollowTrace() *Feed[string] {
	b.traced.Add(1)
	return b.traces.add(nil)
}

// CloseTrace ends a subscription of FollowTrace.
func (b *Bay) CloseTrace(f *Feed[string]) {
	b.traced.Add(-1)
	f.Close()
}

// secret tells whether a command's data field, or what its parts on the wire
// look like, may hold reference data: VERIFY, CHANGE REFERENCE DATA, RESET
// RETRY COUNTER and their kin (ISO/IEC 7816-4:2013 table 4). The class does not
// matter: cards use these INS in classes of their own. ENVELOPE carries any
// command, in pieces of which only the first shows which. PUT DATA and PUT KEY
// carry keys, and an OpenPGP card's resetting code.
func secret(ins byte) bool {
	switch ins {
	case 0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D, 0xC2, 0xC3, 0xD8, 0xDA, 0xDB:
		return true
	}
	return false
}

func (l *link) traced() bool { return l.bay.traced.Load() > 0 }

func (l *link) tracef(format string, args ...any) {
	if l.traced() {
		l.bay.traces.put(time.Now().Format("15:04:05.000000 ") + fmt.Sprintf(format, args...))
	}
}

// traceAPDU writes a command or an answer.
func (l *link) traceAPDU(dir byte, p []byte) {
	if dir == '<' {
		if n := len(p) - 2; l.masked && n > 0 {
			l.tracef("< R-APDU [masked] % X", p[n:])
		} else {
			l.tracef("< R-APDU % X", p)
		}
		return
	}
	switch {
	case len(p) < 4:
		l.tracef("> malformed C-APDU [masked]")
	case l.masked && len(p) > 4:
		l.tracef("> C-APDU % X [masked] %s", p[:4], iso7816.CommandName(p[1]))
	default:
		l.tracef("> C-APDU % X %s", p, iso7816.CommandName(p[1]))
	}
}

// traceWire writes what goes over the contacts below APDU level.
func (l *link) traceWire(dir byte, p []byte) {
	switch {
	case len(p) == 0 && dir == '<':
		l.tracef("<   (nothing)")
	case l.t1 != nil && !l.masked:
		l.tracef("%c   % X  %s", dir, p, iso7816.DescribeBlock(p))
	case l.t1 != nil && len(p) >= 3:
		l.tracef("%c   % X [masked]  %s", dir, p[:2], iso7816.DescribeBlock(p))
	case l.masked:
		l.tracef("%c   [masked]", dir)
	default:
		l.tracef("%c   % X", dir, p)
	}
}
