package usb

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// Linux Documentation/driver-api/usb/error-codes.rst lists the errors of ioctls and the
// status of urbs. Only ENODEV means that the device has left.
func TestErrno(t *testing.T) {
	impatient(t)
	for _, tt := range []struct {
		errno  unix.Errno
		ioctl  error // of ClearHalt
		submit error // of a urb that was not taken
		status error // of a urb that ended
	}{
		{unix.ENODEV, reader.ErrGone, reader.ErrGone, reader.ErrGone},
		{unix.ENOENT, ErrNoEndpoint, ErrNoEndpoint, ErrReset}, // unlinked, and not by us
		{unix.ESRCH, ErrNoEndpoint, ErrNoEndpoint, ErrNoEndpoint},
		{unix.ECONNRESET, unix.ECONNRESET, unix.ECONNRESET, ErrReset},
		{unix.ESHUTDOWN, ErrReset, ErrReset, ErrReset},
		{unix.EHOSTUNREACH, ErrReset, ErrReset, ErrReset},
		{unix.EPIPE, ErrStall, ErrStall, ErrStall},
		{unix.EOVERFLOW, ErrOverflow, ErrOverflow, ErrOverflow},
		{unix.ETIMEDOUT, ErrTimeout, ErrTimeout, ErrTimeout},
		{unix.EPROTO, ErrBus, ErrBus, ErrBus},
		{unix.EILSEQ, ErrBus, ErrBus, ErrBus},
		{unix.ETIME, ErrBus, ErrBus, ErrBus},
		{unix.ECOMM, ErrBus, ErrBus, ErrBus},
		{unix.ENOSR, ErrBus, ErrBus, ErrBus},
		{unix.EBUSY, reader.ErrClaimed, reader.ErrClaimed, reader.ErrClaimed},
		{unix.EACCES, reader.ErrNoPermission, reader.ErrNoPermission, reader.ErrNoPermission},
		{unix.EPERM, reader.ErrNoPermission, reader.ErrNoPermission, reader.ErrNoPermission},
		{unix.EINVAL, unix.EINVAL, unix.EINVAL, unix.EINVAL},
		{unix.ENOMEM, unix.ENOMEM, unix.ENOMEM, unix.ENOMEM},
		{unix.ENXIO, unix.ENXIO, unix.ENXIO, unix.ENXIO},
		{unix.EAGAIN, unix.EAGAIN, unix.EAGAIN, unix.EAGAIN},
		{unix.EREMOTEIO, unix.EREMOTEIO, unix.EREMOTEIO, unix.EREMOTEIO},
		{unix.EIO, unix.EIO, unix.EIO, unix.EIO},
	} {
		t.Run(tt.errno.Error(), func(t *testing.T) {
			k := newKernel(t)
			c := k.open()
			var got [3]error
			k.fail(ioClearHalt, tt.errno)
			got[0] = c.ClearHalt(t.Context(), kIntrIn)
			go k.finish(tt.errno, "")
			_, got[2] = c.In(t.Context(), kIntrIn, make([]byte, 8), 0)
			k.fail(ioSubmit, tt.errno)
			_, got[1] = c.In(t.Context(), kIntrIn, make([]byte, 8), 0)
			for i, want := range []error{tt.ioctl, tt.submit, tt.status} {
				if !errors.Is(got[i], want) || !strings.HasPrefix(got[i].Error(), "usb:test: ") {
					t.Errorf("%s: %v, want %v", []string{"ioctl", "submit", "status"}[i], got[i], want)
				}
				if isGone := errors.Is(got[i], reader.ErrGone); isGone != (tt.errno == unix.ENODEV) {
					t.Errorf("%d: the device has left: %v, by %v", i, isGone, got[i])
				}
			}
			if left := closed(c.Gone()); left != (tt.errno == unix.ENODEV) || left != (k.departures.Load() == 1) {
				t.Errorf("Gone is closed: %v; departure told %d times", left, k.departures.Load())
			}
			if in, _ := taken(c); in != 0 {
				t.Errorf("%d urbs in flight", in)
			}
		})
	}
}

