package usb

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The numbers that the macros of include/uapi/linux/usbdevice_fs.h give on most 64-bit
// architectures. They hold the sizes of the structures too.
func TestRequests(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("the numbers and the sizes in them are those of amd64 and arm64; on " + runtime.GOARCH + " they differ")
	}
	for what, tt := range map[string]struct{ got, want uintptr }{
		"GETDRIVER":        {ioGetDriver, 0x41045508},
		"SUBMITURB":        {ioSubmit, 0x8038550A},
		"DISCARDURB":       {ioDiscard, 0x550B},
		"REAPURBNDELAY":    {ioReapNDelay, 0x4008550D},
		"CLAIMINTERFACE":   {ioClaim, 0x8004550F},
		"RELEASEINTERFACE": {ioRelease, 0x80045510},
		"IOCTL":            {ioDriver, 0xC0105512},
		"RESET":            {ioReset, 0x5514},
		"CLEAR_HALT":       {ioClearHalt, 0x80045515},
		"CONNECT":          {ioConnect, 0x5517},
		"DISCONNECT_CLAIM": {ioDisconnectClaim, 0x8108551B},
	} {
		if tt.got != tt.want {
			t.Errorf("USBDEVFS_%s is %#x, want %#x", what, tt.got, tt.want)
		}
	}
	var u usbdevfsURB
	for what, tt := range map[string]struct{ got, want uintptr }{
		"endpoint": {unsafe.Offsetof(u.endpoint), 1}, "status": {unsafe.Offsetof(u.status), 4},
		"flags": {unsafe.Offsetof(u.flags), 8}, "buffer": {unsafe.Offsetof(u.buffer), 16},
		"buffer_length": {unsafe.Offsetof(u.bufferLength), 24}, "actual_length": {unsafe.Offsetof(u.actualLength), 28},
		"usercontext": {unsafe.Offsetof(u.context), 48},
	} {
		if tt.got != tt.want {
			t.Errorf("%s at %d, want %d", what, tt.got, tt.want)
		}
	}
}

// arch/mips and arch/powerpc have three bits for the direction, and other values in them
// (include/uapi/asm/ioctl.h); the rest has two (include/uapi/asm-generic/ioctl.h).
func TestRequestOfArchitectures(t *testing.T) {
	for _, tt := range []struct {
		arch      string
		dir, want uintptr
	}{
		{"amd64", 0, 0x00045515}, {"amd64", dirWrite, 0x40045515}, {"amd64", dirRead, 0x80045515}, {"arm", dirRead | dirWrite, 0xC0045515},
		{"mips", 0, 0x20045515}, {"mipsle", dirRead, 0x40045515}, {"mips64", dirWrite, 0x80045515}, {"mips64le", dirRead | dirWrite, 0xC0045515},
		{"ppc64", dirWrite, 0x80045515}, {"ppc64le", dirRead, 0x40045515},
	} {
		if got := requestOn(tt.arch, tt.dir, 21, 4); got != tt.want {
			t.Errorf("%s, direction %d: %#x, want %#x", tt.arch, tt.dir, got, tt.want)
		}
	}
}

// kernelIoctl passes on what the kernel says.
func TestKernelIoctl(t *testing.T) {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if _, err := unix.Write(p[1], make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	var n int32
	if err := kernelIoctl(p[0], unix.TIOCINQ, unsafe.Pointer(&n)); err != nil || n != 5 {
		t.Errorf("FIONREAD: %d bytes, %v", n, err)
	}
	if err := kernelIoctl(p[0], ioReset, nil); err != unix.ENOTTY {
		t.Errorf("a reset of a pipe: %v, want ENOTTY", err)
	}
	if err := kernelIoctl(-1, ioReset, nil); err != unix.EBADF {
		t.Errorf("no file: %v, want EBADF", err)
	}
}

// GETDRIVER names the driver of an interface; ENODATA says that there is none.
func TestKernelDriver(t *testing.T) {
	k := newKernel(t)
	for _, tt := range []struct {
		driver string
		err    error
		want   string
	}{{"", nil, ""}, {"usbhid", nil, "usbhid"}, {"usbhid", unix.ENODEV, ""}} {
		k.driver = tt.driver
		k.fail(ioGetDriver, tt.err)
		if got, err := KernelDriver(7, 3); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
	if got := k.called(); got != "driver? 3; driver? 3; driver? 3" {
		t.Errorf("called %q", got)
	}
}

// USBDEVFS_CONNECT is given within USBDEVFS_IOCTL, for an interface.
func TestConnectDriver(t *testing.T) {
	old := ioctl
	defer func() { ioctl = old }()
	ioctl = func(fd int, req uintptr, arg unsafe.Pointer) error {
		if c := (*driverCommand)(arg); fd != 7 || req != ioDriver || *c != (driverCommand{iface: 3, code: 0x5517}) {
			t.Errorf("file %d, request %#x, %+v", fd, req, *c)
		}
		return unix.EBUSY
	}
	if err := connectDriver(7, 3); err != unix.EBUSY {
		t.Error(err)
	}
}

// Control and isochronous endpoints are not transferred on (USB 2.0 table 9-13: bits 1-0 of
// bmAttributes; the others tell of isochronous ones and of feedback).
func TestEndpointTypes(t *testing.T) {
	desc := append(append([]byte{}, numbered...), 9, 2, 0, 0, 1, 1, 0, 0x80, 50, 9, 4, 5, 0, 5, 0xFF, 0, 0, 0)
	for i, attributes := range []byte{0, 1, 2, 3, 0xFE, 0xFF} {
		desc = append(desc, 7, 5, byte(i), attributes, 64, 0, 0)
	}
	types, err := endpointTypes(desc, 5)
	if err != nil || len(types) != 4 || types[2] != 3 || types[3] != 1 || types[4] != 3 || types[5] != 1 {
		t.Errorf("%v, %v", types, err)
	}
	if types, err := endpointTypes(desc, 4); err == nil || len(types) != 0 {
		t.Errorf("%v, %v", types, err)
	}
}
