package memcard

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cardfs/cardfs/reader"
)

// What the chips of each bus have in common. Whether a chip has a PSC is found out by reading.
var (
	twoWire   = reader.Chip{Bus: reader.TwoWire, Size: 256, Page: 16, Protected: 32}
	threeWire = reader.Chip{Bus: reader.ThreeWire, Size: 1024, Page: 16, Protected: 1024}
)

const (
	twoWirePSC, threeWirePSC     = 3, 2
	twoWireTries, threeWireTries = 0x07, 0xFF // counters of which no try was used
	longestShort                 = 2048       // bytes of an I2C chip whose address has one byte
)

// I2C is an I2C chip of that many bytes. The pages are the shortest of the usual chips of that size.
func I2C(size int) reader.Chip {
	c := reader.Chip{Bus: reader.I2C, Size: size}
	switch {
	case size <= 256: // AT24C01, AT24C02
		c.Page = 8
	case size <= longestShort: // AT24C04, AT24C08, AT24C16
		c.Page = 16
	case size <= 8192: // AT24C32, AT24C64
		c.Page = 32
	case size <= 32768: // AT24C128, AT24C256
		c.Page = 64
	default: // AT24C512
		c.Page = 128
	}
	return c
}

// Counter is a counter card of that many bytes.
func Counter(size int) reader.Chip { return reader.Chip{Bus: reader.CounterCard, Size: size} }

// Param is the key of `attach` that says what a card is whose reader cannot tell.
const Param = "memory"

// Told is the chip that a value of Param means; none for "". A card that says by itself what it is overrules it.
func Told(value string) (reader.Chip, error) {
	switch value {
	case "":
		return reader.Chip{}, nil
	case "2-wire":
		return twoWire, nil
	case "3-wire":
		return threeWire, nil
	}
	if size, ok := strings.CutPrefix(value, "i2c:"); ok {
		n, err := strconv.Atoi(size)
		if err == nil && n >= 128 && n <= 65536 && n&(n-1) == 0 {
			return I2C(n), nil
		}
		return reader.Chip{}, fmt.Errorf("the bytes of an I2C card are 128, 256, 512 and so on to 65536: %w", reader.ErrInvalid)
	}
	return reader.Chip{}, fmt.Errorf("is i2c:BYTES, 2-wire or 3-wire: %w", reader.ErrInvalid)
}

// ErrSize: the reader cannot tell what I2C card it has.
var ErrSize = fmt.Errorf("a memory card that does not say what it is; say it at attach: memory=i2c:BYTES, memory=2-wire or memory=3-wire: %w", reader.ErrUnsupported)

// Recognise returns the chip whose answer to a synchronous reset is h, by its protocol type
// (H1, ISO/IEC 7816-10:1999 §5.3), and its ATR. A card without an answer, which sends FF or nothing, is what
// the user told. A counter card's first bytes are the issuer's, and mean nothing of the kind.
func Recognise(h []byte, told reader.Chip) (c reader.Chip, atr []byte, err error) {
	if len(h) >= 4 && h[0] != 0xFF && told.Bus != reader.CounterCard {
		switch h[0] >> 4 {
		case 0xA:
			return twoWire, h[:4], nil
		case 0x9:
			return threeWire, h[:4], nil
		}
	}
	switch {
	case told.Size == 0:
		return c, nil, ErrSize
	case told.Bus == reader.I2C:
		return told, []byte{0x82, sizeCode(told.Size), 0x10, 0x84}, nil
	case len(h) < 4:
		return c, nil, fmt.Errorf("%d bytes came after the reset of a %v card, it has 4: %w", len(h), told.Bus, reader.ErrMute)
	}
	return told, h[:4], nil
}

// sizeCode is H2 for a size in bytes: 64·2^n units of 8 bits (§5.3).
func sizeCode(size int) byte {
	n := byte(0)
	for ; size > 64; size >>= 1 {
		n++
	}
	return n<<3 | 3
}
