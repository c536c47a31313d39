package ccid

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// ISO 9564 format 2 block, as EMV and many national cards have it: 8 bytes, the
// length in the second nibble, seven bytes of BCD behind it.
func format2() reader.PINFormat {
	return reader.PINFormat{Timeout: 30, Format: 0x89, Block: 0x47, Length: 0x04, MinDigits: 4, MaxDigits: 8,
		Condition: 2, Messages: 1, Language: 0x0409, APDU: unhex("00 20 00 01 08 20 FF FF FF FF FF FF FF")}
}

func TestPINWire(t *testing.T) {
	quirky := func(v, p uint16) emu.Config {
		c := emu.PINPadReader()
		c.Vendor, c.Product, c.Release = v, p, 0x9999
		return c
	}
	verify := func(f reader.PINFormat) func(*testing.T, *slot) ([]byte, error) {
		return func(t *testing.T, s *slot) ([]byte, error) {
			return s.VerifyPIN(ctx, &reader.PINVerify{PINFormat: f}, nil)
		}
	}
	modify := func(edit func(*reader.PINModify)) func(*testing.T, *slot) ([]byte, error) {
		m := &reader.PINModify{PINFormat: format2(), OffsetOld: 0, OffsetNew: 8, Confirm: 3}
		m.APDU = unhex("00 24 00 01 10 20 FF FF FF FF FF FF FF 20 FF FF FF FF FF FF FF")
		m.Messages, m.MessageIndexes = 3, [3]byte{0, 1, 2}
		edit(m)
		return func(t *testing.T, s *slot) ([]byte, error) { return s.ModifyPIN(ctx, m, nil) }
	}
	with := func(edit func(*reader.PINFormat)) reader.PINFormat {
		f := format2()
		edit(&f)
		return f
	}
	const apdu = "00 20 00 01 08 20 FF FF FF FF FF FF FF"
	const change = "00 24 00 01 10 20 FF FF FF FF FF FF FF 20 FF FF FF FF FF FF FF"
	ok := func(seq int) string {
		return fmt.Sprintf("\nIN  81 | 80 02 00 00 00  00 %02X 00 00 00  90 00", seq)
	}
	tests := []struct {
		name   string
		cfg    emu.Config
		script string
		do     func(*testing.T, *slot) ([]byte, error)
		want   string
		err    error
	}{
		{ // CCID 1.1 §6.1.11.1
			"verify", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu + ok(1),
			verify(format2()), "90 00", nil,
		},
		{ // PC/SC part 10: 6400 and 6401
			"no entry", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu +
				"\nIN  81 | 80 00 00 00 00  00 01 40 F0 00", verify(format2()), "64 00", nil,
		},
		{
			"cancelled", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu +
				"\nIN  81 | 80 00 00 00 00  00 01 40 EF 00", verify(format2()), "64 01", nil,
		},
		{
			"validation 00 becomes the OK key", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu + ok(1),
			verify(with(func(f *reader.PINFormat) { f.Condition = 0 })), "90 00", nil,
		},
		{ // CCID 1.1 §6.1.11.7
			"modify, 3 messages", emu.PINPadReader(), "OUT 02 | 69 29 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 03 09 04 00 01 02 00 00 00 " + change + ok(1),
			modify(func(*reader.PINModify) {}), "90 00", nil,
		},
		{
			"modify, 1 message", emu.PINPadReader(), "OUT 02 | 69 28 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 01 09 04 00 01 00 00 00 " + change + ok(1),
			modify(func(m *reader.PINModify) { m.Messages = 1 }), "90 00", nil,
		},
		{
			"modify, no message", emu.PINPadReader(), "OUT 02 | 69 27 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 00 09 04 00 00 00 00 " + change + ok(1),
			modify(func(m *reader.PINModify) { m.Messages = 0 }), "90 00", nil,
		},
		{"modify, 7 messages", emu.PINPadReader(), "", modify(func(m *reader.PINModify) { m.Messages = 7 }), "", reader.ErrInvalid},
		{"three bytes of command", emu.PINPadReader(), "", verify(with(func(f *reader.PINFormat) { f.APDU = f.APDU[:3] })), "", reader.ErrInvalid},
		{"no PIN pad", emu.ShortAPDUReader(), "", verify(format2()), "", reader.ErrUnsupported},
		{"announced, but not there", quirky(0x25DD, 0x3111), "", verify(format2()), "", reader.ErrUnsupported},
		{
			"Gemalto: one message, OK key", quirky(0x08E6, 0x3478), `
				OUT 02 | 6B 01 00 00 00  00 01 00 00 00  6A
				IN  81 | 83 09 00 00 00  00 01 00 00 00  02 10 00 07 FF 04 00 00 00
				OUT 02 | 69 1C 00 00 00  00 02 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 ` + apdu + ok(2),
			verify(with(func(f *reader.PINFormat) { f.Messages, f.Condition = 0, 7 })), "90 00", nil,
		},
		{
			"Gemalto: conditions of the firmware", quirky(0x08E6, 0x34C2), `
				OUT 02 | 6B 01 00 00 00  00 01 00 00 00  6A
				IN  81 | 83 09 00 00 00  00 01 00 00 00  02 11 00 02 7F 00 00 00 06
				OUT 02 | 69 28 00 00 00  00 02 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 01 09 04 00 01 00 00 00 ` + change + ok(2),
			modify(func(m *reader.PINModify) { m.Messages, m.Condition = 1, 7 }), "90 00", nil,
		},
		{
			"Gemalto without the fix: three indexes", quirky(0x08E6, 0x34C2), `
				OUT 02 | 6B 01 00 00 00  00 01 00 00 00  6A
				IN  81 | 83 00 00 00 00  00 01 40 00 00
				OUT 02 | 69 29 00 00 00  00 02 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 00 09 04 00 01 02 00 00 00 ` + change + ok(2),
			modify(func(m *reader.PINModify) { m.Messages = 0 }), "90 00", nil,
		},
		{
			"Gemalto that says it is without the fix: three indexes", quirky(0x08E6, 0x34C2), `
				OUT 02 | 6B 01 00 00 00  00 01 00 00 00  6A
				IN  81 | 83 09 00 00 00  00 01 00 00 00  02 11 00 07 7F 00 00 00 FB
				OUT 02 | 69 29 00 00 00  00 02 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 01 09 04 00 01 02 00 00 00 ` + change + ok(2),
			modify(func(m *reader.PINModify) { m.Messages = 1 }), "90 00", nil,
		},
		{
			"modify, the reader's own messages", emu.PINPadReader(), "OUT 02 | 69 29 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 FF 09 04 00 01 02 00 00 00 " + change + ok(1),
			modify(func(m *reader.PINModify) { m.Messages = 0xFF }), "90 00", nil,
		},
		{
			"modify, 2 messages", emu.PINPadReader(), "OUT 02 | 69 28 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 02 09 04 00 01 00 00 00 " + change + ok(1),
			modify(func(m *reader.PINModify) { m.Messages = 2 }), "90 00", nil,
		},
		{"modify, 4 messages", emu.PINPadReader(), "", modify(func(m *reader.PINModify) { m.Messages = 4 }), "", reader.ErrInvalid},
		{"modify, three bytes of command", emu.PINPadReader(), "", modify(func(m *reader.PINModify) { m.APDU = m.APDU[:3] }), "", reader.ErrInvalid},
		{"modify, no PIN pad", emu.ShortAPDUReader(), "", modify(func(*reader.PINModify) {}), "", reader.ErrUnsupported},
		{
			"the entries differ", emu.PINPadReader(), "OUT 02 | 69 29 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 03 09 04 00 01 02 00 00 00 " + change +
				"\nIN  81 | 80 00 00 00 00  00 01 40 EE 00", modify(func(*reader.PINModify) {}), "64 02", nil,
		},
		{
			"the card is out", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu +
				"\nIN  81 | 80 00 00 00 00  00 01 42 FE 00", verify(format2()), "", reader.ErrNoCard,
		},
		{
			"the card has no power", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu +
				"\nIN  81 | 80 00 00 00 00  00 01 41 FE 00", verify(format2()), "", reader.ErrStale,
		},
		{ // the prologue and the message index are the caller's
			"verify, index and prologue", emu.PINPadReader(), "OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 07 08 05 11 22 33 " + apdu + ok(1),
			verify(with(func(f *reader.PINFormat) {
				f.Language, f.MessageIndexes, f.Prologue = 0x0807, [3]byte{5}, [3]byte{0x11, 0x22, 0x33}
			})), "90 00", nil,
		},
		{
			"modify, indexes and prologue", emu.PINPadReader(), "OUT 02 | 69 29 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 03 07 08 05 06 07 11 22 33 " + change + ok(1),
			modify(func(m *reader.PINModify) {
				m.Language, m.MessageIndexes, m.Prologue = 0x0807, [3]byte{5, 6, 7}, [3]byte{0x11, 0x22, 0x33}
			}), "90 00", nil,
		},
		{
			"SPR 532: padded, so nothing to append", quirky(0x04E6, 0xE003),
			"OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 " + apdu + ok(1), verify(format2()), "90 00", nil,
		},
		{
			"Dell: no message, digits exchanged", quirky(0x413C, 0x2100),
			"OUT 02 | 69 1C 00 00 00  00 01 00 00 00  00 1E 89 47 04 04 08 02 00 09 04 00 00 00 00 " + apdu + ok(1),
			verify(format2()), "90 00", nil,
		},
		{
			"Cherry: three messages", quirky(0x046A, 0x0010),
			"OUT 02 | 69 29 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 03 09 04 00 01 02 00 00 00 " + change + ok(1),
			modify(func(m *reader.PINModify) { m.Messages = 0 }), "90 00", nil,
		},
		{
			"Cherry: not 00", quirky(0x046A, 0x00A1),
			"OUT 02 | 69 29 00 00 00  00 01 00 00 00  01 1E 89 47 04 00 08 08 04 03 02 FF 09 04 00 01 02 00 00 00 " + change + ok(1),
			modify(func(m *reader.PINModify) { m.Messages = 0 }), "90 00", nil,
		},
		{
			"SPR 532: append", quirky(0x04E6, 0xE003), `
				OUT 02 | 6B 03 00 00 00  00 01 00 00 00  80 02 00
				IN  81 | 83 00 00 00 00  00 01 00 00 00
				OUT 02 | 69 13 00 00 00  00 02 00 00 00  00 1E 82 00 00 08 04 02 01 09 04 00 00 00 00 00 20 00 01` + ok(2),
			verify(with(func(f *reader.PINFormat) { f.Format, f.Block, f.Length, f.APDU = 0x82, 0, 0, unhex("00 20 00 01") })), "90 00", nil,
		},
		{
			"another reader: nothing to append by", emu.PINPadReader(),
			"OUT 02 | 69 13 00 00 00  00 01 00 00 00  00 1E 82 00 00 08 04 02 01 09 04 00 00 00 00 00 20 00 01" + ok(1),
			verify(with(func(f *reader.PINFormat) { f.Format, f.Block, f.Length, f.APDU = 0x82, 0, 0, unhex("00 20 00 01") })), "90 00", nil,
		},
		{ // the upper half of bmPINBlockString is the length field's bits; the lower, the block
			"SPR 532: append, a block of 8", quirky(0x04E6, 0xE003), `
				OUT 02 | 6B 03 00 00 00  00 01 00 00 00  80 02 00
				IN  81 | 83 00 00 00 00  00 01 00 00 00
				OUT 02 | 69 13 00 00 00  00 02 00 00 00  00 1E 82 08 00 08 04 02 01 09 04 00 00 00 00 00 20 00 01` + ok(2),
			verify(with(func(f *reader.PINFormat) { f.Format, f.Block, f.Length, f.APDU = 0x82, 8, 0, unhex("00 20 00 01") })), "90 00", nil,
		},
		{
			"SPR 532: a length field, so nothing to append", quirky(0x04E6, 0xE003),
			"OUT 02 | 69 13 00 00 00  00 01 00 00 00  00 1E 82 40 00 08 04 02 01 09 04 00 00 00 00 00 20 00 01" + ok(1),
			verify(with(func(f *reader.PINFormat) { f.Format, f.Block, f.Length, f.APDU = 0x82, 0x40, 0, unhex("00 20 00 01") })), "90 00", nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := opened(t, play(t, tt.cfg, hello+tt.script))
				rx, err := tt.do(t, r.slots[0].(*slot))
				check(t, rx, err, unhex(tt.want), tt.err)
			})
		})
	}
}
