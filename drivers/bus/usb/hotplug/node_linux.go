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

// node is a device that was announced: what reader.Device.Link holds.
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
	// departed is called when the open device file says that the device has left.
	departed func()
	// configured is what sysfs said at the latest look. It is under the watcher's mu.
	configured bool

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the device may have become usable
	failure error         // why the latest OpenUSB failed, if another try may do better
	waiting int           // OpenUSB calls that wait for changed
	// detached is that a person had the reader leave, whose device is still there.
	detached bool
}

var (
	_ usb.Opener       = (*node)(nil)
	_ reader.Describer = (*node)(nil)
	_ reader.Detacher  = (*node)(nil)
)

// Describe says by which numbers others know the device: pcscd's IFD handler finds
// the reader by them, when pcscd's hotplug names a device file and an interface.
func (n *node) Describe() map[string]string {
	return map[string]string{
		"usb":       fmt.Sprintf("%03d/%03d", n.number.bus, n.number.dev),
		"interface": fmt.Sprint(mainInterface(n.desc)),
	}
}

// mainInterface is the number of the interface that stands for a reader which
// may have several: the first of class CCID (0B), else the first that is the
// vendor's (FF), else the first.
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

// Descriptors are the device descriptor and the active configuration's.
func (n *node) Descriptors() []byte { return n.desc }

// Gone is closed when the device leaves, or is announced anew.
func (n *node) Gone() <-chan struct{} { return n.gone }

// Detached is called when a person detached the reader: nothing but a rescan announces
// the device again while it stays where it is.
func (n *node) Detached() {
	n.mu.Lock()
	n.detached = true
	n.mu.Unlock()
}

const (
	// udevTime is how long after a device came udevd may take for its rules
	// before a lack of permission is believed.
	udevTime = 3 * time.Second
	// configTime is how long the kernel may take to configure the device.
	configTime = 2 * time.Second
)

// OpenUSB opens the device and claims an interface. It waits for the kernel to
// configure a device that has just come, and for udevd to give it to our group.
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

// ended ends an OpenUSB, unless it failed and something happened since it saw
// changed: what happens from now on has the device announced anew.
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

// try is one attempt. The kernel may be busy with the device, and then neither a
// read of sysfs nor open(2) can be interrupted: they are left behind.
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

// wait is how long it may be worth waiting after err.
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

// wake wakes who waits in OpenUSB: the device may have become usable, configured by
// the kernel, or given to our group by udevd.
func (n *node) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// ready reports that the device could be opened, or that nobody has tried.
func (n *node) ready() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure == nil
}

// again reports whether the device should be announced anew: it could not be opened
// before, and may be now, or it was detached. With retry it is enough that it might.
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
