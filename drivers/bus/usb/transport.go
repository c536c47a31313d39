package usb

import (
	"context"
	"log/slog"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Transport opens the device at a place and claims one of its interfaces.
type Transport func(at Place, iface uint8) (Conn, error)

// Place is where a device is, and what is known of it before it is opened.
type Place struct {
	Name string // for errors: "usb:3-1.2"
	Path string // device file
	// Bus and Number are the device's as lsusb and the name of its device file have them.
	Bus, Number int
	// Descriptors are those of Conn.Descriptors, as the system read them.
	Descriptors []byte
	// Config is the bConfigurationValue in force; 0: the first configuration's.
	Config uint8
	// Strings are the string descriptors that are known, by index.
	Strings map[uint8]string
	// Gone is closed when the device is known to have left. It may be nil.
	Gone <-chan struct{}
	// Departed is called when the transport hears of the departure first, before it
	// closes Conn.Gone. It may be nil.
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

// unplugTime is how long the kernel may take to see that a device has left after
// its transfers fail: hubs are asked every 256 ms.
var unplugTime = 600 * time.Millisecond // shorter in tests

// Lost is for a device that did not answer on the bus. Mostly it is being
// unplugged, which a hub reports a little later; else the error is err.
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
