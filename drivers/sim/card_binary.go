package sim

// binaryFile finds the transparent EF and the offset that P1 P2 of a BINARY
// command name (ISO/IEC 7816-4:2013 §11.2.2). A short EF identifier makes the
// file current, but only once the command may be done on it.
func (c *card) binaryFile(k command) (f *file, offset, sw int) {
	f, offset = c.ef, k.p1p2()
	if k.p1&0x80 != 0 {
		if k.p1&0x60 != 0 {
			return nil, 0, swP1P2
		}
		if f = c.df.bySFI(k.p1 & 0x1F); f == nil {
			return nil, 0, swNoFile
		}
		offset = int(k.p2)
	}
	switch {
	case f == nil:
		return nil, 0, swNoEF
	case f.kind != transparent:
		return nil, 0, swStructure
	}
	return f, offset, swOK
}

// use makes f current.
func (c *card) use(f *file) {
	if f != c.ef {
		c.ef, c.rec = f, 0
	}
}

// readBinary is READ BINARY (§11.2.3).
func (c *card) readBinary(k command) int {
	if k.le == 0 || len(k.data) > 0 {
		return swLength
	}
	f, offset, sw := c.binaryFile(k)
	if sw != swOK {
		return sw
	}
	if sw = c.granted(f.read); sw != swOK {
		return sw
	}
	c.use(f)
	data := c.content(f)
	if offset >= len(data) {
		return swOffset
	}
	data = data[offset:]
	if len(data) > k.le {
		data = data[:k.le]
	}
	c.out = append(c.out, data...)
	if len(data) < k.le && k.le != maxShort && k.le != maxExtended {
		return swEndOfFile
	}
	return swOK
}

// updateBinary is UPDATE BINARY (§11.2.5). It writes all of the data or none.
func (c *card) updateBinary(k command) int {
	if len(k.data) == 0 {
		return swLength
	}
	f, offset, sw := c.binaryFile(k)
	if sw != swOK {
		return sw
	}
	if sw = c.granted(f.update); sw != swOK {
		return sw
	}
	c.use(f)
	switch n := len(c.content(f)); {
	case offset >= n:
		return swOffset
	case len(k.data) > n-offset:
		return swFull
	}
	copy(c.writable(f)[offset:], k.data)
	return swOK
}
