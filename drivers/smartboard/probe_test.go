package smartboard

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/smartboard/emu"
	"github.com/cardfs/cardfs/reader"
)

// "It compares all of that which is fixed: an echo is no answer." One question is sent, and the port is free again.
func TestProbe(t *testing.T) {
	for answer, found := range map[string]bool{
		"00 05 60 54 65 73 74":    true,
		"00 05 60 20 7E 7E 20":    true,
		"00 04 60 54 65 73":       false, // too short for a name
		"00 05 60 54 65 73 00":    false, // no text
		"00 05 60 54 65 73 80":    false,
		"00 05 61 54 65 73 74":    false, // a status
		"00 01 60":                false, // an echo
		"01 05 60 54 65 73 74":    false,
		"00 05 60 54 65 73":       false, // not whole
		"00 05 60 54 65 73 74 41": false, // and more
		"":                        false,
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked []byte
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode)
				for {
					c, ok := l.Char()
					if !ok {
						return
					}
					if asked = append(asked, c); len(asked) == 3 {
						l.Send(unhex(answer)...)
					}
				}
			}))
			synctest.Wait()
			got, err := Driver{}.Probe(t.Context(), device(p))
			if found != (err == nil && got.Model == "Cherry SmartBoard") {
				t.Errorf("%s: %v, %v", answer, got, err)
			}
			if err != nil && (!errors.Is(err, reader.ErrProtocol) || !strings.HasPrefix(err.Error(), "smartboard /dev/ttyS0: no SmartBoard answers")) {
				t.Errorf("%s: %v", answer, err)
			}
			port, err := p.OpenSerial(t.Context(), mode)
			if err != nil {
				t.Fatal(err)
			}
			port.Close()
			p.Unplug()
			if string(asked) != string(unhex("00 01 60")) {
				t.Errorf("% X was sent", asked)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := newReader(t, emu.Options{}, t0)
		p := serialtest.Plug(e)
		if f, err := (Driver{}).Probe(t.Context(), device(p)); err != nil || f.Model != model || len(f.Params) > 0 {
			t.Errorf("%v, %v", f, err)
		}
		p.Unplug()
		if _, err := (Driver{}).Probe(t.Context(), device(p)); !errors.Is(err, reader.ErrGone) {
			t.Error(err)
		}
	})
}
