// Package hotplug finds USB readers when they are plugged in or unplugged. It also makes
// the udev rules that let a user open them.
//
// # USB devices in Linux
//
// Each device has a directory in sysfs, named after its place: 3-1.2 is in port 2 of the
// hub in port 1 of bus 3. The name of a place never changes. Each device also has a device
// file, /dev/bus/usb/BUS/NUMBER. A replugged device gets a new number; numbers repeat
// after 127 devices. When a device is plugged in, the kernel reads its descriptors, makes
// the directory and the file, and chooses a configuration. It sends a uevent for each step
// to all listeners on a netlink socket. udevd sends another one after its rules have run,
// which may give the device file to a group. When a device is unplugged, its open files
// are the first to report it.
//
// The Watcher looks at sysfs whenever one of these sources reports a possible change, and
// announces the devices that a driver serves. A driver opens an announced device through
// Device.Link, which waits for the configuration and the rules.
//
// # Lock order
//
// Watcher.mu, then node.mu. The host's Announce is called with Watcher.mu held. sysfs is
// read without a lock, because the kernel may block the read.
package hotplug
