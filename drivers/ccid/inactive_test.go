package ccid

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// "bmICCStatus of every answer counts": a reader that was reset under a session may
// answer the next XfrBlock with any error. If nothing was on its way to the card, the
// result is ESTALE at once; if something was, the command is in doubt. In both cases the
// card has lost its power, and the next session works.
func TestResetUnderASessionSaidOtherwise(t *testing.T) {
	untouched := []byte{0xFE, 0xF6, 0xF5, 0xF3, 0xF2, 0xE0, 0x00, 0x01, 0x05, 0x07, 0x7F}
	doubtful := []byte{0xFD, 0xFC, 0xFB, 0xF4, 0xA2, 0x80, 0xC0}
	for _, cfg := range []emu.Config{emu.ShortAPDUReader(), emu.ExtendedAPDUReader(), emu.TPDUReader(), emu.CharacterReader()} {
		for _, atr := range [][]byte{atrT0, atrT1IFSC} {
			for n, code := range append(untouched, doubtful...) {
				t.Run(fmt.Sprintf("%s/%X/%02X", cfg.Name, atr[1], code), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						card := &testCard{atr: atr}
						cfg.NoInterrupt = true // otherwise the core would learn of the reset first
						b := plug(t, cfg, card)
						s := b.session(0)
						transmit(t, s, unhex("00 84 00 00 01"), unhex("00 90 00"))
						b.e.port.Reset()
						b.e.Inject(emu.Fault{Kind: emu.Fail, On: cmdXfrBlock, Code: code, Count: -1})
						_, err := s.Transmit(ctx, unhex("00 84 00 00 01"), nil)
						if err == nil || n < len(untouched) && (!errors.Is(err, reader.ErrStale) || strings.Contains(err.Error(), "may have executed")) ||
							n >= len(untouched) && errors.Is(err, reader.ErrStale) {
							t.Errorf("%v", err)
						}
						synctest.Wait()
						if i := s.Slot().Info(); n < len(untouched) && (i.State != "present" || i.Err != nil) {
							t.Errorf("state %s, error %v", i.State, i.Err)
						}
						b.e.Heal()
						_, err = s.Transmit(ctx, unhex("00 84 00 00 01"), nil)
						check(t, nil, err, nil, reader.ErrStale)
						if card.count() != 1 {
							t.Errorf("the card saw %d commands", card.count())
						}
						transmit(t, b.session(0), unhex("00 84 00 00 01"), unhex("00 90 00"))
					})
				})
			}
		}
	}
}

// The same for other commands that need an active card. "Command not supported" says
// nothing about the card.
func TestErrorsWithoutPower(t *testing.T) {
	for _, command := range []byte{cmdSecure, cmdSetParameters, cmdGetParameters, cmdSetRate} {
		for code, want := range map[byte]error{
			0xFE: reader.ErrStale, 0xF6: reader.ErrStale, 0xF3: reader.ErrStale, 0x07: reader.ErrStale, 0x7F: reader.ErrStale,
			0x00: reader.ErrUnsupported, 0x05: reader.ErrUnsupported, 0x80: reader.ErrProtocol, 0xFB: reader.ErrProtocol, 0xF0: reader.ErrTimeout,
		} {
			e := &Error{Command: command, Status: 0x41, Code: code}
			if got := e.Unwrap(); got != want {
				t.Errorf("%s %02X: %v, want %v", commandName(command), code, got, want)
			}
			if e.waited = true; errors.Is(e, reader.ErrStale) {
				t.Errorf("%s %02X: it waited for the card before", commandName(command), code)
			}
		}
	}
	for _, command := range []byte{cmdPowerOn, cmdPowerOff, cmdSlotStatus, cmdEscape} {
		for _, code := range []byte{0xFE, 0xF6, 0xF3, 0x07} {
			if err := (&Error{Command: command, Status: 0x41, Code: code}); errors.Is(err, reader.ErrStale) {
				t.Errorf("%s %02X: %v", commandName(command), code, err)
			}
		}
	}
}
