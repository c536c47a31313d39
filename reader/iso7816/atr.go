package iso7816

import (
	"fmt"
	"slices"
)

// MaxATR is the length of the longest ATR, TS included (ISO/IEC 7816-3:2006 §8.2.1).
const MaxATR = 33

// ATRReason says why an ATR was refused.
type ATRReason string

// The reasons that ISO/IEC 7816-3:2006 §8 gives.
const (
	ATREmpty    ATRReason = "too short"       // not even TS and T0
	ATRTooLong  ATRReason = "too long"        // more than 33 bytes
	ATRBadTS    ATRReason = "bad TS"          // neither 3B nor 3F
	ATRMissing  ATRReason = "bytes missing"   // fewer than T0 and the TDs announce
	ATRLeftOver ATRReason = "bytes left over" // more than they announce
	ATRBadTCK   ATRReason = "bad TCK"         // T0..TCK do not XOR to 00
	ATRT15First ATRReason = "T=15 in TD1"     // T=15 is no protocol and cannot be the first
)

// ATRError is the error of ParseATR. It is ErrProtocol to errors.Is.
type ATRError struct {
	Reason ATRReason
	Detail string
}

func (e *ATRError) Error() string { return "ATR: " + e.Detail }
func (e *ATRError) Unwrap() error { return ErrProtocol }

