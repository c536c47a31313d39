package sim

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/reader"
)

// Messages of an emulated reader's driver go to the program's log.
func TestLog(t *testing.T) {
	config := emu.TPDUReader()
	config.Lie = func(d []byte) []byte { d[27] = 1; return d } // bNumDataRatesSupported; GET_DATA_RATES stalls
	liar := emulators.Emulator{Name: "liar", Cards: []string{"token"},
		Driver: func(log *slog.Logger) reader.Driver { return ccid.Driver{Log: log} },
		New:    func(string) emulators.Device { return emu.New(config) }}
	models = append(models, emulator(liar))
	defer func() { models = models[:len(models)-1] }()

	var log bytes.Buffer
	d := &Driver{Log: slog.New(slog.NewTextHandler(&log, nil))}
	dev, err := d.Attach(reader.Device{Address: "liar"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Open(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if !strings.Contains(log.String(), `msg="no table of data rates"`) || !strings.Contains(log.String(), `reader="sim liar-1"`) {
		t.Errorf("the log has %q", log.String())
	}
}
