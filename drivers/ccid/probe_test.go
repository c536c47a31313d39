package ccid_test

import (
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// Each model is told from the others, and opened as what it was taken for.
func TestProbeModels(t *testing.T) {
	for want, device := range map[string]func() *emu.Serial{
		"twin": emu.NewTwin, "pinpad": emu.NewPinPad, "simpro2": emu.NewSIMPro2,
		"gemcore": func() *emu.Serial { return emu.NewGemCore(5) }, "simpro": func() *emu.Serial { return emu.NewGemCore(2) },
		"sec1210": func() *emu.Serial { return emu.NewSEC1210(2) }, "sec1210urt": func() *emu.Serial { return emu.NewSEC1210(1) },
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plugged := serialtest.Plug(device())
				defer plugged.Unplug()
				synctest.Wait()
				dev := reader.Device{Driver: "ccid", Address: "/dev/tty", Link: plugged}
				found, err := ccid.Driver{}.Probe(t.Context(), dev)
				t.Logf("%+v, %v", found, err)
				if err != nil || found.Params["model"] != want {
					t.Errorf("model %q, %v", found.Params["model"], err)
				}
				dev.Params = found.Params
				r, err := ccid.Driver{}.Open(t.Context(), dev)
				if err != nil {
					t.Fatal(err)
				}
				if model, more := r.(reader.Identifier).Identify(); found.Model != model+" "+more["version"] {
					t.Errorf("%q, and opened %q %v", found.Model, model, more)
				}
				r.Close()
			})
		})
	}
}
