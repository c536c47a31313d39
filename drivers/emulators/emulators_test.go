package emulators_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/cardman"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/drivers/starkey"
	"github.com/cardfs/cardfs/reader"
)

// "A new emulator is one line here": each line satisfies what its users rely on.
func TestAll(t *testing.T) {
	names, served := map[string]bool{}, map[string]bool{}
	log := slog.New(slog.DiscardHandler)
	for _, e := range emulators.All() {
		t.Run(e.Name, func(t *testing.T) {
			if e.Name == "" || names[e.Name] || strings.ContainsAny(e.Name, " =\t") {
				t.Error("the name is not one word of its own")
			}
			names[e.Name] = true
			driver := e.Driver(log)
			served[driver.Name()] = true
			if d, ok := driver.(ccid.Driver); ok && d.Log != log {
				t.Error("the driver has another log")
			}
			if d, ok := driver.(starkey.Driver); ok && d.Log != log {
				t.Error("the driver has another log")
			}
			if d, ok := driver.(cardman.Driver); ok && d.Log != log {
				t.Error("the driver has another log")
			}
			if e.About == "" || e.ID.Model == "" {
				t.Errorf("about %q, model %q", e.About, e.ID.Model)
			}
			device := e.New("S7")
			slots := device.Contacts()
			if len(slots) != len(e.Cards) {
				t.Fatalf("%d slots, %d cards", len(slots), len(e.Cards))
			}
			for n, c := range slots {
				card, ok := sim.NewCard(e.Cards[n], "S7")
				if !ok {
					t.Fatalf("no card %s", e.Cards[n])
				}
				if err := c.Insert(card); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // plugged in, and replugged
				port := emulators.Plug(device)
				if usb, ok := port.(*usbtest.Port); ok {
					desc := usb.Descriptors()
					if v, p := uint16(desc[8])|uint16(desc[9])<<8, uint16(desc[10])|uint16(desc[11])<<8; v != e.ID.Vendor || p != e.ID.Product {
						t.Errorf("%04x:%04x, listed as %04x:%04x", v, p, e.ID.Vendor, e.ID.Product)
					}
					if got := usb.String(desc[16]); got != "S7" {
						t.Errorf("serial number %q", got)
					}
				}
				r, err := driver.Open(t.Context(), reader.Device{Driver: driver.Name(), Address: "a", ID: e.ID, Link: port})
				if err != nil {
					t.Fatal(err)
				}
				if got := len(r.Slots()); got != len(slots) {
					t.Fatalf("%d slots opened of %d", got, len(slots))
				}
				for n, s := range r.Slots() {
					atr, err := s.PowerOn(t.Context(), reader.Cold)
					if want := slots[n].Card().ATR(); err != nil || !slices.Equal(atr, want) {
						t.Errorf("slot %d: ATR % X, %v; want % X", n, atr, err, want)
					}
				}
				port.Unplug()
				<-r.Gone()
				r.Close()
			}
		})
	}
	listed := map[string]bool{}
	for _, d := range drivers.All(drivers.Env{}) {
		listed[d.Name()] = true
		// These have no device of their own.
		if n := d.Name(); !served[n] && !slices.Contains([]string{"sim", "vpcd", "replay", "remote"}, n) {
			t.Errorf("driver %s has no emulated device", n)
		}
	}
	for n := range served {
		if !listed[n] {
			t.Errorf("driver %s is not listed: it serves simulated devices alone", n)
		}
	}
}