func atrError(r ATRReason, format string, args ...any) error {
	return &ATRError{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Which bytes of a Group are there: bits 5..8 of T0 or TDi, shifted down.
const (
	HasTA = 1 << iota
	HasTB
	HasTC
	HasTD
)

// Group is one group of interface bytes, TAi TBi TCi TDi.
type Group struct {
	// T is the protocol that the group belongs to, from TD(i-1): for i > 2
	// the one whose parameters it carries, 15 for global ones. 0 for i = 1.
	T              int
	Has            byte // HasTA | HasTB | HasTC | HasTD
	TA, TB, TC, TD byte // valid if Has says so
}

// ATR is an answer to reset taken apart, ISO/IEC 7816-3:2006 §8.
type ATR struct {
	raw    []byte
	groups []Group // groups[0] is TA1..TD1
	hist   []byte
	tck    bool
	odd    []string
}

// ParseATR takes an answer to reset apart. b begins with TS, in direct
// convention (an inverse card's TS is 3F). The error is an *ATRError.
//
// Refused is what leaves in doubt which bytes mean what. Reserved values that
// real cards send, and readers have always accepted, are Oddities: the default
// is used in their place.
func ParseATR(b []byte) (*ATR, error) {
	if len(b) < 2 {
		return nil, atrError(ATREmpty, "%d bytes; TS and T0 are the least", len(b))
	}
	if b[0] != 0x3B && b[0] != 0x3F {
		hint := ""
		if b[0] == 0x03 {
			hint = " (03 is how a TS of 3F looks before the inverse convention is undone)"
		}
		return nil, atrError(ATRBadTS, "TS is %02X, neither 3B nor 3F%s", b[0], hint)
	}
	if len(b) > MaxATR {
		return nil, atrError(ATRTooLong, "%d bytes; %d are the most", len(b), MaxATR)
	}
	a := &ATR{raw: slices.Clone(b)}
	b = a.raw

	n, td, t := 2, b[1], 0
	for i := 1; ; i++ {
		g := Group{T: t, Has: td >> 4}
		for j, p := range [...]*byte{&g.TA, &g.TB, &g.TC, &g.TD} {
			if g.Has&(1<<j) == 0 {
				continue
			}
			if n == len(b) {
				return nil, atrError(ATRMissing, "T%c%d is announced, but the ATR ends after %d bytes", 'A'+j, i, n)
			}
			*p = b[n]
			n++
		}
		if g.Has != 0 || i == 1 {
			a.groups = append(a.groups, g)
		}
		if g.Has&HasTD == 0 {
			break
		}
		td, t = g.TD, int(g.TD&0x0F)
		if i == 1 && t == 15 {
			return nil, atrError(ATRT15First, "TD1 is %02X: T=15 is not a protocol and cannot come first", td)
		}
		if t != 0 {
			a.tck = true
		}
	}

	k := int(b[1] & 0x0F)
	if len(b)-n < k {
		return nil, atrError(ATRMissing, "%d historical bytes are announced, %d are there", k, len(b)-n)
	}
	a.hist = b[n : n+k : n+k]
	n += k
	if a.tck {
		if n == len(b) {
			return nil, atrError(ATRMissing, "TCK is missing; it is required when a protocol other than T=0 is offered")
		}
		n++
		if x := LRC(b[1:n]); x != 0 {
			return nil, atrError(ATRBadTCK, "TCK is %02X instead of %02X", b[n-1], b[n-1]^x)
		}
	}
	switch left := len(b) - n; {
	case left == 1 && !a.tck && LRC(b[1:]) == 0:
		a.oddity("the last byte is a TCK, which does not belong there when only T=0 is offered")
	case left > 0:
		return nil, atrError(ATRLeftOver, "%d bytes announced, %d are there", n, len(b))
	}
	a.findOddities()
	return a, nil
}

func (a *ATR) oddity(format string, args ...any) {
	a.odd = append(a.odd, fmt.Sprintf(format, args...))
}

func (a *ATR) findOddities() {
	last := 0
	for i, g := range a.groups {
		if g.Has&HasTD == 0 {
			continue
		}
		t := int(g.TD & 0x0F)
		if t < last {
			a.oddity("TD%d names T=%d after T=%d; they should ascend", i+1, t, last)
		}
		last = max(last, t)
	}
	g := a.groups[0]
	if g.Has&HasTA != 0 {
		if _, _, _, ok := decodeFD(g.TA); !ok {
			a.oddity("TA1 is %02X: reserved F or D, not used", g.TA)
		}
	}
	if t, _, ok := a.Specific(); ok {
		if !slices.Contains(a.Protocols(), t) {
			a.oddity("TA2 fixes T=%d, which no TD offers", t)
		}
		if ta2 := a.groups[1].TA; ta2&0x60 != 0 {
			a.oddity("TA2 is %02X: reserved bits are set", ta2)
		}
	}
	if wi, ok := a.tc2(); ok && wi == 0 {
		a.oddity("TC2 is 00: reserved; WI 10 is used")
	}
	ta, tb, tc := a.first(1)
	if ta != nil && (*ta == 0 || *ta == 0xFF) {
		a.oddity("IFSC is %02X: reserved; 32 is used", *ta)
	}
	if tb != nil && *tb>>4 > 9 {
		a.oddity("BWI is %d: reserved; 9 is used", *tb>>4)
	}
	if tc != nil && *tc > 1 {
		a.oddity("the EDC byte is %02X: reserved bits are set", *tc)
	}
}

// first finds the specific interface bytes of protocol t: the first TAi, TBi,
// TCi with i > 2 in a group of that protocol; nil where absent.
func (a *ATR) first(t int) (ta, tb, tc *byte) {
	for i := 2; i < len(a.groups); i++ {
		g := &a.groups[i]
		if g.T != t {
			continue
		}
		if ta == nil && g.Has&HasTA != 0 {
			ta = &g.TA
		}
		if tb == nil && g.Has&HasTB != 0 {
			tb = &g.TB
		}
		if tc == nil && g.Has&HasTC != 0 {
			tc = &g.TC
		}
	}
	return ta, tb, tc
}

func (a *ATR) tc2() (wi byte, ok bool) {
	if len(a.groups) < 2 || a.groups[1].Has&HasTC == 0 {
		return 0, false
	}
	return a.groups[1].TC, true
}

// ta1 is TA1, or 11 if it is absent or reserved.
func (a *ATR) ta1() byte {
	if g := a.groups[0]; g.Has&HasTA != 0 {
		if _, _, _, ok := decodeFD(g.TA); ok {
			return g.TA
		}
	}
	return DefaultTA1
}

// Bytes is the whole ATR.
func (a *ATR) Bytes() []byte { return slices.Clone(a.raw) }

// Inverse says whether the card uses the inverse convention (TS 3F).
func (a *ATR) Inverse() bool { return a.raw[0] == 0x3F }

// Groups are the interface bytes: index 0 is TA1 to TD1.
func (a *ATR) Groups() []Group { return slices.Clone(a.groups) }

// Historical are the historical bytes, without TCK.
func (a *ATR) Historical() []byte { return slices.Clone(a.hist) }

// Oddities says in words what the standard does not allow but the card is used
// in spite of; nil for most cards.
func (a *ATR) Oddities() []string { return slices.Clone(a.odd) }

// Protocols are the protocols offered, each once; the first is the one that
// holds without a PPS. T=15 is not one. Without TD1 it is T=0 alone.
func (a *ATR) Protocols() []int {
	var ts []int
	for _, g := range a.groups {
		if t := int(g.TD & 0x0F); g.Has&HasTD != 0 && t != 15 && !slices.Contains(ts, t) {
			ts = append(ts, t)
		}
	}
	if ts == nil {
		ts = []int{0}
	}
	return ts
}

// Specific says whether the card is in specific mode (TA2 is there), and then
// with which protocol. No PPS is allowed then. implicit: F and D are not those
// of TA1 but known to the interface device in another way
// (ISO/IEC 7816-3:2006 §8.3, TA2 bit 5).
func (a *ATR) Specific() (t int, implicit, ok bool) {
	if len(a.groups) < 2 || a.groups[1].Has&HasTA == 0 {
		return 0, false, false
	}
	ta2 := a.groups[1].TA
	return int(ta2 & 0x0F), ta2&0x10 != 0, true
}

// Changeable says whether a card in specific mode may be moved to negotiable
// mode by a warm reset (TA2 bit 8 not set).
func (a *ATR) Changeable() bool {
	_, _, ok := a.Specific()
	return ok && a.groups[1].TA&0x80 == 0
}

// Default is the protocol in force without a PPS.
func (a *ATR) Default() int {
	if t, _, ok := a.Specific(); ok {
		return t
	}
	return a.Protocols()[0]
}

// Params are the parameters in force without a PPS if protocol t is used: in
// negotiable mode F and D are the default 11, in specific mode those of TA1 (11
// if they are implicit: nothing here knows them). The error is ErrUnsupported
// if the card does not offer t, or is in specific mode with another protocol.
func (a *ATR) Params(t int) (Params, error) {
	p := DefaultParams(t)
	st, implicit, specific := a.Specific()
	switch {
	case specific && st != t:
		return p, fmt.Errorf("the card is in specific mode with T=%d, T=%d: %w", st, t, ErrUnsupported)
	case !specific && !slices.Contains(a.Protocols(), t):
		return p, fmt.Errorf("the card offers T=%v, not T=%d: %w", a.Protocols(), t, ErrUnsupported)
	case specific && !implicit:
		if g := a.groups[0]; g.Has&HasTA != 0 {
			if _, _, _, ok := decodeFD(g.TA); !ok {
				return p, fmt.Errorf("the card is in specific mode with TA1 = %02X, a reserved F or D: %w", g.TA, ErrUnsupported)
			}
		}
		p.TA1 = a.ta1()
	}
	if g := a.groups[0]; g.Has&HasTC != 0 {
		p.N = g.TC
	}
	if wi, ok := a.tc2(); ok && wi != 0 {
		p.WI = wi
	}
	ta, tb, tc := a.first(1)
	if ta != nil && *ta != 0 && *ta != 0xFF {
		p.IFSC = int(*ta)
	}
	if tb != nil {
		p.BWI, p.CWI = min(*tb>>4, 9), *tb&0x0F
	}
	if tc != nil {
		p.CRC = *tc&1 != 0
	}
	if ta, _, _ := a.first(15); ta != nil {
		p.ClockStop = *ta >> 6
	}
	return p, nil
}

// Best are the parameters to ask for by PPS if protocol t is to be used: the F
// and D that the card offers in TA1. Where the reader cannot use those, usable
// (nil: everything is) says so, and the next slower D with the same F is tried,
// then 11, which every reader can use. In specific mode nothing can be asked
// for and Best is Params.
func (a *ATR) Best(t int, usable func(ta1 byte) bool) (Params, error) {
	p, err := a.Params(t)
	if _, _, specific := a.Specific(); err != nil || specific {
		return p, err
	}
	offer := a.ta1()
	f, d, _, _ := decodeFD(offer)
	for {
		ta1, best := byte(DefaultTA1), 0
		if usable == nil || usable(offer) {
			ta1 = offer
		} else {
			for i, di := range fdD {
				// slower than 1/372 makes no sense: 11 is always allowed
				if di > best && di < d && di*372 > f {
					best, ta1 = di, offer&0xF0|byte(i)
				}
			}
		}
		if ta1 == offer || best == 0 {
			p.TA1 = ta1
			return p, nil
		}
		offer, d = ta1, best
	}
}

// NeedsPPS says whether p, from Best, differs from what holds without a PPS
// (ISO/IEC 7816-3:2006 §6.3.1). It is false in specific mode.
func (a *ATR) NeedsPPS(p Params) bool {
	if _, _, specific := a.Specific(); specific {
		return false
	}
	return p.T != a.Default() || p.TA1 != DefaultTA1
}
