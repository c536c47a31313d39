// Package reader is the vocabulary of cardfs: what a driver is, what it offers and what is
// asked of it. It does nothing by itself.
//
// A Driver opens a Device and makes it a Reader (an IFD, ISO/IEC 7816-3), which has one
// or more Slots. A Slot holds a card or none; it activates the card, and carries bytes
// to it at the Level that the reader works at: single characters, TPDUs or whole APDUs.
// What only some readers can do is an optional interface. FeaturesOf asks a slot, and what
// it wraps, for all of them once; As finds one.
//
// Above it stand package core, which gives every slot a number, keeps its power and
// protocol state and hands exchanges, transactions and events to whoever serves them to
// programs; below it stand the drivers, which need nothing else of cardfs than this
// package and iso7816.
package reader

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/words"
)

// Driver serves one family of IFDs.
type Driver interface {
	// Name is the word that `ctl`, `status` and the log use: "ikey3k".
	Name() string
	// IDs lists what hotplug may match. Empty: the user names the device.
	IDs() []ID
	// Open initialises the device. It may take as long as the device needs and
	// ends early with ctx. The slot directory is there before Open is called.
	Open(ctx context.Context, dev Device) (Reader, error)
}

// ID is one kind of device that a driver serves.
type ID struct {
	Vendor, Product uint16
	// Class, if not zero, matches a USB interface class instead of an ID pair
	// (0x0B: CCID).
	Class uint8
	Model string // "Rainbow iKey 3000"
}

// Device is one device as hotplug or a person announced it, before a driver
// opened it.
type Device struct {
	Driver  string            // name of the driver to open it with
	Address string            // what `attach` was given, or "usb:3-1.2": unique while present
	Bus     string            // "usb", "serial", "tcp", "sim" …: the first word of its by-id name
	ID      ID                // zero where the bus has none
	Serial  string            // "" where it has none
	Port    string            // where it is plugged in; stands in for a missing serial number
	Params  map[string]string // key=value pairs of `attach`
	T0Plain bool              // `attach` said t0=plain: T=0 as the card speaks it, see iso7816.T0Config
	Slots   int               // how many slots the announcement shows; 0 means 1; or NoSlots
	Via     string            // instances of the daemons between here and the device, the nearest first, with commas; see InstanceOf
	Attach  uint64            // which attachment it is of; 0: nobody attached it. Set by the Manager
	Slot    int               // Commander.Command: which of its slots the number names; else 0

	// Link is how the driver reaches the device. Nil where Address is enough.
	Link Link
	// Host is set by the Manager before Open.
	Host Host
}

// NoSlots is Device.Slots of a hub: it has no slot of its own, but its driver announces readers
// as long as it is open. Its Reader has no Slots.
const NoSlots = -1

// Name is what errors and the log call the device: its driver and its address,
// "ccid usb:3-1.2". Log lines have it as the attribute "reader".
func (d Device) Name() string {
	return words.Printable(d.Driver+" "+d.Address, words.MaxValue)
}

// OnlyParams returns ErrInvalid if `attach` named a parameter that is not among keys.
func (d Device) OnlyParams(keys ...string) error {
	for _, key := range slices.Sorted(maps.Keys(d.Params)) {
		if slices.Contains(keys, key) {
			continue
		}
		known := "none"
		if len(keys) > 0 {
			known = strings.Join(keys, ", ")
		}
		return fmt.Errorf("%s: no parameter %s; there is %s: %w", d.Driver, words.Printable(key, words.MaxValue), known, ErrInvalid)
	}
	return nil
}

// Link is the way to a device that is there. What it can do belongs to the transport: a
// driver asserts its type (drivers/bus/usb: usb.Opener). A link may also be a Detacher,
// and a Describer, which says where the device is from its announcement on.
type Link interface {
	// Gone is closed when the device leaves, whether or not a driver has opened it; a
	// reader that dies before that is opened again. Nil: the link cannot tell, and a
	// reader that dies counts as having left.
	Gone() <-chan struct{}
}

// Detacher is a Link that must know when a person detached the reader while its device stays
// plugged in.
type Detacher interface{ Detached() }

// Bus finds devices.
type Bus interface {
	// Name is for the log: "USB".
	Name() string
	// Watch announces to host every device that one of the drivers serves, by IDs or
	// class: those that are there before it returns, others as they come, until ctx
	// ends or Close. It is called once.
	Watch(ctx context.Context, host Host, drivers []Driver) error
	// Rescan looks at what is there now. Devices that could not be opened are tried
	// again, those that were detached are announced again.
	Rescan()
	// Close ends Watch. Devices that were announced stay.
	Close() error
}

// Host is what the core offers to a driver beyond being called. A driver starts its
// goroutines with Go.
type Host interface {
	// Announce makes dev a reader of its own, as if it had just been plugged
	// in: a hub's children, a connection to a listening port. It never waits
	// for the device.
	Announce(dev Device) error
}

