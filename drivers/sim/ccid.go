package sim

import (
	"context"
	"log/slog"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// ccidModel is a reader of the USB class, at the level of its transfers.
func ccidModel(name, title string, config emu.Config, cards ...string) model {
	config.Vendor, config.Product = 0xF055, 0xCC1D
	config.Manufacturer, config.Name = "cardfs", title
	return model{
		name: name, id: reader.ID{Vendor: config.Vendor, Product: config.Product, Model: title},
		cards: cards, fixed: config.Features&emu.Token != 0,
		make: func(serial string) hardware {
			config := config
			config.Serial = serial
			h := &ccidHardware{emulator: emu.New(config)}
			for n := range h.emulator.Config().Slots {
				h.slots = append(h.slots, h.emulator.Contact(n))
			}
			h.connect = func() (usb.Opener, func()) { p := h.emulator.Plug(); return p, p.Unplug }
			return h
		},
	}
}

// ccidHardware may have a PIN pad.
type ccidHardware struct {
	usbHardware
	emulator *emu.Reader
}

var _ keyboard = (*ccidHardware)(nil)

func (h *ccidHardware) plug(ctx context.Context, dev reader.Device, log *slog.Logger) (reader.Reader, error) {
	h.driver = ccid.Driver{Log: log}
	r, err := h.usbHardware.plug(ctx, dev, log)
	if err != nil || !h.emulator.Config().PINPad {
		return r, err
	}
	return newPadReader(r, h.emulator), nil
}

func (h *ccidHardware) press(slot int, keys string) bool {
	if h.emulator.Config().PINPad {
		h.emulator.Press(slot, keys)
	}
	return h.emulator.Config().PINPad
}
