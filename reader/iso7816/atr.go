package iso7816

import (
	"fmt"
	"math/bits"
	"slices"
)

// MaxATR is the length of the longest ATR, TS included (ISO/IEC 7816-3:2006 §8.2.1).
const MaxATR = 33

// ATRReason is how an ATR violates the standard.
type ATRReason string

// What makes an ATR unusable (ISO/IEC 7816-3:2006 §8.1, §8.2.1).
const (
	ATREmpty   ATRReason = "no bytes"
	ATRTooLong ATRReason = "too long" // more than 33 bytes
	ATRBadTS   ATRReason = "bad TS"   // neither 3B nor 3F
)

// What real cards do in spite of ISO/IEC 7816-3:2006 §8.2 and §8.3.
const (
	ATRMissing  ATRReason = "bytes missing"   // fewer than T0 and the TDs announce
	ATRLeftOver ATRReason = "bytes left over" // more than they announce
	ATRBadTCK   ATRReason = "bad TCK"         // T0..TCK do not XOR to 00
	ATRT15First ATRReason = "T=15 in TD1"     // T=15 is no protocol and cannot be the first
	ATRSpareTCK ATRReason = "needless TCK"    // with T=0 alone
	ATRReserved ATRReason = "reserved value"  // or one that contradicts another
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

// ATRDefect is a violation of the standard in the ATR of a card that is used
// nevertheless.
type ATRDefect struct {
	Reason ATRReason
	Detail string
}

func (d ATRDefect) String() string { return d.Detail }

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
	raw     []byte
	groups  []Group // groups[0] is TA1..TD1
	hist    []byte
	tck     int // index of TCK in raw; 0: there is none
	rest    int // raw[rest:] was not announced
	defects []ATRDefect

	synchronous bool // raw is H1 to H4
}

// ParseATR takes an answer to reset apart. b begins with TS, in direct
// convention (an inverse card's TS is 3F). The error is an *ATRError.
//
// One in forty kinds of card in the field breaks the rules, and works with other
// systems' readers. So ParseATR refuses only what cannot be an ATR at all. It uses what
// it can decode and defaults for the rest, and Defects lists the violations.
func ParseATR(b []byte) (*ATR, error) {
	switch {
	case len(b) == 0:
		return nil, atrError(ATREmpty, "it has no bytes")
	case b[0] != 0x3B && b[0] != 0x3F:
		hint := ""
		if b[0] == 0x03 {
			hint = " (03 is how a TS of 3F looks before the inverse convention is undone)"
		}
		return nil, atrError(ATRBadTS, "TS is %02X, neither 3B nor 3F%s", b[0], hint)
	case len(b) > MaxATR:
		return nil, atrError(ATRTooLong, "%d bytes; %d are the most", len(b), MaxATR)
	}
	a := &ATR{raw: slices.Clone(b)}
	a.rest = a.parse()
	a.findReserved()
	return a, nil
}

// ATRLength is the least length of an ATR that begins with b. b is whole once it is that
// long. At character level it says how many more characters are sure to follow, so that
// none is read beyond the end. A card that announces no end has more than MaxATR.
func ATRLength(b []byte) int {
	if len(b) < 2 {
		return 2 // TS and T0
	}
	n, t, tck := 2+int(b[1]&0x0F), b[1], 0
	for i := 1; ; {
		group := bits.OnesCount8(t & 0xF0)
		n += group
		if i += group; t&0x80 == 0 || i >= len(b) {
			return n + tck
		}
		if t = b[i]; t&0x0F != 0 {
			tck = 1
		}
	}
}

// parse takes raw apart as far as it goes and returns how far that is.
func (a *ATR) parse() (n int) {
	b := a.raw
	if len(b) == 1 {
		a.groups = make([]Group, 1)
		a.defect(ATRMissing, "T0 is missing: the ATR ends after TS")
		return 1
	}
	n, td, t, needsTCK := 2, b[1], 0, false
	for i := 1; ; i++ {
		g := Group{T: t}
		for j, p := range [...]*byte{&g.TA, &g.TB, &g.TC, &g.TD} {
			has := byte(1 << j)
			if td>>4&has == 0 {
				continue
			}
			if n == len(b) {
				a.defect(ATRMissing, "T%c%d is announced, but the ATR ends after %d bytes", 'A'+j, i, n)
				if g.Has != 0 || i == 1 {
					a.groups = append(a.groups, g)
				}
				return n
			}
			*p = b[n]
			g.Has |= has
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
			a.defect(ATRT15First, "TD1 is %02X: T=15 is not a protocol and cannot come first", td)
		}
		needsTCK = needsTCK || t != 0
	}

	k := int(b[1] & 0x0F)
	if there := len(b) - n; there < k {
		a.defect(ATRMissing, "%d historical bytes are announced, %d are there", k, there)
		k = there
	}
	a.hist = b[n : n+k : n+k]
	n += k
	switch left := len(b) - n; {
	case needsTCK && left == 0:
		a.defect(ATRMissing, "TCK is missing; it is required when a protocol other than T=0 is offered")
		return n
	case needsTCK:
		a.tck = n
		n++
		if x := LRC(b[1:n]); x != 0 {
			a.defect(ATRBadTCK, "TCK is %02X instead of %02X", b[n-1], b[n-1]^x)
		}
	case left == 1 && LRC(b[1:]) == 0:
		a.tck = n
		a.defect(ATRSpareTCK, "the last byte is a TCK, which does not belong there when only T=0 is offered")
		return n + 1
	}
	if n < len(b) {
		a.defect(ATRLeftOver, "%d bytes announced, %d are there", n, len(b))
	}
	return n
}

