// Package usbtest has emulated USB devices, and sessions that are recorded from
// a bus and played back.
//
// # Devices
//
// A [Device] is what every USB device has in common: it answers the standard
// requests of USB 2.0 chapter 9 from its descriptors, queues data for the host, halts
// endpoints, and can be plugged in and unplugged repeatedly. The rest is its [Model]:
// an [Identity], and a few functions. A token that has only control transfers needs one
// function:
//
//	token := usbtest.New(usbtest.Model{
//		Identity: usbtest.Identity{
//			Class: 0xFF, Vendor: 0x0973, Product: 0x0001,
//			Manufacturer: "Schlumberger", Name: "e-gate",
//			Interfaces: []usb.Interface{{Class: 0xFF}},
//		},
//		Control: func(ctx context.Context, s usb.Setup, data []byte) (int, error) {
//			return copy(data, answer), nil
//		},
//	})
//	port := token.Plug()
//
// Each time the device is plugged in there is a new [Port]. Drivers in the same
// process open it: it is a usb.Opener, for reader.Device.Link. The kernel gets it
// from usbip.Plug. Both see the same device.
//
// A device that needs time for an answer blocks in Control, until its context
// ends. A device without an answer returns [ErrNAK], and the transfer waits until
// the host gives up, as it would on a bus.
//
// [Device.Inject] makes transfers fail: see [Fault]. A test that runs a whole session once
// for each of its transfers and each fault of the [Menu] covers every failure at every
// place.
//
// # Sessions
//
// A session is the transfers between a host and one device, in plain text. There
// is one transfer a line: its direction as the host sees it, where it goes, and
// behind a bar the bytes that were moved. A comment begins with #.
//
//	OUT 41 16 2005 0000 0000             # control: bmRequestType bRequest wValue wIndex wLength
//	IN  C1 01 0000 0000 0004 | FF 11 11 FF
//	OUT 02 | 65 00 00 00 00  00 00 00 00 00   # endpoint 02
//	IN  81 | 81 00 00 00 00  00 00 01 00 00   # endpoint 81
//	       | 3B 00                            # more of the same transfer
//
// Numbers are hexadecimal, two digits a byte and four digits a word. Unknown bytes are
// ??: they match any byte, and a player sends 00. The
// data stage of a control transfer to the host may be shorter than wLength. An
// endpoint's address may be followed by the length that the host asked for, as a
// word, and by zlp where a zero-length packet follows a full last packet.
//
//	IN  81 0047 | 52 36 00 00 ?? ??
//	OUT 02 zlp  | …
//
// Before the bar there may be a duration, the host's time-out for the transfer, and held
// with a duration, during which the device did not answer:
//
//	IN  C1 01 0000 0000 00FF 20s held 1.5s | 00 00 02 90 00 92
//
// A word instead of the bytes is how a transfer failed: stall, timeout, overflow,
// gone, reset (the device was reset under the transfer), bus (only noise came),
// or cancelled (the host gave it up). Bytes before the word are those that were
// moved to the host in part, or those that the host tried to send.
//
//	IN  81 3s | timeout
//	OUT 02    | 65 00 00 00 00  00 00 00 00 00 stall
//
// The other lines are:
//
//	claim 0          # the host claims interface 0
//	release 0
//	clear 81         # the host ends the halt of endpoint 81
//	reset            # the host resets the port
//	unplug
//	wait 100ms       # the host sends nothing for that time
//	* the card leaves    # something happens that the bus does not show
//	== power on      # a step: what the host's user asks for now
//
// A session that begins with the requests for the descriptors and strings has in
// them what the host knows about the device.
//
// # Recording and playing
//
// [Log] writes down what passes [Device.Observe]. [NewPlayer] plays the part of
// the device for a driver under test, and [Replay] plays the part of the host for
// an emulated device. One file under a driver's testdata, played both ways, shows
// that the driver and the emulator each do what the file says, and neither knows
// the other.
//
// # Lock order
//
// Device.plugging, then the locks of the model, whose functions may call the device, then
// Device.mu. A model's function is called with neither of the device's locks held, but for
// Unplugged, which is called with plugging held.
package usbtest
