package ccid

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
)

// "Where an agreed rate cannot be set, or nothing gets through after it, whoever
// negotiated (core or reader), the card is reset and the next slower rate tried": this
// holds for any objection of the reader to SetParameters, including those about the
// card's state. "status says fallback".
func TestRateRefused(t *testing.T) {
	for _, cfg := range []emu.Config{emu.CharacterReader(), emu.TPDUReader(), emu.ShortAPDUReader()} {
		for _, atr := range [][]byte{atrT0Fast, atrT1Fast} {
			for _, code := range []byte{0xFE, 0xFB, 0xF6, 0xF4, 0x0A, 0x80} {
				t.Run(fmt.Sprintf("%s/%X/%02X", cfg.Name, atr[1], code), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						card := &testCard{atr: atr}
						b := plug(t, cfg, card)
						var asked []byte
						b.e.Observe(func(r usbtest.Line) {
							if r.Endpoint == 0x02 && r.Data[0] == cmdSetParameters {
								asked = append(asked, r.Data[10])
							}
						})
						b.e.Inject(emu.Fault{Kind: emu.Fail, On: cmdSetParameters, Code: code})
						s := b.session(0)
						transmit(t, s, unhex("00 84 00 00 02"), unhex("00 01 90 00"))
						transmit(t, s, unhex("00 84 00 00 03"), unhex("00 01 02 90 00"))
						i := s.Slot().Info()
						asked = slices.Compact(asked)
						if len(asked) != 2 || asked[0] != atr[2] || i.Params.TA1 != asked[1] || i.Fallback == "" || card.count() != 2 {
							t.Errorf("asked for % X, in force %v, fallback %q, the card saw %d commands", asked, i.Params, i.Fallback, card.count())
						}
					})
				})
			}
		}
	}
}