func (a *ATR) defect(r ATRReason, format string, args ...any) {
	a.defects = append(a.defects, ATRDefect{r, fmt.Sprintf(format, args...)})
}

func (a *ATR) findReserved() {
	last := 0
	for i, g := range a.groups {
		if g.Has&HasTD == 0 {
			continue
		}
		t := int(g.TD & 0x0F)
		if t < last {
			a.defect(ATRReserved, "TD%d names T=%d after T=%d; they should ascend", i+1, t, last)
		}
		last = max(last, t)
	}
	g := a.groups[0]
	if g.Has&HasTA != 0 {
		if _, _, _, ok := decodeFD(g.TA); !ok {
			a.defect(ATRReserved, "TA1 is %02X: reserved F or D, not used", g.TA)
		}
	}
	if _, _, ok := a.Specific(); ok {
		ta2 := a.groups[1].TA
		if t := int(ta2 & 0x0F); !slices.Contains(a.Protocols(), t) {
			a.defect(ATRReserved, "TA2 fixes T=%d, which no TD offers", t)
		}
		if ta2&0x60 != 0 {
			a.defect(ATRReserved, "TA2 is %02X: reserved bits are set", ta2)
		}
	}
	if wi, ok := a.tc2(); ok && wi == 0 {
		a.defect(ATRReserved, "TC2 is 00: reserved; WI 10 is used")
	}
	ta, tb, tc := a.first(1)
	if ta != nil && (*ta == 0 || *ta == 0xFF) {
		a.defect(ATRReserved, "IFSC is %02X: reserved; 32 is used", *ta)
	}
	if tb != nil && *tb>>4 > 9 {
		a.defect(ATRReserved, "BWI is %d: reserved; 9 is used", *tb>>4)
	}
	if tc != nil && *tc > 1 {
		a.defect(ATRReserved, "the EDC byte is %02X: reserved bits are set", *tc)
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

// Inverse reports whether the card uses the inverse convention (TS 3F).
func (a *ATR) Inverse() bool { return a.raw[0] == 0x3F }

// Groups are the interface bytes: index 0 is TA1 to TD1.
func (a *ATR) Groups() []Group { return slices.Clone(a.groups) }

// Historical are the historical bytes, without TCK.
func (a *ATR) Historical() []byte { return slices.Clone(a.hist) }

// Defects are the violations of the standard in spite of which the card is used; nil
// for most cards.
func (a *ATR) Defects() []ATRDefect { return slices.Clone(a.defects) }

// Protocols are the protocols offered, each once; the first is the one that
// holds without a PPS. T=15 is not one. Without TD1 it is T=0 alone.
func (a *ATR) Protocols() []int {
	if a.synchronous {
		return nil
	}
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

// Specific reports whether the card is in specific mode (TA2 is there), and with
// which protocol. No PPS is allowed then. implicit: F and D are not those of TA1 but
// known to the interface device in another way (ISO/IEC 7816-3:2006 §8.3, TA2 bit 5).
func (a *ATR) Specific() (t int, implicit, ok bool) {
	if len(a.groups) < 2 || a.groups[1].Has&HasTA == 0 {
		return 0, false, false
	}
	ta2 := a.groups[1].TA
	t = int(ta2 & 0x0F)
	if offered := a.Protocols(); t > 1 && !slices.Contains(offered, t) {
		t = offered[0] // a protocol that there is not
	}
	return t, ta2&0x10 != 0, true
}

// Changeable reports whether a warm reset moves a card in specific mode to negotiable
// mode (ISO/IEC 7816-3:2006 §8.3, TA2 bit 8 not set).
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
// if they are reserved or implicit: nothing here knows them). The error is ErrUnsupported
// if the card does not offer t, or is in specific mode with another protocol.
func (a *ATR) Params(t int) (Params, error) {
	p := DefaultParams(t)
	p.Inverse = a.Inverse()
	st, implicit, specific := a.Specific()
	switch {
	case specific && st != t:
		return p, fmt.Errorf("the card is in specific mode with T=%d, T=%d: %w", st, t, ErrUnsupported)
	case !specific && !slices.Contains(a.Protocols(), t):
		return p, fmt.Errorf("the card offers T=%v, not T=%d: %w", a.Protocols(), t, ErrUnsupported)
	case specific && !implicit:
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
// and D that the card offers in TA1. If usable reports that the reader cannot use
// those (nil: it can use all), Best tries the next slower D with the same F, and at
// last 11, which every reader can use. In specific mode nothing can be asked for, and
// Best is Params.
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

// NeedsPPS reports whether p, from Best, differs from what holds without a PPS
// (ISO/IEC 7816-3:2006 §6.3.1). It is false in specific mode.
func (a *ATR) NeedsPPS(p Params) bool {
	if _, _, specific := a.Specific(); specific {
		return false
	}
	return p.T != a.Default() || p.TA1 != DefaultTA1
}
