package hotplug

import (
	"context"
	"log/slog"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// WatchWithoutUevents is Watch in a container that gets none.
func WatchWithoutUevents(ctx context.Context, host reader.Host, drivers []reader.Driver, open usb.Transport, log *slog.Logger) (*Watcher, error) {
	w := newWatcher(host, drivers, open, log, "/sys/bus/usb/devices", "/dev/bus/usb")
	w.deaf = true
	return w, w.start(ctx)
}

// NewTestWatcher looks at another sysfs, and only on Rescan.
func NewTestWatcher(host reader.Host, drivers []reader.Driver, sys string) *Watcher {
	return newWatcher(host, drivers, nil, nil, sys, "/nonexistent")
}
