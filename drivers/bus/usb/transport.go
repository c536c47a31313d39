package usb

import (
	"context"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Transport opens the device at a place and claims one of its interfaces.
type Transport func(at Place, iface uint8) (Conn, error)

// Place is the location of a device, with all that is known of it before it is opened.
type Place struct {
	Name string // for errors: "usb:3-1.2"
	Path string // device file
	// Bus and Number are those in the output of lsusb and in the path of the device file.
	Bus, Number int
	// Descriptors are as in Conn.Descriptors, read by the system.
	Descriptors []byte
	// Config is the bConfigurationValue in force; 0: the first configuration's.
	Config uint8
	// Strings are the known string descriptors by index.
	Strings map[uint8]string
	// Gone is closed when the device is known to have left. It may be nil.
	Gone <-chan struct{}
	// Departed is called if the transport is the first to notice the departure, before
	// it closes Conn.Gone. It may be nil.
	Departed func()
	Log      *slog.Logger // nil: none
}

func (p Place) departed() {
	if p.Departed != nil {
		p.Departed()
	}
}

// MaxTransfer bounds one transfer. The longest message of any reader, a CCID
// message with an extended APDU, has 65,556 bytes.
const MaxTransfer = 1 << 20

// unplugTime bounds the time from the first failed transfer until the kernel notices that
// the device has left: it polls hubs every 256 ms, and a machine may be busy.
var unplugTime = 1500 * time.Millisecond // shorter in tests

// Lost returns the error for a device that did not answer on the bus. Usually it is being
// unplugged, which the hub reports a little later: ErrGone. Otherwise it is err.
func Lost(ctx context.Context, gone <-chan struct{}, err error) error {
	t := time.NewTimer(unplugTime)
	defer t.Stop()
	select {
	case <-gone:
		return reader.ErrGone
	case <-ctx.Done():
	case <-t.C:
	}
	return err
}