// Reader is one open IFD.
type Reader interface {
	// Slots never changes while the Reader is open.
	Slots() []Slot
	// Gone is closed when the device left by itself: unplugged, or its
	// connection ended; or when it no longer answers, in which case a method
	// Err() error may say why. The core then calls Close, and Open again if
	// Device.Link says that the device is still there; as often as it takes if the
	// reason is an ErrAway.
	Gone() <-chan struct{}
	// Close ends everything under way in the reader and releases the device.
	Close() error
}

// Slot is one ICC position. Its methods are called one at a time, by whoever has the
// slot's turn (see core.Slot). Each must end when ctx does, and soon after the device
// left, with ErrGone.
type Slot interface {
	// Status asks whether a card is there. It must not disturb the card.
	Status(ctx context.Context) (Status, error)
	// PowerOn activates the card (or resets it) and returns its ATR as the
	// card sent it, in direct convention, TS included; of a synchronous card H1 to H4.
	// Errors: ErrNoCard, ErrMute, ErrGone.
	PowerOn(ctx context.Context, how Reset) (atr []byte, err error)
	PowerOff(ctx context.Context) error
	// Traits says what the reader does by itself and what it leaves to the
	// core. It may be asked again after each PowerOn.
	Traits() Traits
	// Exchange sends t.Out to the card at the slot's Level and appends the
	// answer to dst. Errors: ErrNoCard, ErrTimeout, ErrProtocol, ErrGone.
	Exchange(ctx context.Context, t Transfer, dst []byte) ([]byte, error)
}

// Status is the state of the contacts.
type Status int

const (
	Absent  Status = iota // no card
	Present               // a card, not powered
	Powered               // a card, activated
)

// Reset says how PowerOn activates the card.
type Reset int

const (
	// Cold switches the supply off and on again (ISO/IEC 7816-3:2006 §6.2.2).
	Cold Reset = iota
	// Warm pulses RST while the supply stays on (§6.2.3). A reader that cannot do so
	// does a cold reset.
	Warm
)

func (r Reset) String() string {
	if r == Warm {
		return "warm"
	}
	return "cold"
}

// Level is what one Exchange carries (CCID 1.1 §5.1, dwFeatures, uses the same four).
type Level int

const (
	// Character: raw characters; Transfer.Want of them are received.
	Character Level = iota
	// TPDU: a T=1 block with its EDC, or a T=0 TPDU: header and data out;
	// data and SW1 SW2 back. PPS request and answer too, unless AutoPPS.
	TPDU
	// ShortAPDU: a whole C-APDU of a short case.
	ShortAPDU
	// ExtendedAPDU: any C-APDU.
	ExtendedAPDU
	// Synchronous: the card that was activated last is a synchronous one (ISO/IEC
	// 7816-10), whose ATR is four bytes without TS. It has no protocol and takes no
	// Exchange; Memory reads and writes it.
	Synchronous
)

// Traits is what a slot does by itself.
type Traits struct {
	Level Level
	// AutoPPS: the reader negotiated parameters by itself or cannot do it at
	// all; the core sends no PPS and assumes the ATR's first protocol.
	AutoPPS bool
	// AlwaysPPS: the core sends a PPS even if it asks for what holds anyway. It does not in
	// specific mode, nor once the card refused one that it can do without.
	AlwaysPPS bool
	// AutoT0: at an APDU level, the reader does all of T=0: nobody else follows 61xx and
	// 6Cxx.
	AutoT0 bool
	// AutoIFSD: the reader announced its IFSD to the card by itself.
	AutoIFSD bool
	// IFSD is the largest T=1 information field that the reader can receive;
	// 0 means 254.
	IFSD int
	// IFSC caps the card's IFSC where the reader can send less; 0: no cap.
	IFSC int
	// ClockHz is the card's clock, for waiting times; 0 means 3,579,545 Hz.
	ClockHz int
	// Slack is added to every waiting time for the way to the reader.
	Slack time.Duration
	// Fixed: the card cannot be taken out (a token); nobody polls for it.
	Fixed bool
	// Shared: another program has the card, and others use it there (see Locker). What an
	// APDU needs, that program does; the card is not powered off because nobody uses it
	// here, nor at the end of this program. Status says ErrStale once if somebody there has
	// reset the card (Powered: PowerOn takes it up as it is) or powered it off (Present).
	Shared bool
}

// Transfer is one exchange on the wire to the card.
type Transfer struct {
	Out  []byte // what to send; may be empty at Character level
	Want int    // Character level: how many characters to receive; else 0
	// Wait is how long the card may take until its answer starts. A slot
	// whose reader keeps the time itself may ignore it, but must end.
	Wait time.Duration
	// CharWait is how long the card may pause between two characters of its answer.
	CharWait time.Duration
	// WTX is the multiplier that the card was granted for this answer by
	// S(WTX), 0 for none (CCID: bBWI).
	WTX int
	// Until is when the exchange limit is over: a reader that asks for time on the
	// card's behalf (CCID: time extension) gets it until then and no longer; the slot
	// then says ErrTimeout. Zero: no limit.
	Until time.Time
	// Extended, if not nil, is to be called each time the reader asks for time: from
	// then on `status` shows how long the exchange has waited for the card. It does not
	// block.
	Extended func()
}

