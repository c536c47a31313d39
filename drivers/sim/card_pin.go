package sim

import "bytes"

const (
	pinTries = 3
	pukTries = 10
	pinMin   = 4
	pinMax   = 8
	puk      = "12345678"
)

// pin is reference data with its counters.
type pin struct {
	value    [pinMax]byte // filled up with FF
	tries    byte
	pukTries byte
	verified bool
}

func newPIN(s string) pin {
	p := pin{tries: pinTries, pukTries: pukTries}
	p.set([]byte(s))
	return p
}

func (p *pin) set(v []byte) {
	for i := range p.value {
		p.value[i] = 0xFF
	}
	copy(p.value[:], v)
}

// bare returns the value without its padding.
func bare(v []byte) []byte { return bytes.TrimRight(v, "\xFF") }

// wellFormed reports whether v can become a PIN.
func wellFormed(v []byte) bool {
	n := len(bare(v))
	return n >= pinMin && n <= pinMax && len(v) <= pinMax
}

// check compares v and counts.
func (p *pin) check(v []byte) int {
	switch {
	case p.tries == 0:
		return swBlocked
	case bytes.Equal(bare(v), bare(p.value[:])):
		p.tries, p.verified = pinTries, true
		return swOK
	}
	p.verified = false
	p.tries--
	return swTries | int(p.tries)
}

// reference finds the PIN that P2 names: 00 (no information) and 01 are PIN 1
// of the card, 81 is PIN 2 of the application (ISO/IEC 7816-4:2013 §11.5.2).
func (c *card) reference(p2 byte) *pin {
	switch {
	case p2 <= 0x01:
		return &c.pins[0]
	case p2 == 0x81 && c.df.within(application()):
		return &c.pins[1]
	}
	return nil
}

// verify is VERIFY (§11.5.6).
func (c *card) verify(k command) int {
	p := c.reference(k.p2)
	switch {
	case k.p1 == 0xFF && len(k.data) == 0 && p != nil: // take the verification back
		p.verified = false
		return swOK
	case k.p1 != 0:
		return swP1P2
	case p == nil:
		return swNoReference
	case len(k.data) == 0 && p.verified:
		return swOK
	case p.tries == 0:
		return swBlocked
	case len(k.data) == 0:
		return swTries | int(p.tries)
	case len(k.data) < pinMin || len(k.data) > pinMax:
		return swLength
	}
	return p.check(k.data)
}

// changePIN is CHANGE REFERENCE DATA (§11.5.7): P1 00 old and new PIN, P1 01 the
// new one alone, once the old one was verified. Old and new are told apart by
// their filling to 8 bytes each, or else by the length of the PIN in force.
func (c *card) changePIN(k command) int {
	if k.p1 > 1 {
		return swP1P2
	}
	p := c.reference(k.p2)
	switch {
	case p == nil:
		return swNoReference
	case p.tries == 0:
		return swBlocked
	}
	fresh := k.data
	if k.p1 == 0 {
		n := len(bare(p.value[:]))
		if len(k.data) == 2*pinMax {
			n = pinMax
		}
		if len(k.data) < n+pinMin || len(k.data) > n+pinMax {
			return swLength
		}
		fresh = k.data[n:]
		if !wellFormed(fresh) {
			return swData
		}
		if sw := p.check(k.data[:n]); sw != swOK {
			return sw
		}
	} else {
		if len(k.data) < pinMin || len(k.data) > pinMax {
			return swLength
		}
		if !p.verified {
			return swSecurity
		}
		if !wellFormed(fresh) {
			return swData
		}
	}
	p.set(bare(fresh))
	return swOK
}

// resetRetryCounter is RESET RETRY COUNTER (§11.5.10): P1 00 PUK and new PIN,
// P1 01 the PUK alone.
func (c *card) resetRetryCounter(k command) int {
	if k.p1 > 1 {
		return swP1P2
	}
	p := c.reference(k.p2)
	switch {
	case p == nil:
		return swNoReference
	case p.pukTries == 0:
		return swBlocked
	case k.p1 == 1 && len(k.data) != len(puk),
		k.p1 == 0 && (len(k.data) < len(puk)+pinMin || len(k.data) > len(puk)+pinMax):
		return swLength
	}
	fresh := k.data[len(puk):]
	if k.p1 == 0 && !wellFormed(fresh) {
		return swData
	}
	if string(k.data[:len(puk)]) != puk {
		p.pukTries--
		return swTries | int(p.pukTries)
	}
	p.pukTries, p.tries = pukTries, pinTries
	if k.p1 == 0 {
		p.set(bare(fresh))
	}
	return swOK
}
