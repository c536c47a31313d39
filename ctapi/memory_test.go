package ctapi

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// memoryDriver is the sim driver with a synchronous card in its slot.
type memoryDriver struct {
	*sim.Driver
	bus reader.MemoryBus
}

type memorySlot struct {
	reader.Slot
	reader.Memory // none of its methods but Chip
	bus           reader.MemoryBus
}

var h1h4 = []byte{0xA2, 0x13, 0x10, 0x91}

func (s memorySlot) Traits() reader.Traits { return reader.Traits{Level: reader.Synchronous} }
func (s memorySlot) Chip() reader.Chip     { return reader.Chip{Bus: s.bus, Size: 256} }
func (s memorySlot) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	_, err := s.Slot.PowerOn(ctx, how)
	return h1h4, err
}

func (d memoryDriver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := d.Driver.Open(ctx, dev)
	if err != nil {
		return nil, err
	}
	return actingReader{Reader: r, slots: []reader.Slot{memorySlot{Slot: r.Slots()[0], bus: d.bus}}}, nil
}

// CT-BCS 1.0, REQUEST ICC: "90 00 synchronous ICC", "90 01 asynchronous ICC"; the file of a
// slot says in data object 22 how the card is clocked.
func TestSynchronousCard(t *testing.T) {
	for bus, clocked := range map[reader.MemoryBus]byte{reader.I2C: 0x80, reader.ThreeWire: 0x81, reader.TwoWire: 0x82, reader.CounterCard: 0x90} {
		synctest.Test(t, func(t *testing.T) {
			m := core.NewManager(core.Options{Drivers: []reader.Driver{memoryDriver{sim.New(), bus}}})
			defer m.Close(context.Background())
			if err := m.Attach("sim", "t1", nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			terminal := New(m.Slot(0), core.Caller{Owner: t, Wait: true})
			for _, tt := range []struct{ command, want string }{
				{"20 12 01 01 00", "A2 13 10 91 90 00"}, // the whole ATR
				{"20 11 01 02 00", "90 00"},             // RESET ICC: it has no historical bytes
			} {
				answer, err := terminal.Exchange(context.Background(), unhex(tt.command), nil)
				if err != nil || !bytes.Equal(answer, unhex(tt.want)) {
					t.Errorf("%v: %s: % X, %v; want %s", bus, tt.command, answer, err, tt.want)
				}
			}
			if got := protocolByte(m.Slot(0).Info()); got != clocked {
				t.Errorf("%v: object 22 is %02X, want %02X", bus, got, clocked)
			}
		})
	}
}
