// Package ccid drives every reader of the USB smart card class: CCID 1.1 (USB
// Device Class: Smart Card, Integrated Circuit(s) Cards Interface Devices,
// revision 1.1, 2005) over bulk transfers, and ICCD 1.0 versions A and B over
// control transfers.
//
// The host sends a CCID one message a command on the bulk-OUT endpoint, and gets one
// answer, or more while the reader asks for time, on the bulk-IN endpoint. The slot of
// the reader and a number (bSeq) say which answer belongs to which command. How much of
// the card's protocol a reader does by itself is in its class descriptor: the exchange
// level says what one exchange carries (characters, TPDUs, APDUs), dwFeatures who
// chooses voltage, protocol and rate. What is left to the host is done by package link.
//
//	usb.Conn --- function --- pipe (bulk) --- lane --- slot
//	                    \---- iccd (control) --------- slot
//
// A device may have several interfaces of the class; each is a function with
// one slot or more, and all their slots are one reader.
//
// From the device to the card, the files are:
//
//	driver.go      opens a device and its interfaces, closes them, names the reader
//	descriptor.go  what the class descriptor says, and what is made of one that is wrong
//	quirks.go      what models get wrong beyond that, and what is done about it
//	interrupt.go   the interrupt endpoint: slot changes, hardware errors
//	message.go     the messages' headers and numbers
//	errors.go      the errors that readers answer with
//	pipe.go        commands and answers on the bulk endpoints, shared by the slots
//	recover.go     bringing a reader back that does not answer as it should
//	slot.go        power, voltage, presence, Escape
//	params.go      protocol and rate: SetParameters, data rates
//	exchange.go    XfrBlock at each level, chaining
//	pin.go         Secure: the PIN pad
//	iccd.go        USB cards: the same over control transfers
//	times.go       how long each of them may take
//
// Package emu has emulated readers, and testdata has sessions that the driver and they
// both play.
//
// Lock order: what a command holds it takes in the order pipe.busy, pipe.sending,
// pipe.turn, each of which is a channel with a token; pipe.mu comes last, and nothing is
// waited for under it.
package ccid
