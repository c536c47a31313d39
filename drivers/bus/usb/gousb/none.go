//go:build !cgo

package gousb

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Missing returns why Open cannot work: this program was built without cgo.
func Missing() error {
	return fmt.Errorf("this cardfs was built without cgo, and so without libusb and gousb: %w; usbfs needs neither", reader.ErrUnsupported)
}

// Open always fails.
func Open(at usb.Place, _ uint8) (usb.Conn, error) {
	return nil, fmt.Errorf("%s: %w", at.Name, Missing())
}
