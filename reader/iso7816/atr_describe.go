package iso7816

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// describer collects the lines of a description: bytes, name, words.
type describer struct{ sb strings.Builder }

func (d *describer) line(b []byte, name, format string, args ...any) {
	left := fmt.Sprintf("%-11s %-4s", fmt.Sprintf("% X", b), name)
	if name == "" {
		left = fmt.Sprintf("%-16s", fmt.Sprintf("% X", b))
	}
	fmt.Fprintf(&d.sb, "%s %s\n", left, fmt.Sprintf(format, args...))
}

func (d *describer) note(name, format string, args ...any) {
	fmt.Fprintf(&d.sb, "%-16s %s\n", name, fmt.Sprintf(format, args...))
}

// Describe writes the ATR in words: a line for each byte (or data object in the
// historical bytes), then what follows from them. Waiting times are those at
// the usual clock of 3.58 MHz.
func (a *ATR) Describe(w io.Writer) error {
	var d describer
	if a.synchronous {
		a.describeSynchronous(&d)
		_, err := io.WriteString(w, d.sb.String())
		return err
	}
	b := a.raw
	convention := "direct convention"
	if a.Inverse() {
		convention = "inverse convention"
	}
	d.line(b[:1], "TS", "%s", convention)
	if len(b) > 1 {
		k := "no historical bytes"
		switch n := b[1] & 0x0F; {
		case n == 1:
			k = "1 historical byte"
		case n > 1:
			k = fmt.Sprintf("%d historical bytes", n)
		}
		d.line(b[1:2], "T0", "%s%s", follow(b[1]>>4, 1), k)
	}
	for i := range a.groups {
		a.describeGroup(&d, i)
	}
	describeHistorical(&d, a.hist)
	if n := a.tck; n > 0 {
		words := "check byte, right"
		if LRC(b[1:n+1]) != 0 {
			words = "check byte, wrong"
		} else if a.defective(ATRSpareTCK) {
			words += ", but not needed"
		}
		d.line(b[n:n+1], "TCK", "%s", words)
	}
	if a.rest < len(b) {
		d.line(b[a.rest:], "", "not announced")
	}

	fmt.Fprintln(&d.sb)
	var ts []string
	for _, t := range a.Protocols() {
		ts = append(ts, fmt.Sprintf("T=%d", t))
	}
	d.note("protocols", "%s", strings.Join(ts, ", "))
	t := a.Default()
	p, err := a.Params(t)
	if sp, _, ok := a.Specific(); ok {
		note := "a warm reset may change to negotiable mode"
		if !a.Changeable() {
			note = "cannot be changed"
		}
		d.note("mode", "specific, T=%d; %s", sp, note)
	} else {
		d.note("mode", "negotiable, T=%d without a PPS", t)
	}
	if err != nil {
		d.note("unusable", "%v", err)
	} else {
		if _, implicit, _ := a.Specific(); implicit {
			d.note("in force", "F and D implicit; if they are the default: %s", rate(p.TA1))
		} else {
			d.note("in force", "%s", rate(p.TA1))
		}
		if best, err := a.Best(t, nil); err == nil && best.TA1 != p.TA1 {
			d.note("by PPS", "%s", rate(best.TA1))
			p = best
		}
		for _, t := range a.Protocols() {
			q, err := a.Params(t)
			if err != nil || t > 1 {
				continue
			}
			q.TA1 = p.TA1
			if t == 0 {
				d.note("T=0", "work waiting time %s", brief(q.WWT(0)))
				continue
			}
			edc := "LRC"
			if q.CRC {
				edc = "CRC"
			}
			d.note("T=1", "blocks of up to %d bytes, %s; block waiting time %s, character waiting time %s",
				q.IFSC, edc, brief(q.BWT(0)), brief(q.CWT(0)))
		}
	}
	for _, f := range a.defects {
		d.note("defect", "%s", f.Detail)
	}
	_, err = io.WriteString(w, d.sb.String())
	return err
}

// brief is a duration with three digits at most.
func brief(d time.Duration) string {
	unit := time.Microsecond / 100
	for unit*1000 <= d {
		unit *= 10
	}
	return d.Round(unit).String()
}

func (a *ATR) defective(r ATRReason) bool {
	return slices.ContainsFunc(a.defects, func(d ATRDefect) bool { return d.Reason == r })
}

// follow lists the bytes that a T0 or TD announces: "TA1, TD1 follow; ".
func follow(has byte, i int) string {
	var names []string
	for j := range 4 {
		if has&(1<<j) != 0 {
			names = append(names, fmt.Sprintf("T%c%d", 'A'+j, i))
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0] + " follows; "
	}
	return strings.Join(names, ", ") + " follow; "
}

// rate says what TA1 means.
func rate(ta1 byte) string {
	f, d, maxHz, ok := decodeFD(ta1)
	if !ok {
		return "reserved"
	}
	bits := func(hz int) int { return (hz*d + f/2) / f }
	mhz := fmt.Sprintf("%g MHz", float64(maxHz)/1e6)
	etu := fmt.Sprintf("%.4g", float64(f)/float64(d))
	s := fmt.Sprintf("F %d, D %d: %s clock cycles a bit, ", f, d, etu)
	if maxHz > DefaultClockHz {
		s += fmt.Sprintf("%d bit/s at 3.58 MHz, ", bits(DefaultClockHz))
	}
	return s + fmt.Sprintf("%d bit/s at %s, the highest clock", bits(maxHz), mhz)
}

