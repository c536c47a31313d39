package usb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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

	mu      sync.Mutex
	stirred chan struct{} // closed and replaced when the device may have become usable
	failure error         // why the latest OpenUSB failed, if another try may do better
	waiting int           // OpenUSBs that wait for stirred
}

var (
	_ Opener        = (*node)(nil)
	_ reader.Teller = (*node)(nil)
)

// Tell says by which numbers others know the device: pcscd's IFD handler finds
// the reader by them, when pcscd's hotplug names a device file and an interface.
func (n *node) Tell() map[string]string {
	return map[string]string{
		"usb":       fmt.Sprintf("%03d/%03d", n.number.bus, n.number.dev),
		"interface": fmt.Sprint(mainInterface(n.desc)),
	}
}

// mainInterface is the number of the interface that stands for a reader which
// may have several: the first of class CCID (0B), else the first that is the
// vendor's (FF), else the first.
func mainInterface(desc []byte) uint8 {
	all := Interfaces(desc)
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

const (
	// udevTime is how long after a device came udevd may take for its rules
	// before a lack of permission is believed.
	udevTime = 3 * time.Second
	// configTime is how long the kernel may take to configure the device.
	configTime = 2 * time.Second
)

// OpenUSB opens the device and claims an interface. It waits for the kernel to
// configure a device that has just come, and for udevd to give it to our group.
func (n *node) OpenUSB(ctx context.Context, iface uint8) (Conn, error) {
	for {
		n.mu.Lock()
		stirred := n.stirred
		n.waiting++
		n.mu.Unlock()
		c, err := n.try(iface)
		patience := n.patience(err)
		if patience > 0 {
			t := time.NewTimer(patience)
			select {
			case <-stirred:
			case <-t.C:
			case <-n.gone:
			case <-ctx.Done():
			}
			t.Stop()
		}
		n.mu.Lock()
		n.waiting--
		n.failure = nil
		if errors.Is(err, reader.ErrNoPermission) || errors.Is(err, reader.ErrClaimed) {
			n.failure = err
		}
		n.mu.Unlock()
		if patience <= 0 {
			return c, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

var errNotConfigured = errors.New("the kernel has not configured the device (no bConfigurationValue in sysfs)")

func (n *node) try(iface uint8) (Conn, error) {
	select {
	case <-n.gone:
		return nil, openError(n.device.Address, n.path, unix.ENODEV)
	default:
	}
	if readAttr(n.sys, "bConfigurationValue") == "" {
		if _, err := os.Stat(n.sys); err == nil {
			return nil, fmt.Errorf("%s: %w", n.device.Address, errNotConfigured)
		}
	}
	c, err := openDevice(n.path, n.device.Address, iface)
	if err != nil {
		return nil, err
	}
	c.strMu.Lock()
	defer c.strMu.Unlock()
	maps.Copy(c.strings, n.strings)
	return c, nil
}

// patience is how long it may be worth waiting after err.
func (n *node) patience(err error) time.Duration {
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

// stir wakes who waits in OpenUSB. It tells whether the device should be
// announced anew, as it could not be opened before and nobody waits.
func (n *node) stir() (again bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.stirred)
	n.stirred = make(chan struct{})
	if n.waiting > 0 || !errors.Is(n.failure, reader.ErrNoPermission) {
		return false
	}
	return unix.Access(n.path, unix.R_OK|unix.W_OK) == nil
}

// refused tells whether the device could not be opened though it is there.
func (n *node) refused() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure != nil && n.waiting == 0
}
