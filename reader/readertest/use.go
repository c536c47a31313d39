package readertest

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// AllOps is one of each thing that Use does.
var AllOps = []byte{11, 1, 2, 3, 6, 7, 19, 8, 20, 24, 9, 10, 2, 11, 1, 2, 31, 43, 55, 0, 1, 2}

// pinBlock is a PIN_VERIFY structure in order (PC/SC part 10, §2.5.2).
var pinBlock, _ = hex.DecodeString(strings.ReplaceAll("1E 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 0D 00 00 00 00 20 00 01 08 20 FF FF FF FF FF FF FF", " ", ""))

// Use does through the core what programs do with a reader, one thing for each of ops. It
// calls own for events of the device itself, with a number that own interprets. Use runs in a synctest bubble, which fails the test if goroutines are
// left: whatever a device does, the core must end.
func Use(t *testing.T, d reader.Driver, dev reader.Device, ops []byte, own func(m *core.Manager, n byte)) {
	m := core.NewManager(core.Options{Drivers: []reader.Driver{d}, ExchangeLimit: time.Minute})
	start := time.Now()
	defer func() {
		closing := time.Now()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		m.Close(grace)
		// Close's own limits are 10 s of grace and 5 s for drivers.
		if took := time.Since(closing); took > time.Minute {
			t.Errorf("Close took %v", took)
		}
		if took := time.Since(start); took > 24*time.Hour {
			t.Errorf("it took %v", took)
		}
	}()
	if m.Announce(dev) != nil {
		return
	}
	events := m.Follow()
	defer events.Close()
	slot := m.Slot(0)
	if slot == nil {
		return // refused already
	}
	trace := slot.FollowTrace()
	defer slot.CloseTrace(trace)
	by := core.Caller{Owner: t, Wait: true, Escape: true}
	var s *core.Session
	for _, op := range ops {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		switch op % 12 {
		case 0:
			own(m, op/12)
			// It may be back as another reader.
			if again := m.Slot(0); again != nil && again != slot {
				slot, s = again, nil
			}
		case 1:
			if s != nil {
				s.Close()
			}
			s, _ = slot.Open(ctx, by)
		case 2, 3, 4, 5:
			if s == nil {
				s, _ = slot.Open(ctx, by)
			}
			if s != nil {
				s.Transmit(ctx, append([]byte{0, 0xA4, 4, 0, op}, make([]byte, op)...), nil)
			}
		case 6:
			if s != nil {
				s.Transmit(ctx, append([]byte{0, 0xD6, 0, 0, 0, 4, op}, make([]byte, 1024+int(op))...), nil)
			}
		case 7:
			slot.Power(ctx, []core.Action{core.PowerUp, core.PowerDown, core.ResetWarm, core.ResetCold, core.Eject}[op%5], by)
		case 8:
			slot.SelectProtocol(ctx, int(op>>4&1), by)
		case 9:
			slot.Control(ctx, 0x42330006, pinBlock, by)
		case 10:
			slot.Control(ctx, core.CtlEscape, []byte{op}, by)
			slot.Control(ctx, core.CtlGetFeatures, nil, by)
		case 11:
			slot.Info()
			for _, d := range m.Drivers() {
				m.Usage(d)
			}
			time.Sleep(time.Second)
		}
		cancel()
	}
}