func (a *ATR) describeGroup(d *describer, i int) {
	g := &a.groups[i]
	n := i + 1
	for j, b := range [...]byte{g.TA, g.TB, g.TC, g.TD} {
		if g.Has&(1<<j) == 0 {
			continue
		}
		var words string
		switch {
		case j == 3:
			words = follow(b>>4, n+1) + tName(int(b&0x0F))
		case n == 1:
			words = [...]func(byte) string{rate, vpp, a.guardTime}[j](b)
		case n == 2:
			words = [...]func(byte) string{specific, vpp, waiting}[j](b)
		default:
			words = [...]func(int, byte, bool) string{taSpecific, tbSpecific, tcSpecific}[j](g.T, b, a.isFirst(i, j))
		}
		d.line([]byte{b}, fmt.Sprintf("T%c%d", 'A'+j, n), "%s", words)
	}
}

// isFirst reports whether TA, TB or TC (j) of group i is the first of its kind
// for its protocol: only that one counts.
func (a *ATR) isFirst(i, j int) bool {
	for k := 2; k < i; k++ {
		if a.groups[k].T == a.groups[i].T && a.groups[k].Has&(1<<j) != 0 {
			return false
		}
	}
	return true
}

func tName(t int) string {
	switch t {
	case 0, 1:
		return fmt.Sprintf("T=%d", t)
	case 14:
		return "T=14, a protocol outside the standard"
	case 15:
		return "T=15: global interface bytes"
	}
	return fmt.Sprintf("T=%d, reserved", t)
}

func vpp(byte) string { return "programming voltage, no longer used" }

func (a *ATR) guardTime(b byte) string {
	if b == 0xFF {
		return "extra guard time FF: the shortest, 12 etu for T=0, 11 etu for T=1"
	}
	if b == 0 {
		return "no extra guard time: 12 etu"
	}
	return fmt.Sprintf("extra guard time %d etu: %d etu altogether", b, 12+int(b))
}

func specific(b byte) string {
	s := fmt.Sprintf("specific mode, T=%d", b&0x0F)
	if b&0x10 != 0 {
		s += ", F and D implicit"
	} else {
		s += ", F and D by TA1"
	}
	if b&0x80 != 0 {
		return s + "; cannot change to negotiable mode"
	}
	return s + "; can change to negotiable mode"
}

func waiting(b byte) string {
	if b == 0 {
		return "T=0: WI 0, reserved"
	}
	return fmt.Sprintf("T=0: WI %d", b)
}

func unspecified(t int, first bool) string {
	if !first {
		return fmt.Sprintf("T=%d: the second of its kind, without meaning", t)
	}
	return fmt.Sprintf("T=%d: without meaning in the standard", t)
}

func taSpecific(t int, b byte, first bool) string {
	switch {
	case t == 1 && first && b != 0 && b != 0xFF:
		return fmt.Sprintf("T=1: IFSC %d", b)
	case t == 1 && first:
		return fmt.Sprintf("T=1: IFSC %02X, reserved", b)
	case t == 15 && first:
		stop := [...]string{
			"clock stop not supported",
			"clock may stop low",
			"clock may stop high",
			"clock may stop low or high",
		}[b>>6]
		return stop + "; " + classes(b&0x3F)
	}
	return unspecified(t, first)
}

func classes(b byte) string {
	var c []string
	for i, s := range [...]string{"A (5 V)", "B (3 V)", "C (1.8 V)"} {
		if b&(1<<i) != 0 {
			c = append(c, s)
		}
	}
	switch {
	case b&0x38 != 0 || len(c) == 0:
		return fmt.Sprintf("class indicator %02X, reserved", b)
	case len(c) == 1:
		return "class " + c[0] + " only"
	}
	return "classes " + strings.Join(c, ", ")
}

func tbSpecific(t int, b byte, first bool) string {
	switch {
	case t == 1 && first && b>>4 > 9:
		return fmt.Sprintf("T=1: BWI %d, reserved; CWI %d", b>>4, b&0x0F)
	case t == 1 && first:
		return fmt.Sprintf("T=1: BWI %d, CWI %d", b>>4, b&0x0F)
	case t == 15 && first && b == 0:
		return "contact C6 (SPU) not used"
	case t == 15 && first && b&0x80 != 0:
		return fmt.Sprintf("contact C6 (SPU), proprietary use %02X", b&0x7F)
	case t == 15 && first:
		return fmt.Sprintf("contact C6 (SPU), standard use %02X", b)
	}
	return unspecified(t, first)
}

func tcSpecific(t int, b byte, first bool) string {
	if t != 1 || !first {
		return unspecified(t, first)
	}
	s := "T=1: EDC is an LRC"
	if b&1 != 0 {
		s = "T=1: EDC is a CRC"
	}
	if b > 1 {
		s += ", reserved bits set"
	}
	return s
}
