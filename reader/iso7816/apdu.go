package iso7816

import "fmt"

// Case is one of the seven forms of a C-APDU, ISO/IEC 7816-3:2006 §12.1.3.
type Case int

const (
	Case1  Case = iota + 1 // CLA INS P1 P2
	Case2S                 // … Le
	Case3S                 // … Lc data
	Case4S                 // … Lc data Le
	Case2E                 // … 00 Le Le
	Case3E                 // … 00 Lc Lc data
	Case4E                 // … 00 Lc Lc data Le Le
)

// String is the standard's short name: "1", "2S", "4E".
func (c Case) String() string {
	names := [...]string{"?", "1", "2S", "3S", "4S", "2E", "3E", "4E"}
	if c < Case1 || c > Case4E {
		return names[0]
	}
	return names[c]
}

// Extended reports whether the length fields are the long ones.
func (c Case) Extended() bool { return c >= Case2E }

// Limits of ISO/IEC 7816-3:2006 §12.1.3.
const (
	MaxNc       = 65535             // data bytes of a C-APDU
	MaxNe       = 65536             // data bytes of an R-APDU
	MaxCommand  = 4 + 3 + MaxNc + 2 // bytes of a C-APDU
	MaxResponse = MaxNe + 2         // bytes of an R-APDU
	chainingBit = 0x10              // CLA bit 5 of the interindustry classes
	maxShort    = 5 + 255 + 1       // bytes of a C-APDU of a short case
)

// Command is a C-APDU taken apart.
type Command struct {
	CLA, INS, P1, P2 byte
	// Data is the command data field, nil if absent.
	Data []byte
	// Ne is the number of response data bytes expected at most: 0 if Le is
	// absent, 1..256 or, extended, 1..65536.
	Ne int
	// Extended: the length fields are the long ones (there are any at all).
	Extended bool
}

// Case is the form of the command.
func (c *Command) Case() Case {
	k := Case1
	if c.Ne > 0 {
		k++
	}
	if len(c.Data) > 0 {
		k += 2
	}
	if k > Case1 && c.Extended {
		k += 3
	}
	return k
}

// ParseCommand takes a C-APDU apart by the decision table of ISO/IEC
// 7816-3:2006 §12.1.3. Data points into b. The error is ErrInvalid and says
// which length field contradicts how many bytes.
func ParseCommand(b []byte) (Command, error) {
	var c Command
	if len(b) < 4 {
		return c, invalid("a command has at least 4 bytes, CLA INS P1 P2; here are %d", len(b))
	}
	c.CLA, c.INS, c.P1, c.P2 = b[0], b[1], b[2], b[3]
	body := b[4:]
	switch {
	case len(body) == 0: // 1
		return c, nil
	case len(body) == 1: // 2S
		c.Ne = le(int(body[0]), 256)
		return c, nil
	case body[0] != 0: // 3S, 4S
		return c.lcData(int(body[0]), body[1:], 1)
	case len(body) == 2:
		return c, invalid("after 00 in place of Lc an extended length of two bytes must follow; one follows")
	}
	c.Extended = true
	n := int(body[1])<<8 | int(body[2])
	if len(body) == 3 { // 2E
		c.Ne = le(n, MaxNe)
		return c, nil
	}
	if n == 0 {
		return c, invalid("Lc says 0 data bytes, %d follow", len(body)-3)
	}
	return c.lcData(n, body[3:], 2) // 3E, 4E
}

// lcData reads the data field of lc bytes and an Le field of leLen bytes, if any.
func (c Command) lcData(lc int, rest []byte, leLen int) (Command, error) {
	switch len(rest) - lc {
	case 0:
	case leLen:
		if leLen == 1 {
			c.Ne = le(int(rest[lc]), 256)
		} else {
			c.Ne = le(int(rest[lc])<<8|int(rest[lc+1]), MaxNe)
		}
	default:
		if len(rest) < lc {
			return c, invalid("Lc says %d data bytes, %d follow", lc, len(rest))
		}
		return c, invalid("Lc says %d data bytes, %d follow, and %d cannot be an Le of %d", lc, len(rest), len(rest)-lc, leLen)
	}
	c.Data = rest[:lc:lc]
	return c, nil
}

// le is the number that an Le field codes: 0 stands for the largest.
func le(n, max int) int {
	if n == 0 {
		return max
	}
	return n
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Append appends the command as bytes. Extended length fields are used if
// Extended says so or the lengths need them. The error is ErrInvalid if Data or
// Ne is beyond the standard's limits.
func (c *Command) Append(dst []byte) ([]byte, error) {
	nc := len(c.Data)
	if nc > MaxNc {
		return dst, invalid("%d data bytes; a command takes %d at most", nc, MaxNc)
	}
	if c.Ne < 0 || c.Ne > MaxNe {
		return dst, invalid("%d response bytes expected; a response has %d at most", c.Ne, MaxNe)
	}
	ext := c.Extended || nc > 255 || c.Ne > 256
	dst = append(dst, c.CLA, c.INS, c.P1, c.P2)
	if ext && (nc > 0 || c.Ne > 0) {
		dst = append(dst, 0)
	}
	if nc > 0 {
		if ext {
			dst = append(dst, byte(nc>>8))
		}
		dst = append(dst, byte(nc))
		dst = append(dst, c.Data...)
	}
	if c.Ne > 0 {
		if ext {
			dst = append(dst, byte(c.Ne>>8))
		}
		dst = append(dst, byte(c.Ne))
	}
	return dst, nil
}

// Carries returns nil if a carrier of whole C-APDUs takes capdu. A carrier takes short
// cases only, or extended ones as well. Bytes that are no C-APDU go as they are if their
// length allows: old commands with an Lc of 00, pseudo-APDUs with class FF. The error is
// ErrUnsupported if another carrier could take capdu.
func Carries(capdu []byte, extended bool) error {
	cmd, err := ParseCommand(capdu)
	if len(capdu) < 4 {
		return err
	}
	if !extended && (len(capdu) > maxShort || err == nil && cmd.Extended) {
		return fmt.Errorf("a command of extended length: this reader takes short ones: %w", ErrUnsupported)
	}
	if len(capdu) > MaxCommand {
		return invalid("%d bytes; a command has %d at most", len(capdu), MaxCommand)
	}
	return nil
}

// SplitResponse takes an R-APDU apart. data points into b.
func SplitResponse(b []byte) (data []byte, sw uint16, err error) {
	n := len(b) - 2
	if n < 0 {
		return nil, 0, fmt.Errorf("a response has at least SW1 SW2; %d bytes came: %w", len(b), ErrProtocol)
	}
	return b[:n:n], uint16(b[n])<<8 | uint16(b[n+1]), nil
}

// chainClass is CLA for ENVELOPE: the class of the command, so
// that logical channel and secure messaging stay the same, without the chaining
// bit of an interindustry class (ISO/IEC 7816-4:2013 §5.4.1), as the continuing
// command is not part of a chain. In proprietary classes that bit means
// something else and is left alone.
func chainClass(cla byte) byte {
	if cla&0x80 == 0 {
		cla &^= chainingBit
	}
	return cla
}

// AppendResponse is append(dst, part...) for a part of a response. If that allocates another
// array, it wipes the old one from base on, because a response may be a secret. The bytes
// before base are the caller's.
func AppendResponse(dst []byte, base int, part ...byte) []byte {
	if len(part) <= cap(dst)-len(dst) {
		return append(dst, part...)
	}
	longer := append(make([]byte, 0, max(len(dst)+len(part), 2*cap(dst))), dst...)
	clear(dst[base:])
	return append(longer, part...)
}
