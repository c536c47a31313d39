//go:build cgo

package gousb

// #cgo pkg-config: libusb-1.0
// #include <libusb.h>
import "C"

import (
	"errors"
	"fmt"
	"reflect"

	lib "github.com/google/gousb"

	"github.com/cardfs/cardfs/reader"
)

// handle is gousb's handle of an open device, for calls of libusb that gousb lacks.
type handle struct{ h *C.libusb_device_handle }

var errHandle = errors.New("gousb's Device has no field handle any more, as 1.1.3 has it")

func handleOf(d *lib.Device) (handle, error) {
	f := reflect.ValueOf(d).Elem().FieldByName("handle")
	if f.Kind() != reflect.Pointer || f.IsNil() {
		return handle{}, fmt.Errorf("%w: %w", errHandle, reader.ErrUnsupported)
	}
	return handle{(*C.libusb_device_handle)(f.UnsafePointer())}, nil
}

// failure converts a return value of libusb to gousb's error.
func failure(code C.int) error {
	if code < 0 {
		return lib.Error(code)
	}
	return nil
}

// detaching sets whether claim detaches a driver of the kernel, and release attaches it
// again. gousb's SetAutoDetach would detach drivers from all interfaces of the
// configuration.
func (h handle) detaching(on bool) {
	v := C.int(0)
	if on {
		v = 1
	}
	// On systems without support for this, no driver of the kernel has the interface.
	_ = C.libusb_set_auto_detach_kernel_driver(h.h, v)
}

// claim claims an interface. gousb claims it again later, which changes nothing; but its
// own claim returns errors without a code.
func (h handle) claim(iface uint8) error { return failure(C.libusb_claim_interface(h.h, C.int(iface))) }

func (h handle) release(iface uint8) { C.libusb_release_interface(h.h, C.int(iface)) }

// detach detaches a driver of the kernel from an interface.
func (h handle) detach(iface uint8) error {
	return failure(C.libusb_detach_kernel_driver(h.h, C.int(iface)))
}

// clearHalt ends an endpoint's halt and resets the data toggle on both sides.
func (h handle) clearHalt(ep uint8) error { return failure(C.libusb_clear_halt(h.h, C.uchar(ep))) }
