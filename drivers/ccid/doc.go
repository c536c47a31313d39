// Package ccid drives every reader of the USB smart card class: CCID 1.1 (USB
// Device Class: Smart Card, Integrated Circuit(s) Cards Interface Devices,
// revision 1.1, 2005) over bulk transfers, and ICCD 1.0 versions A and B over
// control transfers. It drives some that send the messages of CCID over a serial line, and PC
// cards whose module in the kernel passes them on.
//
// The host sends a command to a CCID as one message on the bulk-OUT endpoint. The reader
// returns one answer on the bulk-IN endpoint, preceded by others while it asks for more
// time. The slot number and a sequence number (bSeq) match answers to commands. The class
// descriptor says how much of the card's protocol a reader handles: the exchange level
// says what one exchange carries (characters, TPDUs, APDUs), dwFeatures who chooses
// voltage, protocol and rate. Package link does what is left to the host.
//
//	usb.Conn --- function --- pipe (bulk) --- lane --- slot
//	                    \---- iccd (control) --------- slot
//
// A device may have several interfaces of the class. Each is a function with one or more
// slots; the slots of all functions form one reader.
//
// From the device to the card, the files are:
//
//	driver.go      opens a device and its interfaces, closes them, names the reader
//	descriptor.go  the class descriptor, and corrections of wrong ones
//	quirks.go      faults of known models, and what is done about them
//	interrupt.go   the interrupt endpoint: slot changes, hardware errors
//	message.go     headers and numbers of the messages
//	errors.go      the errors that readers answer with
//	pipe.go        commands and answers on the bulk endpoints, shared by the slots
//	recover.go     recovery of a reader that does not answer as it should
//	slot.go        power, voltage, presence, Escape
//	params.go      protocol and rate: SetParameters, data rates
//	exchange.go    XfrBlock at each level, chaining
//	pin.go         Secure: the PIN pad
//	iccd.go        USB cards: the same over control transfers
//	times.go       time limits of all of these
//
// Some readers send the same messages over a serial line:
//
//	serial.go         attaching, and a serial port in the place of a USB device
//	serial_conn.go    its messages, and what is done about damage
//	serial_frame.go   frames, and what else goes over the line
//	serial_models.go  the readers, and descriptors for them, as they have none
//	node.go           PC cards (PCMCIA), which have a device file
//
// Package emu contains emulated readers. Directory testdata contains sessions that are
// played against both the driver and the emulators.
//
// Lock order: a command acquires pipe.busy, pipe.sending and pipe.turn in this order;
// each is a channel with one token. pipe.mu comes last, and nothing blocks while holding
// it.
package ccid
