//go:build cgo

package gousb

import (
	"errors"
	"reflect"
	"testing"

	lib "github.com/google/gousb"
	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The field that libusb's handle is taken from is there in this version of gousb; a
// Device without a handle is refused.
func TestHandle(t *testing.T) {
	f, ok := reflect.TypeFor[lib.Device]().FieldByName("handle")
	if !ok || f.Type.Kind() != reflect.Pointer {
		t.Errorf("gousb.Device has no pointer handle: %+v", f)
	}
	if _, err := handleOf(new(lib.Device)); !errors.Is(err, errHandle) || !errors.Is(err, reader.ErrUnsupported) {
		t.Errorf("%v, want errHandle", err)
	}
}

// libusb's errors (libusb.h, enum libusb_error) by package usb's names. Only NO_DEVICE
// says that the device has left.
func TestSortError(t *testing.T) {
	other := errors.New("other")
	for err, want := range map[error]error{
		lib.ErrorNoDevice: reader.ErrGone, lib.ErrorNotFound: usb.ErrNoEndpoint, lib.ErrorPipe: usb.ErrStall,
		lib.ErrorOverflow: usb.ErrOverflow, lib.ErrorTimeout: usb.ErrTimeout, lib.ErrorIO: usb.ErrBus, lib.ErrorOther: usb.ErrBus,
		lib.ErrorBusy: reader.ErrClaimed, lib.ErrorAccess: reader.ErrNoPermission,
		lib.ErrorInvalidParam: lib.ErrorInvalidParam, lib.ErrorNoMem: lib.ErrorNoMem, other: other,
	} {
		got := sortError(err)
		if !errors.Is(got, want) {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
		if errors.Is(got, reader.ErrGone) != (err == lib.ErrorNoDevice) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// A device that is not on the bus is gone, and nothing stays behind: see TestMain.
func TestOpenNothing(t *testing.T) {
	c, err := Open(usb.Place{Name: "usb:9-9", Path: "/dev/bus/usb/250/250", Bus: 250, Number: 250}, 0)
	if c != nil || err == nil {
		t.Fatalf("%v, %v", c, err)
	}
	t.Log(err)
}
