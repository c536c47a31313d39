// Package drivers lists the drivers that cardfs has.
//
// # A new driver
//
// A driver serves one family of devices. It is one folder below this one, and a line in each
// list of step 7. It finds out whether there is a card, powers it, and carries bytes to it.
// All else comes with the lists: numbers and names, T=0 and T=1, transactions, events, the
// files, the udev rules, the ids in pcscd's bundle.
//
// Package reader has the interfaces. The first question is what one transfer to the device
// carries: single characters, a TPDU, a short or an extended APDU. That is its reader.Level.
// Package reader/link does what the device leaves undone below an APDU.
//
// The folder of an iKey, drivers/ikey, has what every folder has:
//
//	testdata/*.txt   sessions: the transfers between a host and the device, in plain text
//	frame.go         the wire format: functions of bytes, without I/O
//	driver.go        the Driver, its Reader and Slots
//	emu/             the device, emulated
//	ikey_test.go     all tests
//
// models.go is there because the iKeys are several models of one wire format: these are one
// driver with a table, not several drivers.
//
// A good order:
//
//  1. The session. Write down a power-up and two commands, from a recording, a published
//     document or the trace of another program, in the notation of package
//     drivers/bus/usb/usbtest. Say in its first lines where it is from. Bytes that nobody
//     knows are ??.
//
//  2. frame.go. Functions that make requests and parse answers. Cite document and section;
//     if a byte was only observed, say where. Lengths that the device
//     announces are checked against what came.
//
//  3. driver.go. For a USB token with a fixed card, package drivers/token has the reader, the
//     slot, status, names and errors, and the driver writes a token.Dialect: Traits, PowerOn,
//     Exchange. Other devices implement reader.Reader and reader.Slot; drivers/ccid has
//     several slots, an interrupt endpoint and PIN pads. What only some readers can do is an
//     optional interface; say so above its methods: var _ reader.PINPad = (*slot)(nil).
//
//  4. TestDriverPlaysSession. usbtest.NewPlayer plays the device; the driver has to send what
//     the session says, with the time-outs that it says.
//
//  5. emu. A usbtest.Device with a function for the requests, and a card in an icc.Contact.
//     It is written from the same facts as the driver and shares no code with it, so that a
//     mistake in one is not hidden by the same mistake in the other. In TestTokenPlaysSession
//     usbtest.Replay plays the host.
//
//  6. TestSuite. readertest.Suite tests what package reader/core relies on, for every driver.
//     Then the driver's own: each transfer fails in each way (usbtest.Menu lists them), each
//     answer is too short, too long, or says something else, and fuzzers read whatever a
//     device may send.
//
//  7. The lists. All, in all.go, has the driver. All, in emulators/emulators.go, has the
//     emulated device: with its line there, "cardfs mount --sim NAME" and "attach sim NAME"
//     make readers of it, help and completion show it, the suite runs with it, and the
//     virtual machine has it on its USB: go run ./tests/vm shell NAME.
//
//  8. README.md. A line in the table of the drivers, which says what has shown the driver to
//     work, and what has not been tried.
//
// # What a driver promises
//
// The methods of a slot are called one at a time. Each ends when its context does, and soon
// after the device has left, with reader.ErrGone. Nothing is sent that could disturb a card
// in order to ask for its status. A command is never sent twice: it may be a PIN that is
// wrong.
//
// An error wraps one of package reader's, so that programs get the right errno. It names
// the device, the step and the lengths, such as
//
//	ikey3k usb:1-2: power up: answer: 25 bytes announced, 9 came: protocol error
//
// but not the bytes, and of a command not even the length: of a VERIFY it is the PIN's. What
// held a command is cleared after use.
package drivers
