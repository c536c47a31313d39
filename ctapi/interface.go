package ctapi

import (
	"context"

	"github.com/cardfs/cardfs/reader/core"
)

// setInterface executes SET INTERFACE PARAMETER, which selects the protocol of a card.
func (t *Terminal) setInterface(ctx context.Context, c command) ([]byte, sw, error) {
	s := t.slot(c.p1)
	if s == nil || c.p2 != 0 {
		return nil, swP1P2, nil
	}
	if c.le >= 0 || len(c.data) == 0 {
		return nil, swLength, nil
	}
	want := -1
	clocked := s.Info()
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
		case clocked.Synchronous() && (tag != 0x22 || value[0] == protocolByte(clocked)):
			// A memory card is clocked as it must be, and its geometry is known. Programs
			// written for a terminal that has to be told say it nevertheless.
			return nil, swOK, nil
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
	if was.session != nil { // the card may have been reset for the protocol
		if _, err := t.begin(context.WithoutCancel(ctx), s, int(c.p1), was.ours); err != nil {
			code, err := failure(err, swNoCard)
			return nil, code, err
		}
	}
	return nil, swAsync, nil
}

// freeze executes FREEZE. It makes a Telekom B1 watch its slots and report changes, which
// is always so here.
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
