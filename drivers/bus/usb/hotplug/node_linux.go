package hotplug

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// node is an announced device, and its reader.Device.Link.
type node struct {
	name   string // "3-1.2"
	number deviceNumber
	path   string // device file
	sys    string
	desc   []byte
	device reader.Device
	// strings of the device descriptor, by index, as the kernel read them.
	strings map[uint8]string
	since   time.Time
	gone    chan struct{}
	log     *slog.Logger
	// transport opens the device.
	transport usb.Transport
	// departed is called when the open device file reports the departure of the device.
	departed func()
	// configured is the state in sysfs at the latest look. Watcher.mu protects it.
	configured bool

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the device may have become usable
	failure error         // why the latest OpenUSB failed, if another try may do better
	waiting int           // OpenUSB calls that wait for changed
	// detached is set after a user detached the reader; its device is still plugged in.
	detached bool
}

var (
	_ usb.Opener       = (*node)(nil)
	_ reader.Describer = (*node)(nil)
	_ reader.Detacher  = (*node)(nil)
)

// Describe returns the numbers of the device. The IFD handler finds the reader by them
// when pcscd's hotplug names a device file and an interface.
func (n *node) Describe() map[string]string {
	return map[string]string{
		"usb":       fmt.Sprintf("%03d/%03d", n.number.bus, n.number.dev),
		"interface": fmt.Sprint(mainInterface(n.desc)),
	}
}

// mainInterface returns the number of the interface that stands for the reader: the first
// of class CCID (0B), or else the first of the vendor's class (FF), or else the first.
func mainInterface(desc []byte) uint8 {
	all := usb.Interfaces(desc)
	for _, class := range []uint8{0x0B, 0xFF} {
		for _, i := range all {
			if i.Class == class {
				return i.Number
			}
		}
	}
	if len(all) > 0 {
		return all[0].Number
	}
	return 0
}

// Descriptors returns the device descriptor and the active configuration.
func (n *node) Descriptors() []byte { return n.desc }

// Gone is closed when the device leaves or is announced again.
func (n *node) Gone() <-chan struct{} { return n.gone }

// Detached is called when a user detached the reader. While the device stays plugged in,
// only a rescan announces it again.
func (n *node) Detached() {
	n.mu.Lock()
	n.detached = true
	n.mu.Unlock()
}

const (
	// udevTime is how long after the arrival of a device a lack of permission is not
	// final: udevd may still be running its rules.
	udevTime = 3 * time.Second
	// configTime is how long the kernel may take to configure the device.
	configTime = 2 * time.Second
)

// OpenUSB opens the device and claims an interface. If the device was just plugged in,
// OpenUSB waits for the kernel to configure it and for udevd to give it to our group.
func (n *node) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) {
	n.mu.Lock()
	n.waiting++
	n.failure = nil
	n.mu.Unlock()
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		c, err := n.try(ctx, iface)
		if wait := n.wait(err); wait > 0 && ctx.Err() == nil {
			t := time.NewTimer(wait)
			select {
			case <-changed:
			case <-t.C:
			case <-n.gone:
			case <-ctx.Done():
			}
			t.Stop()
			if ctx.Err() == nil {
				continue
			}
			err = ctx.Err()
		}
		if n.ended(err, changed) {
			return c, err
		}
	}
}

// ended reports whether an OpenUSB may return. It returns false if the call failed but the
// device has changed since the call read changed. After a failure, later changes cause
// the device to be announced again.
func (n *node) ended(err error, changed chan struct{}) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	retry := errors.Is(err, reader.ErrNoPermission) || errors.Is(err, reader.ErrClaimed) || errors.Is(err, errNotConfigured)
	if retry && changed != n.changed {
		return false
	}
	n.waiting--
	if retry {
		n.failure = err
	}
	return true
}

var errNotConfigured = errors.New("the kernel has not configured the device (no bConfigurationValue in sysfs)")

// try is one attempt, in a goroutine of its own. If the kernel is busy with the device,
// neither a read of sysfs nor open(2) can be interrupted, and the goroutine is left behind.
func (n *node) try(ctx context.Context, iface uint8) (usb.Conn, error) {
	type outcome struct {
		conn usb.Conn
		err  error
	}
	done := make(chan outcome)
	left := make(chan struct{})
	defer close(left)
	go func() {
		c, err := n.open(iface)
		select {
		case done <- outcome{c, err}:
		case <-left:
			if err == nil {
				c.Close()
			}
		}
	}()
	select {
	case o := <-done:
		return o.conn, o.err
	case <-n.gone:
		return nil, n.hasLeft()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *node) open(iface uint8) (usb.Conn, error) {
	select {
	case <-n.gone:
		return nil, n.hasLeft()
	default:
	}
	config := readAttr(n.sys, "bConfigurationValue")
	if config == "" {
		if _, err := os.Stat(n.sys); err == nil {
			if readAttr(n.sys, "authorized") == "0" {
				return nil, fmt.Errorf("%s is not authorized (USBGuard, or authorized in sysfs): %w", n.device.Address, errNotConfigured)
			}
			return nil, fmt.Errorf("%s: %w", n.device.Address, errNotConfigured)
		}
	}
	c, err := n.transport(usb.Place{
		Name: n.device.Address, Path: n.path, Bus: n.number.bus, Number: n.number.dev,
		Descriptors: n.desc, Config: uint8(decimal([]byte(config))), Strings: n.strings,
		Gone: n.gone, Departed: n.departed, Log: n.log,
	}, iface)
	if errors.Is(err, reader.ErrNoPermission) {
		err = fmt.Errorf("%w; with the udev rule\n\t%s\nin %s, members of group %s may open it (udevadm control --reload; udevadm trigger)",
			err, idRule(n.device.ID.Vendor, n.device.ID.Product), RulesFile, Group)
	}
	return c, err
}

func (n *node) hasLeft() error {
	return fmt.Errorf("%s: open %s: %w", n.device.Address, n.path, reader.ErrGone)
}

// wait returns how long to wait for a change after err, before another try.
func (n *node) wait(err error) time.Duration {
	age := time.Since(n.since)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNotConfigured):
		return min(configTime-age, 20*time.Millisecond) // events may be missing
	case errors.Is(err, reader.ErrNoPermission):
		if _, err := os.Stat("/run/udev/control"); err == nil {
			return udevTime - age
		}
	}
	return 0
}

// wake wakes all waiting calls of OpenUSB: the kernel may have configured the device, or
// udevd may have given it to our group.
func (n *node) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// ready reports whether the device could be opened, or was not tried yet.
func (n *node) ready() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure == nil
}

// again reports whether the device should be announced again: because it could not be
// opened before and now may be, or because it was detached. retry is set by a rescan,
// which needs no sign of a change.
func (n *node) again(configured, retry bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.detached:
		return retry
	case n.failure == nil || n.waiting > 0:
		return false
	case errors.Is(n.failure, errNotConfigured):
		return configured
	case errors.Is(n.failure, reader.ErrNoPermission):
		return retry || unix.Access(n.path, unix.R_OK|unix.W_OK) == nil
	}
	return retry
}
