// Package gousb is the usb.Transport on libusb, through github.com/google/gousb. It
// reaches devices where there is no usbfs, and where the system's libusb is to be in
// charge; on Linux usb.Usbfs does the same with less.
//
// # What gousb is
//
// A gousb Context is a libusb context with a goroutine that handles its events, and
// wakes up ten times a second to see whether it should end. A Device is an open device
// file, a Config claims one of its configurations, and an Interface one interface of
// that. An endpoint of an Interface moves data with a context.Context.
//
// Each connection has a Context of its own, so that nothing wakes up while no reader is
// open, and so that a device is found in sysfs when it has just come: a Context that
// lives on hears of it through udevd only.
//
// # What it lacks
//
// gousb 1.1.3 has no call for some of what a usb.Conn does. Each is made good here, or
// refused in words:
//
//   - Clearing a halt with the host's data toggle, and taking one interface, and no other,
//     from a driver of the kernel: libusb has calls for both, which are made with the
//     libusb handle of gousb's Device. SetAutoDetach would take all interfaces of the
//     configuration, and give none back.
//   - Cancelling a control transfer. With its context the caller gets back, and the
//     transfer runs on to its time-out: the next one waits for it, and so does Close. One
//     without a time-out gets 5 s, the most that a device may take for a request (USB 2.0
//     §9.2.6.1).
//   - A data stage of more than 4,096 bytes, which libusb refuses. So does this package
//     when one goes out, and when an answer may have been cut.
//   - A reset while a configuration is claimed: everything is given up for it, and
//     claimed again. Transfers under way end with usb.ErrReset.
//   - A zero-length packet behind a full one: it is a transfer of its own.
//   - Interfaces that are not numbered 0, 1, 2 …: gousb takes the number for an index,
//     and can panic. They are refused. Two interfaces of one number make it panic when it
//     lists devices, whosever they are; the panic becomes an error.
//   - Word of a departure while nothing is under way. The watcher's is taken
//     (usb.Place.Gone); on Linux the device file, open a second time, is faster.
//   - libusb reports a transfer that the kernel ended, by another program's reset, as
//     complete and short. On Linux the second device file tells whose the interface is,
//     and such a transfer ends with usb.ErrReset.
//   - Buffers that are cleared after use. What a transfer moved, a PIN too, stays in
//     memory that libusb has freed until something else takes its place.
package gousb
