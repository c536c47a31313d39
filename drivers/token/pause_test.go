package token

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
)

// "Each must end when ctx does, and soon after the device left, with ErrGone" (reader.Slot):
// so do the pauses within a method. Each lasts its whole time, also after one that was cut short.
func TestPause(t *testing.T) {
	const most = time.Second
	for _, tt := range []struct {
		name string
		end  func(cancel func(), port *usbtest.Port)
		want error
		took time.Duration
	}{
		{"to its end", nil, nil, most},
		{"cancelled", func(cancel func(), _ *usbtest.Port) { cancel() }, context.Canceled, most / 4},
		{"unplugged", func(_ func(), port *usbtest.Port) { port.Unplug() }, reader.ErrGone, most / 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			port := usbtest.New(usbtest.Model{Identity: usbtest.Identity{
				Vendor: 0xF055, Product: 0x0001, Manufacturer: "cardfs", Name: "token",
				Interfaces: []usb.Interface{{Class: 0xFF}},
			}}).Plug()
			conn, err := port.OpenUSB(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			w := &Wire{conn: conn, name: "x usb:1-2"}
			for _, d := range []time.Duration{0, time.Millisecond, most} {
				start := time.Now()
				if err := w.Pause(t.Context(), "step", d); err != nil || time.Since(start) != d {
					t.Errorf("%v: %v after %v", d, err, time.Since(start))
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.end != nil {
				time.AfterFunc(most/4, func() { tt.end(cancel, port) })
			}
			start := time.Now()
			err = w.Pause(ctx, "step", most)
			if !errors.Is(err, tt.want) || time.Since(start) != tt.took {
				t.Errorf("%s: %v after %v, want %v after %v", tt.name, err, time.Since(start), tt.want, tt.took)
			}
			if err != nil && err.Error() != "x usb:1-2: step: "+tt.want.Error() {
				t.Errorf("%s: %q names neither the token nor the step", tt.name, err)
			}
			if err == nil || errors.Is(err, context.Canceled) {
				start = time.Now()
				if err := w.Pause(t.Context(), "step", most); err != nil || time.Since(start) != most {
					t.Errorf("after one that was %s: %v after %v", tt.name, err, time.Since(start))
				}
			}
			synctest.Wait()
		})
	}
}
