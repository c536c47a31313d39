package memcard

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Status words, ISO/IEC 7816-4:2013 tables 5 and 6.
const (
	swDone        = 0x9000
	swEnd         = 0x6282 // end of the file before Le
	swTries       = 0x63C0 // verification failed; tries left in the low digit
	swMemory      = 0x6581 // memory failure
	swLength      = 0x6700
	swSecurity    = 0x6982 // security status not satisfied
	swBlocked     = 0x6983
	swNotAllowed  = 0x6986 // command not allowed
	swNotFound    = 0x6A82
	swNoRoom      = 0x6A84 // not enough memory space in the file
	swP1P2        = 0x6A86
	swOffset      = 0x6B00
	swInstruction = 0x6D00
	swClass       = 0x6E00
)

// classReader is the class of commands that a reader answers for a storage card (PC/SC part 3, §3.2.2.1).
const classReader = 0xFF

// Transmit answers a C-APDU as a card with files would: the master file is the memory. The
// class is 00, or FF, for which nothing is ever selected. Whatever the card says is a status
// word; an error is the reader's.
func (c *Card) Transmit(ctx context.Context, capdu, dst []byte) ([]byte, error) {
	cmd, err := iso7816.ParseCommand(capdu)
	if err != nil {
		if len(capdu) < 4 {
			return dst, err
		}
		return status(dst, len(dst), swLength), nil
	}
	base := len(dst)
	out, sw, err := c.answer(ctx, cmd, dst)
	if err != nil {
		return dst, fmt.Errorf("memory card: %w", err)
	}
	return status(out, base, sw), nil
}

func status(dst []byte, base int, sw uint16) []byte {
	return iso7816.AppendResponse(dst, base, byte(sw>>8), byte(sw))
}

func (c *Card) answer(ctx context.Context, cmd iso7816.Command, dst []byte) ([]byte, uint16, error) {
	if cmd.CLA != 0 && cmd.CLA != classReader {
		return dst, swClass, nil
	}
	switch cmd.INS {
	case 0xA4:
		sw, err := c.selectFile(ctx, cmd)
		return dst, sw, err
	case 0xB0:
		return c.readBinary(ctx, cmd, dst)
	case 0xD6:
		sw, err := c.updateBinary(ctx, cmd)
		return dst, sw, err
	case 0x20:
		sw, err := c.verify(ctx, cmd)
		return dst, sw, err
	case 0x24:
		sw, err := c.changeReferenceData(ctx, cmd)
		return dst, sw, err
	}
	return dst, swInstruction, nil
}

// file is the section that a command is about, and the offset in it: P1 P2, of which no bit
// is a short identifier.
func (c *Card) file(cmd iso7816.Command) (s section, at int) {
	if s = c.selected; cmd.CLA == classReader {
		s = c.whole()
	}
	return s, int(cmd.P1)<<8 | int(cmd.P2)
}

// readBinary: Le absent or 00 means all that there is, up to 256 bytes.
func (c *Card) readBinary(ctx context.Context, cmd iso7816.Command, dst []byte) ([]byte, uint16, error) {
	s, at := c.file(cmd)
	switch {
	case len(cmd.Data) > 0:
		return dst, swLength, nil
	case at >= s.size:
		return dst, swOffset, nil
	}
	most := 256
	if cmd.Extended {
		most = iso7816.MaxNe
	}
	want := cmd.Ne
	if want == 0 {
		want = most
	}
	n := min(want, s.size-at)
	dst, err := c.Read(ctx, s.from+at, n, dst)
	if n < want && want < most {
		return dst, swEnd, err
	}
	return dst, swDone, err
}

// updateBinary writes all or, where it does not fit, nothing.
func (c *Card) updateBinary(ctx context.Context, cmd iso7816.Command) (uint16, error) {
	s, at := c.file(cmd)
	switch {
	case len(cmd.Data) == 0:
		return swLength, nil
	case at >= s.size:
		return swOffset, nil
	case at+len(cmd.Data) > s.size:
		return swNoRoom, nil
	}
	_, err := c.Write(ctx, s.from+at, cmd.Data, 0)
	return refusal(err)
}

// refusal is the status word for what the card refused.
func refusal(err error) (uint16, error) {
	switch {
	case err == nil:
		return swDone, nil
	case errors.Is(err, reader.ErrNoPermission):
		return swSecurity, nil
	case errors.Is(err, reader.ErrReadOnly):
		return swNotAllowed, nil
	case errors.Is(err, ErrNotTaken):
		return swMemory, nil
	}
	return 0, err
}

// verify presents the PSC. Without data it says how many tries are left, or that none is needed.
func (c *Card) verify(ctx context.Context, cmd iso7816.Command) (uint16, error) {
	switch {
	case c.chip.PSC == 0:
		return swInstruction, nil
	case cmd.P1 != 0:
		return swP1P2, nil
	case len(cmd.Data) == 0 && c.verified:
		return swDone, nil
	case len(cmd.Data) == 0:
		return c.triesLeft(), nil
	case len(cmd.Data) != c.chip.PSC:
		return swLength, nil
	}
	return c.present(ctx, cmd.Data)
}

func (c *Card) present(ctx context.Context, psc []byte) (uint16, error) {
	ok, err := c.Verify(ctx, psc)
	switch {
	case err != nil:
		return 0, err
	case ok:
		return swDone, nil
	}
	return c.triesLeft(), nil
}

func (c *Card) triesLeft() uint16 {
	if c.tries == 0 {
		return swBlocked
	}
	return swTries | uint16(c.tries)
}

// changeReferenceData takes the old PSC and the new one or, if the old one was verified, the
// new one alone.
func (c *Card) changeReferenceData(ctx context.Context, cmd iso7816.Command) (uint16, error) {
	n := c.chip.PSC
	switch {
	case n == 0:
		return swInstruction, nil
	case cmd.P1 > 1:
		return swP1P2, nil
	case len(cmd.Data) != n && len(cmd.Data) != 2*n:
		return swLength, nil
	}
	if fresh := cmd.Data[len(cmd.Data)-n:]; len(cmd.Data) == n {
		return refusal(c.Change(ctx, fresh))
	} else if sw, err := c.present(ctx, cmd.Data[:n]); sw != swDone || err != nil {
		return sw, err
	} else {
		return refusal(c.Change(ctx, fresh))
	}
}
