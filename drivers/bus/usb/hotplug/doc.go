// Package hotplug finds USB readers as they come and go, and knows the udev rules that
// let a user open them.
//
// # How Linux shows USB devices
//
// Each device has a directory in sysfs, named by its place: 3-1.2 is in port 2 of the hub
// in port 1 of bus 3. The same place has the same name after a replug. It also has a
// device file, /dev/bus/usb/BUS/NUMBER, whose number is new each time, until the numbers
// begin again after 127 devices. When a device comes the kernel reads its descriptors,
// makes both, chooses a configuration, and sends a uevent for each step to whoever
// listens on a netlink socket; udevd does the same once its rules have run, which may
// give the device file to a group. When a device leaves, its open files say so first.
//
// The Watcher looks at sysfs whenever one of these says that something may have changed,
// and announces the devices that a driver serves. A driver opens what was announced
// by way of Device.Link, which waits for the configuration and the rules.
//
// # Lock order
//
// Watcher.mu, then node.mu. The host's Announce is called with Watcher.mu held; a look at
// sysfs, which the kernel may keep waiting, with none.
package hotplug
