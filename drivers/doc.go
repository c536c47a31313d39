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
//     optional interface; say so above its methods: var _ reader.PINPad = (*slot)(nil). For
//     memory cards the slot embeds a type of package reader/memcard, over what its reader offers:
//     single commands of the chips (drivers/sim), or its own commands (drivers/ccid).
//
//  4. TestDriverPlaysSession. usbtest.NewPlayer plays the device, and a readertest.Host asks
//     for what its user asks for; the driver has to send what the session says, with the
//     time-outs that it says.
//
//  5. emu. A usbtest.Device with a function for the requests, and a card in an icc.Contact.
//     It is written from the same facts as the driver and shares no code with it, so that a
//     mistake in one is not hidden by the same mistake in the other. usbtest.Commands is for
//     devices that take commands on a bulk endpoint. In TestTokenPlaysSession usbtest.Replay
//     plays the host. readertest.Card is a card for it, and Scripted one with other answers.
//
//  6. TestSuite. readertest.Suite tests what package reader/core relies on, for every driver.
//     faulttest.Session has each transfer fail in each way, also those of Open; PowerLost unplugs
//     the device, and readertest.EveryLength exchanges what a short APDU may have. Then the
//     driver's own: each answer is too short, too long, or says something else, and fuzzers read
//     whatever a device may
//     send. If another project has a driver, witness.USB has both drive the emulated device.
//
//  7. The lists. All, in all.go, has the driver. All, in emulators/emulators.go, has the
//     emulated device: with its line there, "cardfs mount --sim NAME" and "attach sim NAME"
//     make readers of it, help and completion show it, the suite runs with it, and the
//     virtual machine has it on its USB: go run ./tests/vm shell NAME.
//
//  8. README.md. A line in the table of the drivers, which says what has shown the driver to
//     work, and what has not been tried.
//
// # On a serial line
//
// Nothing announces a reader on a serial line: the user attaches it. The steps are the same,
// with packages drivers/bus/serial and drivers/bus/serial/serialtest in place of usb and
// usbtest:
//
//   - IDs returns nil, and the driver is a reader.Attacher, whose method checks the
//     parameters and ends with serial.Attach. What that gives waits for a port that is not
//     there, and brings the reader back under its number when the port comes again.
//   - Open begins with serial.Open, which opens the port in a serial.Mode with DTR and RTS on.
//     The reader's Gone is the port's. Where nothing answers, Open fails: a port says nothing
//     of what is behind it.
//   - A port carries characters: see serial.Port. ReadFull and ReadChars keep the time for an
//     answer. An answer that failed leaves the rest of it behind: Flush before the next
//     command.
//   - A port may have no modem lines (serial.ErrNoLines) and no parity, as a pseudo-terminal.
//     A driver that can do without goes on.
//   - emu/ is a serialtest.Device with Contacts. The line in the list of emulators is like
//     others; New returns the device. The machine has it behind an adapter as /dev/ttyUSB0:
//     go run ./tests/vm shell NAME.
//   - A session is in the notation of serialtest, with serialtest.NewPlayer and Replay. In
//     place of usbtest.Menu, serialtest.Menu has what can happen to each character. Package
//     faulttest runs a test with all of it, and Open with what is no reader.
//
// A reader with a driver in the kernel, and so a device file, has the same in packages
// drivers/bus/chardev and drivers/bus/chardev/chardevtest.
//
// # Probing
//
// `cardfs probe PORT` has each driver that is a reader.Prober look for its reader on a
// serial port of which nobody knows what is on it: another reader, a card without one, a
// machine that does what it is told. So a question is harmless:
//
//   - It has no effect on a reader that takes it, and none on a card: it powers none, resets
//     none and sends it nothing. A question is for a name, a version, a status, or the
//     number of a block. Where the port shows that there is a card without a reader, the
//     card is reset: nothing else tells.
//   - No other reader takes it for a command that does something. A sum over it, or a begin
//     that no other frame has, sees to that; where there is neither, the driver asks late.
//   - Lines are switched, and breaks sent, only by a driver that asks late.
//
// Probe opens the port with serial.Open, once for each mode in which its reader may be, and
// finds DTR and RTS on and nothing to read. It asks once, waits about a second for what its
// reader answers at once, and compares all of that which is fixed, the sum included: an
// echo is no answer. Behind such an answer it may ask for what `attach` needs to know.
// It leaves the reader as it was found, at the same speed. What the driver's Open does to
// start a reader is no question: it changes something.
//
// The order in which drivers ask is in package drivers/bus/serial/probe, with a line for
// each. Its tests put every question to every emulated device, and look whether
// anything happens to its card.
//
// # What a driver promises
//
// The methods of a slot are called one at a time. Each ends when its context does, and soon
// after the device has left, with reader.ErrGone. Nothing is sent that could disturb a card
// in order to ask for its status. A command is never sent twice: it may be a PIN that is
// wrong.
//
// A driver tries nothing twice because a device may need time: after it was plugged in, woken
// with the system, or on a hub with many others. Package reader/core does, with Open and
// PowerOn, for all drivers. It goes by the error: ErrTimeout, ErrProtocol and ErrMute may
// pass, and so may a transfer that failed, ErrTransfer, as the transports report it. What is
// lasting says ErrUnsupported, ErrClaimed or ErrNoPermission. What the device is known to need
// in any case, such as a pause or a second read, is the driver's.
//
// An error wraps one of package reader's, so that programs get the right errno. It names
// the device, the step and the lengths, such as
//
//	ikey3k usb:1-2: power up: answer: 25 bytes announced, 9 came: protocol error
//
// but not the bytes, and of a command not even the length: of a VERIFY it is the PIN's. What
// held a command is cleared after use.
package drivers