// Notifier is a slot that knows by itself when a card may have come or gone.
// A slot without it is polled.
type Notifier interface {
	// Changes carries a value after each possible change. A buffer of one is enough:
	// the core then asks Status.
	Changes() <-chan struct{}
}

// ParamSetter is a slot that must be told the protocol and parameters that
// were agreed with the card before they are used.
type ParamSetter interface {
	SetParams(ctx context.Context, p iso7816.Params) error
}

// RateLimiter is a slot that cannot do every rate a card may offer. Supports reports
// whether it can do the F and D that ta1 codes (ISO/IEC 7816-3:2006 §8.3).
type RateLimiter interface {
	Supports(ta1 byte) bool
}

// ProtocolSelector is a slot whose reader does the PPS itself but lets the
// host choose the protocol. It returns the parameters now in force.
type ProtocolSelector interface {
	SelectProtocol(ctx context.Context, want iso7816.Params) (iso7816.Params, error)
}

// ProtocolLister is a slot whose reader has only some of the transmission
// protocols (CCID 1.1 §5.1, dwProtocols). A slot without it has T=0 and T=1.
type ProtocolLister interface {
	// Protocols lists them: 0 for T=0, 1 for T=1.
	Protocols() []int
}

// Ejector is a slot that can eject the card.
type Ejector interface {
	Eject(ctx context.Context) error
}

// Escaper is a reader-specific command channel.
type Escaper interface {
	Escape(ctx context.Context, p []byte) ([]byte, error)
}

// Display is a slot whose reader can show a text, in T.50 (7-bit) characters.
type Display interface {
	// Show shows text for d; 0: until something else is shown.
	Show(ctx context.Context, text string, d time.Duration) error
}

// Echo is what a keypad's display shows for a key.
type Echo int

const (
	EchoNothing Echo = iota
	EchoDigits
	EchoStars
)

// KeyInput is what to ask a keypad for.
type KeyInput struct {
	Prompt string // "": the reader's own
	Max    int    // number of keys
	Raw    bool   // key codes, 0A cancel and 0B OK included, instead of ASCII digits until OK
	Echo   Echo
	First  time.Duration // for the first key
}

// Keypad is a slot whose reader gives digits to the host: never for PINs, for
// which there is PINPad. Errors: ErrTimeout, ErrCancelled.
type Keypad interface {
	Input(ctx context.Context, in KeyInput) ([]byte, error)
}

// Locker is a slot whose card others can use by other ways than this program, such as
// programs on the machine that has the reader. Both are called with the slot's turn.
type Locker interface {
	// Lock waits until nobody else uses the card and keeps them from it until Unlock. If
	// ctx ends before, it fails, and nothing is locked. Without wait it returns ErrLocked
	// where somebody else has the card for longer than an exchange.
	Lock(ctx context.Context, wait bool) error
	Unlock(ctx context.Context) error
}

// Identifier is a Reader that can say what it is in words, once open.
type Identifier interface {
	// Identify gives the model ("Rainbow iKey 3000") and a firmware version or
	// serial number where there is one, as "key value" pairs for `status`.
	Identify() (model string, more map[string]string)
}

// Describer is a Slot that has more to say in `status` than its Reader had once it was
// open, such as what stands on its display now; or a Link that says where the device is.
// Describe must not wait for the device.
type Describer interface {
	Describe() map[string]string
}

// Attacher is a Driver that completes or refuses what `attach` says before the
// device is announced: its identity, its model, how many slots it has.
type Attacher interface {
	Attach(dev Device) (Device, error)
}

// Prober is a Driver that can find out whether one of its readers is on a serial port,
// for `cardfs probe`. Nothing does so unasked.
type Prober interface {
	// Probe looks for a reader at dev.Link. Its questions are harmless to whatever else may
	// be there: see package drivers, "Probing". Errors: ErrTimeout, ErrMute or ErrProtocol
	// where there is no such reader, and those of the port.
	Probe(ctx context.Context, dev Device) (Found, error)
}

// Found is a reader that a Prober found.
type Found struct {
	Model  string            // "Gemplus GemPC410"
	Params map[string]string // key=value pairs that `attach` needs for it
}

// SlotCounter is a Driver that can tell the number of slots from what a device says of itself
// on its bus (USB: its descriptors), so that all slot directories appear at once.
type SlotCounter interface {
	CountSlots(descriptors []byte) int
}

// Commander is a Driver with commands of its own in `ctl`:
// `DRIVER N WORD…` calls Command with the device that has, or last had, slot N,
// which Device.Slot then counts within the reader.
type Commander interface {
	Command(ctx context.Context, dev Device, words []string) error
	// Usage is one line a command, for error messages and the man page.
	Usage() []string
}
