package sim

import (
	"context"
	"log/slog"

	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// ccidModel is a reader of the USB class, at the level of its transfers.
func ccidModel(name, title string, config ccid.Config, cards ...string) model {
	config.Vendor, config.Product = 0xF055, 0xCC1D
	config.Manufacturer, config.Name = "cardfs", title
	return model{
		name: name, id: reader.ID{Vendor: config.Vendor, Product: config.Product, Model: title},
		cards: cards, fixed: config.Features&ccid.Token != 0,
		make: func(serial string) hardware {
			config := config
			config.Serial = serial
			return &ccidHardware{config: config, emulator: ccid.NewEmulator(config)}
		},
	}
}

// ccidHardware keeps its cards while the emulated device, which cannot be
// plugged in a second time, is replaced by another of its kind.
type ccidHardware struct {
	config   ccid.Config
	emulator *ccid.Emulator
}

var _ keyboard = (*ccidHardware)(nil)

func (h *ccidHardware) contacts() []*icc.Contact {
	var list []*icc.Contact
	for n := range max(1, h.config.Slots) {
		list = append(list, h.emulator.Contact(n))
	}
	return list
}

func (h *ccidHardware) plug(ctx context.Context, dev reader.Device, log *slog.Logger) (reader.Reader, error) {
	select {
	case <-h.emulator.Gone():
		h.replace()
	default:
	}
	driver := ccid.Driver{Log: log}
	dev.Driver, dev.Link = driver.Name(), h.emulator
	r, err := driver.Open(ctx, dev)
	if err != nil || !h.config.PINPad {
		return r, err
	}
	return newPadReader(r, h.emulator), nil
}

// replace moves the cards to a new device.
func (h *ccidHardware) replace() {
	before := h.contacts()
	h.emulator = ccid.NewEmulator(h.config)
	for n, c := range h.contacts() {
		c.SetFaults(before[n].Faults())
		if card := before[n].Remove(); card != nil {
			c.Insert(card)
		}
	}
}

func (h *ccidHardware) unplug() { h.emulator.Unplug() }

func (h *ccidHardware) press(slot int, keys string) bool {
	if h.config.PINPad {
		h.emulator.Press(slot, keys)
	}
	return h.config.PINPad
}
