package faulttest

import (
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// PowerLost tests that the card has no power once the device was pulled, or its port reset, in
// use or afterwards. New makes the device with its card. Then are more tests of it.
func PowerLost(t *testing.T, d reader.Driver, new func() Device, then ...func(t *testing.T, device Device)) {
	for what, lose := range map[string]func(*testing.T, reader.Reader, *usbtest.Port){
		"unplugged":    func(_ *testing.T, _ reader.Reader, p *usbtest.Port) { p.Unplug() },
		"reset in use": func(_ *testing.T, _ reader.Reader, p *usbtest.Port) { p.Reset() },
		"reset": func(t *testing.T, r reader.Reader, p *usbtest.Port) {
			r.Close()
			c, err := p.OpenUSB(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			c.Reset(t.Context())
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			device := new()
			contact := device.Contacts()[0]
			port := device.Plug()
			t.Cleanup(port.Unplug)
			r, s := readertest.Open(t, d, reader.Device{Driver: d.Name(), Address: "usb:1-2", ID: d.IDs()[0], Link: port})
			if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil || !contact.Powered() {
				t.Fatal(err)
			}
			lose(t, r, port)
			if contact.Powered() {
				t.Errorf("%s: the card has power", what)
			}
			for _, f := range then {
				f(t, device)
			}
		})
	}
}
