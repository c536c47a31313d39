package ccid

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

const hello = `
	OUT 02 | 65 00 00 00 00  00 00 00 00 00   # GetSlotStatus
	IN  81 | 81 00 00 00 00  00 00 01 00 00   # a card without power
`

var ctx = context.Background()

func TestWire(t *testing.T) {
	manual := emu.TPDUReader()
	manual.Features = emu.AutoClock
	manual.MaxRate = 200000
	extended := emu.ExtendedAPDUReader()
	extended.MaxMessage = 15
	chars := emu.CharacterReader()
	chars.MaxMessage = 74
	chars.Vendor, chars.Product = 0x0B97, 0x7762
	chars.Release = 0x0111
	scm := emu.ShortAPDUReader()
	scm.MaxMessage = 263
	rates := emu.TPDUReader()
	rates.Rates = []uint32{1, 2, 3}
	mech := emu.TPDUReader()
	mech.Mechanical = 2

	tests := []struct {
		name   string
		cfg    emu.Config
		script string
		do     func(t *testing.T, s *slot)
	}{
		{
			// CCID 1.1 §6.1.1, §6.2.1: bPowerSelect 00 where the reader selects
			// the voltage; bStatus 00: active.
			name: "power", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 62 00 00 00 00  00 01 00 00 00
				IN  81 | 80 04 00 00 00  00 01 00 00 00  3B 02 14 50
				OUT 02 | 65 00 00 00 00  00 02 00 00 00
				IN  81 | 81 00 00 00 00  00 02 00 00 00
				OUT 02 | 62 00 00 00 00  00 03 00 00 00   # a warm reset is IccPowerOn again
				IN  81 | 80 04 00 00 00  00 03 00 00 00  3B 02 14 50
				OUT 02 | 63 00 00 00 00  00 04 00 00 00   # a cold one takes the power away
				IN  81 | 81 00 00 00 00  00 04 01 00 01
				OUT 02 | 62 00 00 00 00  00 05 00 00 00
				IN  81 | 80 04 00 00 00  00 05 00 00 00  3B 02 14 50
				OUT 02 | 63 00 00 00 00  00 06 00 00 00
				IN  81 | 81 00 00 00 00  00 06 01 00 01
				OUT 02 | 65 00 00 00 00  00 07 00 00 00
				IN  81 | 81 00 00 00 00  00 07 42 FE 00   # "failed, absent" is no error
			`, do: func(t *testing.T, s *slot) {
				for _, how := range []reader.Reset{reader.Cold, reader.Warm, reader.Cold} {
					atr, err := s.PowerOn(ctx, how)
					check(t, atr, err, atrT0, nil)
					if how == reader.Cold && !s.active {
						t.Error("not active")
					}
					if st, err := statusOnce(t, s, how); st != reader.Powered || err != nil {
						t.Error(st, err)
					}
				}
				if err := s.PowerOff(ctx); err != nil {
					t.Error(err)
				}
				if st, err := s.Status(ctx); st != reader.Absent || err != nil {
					t.Error(st, err)
				}
			},
		},
		{
			// ISO/IEC 7816-3:2006 §6.2.4: the next class after deactivation if the card
			// does not answer. 5 V, 1.8 V, 3 V; later the one that worked.
			name: "voltage", cfg: manual, script: hello + `
				OUT 02 | 62 00 00 00 00  00 01 01 00 00
				IN  81 | 80 00 00 00 00  00 01 41 FE 00
				OUT 02 | 63 00 00 00 00  00 02 00 00 00
				IN  81 | 81 00 00 00 00  00 02 01 00 00
				OUT 02 | 62 00 00 00 00  00 03 03 00 00
				IN  81 | 80 00 00 00 00  00 03 41 F8 00
				OUT 02 | 63 00 00 00 00  00 04 00 00 00
				IN  81 | 81 00 00 00 00  00 04 01 00 00
				OUT 02 | 62 00 00 00 00  00 05 02 00 00
				IN  81 | 80 04 00 00 00  00 05 00 00 00  3B 02 14 50
				OUT 02 | 63 00 00 00 00  00 06 00 00 00
				IN  81 | 81 00 00 00 00  00 06 01 00 00
				OUT 02 | 62 00 00 00 00  00 07 02 00 00
				IN  81 | 80 04 00 00 00  00 07 00 00 00  3B 02 14 50
			`, do: func(t *testing.T, s *slot) {
				for range 2 {
					atr, err := s.PowerOn(ctx, reader.Cold)
					check(t, atr, err, atrT0, nil)
				}
			},
		},
		{
			name: "no card", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 62 00 00 00 00  00 01 00 00 00
				IN  81 | 80 00 00 00 00  00 01 42 FE 00
				OUT 02 | 62 00 00 00 00  00 02 00 00 00
				IN  81 | 80 00 00 00 00  00 02 41 F2 00   # busy with the activation on insertion
				OUT 02 | 62 00 00 00 00  00 03 00 00 00
				IN  81 | 80 00 00 00 00  00 03 41 FE 00   # mute
			`, do: func(t *testing.T, s *slot) {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, nil, reader.ErrNoCard)
				atr, err = s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, nil, reader.ErrMute)
			},
		},
		{
			// CCID 1.1 §6.2: a time extension multiplies the time by bError.
			// §6.1: an answer with another bSeq or bSlot is not to this command.
			name: "time extension, stale answers, empty packets", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				IN  81 | 80 00 00 00 00  00 01 80 01 00
				IN  81 | 80 00 00 00 00  00 01 80 0A 00
				IN  81 | 80 02 00 00 00  00 00 00 00 00  6F 00             # bSeq 00: to an earlier command
				IN  81 | 80 02 00 00 00  07 01 00 00 00  6F 00             # there is no slot 7
				IN  81 |                                                   # zero-length packet
				IN  81 | 80 03 00 00 00  00 01 00 00 00  00 90 00
				OUT 02 | 6F 05 00 00 00  00 02 04 00 00  00 84 00 00 01    # bBWI: the granted WTX
				IN  81 | 80 03 00 00 00  00 02 00 00 00  00 90 00  FF FF   # bytes behind dwLength
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, []byte{0xAA})
				check(t, rx, err, unhex("AA 00 90 00"), nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01"), WTX: 4}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
			},
		},
		{
			// CCID 1.1 §5.3.1: an unanswered command is aborted by the control request
			// and the bulk message with the same bSeq.
			name: "abort", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				IN  81 | timeout
				OUT 21 01 0200 0000 0000
				OUT 02 | 72 00 00 00 00  00 02 00 00 00
				IN  81 | 80 00 00 00 00  00 01 40 FF 00   # the command: aborted by the host
				IN  81 | 81 00 00 00 00  00 02 00 00 00
				OUT 02 | 6F 05 00 00 00  00 03 00 00 00  00 84 00 00 01
				IN  81 | 80 03 00 00 00  00 03 00 00 00  00 90 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrTimeout)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
			},
		},
		{
			name: "abort, by a reader that knows none of it", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				IN  81 | timeout
				OUT 21 01 0200 0000 0000 | stall
				OUT 02 | 72 00 00 00 00  00 02 00 00 00
				IN  81 | 81 00 00 00 00  00 02 40 00 00   # command not supported
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrTimeout)
			},
		},
		{
			name: "harder and harder", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				IN  81 | timeout
				OUT 21 01 0200 0000 0000 | timeout
				OUT 02 | 72 00 00 00 00  00 02 00 00 00
				IN  81 | timeout
				clear 81
				clear 02
				OUT 02 | 65 00 00 00 00  00 03 00 00 00
				IN  81 | timeout
				reset
				OUT 02 | 65 00 00 00 00  00 04 00 00 00
				IN  81 | 81 00 00 00 00  00 04 01 00 00
				OUT 02 | 62 00 00 00 00  00 05 00 00 00
				IN  81 | 80 04 00 00 00  00 05 00 00 00  3B 02 14 50
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrTimeout)
				rx, err = s.PowerOn(ctx, reader.Cold)
				check(t, rx, err, atrT0, nil)
			},
		},
		{
			name: "dead", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				IN  81 | timeout
				OUT 21 01 0200 0000 0000
				OUT 02 | 72 00 00 00 00  00 02 00 00 00
				IN  81 | timeout
				clear 81
				clear 02
				OUT 02 | 65 00 00 00 00  00 03 00 00 00
				IN  81 | timeout
				reset
				OUT 02 | 65 00 00 00 00  00 04 00 00 00
				IN  81 | timeout
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrGone)
				<-s.ifd.Gone()
				_, err = s.Status(ctx)
				check(t, nil, err, nil, reader.ErrGone)
			},
		},
		{
			name: "stalls", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 01 00 00 00  00 01 00 00 00  00
				IN  81 | stall
				clear 81
				IN  81 | 80 02 00 00 00  00 01 00 00 00  90 00   # the answer comes behind the halt
				OUT 02 | stall
				clear 02
				OUT 21 01 0300 0000 0000
				OUT 02 | 72 00 00 00 00  00 03 00 00 00
				IN  81 | 81 00 00 00 00  00 03 00 00 00
				OUT 02 | 6F 01 00 00 00  00 04 00 00 00  00
				IN  81 | overflow
				OUT 21 01 0500 0000 0000
				OUT 02 | 72 00 00 00 00  00 05 00 00 00
				IN  81 | overflow
				IN  81 | 81 00 00 00 00  00 05 00 00 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
				check(t, rx, err, unhex("90 00"), nil)
				for range 2 {
					rx, err = s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
					check(t, rx, err, nil, reader.ErrProtocol)
				}
			},
		},
		{
			// An answer of wrong length or type ends the command. There is no abort; a
			// GetSlotStatus resynchronises both sides.
			name: "wrong answers", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 6F 01 00 00 00  00 01 00 00 00  00
				IN  81 | 80 03 00 00 00  00 01 00 00 00  90 00   # one byte is missing
				OUT 02 | 65 00 00 00 00  00 02 00 00 00
				IN  81 | 00                                      # and comes too late
				IN  81 | 81 00 00 00 00  00 02 00 00 00
				OUT 02 | 6F 01 00 00 00  00 03 00 00 00  00
				IN  81 | 80 F0 FF FF FF  00 03 00 00 00  90 00
				OUT 02 | 65 00 00 00 00  00 04 00 00 00
				IN  81 | 81 00 00 00 00  00 04 00 00 00
				OUT 02 | 6F 01 00 00 00  00 05 00 00 00  00
				IN  81 | 82 02 00 00 00  00 05 00 00 00  90 00
				OUT 02 | 65 00 00 00 00  00 06 00 00 00
				IN  81 | 81 00 00 00 00  00 06 00 00 00
				OUT 02 | 6F 01 00 00 00  00 07 00 00 00  00
				IN  81 | 80 00 00
				OUT 02 | 65 00 00 00 00  00 08 00 00 00
				IN  81 | 81 00 00 00 00  00 08 00 00 00
			`, do: func(t *testing.T, s *slot) {
				for range 4 {
					rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
					check(t, rx, err, nil, reader.ErrProtocol)
				}
			},
		},
		{
			// CCID 1.1 §6.1.7: SetParameters after the PPS; §6.1.14 where the rate
			// does not follow it. 3580000·16/512 = 111875 bit/s.
			name: "parameters", cfg: manual, script: hello + `
				OUT 02 | 62 00 00 00 00  00 01 01 00 00
				IN  81 | 80 04 00 00 00  00 01 00 00 00  3F 02 14 50
				OUT 02 | 61 07 00 00 00  00 02 01 00 00  95 13 FF 45 03 FE 00   # T=1, CRC, inverse
				IN  81 | 82 07 00 00 00  00 02 00 00 01  95 13 FF 45 03 FE 00
				OUT 02 | 73 08 00 00 00  00 03 00 00 00  FC 0D 00 00  03 B5 01 00
				IN  81 | 84 08 00 00 00  00 03 00 00 00  FC 0D 00 00  FF B4 01 00
				OUT 02 | 61 05 00 00 00  00 04 00 00 00  11 02 00 0A 00         # T=0
				IN  81 | 82 05 00 00 00  00 04 00 00 00  11 02 00 0A 00
				OUT 02 | 61 05 00 00 00  00 05 00 00 00  11 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 05 40 0D 00                         # "parameter at offset 13": let it be
				OUT 02 | 61 05 00 00 00  00 06 00 00 00  11 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 06 40 00 00                         # not supported, and no change asked for
				OUT 02 | 61 05 00 00 00  00 07 00 00 00  11 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 07 40 FE 00                         # "mute", and active: a memory card
				OUT 02 | 61 05 00 00 00  00 08 00 00 00  95 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 08 40 00 00                         # not supported: the card is at another rate
				OUT 02 | 61 05 00 00 00  00 09 00 00 00  95 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 09 40 FE 00
				OUT 02 | 61 05 00 00 00  00 0A 00 00 00  11 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 0A 41 FE 00                         # the card has lost its power
				OUT 02 | 61 05 00 00 00  00 0B 00 00 00  11 02 00 0A 00
				IN  81 | 82 00 00 00 00  00 0B 42 FE 00                         # the card is out
			`, do: func(t *testing.T, s *slot) {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, atrInverse, nil)
				err = s.SetParams(ctx, iso7816.Params{T: 1, Inverse: true, TA1: 0x95, N: 0xFF, IFSC: 254, BWI: 4, CWI: 5, CRC: true, ClockStop: 3})
				check(t, nil, err, nil, nil)
				for _, c := range []struct {
					ta1  byte
					want error
				}{{0x11, nil}, {0x11, nil}, {0x11, nil}, {0x11, nil}, {0x95, reader.ErrUnsupported}, {0x95, reader.ErrTimeout},
					{0x11, reader.ErrStale}, {0x11, reader.ErrNoCard}} {
					err = s.SetParams(ctx, iso7816.Params{T: 0, Inverse: true, TA1: c.ta1, WI: 10})
					check(t, nil, err, nil, c.want)
				}
				for ta1, ok := range map[byte]bool{0x11: true, 0x95: true, 0x18: true, 0x96: false, 0x97: false, 0x01: false, 0x71: false, 0x1F: false} {
					if s.Supports(ta1) != ok {
						t.Errorf("Supports(%02X) is %v", ta1, !ok)
					}
				}
			},
		},
		{
			name: "OpenPGP card", cfg: emu.TPDUReader(), script: hello + `
				OUT 02 | 62 00 00 00 00  00 01 00 00 00
				IN  81 | 80 14 00 00 00  00 01 00 00 00  3B FA 13 00 FF 81 31 80 45 00 31 C1 73 C0 01 00 00 90 00 B1
				OUT 02 | 61 07 00 00 00  00 02 01 00 00  13 10 FF 75 00 FE 00   # BWI 7, CWI 5 instead of 4, 5
				IN  81 | 82 07 00 00 00  00 02 00 00 01  13 10 FF 75 00 FE 00
			`, do: func(t *testing.T, s *slot) {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, openPGP2, nil)
				check(t, nil, s.SetParams(ctx, iso7816.Params{T: 1, TA1: 0x13, N: 0xFF, IFSC: 254, BWI: 4, CWI: 5}), nil, nil)
				if s.pace.Wait < 12*time.Second {
					t.Error(s.pace)
				}
			},
		},
		{
			// CCID 1.1 §5.3.3; many readers end the table with zeros.
			name: "rates", cfg: rates, script: hello + `
				IN  A1 03 0000 0000 000C | 98 25 00 00  04 B5 01 00  00 00 00 00
			`, do: func(t *testing.T, s *slot) {
				if !s.Supports(0x95) || s.Supports(0x94) {
					t.Error(s.rates)
				}
			},
		},
		{
			name: "no rates", cfg: rates, script: hello + `
				IN  A1 03 0000 0000 000C | stall
			`, do: func(t *testing.T, s *slot) {
				if !s.Supports(0x95) || !s.Supports(0x94) {
					t.Error(s.rates)
				}
			},
		},
		{
			// CCID 1.1 §6.1.4: wLevelParameter and bChainParameter, parts of 5 bytes.
			name: "chaining", cfg: extended, script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 01 00  00 01 02 03 04
				IN  81 | 80 00 00 00 00  00 01 00 00 10
				OUT 02 | 6F 05 00 00 00  00 02 00 03 00  05 06 07 08 09
				IN  81 | 80 00 00 00 00  00 02 00 00 10
				OUT 02 | 6F 02 00 00 00  00 03 00 02 00  0A 0B
				IN  81 | 80 05 00 00 00  00 03 00 00 01  01 02 03 04 05
				OUT 02 | 6F 00 00 00 00  00 04 00 10 00
				IN  81 | 80 05 00 00 00  00 04 00 00 03  06 07 08 09 0A
				OUT 02 | 6F 00 00 00 00  00 05 00 10 00
				IN  81 | 80 00 00 00 00  00 05 00 00 10          # not ready: asked again
				OUT 02 | 6F 00 00 00 00  00 06 00 10 00
				IN  81 | 80 02 00 00 00  00 06 00 00 02  90 00
				OUT 02 | 6F 05 00 00 00  00 07 00 00 00  00 01 02 03 04
				IN  81 | 80 02 00 00 00  00 07 00 00 00  90 00
				OUT 02 | 6F 05 00 00 00  00 08 00 01 00  00 01 02 03 04
				IN  81 | 80 02 00 00 00  00 08 00 00 00  67 00   # does not take parts, but has one:
				OUT 02 | 63 00 00 00 00  00 09 00 00 00          # the next command would be the next part
				IN  81 | 81 00 00 00 00  00 09 01 00 01
				OUT 02 | 6F 01 00 00 00  00 0A 00 00 00  00
				IN  81 | 80 02 00 00 00  00 0A 00 00 77  90 00   # undefined
				OUT 02 | 63 00 00 00 00  00 0B 00 00 00
				IN  81 | 81 00 00 00 00  00 0B 01 00 01
				OUT 02 | 6F 05 00 00 00  00 0C 00 01 00  00 01 02 03 04
				IN  81 | 80 00 00 00 00  00 0C 00 00 10
				OUT 02 | 6F 01 00 00 00  00 0D 00 02 00  05
				IN  81 | 80 00 00 00 00  00 0D 40 FD 00          # fails in the middle of the command
				OUT 02 | 63 00 00 00 00  00 0E 00 00 00
				IN  81 | 81 00 00 00 00  00 0E 01 00 01
				OUT 02 | 6F 01 00 00 00  00 0F 00 00 00  00
				IN  81 | 80 01 00 00 00  00 0F 00 00 01  01      # fails in the middle of the response
				OUT 02 | 6F 00 00 00 00  00 10 00 10 00
				IN  81 | 80 00 00 00 00  00 10 41 FE 00          # the card saw the command: not ESTALE
				OUT 02 | 63 00 00 00 00  00 11 00 00 00
				IN  81 | 81 00 00 00 00  00 11 01 00 01
				OUT 02 | 6F 01 00 00 00  00 12 00 00 00  00
				IN  81 | 80 00 00 00 00  00 12 40 FD 00          # fails as a whole: nothing is left
				OUT 02 | 6F 01 00 00 00  00 13 00 00 00  00
				IN  81 | 80 01 00 00 00  00 13 00 00 01  01
				OUT 02 | 6F 00 00 00 00  00 14 00 10 00
				IN  81 | timeout
				OUT 21 01 1500 0000 0000
				OUT 02 | 72 00 00 00 00  00 15 00 00 00
				IN  81 | 80 00 00 00 00  00 14 40 FF 00
				IN  81 | 81 00 00 00 00  00 15 00 00 00
				OUT 02 | 63 00 00 00 00  00 16 00 00 00          # aborted, and what was half-way forgotten
				IN  81 | 81 00 00 00 00  00 16 01 00 01
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(12)}, nil)
				check(t, rx, err, unhex("01 02 03 04 05 06 07 08 09 0A 90 00"), nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(5)}, nil)
				check(t, rx, err, unhex("90 00"), nil)
				for _, c := range []struct {
					n    int
					want error
				}{{6, reader.ErrProtocol}, {1, reader.ErrProtocol}, {6, reader.ErrProtocol}, {1, reader.ErrTimeout}, {1, reader.ErrProtocol}, {1, reader.ErrTimeout}} {
					rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(c.n)}, nil)
					check(t, rx, err, nil, c.want)
					if errors.Is(err, reader.ErrStale) {
						t.Error(err)
					}
				}
			},
		},
		{
			// CCID 1.1 §6.1.4: at character level wLevelParameter is how many
			// characters are expected. The Oz776 loses messages of 64 bytes.
			name: "characters", cfg: chars, script: hello + `
				OUT 02 | 6F 05 00 00 00  00 01 00 01 00  00 84 00 00 36
				IN  81 | 80 01 00 00 00  00 01 00 00 00  84
				OUT 02 | 6F 00 00 00 00  00 02 00 01 00
				IN  81 | 80 01 00 00 00  00 02 00 00 00  00
				OUT 02 | 6F 00 00 00 00  00 03 00 35 00
				IN  81 | 80 02 00 00 00  00 03 00 00 00  01 02                                     # the card sent no more
				OUT 02 | 6F 40 00 00 00  00 04 00 00 00  00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 28 29 2A 2B 2C 2D 2E 2F 30 31 32 33 34 35 36 37 38 39 3A 3B 3C 3D 3E 3F
				IN  81 | 80 00 00 00 00  00 04 00 00 00
				OUT 02 | 6F 06 00 00 00  00 05 00 02 00  40 41 42 43 44 45
				IN  81 | 80 02 00 00 00  00 05 00 00 00  90 00
				OUT 02 | 6F 40 00 00 00  00 06 00 02 00  ` + fmt.Sprintf("% X", pattern(64)) + `   # as much as a message has
				IN  81 | 80 02 00 00 00  00 06 00 00 00  90 00
				OUT 02 | 6F 00 00 00 00  00 07 00 01 00
				IN  81 | 80 02 00 00 00  00 07 00 00 00  90 00                                     # more than was asked for
				OUT 02 | 6F 01 00 00 00  00 08 00 00 00  00
				IN  81 | 80 00 00 00 00  00 08 00 00 00                                            # nothing was
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 36"), Want: 1}, nil)
				check(t, rx, err, []byte{0x84}, nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Want: 54}, nil)
				check(t, rx, err, []byte{0, 1, 2}, nil)
				for _, n := range []int{70, 64} {
					rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(n), Want: 2}, nil)
					check(t, rx, err, unhex("90 00"), nil)
				}
				rx, err = s.Exchange(ctx, reader.Transfer{Want: 1}, nil)
				check(t, rx, err, nil, reader.ErrProtocol)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
				check(t, rx, err, nil, nil)
			},
		},
		{
			name: "eject and escape", cfg: mech, script: hello + `
				OUT 02 | 71 00 00 00 00  00 01 02 00 00
				IN  81 | 81 00 00 00 00  00 01 02 00 00
				OUT 02 | 6B 02 00 00 00  00 02 00 00 00  1F 02
				IN  81 | 83 01 00 00 00  00 02 02 00 00  77
				OUT 02 | 6B 01 00 00 00  00 03 00 00 00  99
				IN  81 | 83 00 00 00 00  00 03 42 00 00
			`, do: func(t *testing.T, s *slot) {
				check(t, nil, s.ifd.slots[0].(reader.Ejector).Eject(ctx), nil, nil)
				rx, err := s.Escape(ctx, unhex("1F 02"))
				check(t, rx, err, []byte{0x77}, nil)
				rx, err = s.Escape(ctx, unhex("99"))
				check(t, rx, err, nil, reader.ErrUnsupported)
			},
		},
		{
			// dwMaxCCIDMessageLength 263 leaves the header out: 261 bytes are sent.
			name: "SCM's message length", cfg: scm, script: hello + `
				OUT 02 | 6F FE 00 00 00  00 01 00 00 00  ` + fmt.Sprintf("% X", pattern(254)) + `
				IN  81 | 80 02 00 00 00  00 01 00 00 00  90 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(254)}, nil)
				check(t, rx, err, unhex("90 00"), nil)
			},
		},
		{
			name: "too long", cfg: emu.TPDUReader(), script: hello, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(262)}, nil)
				check(t, rx, err, nil, reader.ErrUnsupported)
				if _, ok := s.ifd.slots[0].(reader.Ejector); ok {
					t.Error("ejects without dwMechanical")
				}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := opened(t, play(t, tt.cfg, tt.script))
				tt.do(t, r.functions[0].own[0])
			})
		})
	}
}