// What open(2) returns on a device file.
func TestOpenErrno(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.EACCES: reader.ErrNoPermission, unix.EPERM: reader.ErrNoPermission,
		unix.ENOENT: reader.ErrGone, unix.ENODEV: reader.ErrGone, unix.ENXIO: reader.ErrGone,
		unix.EMFILE: unix.EMFILE, unix.EIO: unix.EIO, unix.EBUSY: unix.EBUSY,
	} {
		if got := (Place{Name: "usb:1-1", Path: "/dev/bus/usb/001/002"}).Refused(errno); !errors.Is(got, want) {
			t.Errorf("%v: %v, want %v", errno, got, want)
		} else if want == unix.EMFILE && errors.Is(got, reader.ErrGone) {
			t.Errorf("%v: gone", errno)
		}
	}
	if _, err := Usbfs(Place{Name: "usb:1-1", Path: filepath.Join(t.TempDir(), "none")}, 0); !errors.Is(err, reader.ErrGone) {
		t.Errorf("%v", err)
	}
}

// String descriptors (USB 2.0 §9.6.7), in the first language, asked for once.
func TestStrings(t *testing.T) {
	k := newKernel(t)
	c := k.open()
	k.called()
	str := func(i uint8, answers ...string) string {
		end := make(chan string, 1)
		go func() { end <- c.String(i) }()
		for _, a := range answers {
			status := unix.Errno(0)
			if a == "stall" {
				status, a = unix.EPIPE, ""
			}
			k.finish(status, a)
		}
		return await(t, end, "string")
	}
	for _, tt := range []struct {
		index   uint8
		answers []string
		want    string
	}{
		{0, nil, ""},
		{1, []string{"stall"}, ""},    // no languages
		{1, []string{"\x02\x03"}, ""}, // an empty list
		{1, []string{"\x04\x03\x09\x04", "\x06\x03a\x00\xFC\x00"}, "aü"},
		{1, nil, "aü"},
		{2, []string{"\x20\x03x\x00"}, "x"},      // longer than what came
		{3, []string{"\x04\x03y\x00z\x00"}, "y"}, // shorter
		{4, []string{"\x03\x03y"}, ""},           // half a unit
		{5, []string{"\x04\x02y\x00"}, ""},       // not a string descriptor
		{6, []string{"\x04"}, ""},
		{7, []string{"\x00\x03y\x00"}, ""},
		{8, []string{"stall"}, ""},
	} {
		if got := str(tt.index, tt.answers...); got != tt.want {
			t.Errorf("string %d: %q, want %q", tt.index, got, tt.want)
		}
	}
	if got := k.called(); strings.Count(got, "submit 2 00 263 00") != strings.Count(got, "submit") {
		t.Errorf("called %q", got)
	}
}

// The transport does not ask the device for what the watcher knows: strings, and the active
// configuration.
func TestPlace(t *testing.T) {
	k := newKernel(t)
	c, err := openDevice(Place{Name: "usb:test", Path: k.path, Config: 1, Strings: map[uint8]string{3: "S1"}}, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k.called()
	if got := c.String(3); got != "S1" || k.called() != "" {
		t.Errorf("serial number %q", got)
	}
	if !bytes.Equal(c.Descriptors(), kernelDevice) {
		t.Errorf("descriptors % X", c.Descriptors())
	}
	if _, err := Usbfs(Place{Name: "usb:test", Path: k.path, Config: 2}, 3); !errors.Is(err, reader.ErrProtocol) {
		t.Errorf("configuration 2: %v", err)
	}
	if _, err := Open(t.Context(), reader.Device{Driver: "x"}, 3); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("no USB device: %v", err)
	}
}
