package sim

// recordFile finds the EF with records that P2 of a RECORD command names
// (ISO/IEC 7816-4:2013 §11.3.2).
func (c *card) recordFile(k command) (f *file, sw int) {
	f = c.ef
	switch sfi := k.p2 >> 3; sfi {
	case 0:
	case 31:
		return nil, swP1P2
	default:
		if f = c.df.bySFI(sfi); f == nil {
			return nil, swNoFile
		}
	}
	switch {
	case f == nil:
		return nil, swNoEF
	case f.kind != linear && f.kind != cyclic:
		return nil, swStructure
	}
	return f, swOK
}

// record finds the record that P1 and the low bits of P2 name, from 1 on: by
// number, or first, last, next, previous. Records have no identifiers here.
func (c *card) record(k command, f *file) (n, sw int) {
	count := f.records(c.content(f))
	current := 0
	if f == c.ef {
		current = c.rec
	}
	mode := k.p2 & 0x07
	if mode == 4 {
		n = int(k.p1)
		if n == 0 {
			n = current
		}
	} else {
		if k.p1 != 0 {
			return 0, swP1P2
		}
		switch mode {
		case 0:
			n = 1
		case 1:
			n = count
		case 2:
			n = current + 1
		case 3:
			n = current - 1
			if current == 0 {
				n = count
			}
		default:
			return 0, swP1P2
		}
	}
	if n < 1 || n > count {
		return 0, swNoRecord
	}
	return n, swOK
}

// readRecord is READ RECORD (§11.3.3), one record or several.
func (c *card) readRecord(k command) int {
	if k.le == 0 || len(k.data) > 0 {
		return swLength
	}
	f, sw := c.recordFile(k)
	if sw != swOK {
		return sw
	}
	if sw = c.granted(f.read); sw != swOK {
		return sw
	}
	data := c.content(f)
	count := f.records(data)
	switch k.p2 & 0x07 {
	case 5, 6: // P1 up to the last; the last down to P1
		n := int(k.p1)
		if n == 0 && f == c.ef {
			n = c.rec
		}
		if n < 1 || n > count {
			return swNoRecord
		}
		c.use(f)
		if k.p2&0x07 == 5 {
			c.out = append(c.out, data[(n-1)*f.recLen:]...)
		} else {
			for i := count; i >= n; i-- {
				c.out = append(c.out, data[(i-1)*f.recLen:i*f.recLen]...)
			}
		}
		if len(c.out) > k.le && k.le != maxShort {
			return c.wrongLe()
		}
		return swOK
	}
	n, sw := c.record(k, f)
	if sw != swOK {
		return sw
	}
	c.use(f)
	c.out = append(c.out, data[(n-1)*f.recLen:n*f.recLen]...)
	if len(c.out) > k.le {
		return c.wrongLe()
	}
	// Absolute numbers leave the record pointer alone (§7.3.3).
	if k.p2&0x07 < 4 {
		c.rec = n
	}
	return swOK
}

// wrongLe takes the answer back and says how long it would be.
func (c *card) wrongLe() int {
	n := len(c.out)
	c.out = c.out[:0]
	return swLe | n&0xFF
}

// updateRecord is UPDATE RECORD (§11.3.5). In a cyclic file "previous" replaces
// the oldest record, which becomes record 1.
func (c *card) updateRecord(k command) int {
	f, sw := c.recordFile(k)
	if sw != swOK {
		return sw
	}
	if len(k.data) != f.recLen {
		return swLength
	}
	if sw = c.granted(f.update); sw != swOK {
		return sw
	}
	if f.kind == cyclic && k.p2&0x07 == 3 && k.p1 == 0 {
		c.use(f)
		c.push(f, k.data, f.records(c.content(f)))
		return swOK
	}
	n, sw := c.record(k, f)
	if sw != swOK {
		return sw
	}
	c.use(f)
	copy(c.writable(f)[(n-1)*f.recLen:], k.data)
	if k.p2&0x07 < 4 {
		c.rec = n
	}
	return swOK
}

// appendRecord is APPEND RECORD (§11.3.6).
func (c *card) appendRecord(k command) int {
	if k.p1 != 0 || k.p2&0x07 != 0 {
		return swP1P2
	}
	f, sw := c.recordFile(k)
	if sw != swOK {
		return sw
	}
	if len(k.data) != f.recLen {
		return swLength
	}
	if sw = c.granted(f.update); sw != swOK {
		return sw
	}
	count := f.records(c.content(f))
	switch {
	case f.kind == cyclic:
		c.use(f)
		c.push(f, k.data, min(count+1, f.maxRec))
	case count == f.maxRec:
		return swFull
	default:
		c.use(f)
		c.own[f] = append(c.writable(f), k.data...)
		c.rec = count + 1
	}
	return swOK
}

// push makes data record 1 of a cyclic file that then has n records.
func (c *card) push(f *file, data []byte, n int) {
	old := c.writable(f)
	own := append(append(make([]byte, 0, len(old)+len(data)), data...), old...)
	c.own[f] = own[:n*f.recLen]
	c.rec = 1
}
