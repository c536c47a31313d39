package usb

import (
	"context"
	"time"
	"unicode/utf16"
)

// stringTime bounds a request for a string descriptor.
const stringTime = time.Second

// String is Conn's.
func (c *conn) String(i uint8) string {
	if i == 0 {
		return ""
	}
	c.strMu.Lock()
	defer c.strMu.Unlock()
	s, known := c.strings[i]
	if known {
		return s
	}
	if c.lang == 0 {
		langs := c.stringDescriptor(0, 0)
		if len(langs) == 0 {
			return ""
		}
		c.lang = langs[0]
	}
	s = string(utf16.Decode(c.stringDescriptor(i, c.lang)))
	c.strings[i] = s
	return s
}

// stringDescriptor reads a string descriptor's 16-bit units (USB 2.0 §9.6.7).
func (c *conn) stringDescriptor(i uint8, lang uint16) []uint16 {
	var b [255]byte
	n, err := c.Control(context.Background(), Setup{0x80, 0x06, 3<<8 | uint16(i), lang}, b[:], stringTime)
	if err != nil || n < 2 || b[1] != 3 {
		return nil
	}
	d := b[2:max(2, min(n, int(b[0])))]
	units := make([]uint16, 0, len(d)/2)
	for ; len(d) >= 2; d = d[2:] {
		units = append(units, uint16(d[0])|uint16(d[1])<<8)
	}
	return units
}
