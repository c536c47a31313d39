package emu

import (
	"bytes"
)

// pin returns the PIN of that number, or nil.
func (c *Card) pin(number byte) *object {
	if int(number) >= len(c.pins) {
		return nil
	}
	return c.pins[number]
}

func (c *Card) verify(number byte, data []byte) int {
	o := c.pin(number)
	switch {
	case o == nil:
		return swNoReference
	case len(data) == 0 && c.rights[number]:
		return swOK
	case o.left == 0:
		return swBlocked
	case len(data) == 0:
		return swTries | min(o.left, 15)
	case !bytes.Equal(data, o.body):
		c.rights[number] = false
		o.left--
		return swTries | min(o.left, 15)
	}
	o.left, c.rights[number] = tries, true
	return swOK
}

// change is CHANGE REFERENCE DATA with the new PIN alone.
func (c *Card) change(number byte, data []byte) int {
	o := c.pin(number)
	switch {
	case o == nil:
		return swNoReference
	case len(data) == 0:
		return swLength
	case !c.rights[number] && !c.rights[admin]:
		return swSecurity
	}
	o.body = bytes.Clone(data)
	return swOK
}

// unblock is RESET RETRY COUNTER, by the administrator.
func (c *Card) unblock(number byte) int {
	o := c.pin(number)
	switch {
	case o == nil:
		return swNoReference
	case !c.rights[admin]:
		return swSecurity
	}
	o.left = tries
	return swOK
}
