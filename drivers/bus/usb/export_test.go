package usb

import (
	"context"
	"log/slog"

	"github.com/cardfs/cardfs/reader"
)

// OpenPath opens a device file.
func OpenPath(path string, iface uint8) (Conn, error) {
	c, err := openDevice(path, "usb:test", iface, nil, func() {})
	if err != nil {
		return nil, err
	}
	return c, nil
}

var (
	ActiveDescriptors = activeDescriptors
	Holders           = holders
)

// Taken tells how many urbs a connection holds, in flight and idle.
func Taken(c Conn) (inFlight, idle int) {
	k := c.(*conn)
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.inFlight), len(k.idle)
}

// WatchWithoutUevents is Watch in a container that gets none.
func WatchWithoutUevents(ctx context.Context, host reader.Host, drivers []reader.Driver, log *slog.Logger) (*Watcher, error) {
	w := newWatcher(host, drivers, log, "/sys/bus/usb/devices", "/dev/bus/usb")
	w.deaf = true
	return w, w.start(ctx)
}

// NewTestWatcher looks at another sysfs, and only on Rescan.
func NewTestWatcher(host reader.Host, drivers []reader.Driver, sys string) *Watcher {
	return newWatcher(host, drivers, nil, sys, "/nonexistent")
}
