//go:build !linux

package hotplug

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Watcher finds nothing on this system: sysfs and uevents exist only in Linux.
type Watcher struct{}

var _ reader.Bus = (*Watcher)(nil)

// New makes a watcher that finds nothing.
func New(usb.Transport, *slog.Logger) *Watcher { return new(Watcher) }

// Name implements reader.Bus.
func (*Watcher) Name() string { return "USB" }

// Watch always fails.
func (*Watcher) Watch(context.Context, reader.Host, []reader.Driver) error {
	return fmt.Errorf("USB readers are found on Linux only, not on %s: %w", runtime.GOOS, reader.ErrUnsupported)
}

// Rescan does nothing.
func (*Watcher) Rescan() {}

// Close does nothing.
func (*Watcher) Close() error { return nil }
