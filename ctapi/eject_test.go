package ctapi

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

func TestDeactivateEject(t *testing.T) {
	play(t, "t1", `
		# DEACTIVATE ICC: power off, 64A1 without a card
		> 20 12 01 00
		< 90 01
		> 20 14 01 00 00
		< 90 00
		> 20 13 00 80 00
		< 80 01 03 90 00
		> 20 14 01 00
		< 90 00
		> 20 14 01 01
		< 6A 00
		> 20 14 00 00
		< 6A 00
		> 20 14 02 00
		< 6A 00
		> 20 14 01 00 05
		< 67 00
		> 20 14 01 00 01 05
		< 67 00
		# EJECT ICC: power off
		> 20 12 01 00
		< 90 01
		> 20 15 01 00
		< 90 00
		took 0s
		> 20 13 00 80 00
		< 80 01 03 90 00
		# as pcscd sends it for an eject: Lc 00
		> 20 15 01 00 00
		< 90 00
		# with a time: 6200 if the card is still there then
		> 20 15 01 00 01 05
		< 62 00
		took 5s
		> 20 15 01 03 03 80 01 07
		< 62 00
		took 7s
		# 9001 when it was taken
		after 2s sim 0 remove
		> 20 15 01 00 01 05
		< 90 01
		took 2s
		# 9000 at once when the slot is empty
		> 20 15 01 00 01 05
		< 90 00
		took 0s
		> 20 14 01 00
		< 64 A1
		# bit 04 of P2: the card stays, do not wait
		ctl sim 0 insert
		> 20 15 01 07 01 05
		< 90 00
		took 0s
		# P1, P2, lengths, tags
		> 20 15 00 00
		< 6A 00
		> 20 15 02 00
		< 6A 00
		> 20 15 01 10
		< 6A 00
		> 20 15 01 00 01 05 01
		< 67 00
		> 20 15 01 00 03 52 01 05
		< 6A 85
		# another's transaction
		> 20 12 01 00
		< 90 01
		lock
		> 20 14 01 00
		< 69 85
		> 20 15 01 00
		< 69 85
		> 20 13 00 80 00
		< 80 01 05 90 00
	`)
	play(t, "ccid", `
		# a reader that cannot throw the card out takes its power
		> 20 12 01 00
		< 90 01
		> 20 15 01 00
		< 90 00
		> 20 13 00 80 00
		< 80 01 03 90 00
	`)
}

// motor is a driver of one emulated reader that throws its cards out.
type motor struct {
	ccid.Driver
	device *emu.Reader
}

func (d motor) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	dev.Link = d.device.Plug()
	return d.Driver.Open(ctx, dev)
}

// echo is a T=1 card that answers 90 00.
type echo struct{}

func (echo) ATR() []byte           { return unhex("3B 80 81 31 FE 45 8B") }
func (echo) Reset(bool)            {}
func (echo) Process([]byte) []byte { return []byte{0x90, 0x00} }

// A reader that can eject the card does so, whether or not EJECT ICC waits for its removal.
func TestEjectMotor(t *testing.T) {
	for command, want := range map[string]string{"20 15 01 00": "90 00", "20 15 01 04 01 05": "90 00", "20 15 01 00 01 05": "90 01"} {
		synctest.Test(t, func(t *testing.T) {
			config := emu.TPDUReader()
			config.Mechanical = 0x02
			e := emu.New(config)
			e.Contact(0).Insert(echo{})
			m := core.NewManager(core.Options{Drivers: []reader.Driver{motor{device: e}}})
			defer m.Close(context.Background())
			if err := m.Announce(reader.Device{Driver: "ccid", Address: "motor"}); err != nil {
				t.Fatal(err)
			}
			terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
			for _, x := range [][2]string{{"20 12 01 00", "90 01"}, {command, want}, {"20 13 00 80 00", "80 01 00 90 00"}} {
				answer, err := terminal.Exchange(context.Background(), unhex(x[0]), nil)
				if string(answer) != string(unhex(x[1])) || err != nil {
					t.Errorf("%s: % X, %v, want %s", x[0], answer, err, x[1])
				}
			}
		})
	}
}
