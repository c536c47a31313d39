package usbip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Speed is a device's speed as the kernel numbers it (enum usb_device_speed).
type Speed int

const (
	Low  Speed = 1
	Full Speed = 2
	High Speed = 3
)

const vhciDir = "/sys/devices/platform/vhci_hcd.0"

// ErrNoVHCI means that the kernel has no virtual host controller.
var ErrNoVHCI = errors.New("usbip: no " + vhciDir + ": modprobe vhci_hcd, as root")

// Port is a virtual port with a device plugged in.
type Port struct {
	number int
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// attach keeps two goroutines from choosing the same port. Between processes the kernel
// decides, and the loser takes the next port.
var attach sync.Mutex

// Plug plugs dev into a free port of the virtual host controller and serves it
// until Unplug, or until the device is gone. It needs root. The kernel
// enumerates the device after Plug returned.
func Plug(dev Device, speed Speed) (*Port, error) {
	attach.Lock()
	defer attach.Unlock()
	free, err := forgotten()
	if err != nil {
		return nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("usbip: socketpair: %w", err)
	}
	theirs, ours := fds[0], os.NewFile(uintptr(fds[1]), "vhci")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		syscall.Close(theirs)
		return nil, fmt.Errorf("usbip: %w", err)
	}
	number, err := attachTo(free, theirs, speed)
	syscall.Close(theirs) // the kernel holds its own reference
	if err != nil {
		conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Port{number: number, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = Serve(ctx, conn, dev)
	}()
	return p, nil
}

func attachTo(free []int, fd int, speed Speed) (int, error) {
	var err error
	for _, port := range free {
		// "port sockfd devid speed". devid is bus<<16|number on the USB/IP server; there is
		// none here, so any value does.
		line := fmt.Sprintf("%d %d %d %d", port, fd, 1<<16|port+1, speed)
		if err = os.WriteFile(filepath.Join(vhciDir, "attach"), []byte(line), 0); err == nil {
			return port, nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
	}
	if err == nil {
		err = errors.New("no free port")
	}
	return 0, fmt.Errorf("usbip: plug: %w", err)
}

// forgetTime is how long the kernel may take to notice that devices have left. It looks at the
// ports of a hub one after the other, and enumerates what is new there.
const forgetTime = 10 * time.Second

// forgotten returns the free ports whose last device the kernel knows no more, and waits until
// there is one. As long as it knows the device, transfers to it would reach a device that is
// plugged into the same port, and the new one may be taken for it: no bus does that.
func forgotten() ([]int, error) {
	for until := time.Now().Add(forgetTime); ; time.Sleep(time.Millisecond) {
		free, err := freePorts()
		if err != nil {
			return nil, err
		}
		rest := slices.DeleteFunc(slices.Clone(free), func(port int) bool {
			// Ports of a hub count from 1. "4-1" has the hub's bus before the port.
			known, _ := filepath.Glob(filepath.Join(vhciDir, "usb*", fmt.Sprintf("*-%d", port+1)))
			return len(known) > 0
		})
		switch {
		case len(rest) > 0:
			return rest, nil
		case len(free) == 0, time.Now().After(until):
			return free, nil
		}
	}
}

// freePorts reads the status files, one for each controller. Their lines are "hub port sta
// spd dev sockfd local_busid"; sta 4 is a free port.
func freePorts() ([]int, error) {
	files, _ := filepath.Glob(filepath.Join(vhciDir, "status*"))
	if len(files) == 0 {
		return nil, ErrNoVHCI
	}
	var free []int
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("usbip: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 3 || f[0] != "hs" { // "ss" ports are for SuperSpeed
				continue
			}
			port, err1 := strconv.Atoi(f[1])
			state, err2 := strconv.Atoi(f[2])
			if err1 == nil && err2 == nil && state == 4 {
				free = append(free, port)
			}
		}
	}
	return free, nil
}

// Unplug unplugs the device and waits until it is no longer served. It returns the error
// of Serve.
func (p *Port) Unplug() error {
	p.cancel()
	<-p.done
	return p.err
}

// Done is closed when the device is no longer served: it was unplugged, or the
// kernel ended the connection.
func (p *Port) Done() <-chan struct{} { return p.done }
