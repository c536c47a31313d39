// Package serialtest has emulated devices for serial lines, and sessions that are recorded
// from a line and played back.
//
// # Devices
//
// A [Device] is a function that runs while the device has power. It takes what happens on
// its [Line], one event after the other, and sends characters:
//
//	func (r *Reader) Serve(l *serialtest.Line) {
//		l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E2})
//		for {
//			e, ok := l.Next()
//			if !ok {
//				return // unplugged
//			}
//			…
//			l.Send(answer...)
//		}
//	}
//
// [Plug] puts it at the end of a line in memory: a serial.Opener, for reader.Device.Link.
// [OpenPTY] puts that behind a pseudo-terminal, for programs that open a port by name, and
// package ftdi behind an emulated adapter for USB, which usbip.Plug gives to the kernel.
//
// Characters arrive at once, whatever the speed. Each end has a mode of its own. A
// character that does not fit the receiver's mode arrives as another, or with wrong
// parity, as it would on a wire; so a driver that forgets to switch over is found out.
//
// [Plugged.Inject] makes characters fail: see [Fault]. A test that runs a whole exchange
// once for each of its characters and each fault of the [Menu] covers every failure at
// every place.
//
// # Sessions
//
// A session is what a host and one device do, in plain text: the notation of package
// usbtest, with what a serial line has instead of a bus.
//
//	line 9600 8E2            # the host's mode from now on; the first is that of the opening
//	host DTR RTS             # the host's lines from now on; host - means none
//	OUT | 00 01              # characters to the device
//	    | 02                 # more of the same
//	IN  | 84 10 35           # characters to the host
//
// Numbers are hexadecimal, two digits a byte. Unknown bytes are ??: they match any byte,
// and a player sends 00. Behind a byte to the host, ! means that its parity was wrong. How
// the host divided what it wrote and read does not show.
//
// Between IN and the bar there may be a duration, the time-out that the host gave the
// first character, and held with a duration, during which the device sent nothing. The
// word timeout instead of bytes means that the host waited so long in vain:
//
//	IN 1s held 200ms | 3B 02 14 50
//	IN 1s | timeout
//
// The other lines are:
//
//	device CTS CD    # the device's lines from now on; device - means none
//	break 250ms      # the host sends a break
//	flush            # the host drops what has come and was not read
//	unplug
//	wait 100ms       # the host does nothing for that time
//	* the card leaves    # something happens that the line does not show
//	== power on      # a step: what the host's user asks for now
//
// # Recording and playing
//
// [Log] writes down what passes [Plugged.Observe]. [NewPlayer] plays the part of the device
// for a driver under test, and [Replay] plays the part of the host for an emulated device.
// One file under a driver's testdata, played both ways, shows that the driver and the
// emulator each do what the file says, and neither knows the other.
package serialtest
