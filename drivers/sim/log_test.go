package sim

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// What the driver of an emulated reader has to say goes where the program's log goes.
func TestLog(t *testing.T) {
	config := emu.TPDUReader()
	config.Lie = func(d []byte) []byte { d[27] = 1; return d } // bNumDataRatesSupported; GET_DATA_RATES stalls
	models = append(models, ccidModel("liar", "Simulated liar", config, "token"))
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
	if !strings.Contains(log.String(), `msg="no table of data rates"`) || !strings.Contains(log.String(), "device=liar-1") {
		t.Errorf("the log has %q", log.String())
	}
}
