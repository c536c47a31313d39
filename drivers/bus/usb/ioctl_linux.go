package usb

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of usbfs (Linux include/uapi/linux/usbdevice_fs.h) that Conn needs.

// Transfer types of a urb.
const (
	urbInterrupt = 1
	urbControl   = 2
	urbBulk      = 3
)

const urbZeroPacket = 0x40

// disconnectExcept makes DISCONNECT_CLAIM spare the named driver.
const disconnectExcept = 2

// usbdevfsURB is struct usbdevfs_urb.
type usbdevfsURB struct {
	kind         uint8
	endpoint     uint8
	status       int32
	flags        uint32
	buffer       uintptr
	bufferLength int32
	actualLength int32
	startFrame   int32
	packets      int32
	errorCount   int32
	signal       uint32
	context      uintptr
}

// driverName is struct usbdevfs_getdriver, and with flags in between
// struct usbdevfs_disconnect_claim.
type driverName struct {
	iface uint32
	name  [256]byte
}

type disconnectClaim struct {
	iface uint32
	flags uint32
	name  [256]byte
}

// driverCommand is struct usbdevfs_ioctl.
type driverCommand struct {
	iface int32
	code  int32
	data  uintptr
}

// request encodes an ioctl number of usbfs. A few architectures have their own
// layout (Linux include/uapi/asm-generic/ioctl.h and arch/*/include/uapi/asm/ioctl.h).
func request(dir, nr, size uintptr) uintptr { return requestOn(runtime.GOARCH, dir, nr, size) }

func requestOn(arch string, dir, nr, size uintptr) uintptr {
	switch arch {
	case "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le":
		return map[uintptr]uintptr{0: 1, dirRead: 2, dirWrite: 4, dirRead | dirWrite: 6}[dir]<<29 | size<<16 | 'U'<<8 | nr
	}
	return dir<<30 | size<<16 | 'U'<<8 | nr
}

const (
	dirWrite = 1
	dirRead  = 2
)

var (
	ioGetDriver       = request(dirWrite, 8, unsafe.Sizeof(driverName{}))
	ioSubmit          = request(dirRead, 10, unsafe.Sizeof(usbdevfsURB{}))
	ioDiscard         = request(0, 11, 0)
	ioReapNDelay      = request(dirWrite, 13, unsafe.Sizeof(uintptr(0)))
	ioClaim           = request(dirRead, 15, 4)
	ioRelease         = request(dirRead, 16, 4)
	ioDriver          = request(dirRead|dirWrite, 18, unsafe.Sizeof(driverCommand{}))
	ioReset           = request(0, 20, 0)
	ioClearHalt       = request(dirRead, 21, 4)
	ioConnect         = request(0, 23, 0)
	ioDisconnectClaim = request(dirRead, 27, unsafe.Sizeof(disconnectClaim{}))
)

// ioctl calls the kernel; tests replace it.
var ioctl = kernelIoctl

// kernelIoctl calls an ioctl with a pointer argument, and repeats it after an interruption
// by a signal.
func kernelIoctl(fd int, req uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

func claimInterface(fd int, iface uint32) error {
	c := disconnectClaim{iface: iface, flags: disconnectExcept}
	copy(c.name[:], "usbfs")
	err := ioctl(fd, ioDisconnectClaim, unsafe.Pointer(&c))
	switch {
	case errors.Is(err, unix.ENOTTY): // before Linux 3.7
		return ioctl(fd, ioClaim, unsafe.Pointer(&iface))
	case errors.Is(err, unix.EBUSY):
		// The interface may be ours already: after a reset took it away, a transfer
		// claims it implicitly. CLAIMINTERFACE succeeds then.
		if ioctl(fd, ioClaim, unsafe.Pointer(&iface)) == nil {
			return nil
		}
	}
	return err
}

func releaseInterface(fd int, iface uint32) error {
	return ioctl(fd, ioRelease, unsafe.Pointer(&iface))
}

// KernelDriver returns the name of the driver bound to an interface, "" if there is none.
func KernelDriver(fd int, iface uint32) (string, error) {
	d := driverName{iface: iface}
	err := ioctl(fd, ioGetDriver, unsafe.Pointer(&d))
	if errors.Is(err, unix.ENODATA) {
		return "", nil
	}
	return unix.ByteSliceToString(d.name[:]), err
}

// connectDriver lets the kernel bind a driver of its own again.
func connectDriver(fd int, iface uint32) error {
	return ioctl(fd, ioDriver, unsafe.Pointer(&driverCommand{iface: int32(iface), code: int32(ioConnect)}))
}

func clearHalt(fd int, ep uint32) error { return ioctl(fd, ioClearHalt, unsafe.Pointer(&ep)) }

// endpointTypes returns the usbfs transfer type of each endpoint of an interface.
func endpointTypes(desc []byte, iface uint8) (map[uint8]uint8, error) {
	i, err := Find(desc, iface)
	types := map[uint8]uint8{}
	for _, e := range i.Endpoints {
		switch e.Attributes & 3 {
		case 2:
			types[e.Address] = urbBulk
		case 3:
			types[e.Address] = urbInterrupt
		}
	}
	return types, err
}
