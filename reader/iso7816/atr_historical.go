package iso7816

import (
	"fmt"
	"strings"
)

// describeHistorical decodes the historical bytes, ISO/IEC 7816-4:2013 §12.1.1.
func describeHistorical(d *describer, h []byte) {
	if len(h) == 0 {
		return
	}
	switch c := h[0]; {
	case c == 0x00:
		d.line(h[:1], "", "historical bytes with three status bytes at the end")
		objects, status := h[1:], []byte(nil)
		if len(h) >= 4 {
			objects, status = h[1:len(h)-3], h[len(h)-3:]
		}
		describeObjects(d, objects)
		if status == nil {
			d.note("", "the three status bytes are missing")
			return
		}
		d.line(status, "", "status: %s", lifeCycleStatus(status))
	case c == 0x10:
		d.line(h[:1], "", "historical bytes with a DIR data reference")
		if len(h) > 1 {
			d.line(h[1:2], "", "DIR data reference")
		}
		if len(h) > 2 {
			d.line(h[2:], "", "proprietary%s", quoted(h[2:]))
		}
	case c == 0x80:
		d.line(h[:1], "", "historical bytes in COMPACT-TLV")
		describeObjects(d, h[1:])
	case c > 0x80 && c <= 0x8F:
		d.line(h, "", "historical bytes, category %02X, reserved%s", c, quoted(h))
	default:
		d.line(h, "", "historical bytes, proprietary%s", quoted(h))
	}
}

// quoted is b as text, if it has any worth reading.
func quoted(b []byte) string {
	letters := 0
	s := strings.Map(func(r rune) rune {
		if r > 0x20 && r < 0x7F {
			letters++
			return r
		}
		if r == ' ' {
			return r
		}
		return '.'
	}, latin(b))
	if letters < 3 {
		return ""
	}
	return ": " + s
}

// latin makes each byte one rune.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

// describeObjects decodes COMPACT-TLV data objects: tag and length in a nibble
// each (§12.1.1.2).
func describeObjects(d *describer, b []byte) {
	for len(b) > 0 {
		tag, n := b[0]>>4, int(b[0]&0x0F)
		if len(b) < 1+n {
			d.line(b, "", "broken COMPACT-TLV: the object has %d bytes, %d follow%s", n, len(b)-1, quoted(b[1:]))
			return
		}
		v := b[1 : 1+n]
		d.line(b[:1+n], "", "%s", object(tag, v))
		b = b[1+n:]
	}
}

func object(tag byte, v []byte) string {
	switch {
	case tag == 1:
		return "country code " + digits(v)
	case tag == 2:
		return "issuer identification number " + digits(v)
	case tag == 3 && len(v) == 1:
		return "card service data: " + serviceData(v[0])
	case tag == 4:
		return fmt.Sprintf("initial access data % X", v)
	case tag == 5:
		return "card issuer's data" + quoted(v)
	case tag == 6:
		return "pre-issuing data" + quoted(v)
	case tag == 7 && len(v) >= 1 && len(v) <= 3:
		return "card capabilities: " + capabilities(v)
	case tag == 8 && len(v) >= 1 && len(v) <= 3:
		return "status: " + lifeCycleStatus(v)
	case tag == 15:
		return fmt.Sprintf("application identifier % X%s", v, quoted(v))
	}
	return fmt.Sprintf("data object 4%X%s", tag, quoted(v))
}

// digits is v as packed decimal digits, filled up with F.
func digits(v []byte) string {
	return strings.TrimRight(fmt.Sprintf("%X", v), "F")
}

// flags lists what is set in b; names go from bit 8 down, "" where unnamed.
func flags(b byte, names ...string) []string {
	var out []string
	for i, s := range names {
		if s != "" && b&(0x80>>i) != 0 {
			out = append(out, s)
		}
	}
	return out
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// serviceData is §12.1.1.7.
func serviceData(b byte) string {
	w := flags(b, "application selection by full DF name", "by partial DF name",
		"data objects in EF.DIR", "data objects in EF.ATR/INFO")
	switch b >> 1 & 7 {
	case 4:
		w = append(w, "read with READ BINARY")
	case 2:
		w = append(w, "read with GET DATA")
	case 0:
		w = append(w, "read with READ RECORD")
	}
	if b&1 != 0 {
		w = append(w, "no MF")
	} else {
		w = append(w, "with MF")
	}
	return list(w)
}

// capabilities is §12.1.1.9: three software function tables.
func capabilities(v []byte) string {
	s := "DF selection: " + list(flags(v[0], "by full name", "by partial name", "by path", "by file identifier", "implicit"))
	ef := flags(v[0]<<5, "by short EF identifier", "by record number", "by record identifier")
	s += "; EF access: " + list(ef)
	if len(v) > 1 {
		s += "; writing: " + [...]string{"one-time", "proprietary", "OR", "AND"}[v[1]>>5&3]
		if v[1]&0x80 != 0 {
			s += "; EFs of TLV structure"
		}
		if unit := v[1] & 0x0F; unit == 0 {
			s += "; data units of half a byte"
		} else if unit == 1 {
			s += "; data units of 1 byte"
		} else {
			s += fmt.Sprintf("; data units of %d bytes", 1<<(unit-1))
		}
	}
	if len(v) > 2 {
		for _, w := range flags(v[2], "command chaining", "extended length", "length limits in EF.ATR/INFO") {
			s += "; " + w
		}
		assigned := flags(v[2]<<3, "by the card", "by the interface device")
		switch n := v[2] & 7; {
		case len(assigned) == 0:
			s += "; no logical channels"
		case n == 7:
			s += "; 8 or more logical channels, assigned " + strings.Join(assigned, " or ")
		default:
			s += fmt.Sprintf("; %d logical channels, assigned %s", n+1, strings.Join(assigned, " or "))
		}
	}
	return s
}

// lifeCycleStatus is §12.1.1.10: a life cycle status byte, a status word, or both.
func lifeCycleStatus(v []byte) string {
	var w []string
	if len(v) != 2 {
		w = append(w, lifeCycle(v[0]))
		v = v[1:]
	}
	if len(v) == 2 {
		w = append(w, fmt.Sprintf("SW %02X%02X", v[0], v[1]))
	}
	return strings.Join(w, ", ")
}

// lifeCycle is the life cycle status byte, §7.4.10.
func lifeCycle(b byte) string {
	switch {
	case b == 0:
		return "no life cycle information"
	case b == 1:
		return "in creation"
	case b == 3:
		return "in initialisation"
	case b&0xFD == 5:
		return "operational, activated"
	case b&0xFD == 4:
		return "operational, deactivated"
	case b&0xFC == 0x0C:
		return "in termination"
	case b > 0x0F:
		return fmt.Sprintf("proprietary life cycle %02X", b)
	}
	return fmt.Sprintf("reserved life cycle %02X", b)
}
