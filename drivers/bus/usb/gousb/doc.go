// Package gousb is the usb.Transport on libusb, through github.com/google/gousb. It serves
// systems without usbfs, and users who prefer the system's libusb. On Linux, usb.Usbfs
// does the same with less.
//
// # Concepts of gousb
//
// A gousb Context is a libusb context with a goroutine for its events, which wakes up ten
// times a second to check whether it should end. A Device is an open device file, a Config
// claims one of its configurations, and an Interface claims one interface of the
// configuration. An endpoint of an Interface moves data with a context.Context.
//
// Each connection has a Context of its own. So nothing wakes up while no reader is open.
// A new Context also finds a device in sysfs as soon as it is plugged in; an existing one
// learns of it only through udevd.
//
// # Limits of gousb
//
// gousb 1.1.3 lacks calls for some methods of usb.Conn. This package works around them, or
// refuses with an error that says so:
//
//   - Clearing a halt with the host's data toggle, and taking one interface, and no other,
//     from a driver of the kernel: libusb has calls for both, which are made with the
//     libusb handle of gousb's Device. SetAutoDetach would take all interfaces of the
//     configuration, and give none back.
//   - Cancelling a control transfer. When the context ends, the caller returns, but the
//     transfer goes on until its time-out: the next one waits for it, and so does Close. A
//     transfer without a time-out gets 5 s, the most that a device may take for a request
//     (USB 2.0 §9.2.6.1).
//   - A data stage of more than 4,096 bytes, which libusb refuses. Longer output is an
//     error here, and so is an answer that may have been cut.
//   - A reset while a configuration is claimed: everything is given up for it, and
//     claimed again. Transfers under way end with usb.ErrReset.
//   - A zero-length packet behind a full one: it is a transfer of its own.
//   - Interfaces that are not numbered 0, 1, 2 …: gousb uses the number as an index and
//     can panic. They are refused. If any device on the bus has two interfaces of one
//     number, gousb panics while listing devices; the panic becomes an error.
//   - Notice of a departure while no transfer is under way. It comes from the watcher
//     (usb.Place.Gone). On Linux the device file, opened a second time, is faster.
//   - A transfer that the kernel ended because of another program's reset: libusb reports
//     it as complete and short. On Linux the second device file shows who owns the
//     interface, and such a transfer ends with usb.ErrReset.
//   - Clearing buffers after use. The data of a transfer, even a PIN, remains in memory
//     freed by libusb until that is used again.
package gousb
