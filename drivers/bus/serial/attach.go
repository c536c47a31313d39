package serial

import (
	"context"
	"log/slog"

	"github.com/cardfs/cardfs/drivers/bus/internal/byname"
	"github.com/cardfs/cardfs/reader"
)

// Attach completes the announcement of a reader on a serial port, for the reader.Attacher
// of a driver. The address is the name of the port: /dev/ttyUSB0, or better one that udev
// makes from what the adapter is, /dev/serial/by-id/….
//
// The port need not be there. Until it is, the reader is starting. When the port leaves,
// the reader leaves, and is announced again at once with the same numbers; so it stays
// until it is detached, and is ready whenever its port is there. log may be nil.
func Attach(dev reader.Device, log *slog.Logger) (reader.Device, error) {
	return byname.Attach(dev, "serial", func(l *byname.Link) reader.Link { return link{l} }, log)
}

// link is the reader.Device.Link of an attached reader.
type link struct{ *byname.Link }

var _ Opener = link{}

// OpenSerial waits for the port.
func (l link) OpenSerial(ctx context.Context, m Mode) (Port, error) {
	port, err := byname.Open(ctx, l.Link, func(ctx context.Context, name, path string) (Port, error) {
		return openAt(ctx, name, path, m, l.Log())
	})
	if err != nil {
		return nil, err
	}
	return attached{port, l.Use(port.Gone())}, nil
}

// attached is a port in use, of a link.
type attached struct {
	Port
	use *byname.Use
}

// Gone is Port.
func (p attached) Gone() <-chan struct{} { return p.use.Gone() }

// Close is Port.
func (p attached) Close() error { return p.use.Close(p.Port.Close) }
