package hotplug

import (
	"context"
	"log/slog"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// WatchWithoutUevents is Watch in a container that receives no uevents.
func WatchWithoutUevents(ctx context.Context, host reader.Host, drivers []reader.Driver, open usb.Transport, log *slog.Logger) (*Watcher, error) {
	w := New(open, log)
	w.deaf = true
	return w, w.Watch(ctx, host, drivers)
}

// NewTestWatcher returns a watcher of another sysfs, which it reads only on Rescan.
func NewTestWatcher(host reader.Host, drivers []reader.Driver, sys string) *Watcher {
	w := newWatcher(nil, nil, sys, "/nonexistent")
	w.host, w.serves = host, newTable(drivers)
	return w
}
