package ccid

import (
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// model is a USB vendor and product ID; product 0 stands for all of the vendor.
type model struct{ vendor, product uint16 }

// quirk is a fault of readers in use, with the host's remedy.
type quirk struct {
	models []model
	// from and to are the first and last firmware (bcdDevice) with the fault; to 0 means
	// all later ones.
	from, to uint16
	wrong    string
	does     string // the remedy, beginning with a verb: `status` shows both
	source   string
	pinpad   bool // concerns only readers with a PIN pad
	set      func(*effects)
}

// effects are the combined quirks of one reader.
type effects struct {
	minFirmware uint16 // older firmware is refused

	// The descriptor.
	ifsd       uint32
	maxRate    uint32
	dropRates  bool     // table entries above maxRate too
	slotRates  []uint32 // of slots above 0
	noPPS      bool
	noPINPad   bool
	level      Features
	chains     bool // chains although its level excludes it
	autoIFSD   bool
	interfaces []uint8
	exclusive  bool // only one interface may be in use at a time
	escapes    bool // an Escape selects the interface

	// Time.
	startDelay  time.Duration
	openFactor  int           // times for the first answer
	factor      int           // times for every answer
	extraT1     time.Duration // more for an answer in T=1
	secureDelay time.Duration

	// The card.
	split64  bool   // messages of a multiple of 64 bytes get lost (character level)
	offFirst bool   // send IccPowerOff before each IccPowerOn
	isoMode  []byte // Escape that ends EMV mode if IccPowerOn fails with BB
	mirror   bool   // the second interface has no presence switch
	phantom  bool   // reports a card as present without one
	forgive  bool   // a failure of SetParameters does not matter after two power-ons

	// Secure.
	verifyMessages int  // bNumberMessage to send; -1: the caller's
	verifyOKOnly   bool // bEntryValidationCondition 02 only
	conditionMask  bool // Escape 6A asks the firmware which conditions it knows
	modifyMessages int
	modifyIndexes  bool // always send three message indexes
	notZero        bool // in modify, send bNumberMessage FF for 00
	swapDigits     bool // the bytes of wPINMaxExtraDigit are swapped
	appendPIN      []byte
}

const (
	srcLibccid = "libccid 1.8, observed behaviour of its host side"
	srcOpenCT  = "OpenCT 0.6.20, observed behaviour of its host side"
)

// quirks is the experience of libccid and OpenCT with readers in use.
var quirks = []quirk{
	{models: []model{{0x04E6, 0xE001}}, to: 0x0515, wrong: "defects of old firmware", does: "refuses firmware below 5.16", source: srcLibccid, set: below(0x0516)},
	{models: []model{{0x04E6, 0x5111}}, to: 0x0619, wrong: "defects of old firmware", does: "refuses firmware below 6.20", source: srcLibccid, set: below(0x0620)},
	{models: []model{{0x04E6, 0xE003}}, to: 0x050F, wrong: "defects of old firmware", does: "refuses firmware below 5.10", source: srcLibccid, set: below(0x0510)},
	{models: []model{{0x0D46, 0x3001}, {0x0D46, 0x3002}}, to: 0x0036, wrong: "defects of old firmware", does: "refuses firmware below 0.37", source: srcLibccid, set: below(0x0037)},
	{models: []model{{0x09C3, 0x0008}}, to: 0x0202, wrong: "defects of old firmware", does: "refuses firmware below 2.03", source: srcLibccid, set: below(0x0203)},
	{models: []model{{0x0DC3, 0x1004}}, to: 0x0501, wrong: "defects of old firmware", does: "refuses firmware below 5.02", source: srcLibccid, set: below(0x0502)},
	{models: []model{{0x0DC3, 0x1102}}, to: 0x0606, wrong: "defects of old firmware", does: "refuses firmware below 6.07", source: srcLibccid, set: below(0x0607)},
	{models: []model{{0x058F, 0x9520}, {0x062D, 0x0001}}, to: 0x0101, wrong: "defects of old firmware", does: "refuses firmware below 1.02", source: srcLibccid, set: below(0x0102)},
	{models: []model{{0x072F, 0x2200}}, to: 0x0205, wrong: "defects of old firmware", does: "refuses firmware below 2.06", source: srcLibccid, set: below(0x0206)},
	{models: []model{{0x08C3, 0x0402}, {0x08C3, 0x0401}}, to: 0x4FFF, wrong: "defects of old firmware", does: "refuses firmware below 50.00", source: srcLibccid, set: below(0x5000)},
	{models: []model{{0x0B0C, 0x0050}}, to: 0x0100, wrong: "defects of old firmware", does: "refuses firmware below 1.01", source: srcLibccid, set: below(0x0101)},
	{models: []model{{0x0DC3, 0x0900}}, to: 0x01FF, wrong: "defects of old firmware", does: "refuses firmware below 2.00", source: srcLibccid, set: below(0x0200)},
	{models: []model{{0x03F0, 0x0036}}, to: 0x0123, wrong: "defects of old firmware", does: "refuses firmware below 1.24", source: srcLibccid, set: below(0x0124)},
	{models: []model{{0x04E6, 0x5291}}, to: 0x0111, wrong: "defects of old firmware", does: "refuses firmware below 1.12", source: srcLibccid, set: below(0x0112)},

	{models: []model{{0x09BE, 0x0002}}, wrong: "dwMaxIFSD is wrong", does: "takes 254 for it", source: srcLibccid,
		set: func(e *effects) { e.ifsd = 254 }},
	{models: []model{{0x0B97, 0x7762}, {0x0B97, 0x7772}}, source: srcLibccid,
		wrong: "data rates are wrong; PPS fails; messages of a multiple of 64 bytes get lost; class descriptor behind the last endpoint",
		does:  "stays at 9600 bit/s with the card's first protocol and sends no PPS; reads the first character apart; looks for the descriptor there",
		set:   func(e *effects) { e.maxRate, e.noPPS, e.split64 = 9600, true, true }},
	{models: []model{{0x058F, 0x9540}}, source: srcLibccid,
		wrong: "unstable above 200,000 bit/s; SetParameters may fail",
		does:  "uses no faster rate; powers the card on twice where SetParameters fails, and uses it as it is",
		set:   func(e *effects) { e.maxRate, e.dropRates, e.forgive = 200_000, true, true }},
	{models: []model{{0x076B, 0x3A21}, {0x076B, 0x3031}, {0x076B, 0x6632}, {0x046A, 0x00A7}, {0x0BF8, 0x1024}}, source: srcLibccid,
		wrong: "announces a PIN pad that it has not; chains at short APDU level",
		does:  "offers no PIN pad; chains",
		set:   func(e *effects) { e.noPINPad, e.chains = true, true }},
	{models: []model{{0x25DD, 0x3111}}, wrong: "announces a PIN pad that it has not", does: "offers no PIN pad", source: srcLibccid,
		set: func(e *effects) { e.noPINPad = true }},
	{models: []model{{0x0783, 0x0006}}, wrong: "its PIN pad cannot be used", does: "offers no PIN pad", source: srcLibccid,
		set: func(e *effects) { e.noPINPad = true }},
	{models: []model{{0x03F0, 0x1024}, {0x03F0, 0x0036}, {0x0BF8, 0x1017}, {0x04F2, 0x1469}}, source: srcLibccid,
		wrong: "a PIN typed for the card reaches the host as key strokes too", does: "offers no PIN pad",
		set: func(e *effects) { e.noPINPad = true }},
	{models: []model{{0x08E6, 0x4433}}, source: "QEMU 7.2, device usb-ccid, which has the IDs of a GemPC Key; neither has keys",
		wrong: "QEMU's reader announces a PIN pad that it has not", does: "offers no PIN pad",
		set: func(e *effects) { e.noPINPad = true }},
	{models: []model{{0x0D46, 0x3010}}, wrong: "announces extended APDUs", does: "works at short APDU level", source: srcLibccid,
		set: func(e *effects) { e.level = LevelShort }},
	{models: []model{{0x2F7C, 0x6007}}, wrong: "chains at short APDU level", does: "chains", source: srcLibccid,
		set: func(e *effects) { e.chains = true }},
	{models: []model{{0x046A, 0x00A1}}, from: 0x0100, to: 0x0100, source: srcLibccid,
		wrong: "short APDU level, but T=1 answers are chained at 128 bytes", does: "chains",
		set: func(e *effects) { e.chains = true }},
	{models: []model{{0x0529, 0x0620}}, from: 0x0012, to: 0x0013, wrong: "fails on S(IFS request)", does: "sends none", source: srcLibccid,
		set: func(e *effects) { e.autoIFSD = true }},

	{models: []model{{0x0B81, 0x0200}}, wrong: "slow to start", does: "waits 1 s before the first command; multiplies time limits by 20", source: srcLibccid,
		set: func(e *effects) { e.startDelay, e.factor = time.Second, 20 }},
	{models: []model{{0x09D8, 0x0427}, {0x09D8, 0x0428}, {0x072F, 0x2200}}, source: srcLibccid,
		wrong: "the first answer takes up to 1 s without a card in the field", does: "multiplies time limits by 10 while opening",
		set: func(e *effects) { e.openFactor = 10 }},
	{models: []model{{0x04E6, 0x5293}}, wrong: "the first answer takes 350 ms", does: "multiplies time limits by 4 while opening", source: srcLibccid,
		set: func(e *effects) { e.openFactor = 4 }},
	{models: []model{{0x04E6, 0x5790}, {0x04E6, 0x5791}, {0x04E6, 0x5724}}, wrong: "slow", does: "multiplies time limits by 4", source: srcLibccid,
		set: func(e *effects) { e.factor = 4 }},
	{models: []model{{0x08E6, 0x3437}, {0x08E6, 0x3438}, {0x413C, 0x2101}}, from: 0x0200, to: 0x0200, source: srcLibccid,
		wrong: "empty packets behind messages on USB 3 controllers", does: "reads over them, as from any reader",
		set: func(*effects) {}},
	{models: []model{{0x08E6, 0x34D2}}, wrong: "makes keys in the reader", does: "waits 5 min more for answers in T=1", source: srcLibccid,
		set: func(e *effects) { e.extraT1 = 5 * time.Minute }},
	{models: []model{{0x413C, 0x2101}, {0x413C, 0x2100}}, source: srcLibccid,
		wrong: "the key that started the command ends the PIN entry", does: "waits 250 ms before Secure; sends bNumberMessage 00",
		set: func(e *effects) { e.secureDelay, e.verifyMessages, e.modifyMessages = 250*time.Millisecond, 0, 0 }},
	{models: []model{{0x413C, 0x2100}}, wrong: "exchanges the bytes of wPINMaxExtraDigit", does: "exchanges them too", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.swapDigits = true }},
	{models: []model{{0x0D46, 0x301D}}, wrong: "the German identity card needs power off before power on", does: "powers off before powering on", source: srcLibccid,
		set: func(e *effects) { e.offFirst = true }},
	{models: []model{{0x08E6, 0x4433}, {0x046A, 0x0005}}, wrong: "starts in EMV mode; IccPowerOn fails with BB", does: "sends Escape 1F 01 and powers on again", source: srcLibccid,
		set: func(e *effects) { e.isoMode = []byte{0x1F, 0x01} }},
	{models: []model{{0x0424, 0x1202}}, wrong: "the second interface has no presence switch", does: "takes the first one's state; powers off before powering on", source: srcLibccid,
		set: func(e *effects) { e.mirror, e.offFirst = true, true }},

	{models: []model{{0x08E6, 0x3480}}, to: 0x01FF, source: srcLibccid,
		wrong: "always says that a card is present", does: "takes the card for absent after a failed power-on, until the next notification",
		set: func(e *effects) { e.phantom = true }},
	{models: []model{{0x08E6, 0x3480}, {0x08E6, 0x3479}}, wrong: "the second slot has other data rates", does: "uses 10753, 21505, 43011 and 125000 bit/s there", source: srcLibccid,
		set: func(e *effects) { e.slotRates = []uint32{10753, 21505, 43011, 125000} }},
	{models: []model{{0x08E6, 0x5503}, {0x08E6, 0x5504}}, source: srcLibccid,
		wrong: "its contact and contactless interfaces may not be used at once",
		does:  "sends one command at a time, and Escape 52 F8 04 01 00 01 or 02 before the other is powered on",
		set:   func(e *effects) { e.exclusive, e.escapes = true, true }},
	{models: []model{{0x2947, 0x0112}}, wrong: "interfaces that are no readers look like some", does: "uses interface 0 only", source: srcLibccid,
		set: func(e *effects) { e.interfaces = []uint8{0} }},
	{models: []model{{0x2947, 0x0105}}, wrong: "interfaces that are no readers look like some", does: "uses interfaces 0 to 2", source: srcLibccid,
		set: func(e *effects) { e.interfaces = []uint8{0, 1, 2} }},

	{models: []model{{0x08E6, 0x3478}, {0x0982, 0x0008}}, wrong: "verify wants bNumberMessage 01 and validation by the OK key", does: "sends them", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.verifyMessages, e.verifyOKOnly = 1, true }},
	{models: []model{{0x08E6, 0}}, wrong: "rejects validation conditions that its firmware does not know; modify wants three message indexes", does: "cuts conditions to those that Escape 6A lists; sends three indexes", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.conditionMask, e.modifyIndexes = true, true }},
	{models: []model{{0x0982, 0x0008}, {0x04E6, 0xE003}, {0x046A, 0x003E}}, wrong: "modify wants three message indexes", does: "sends three", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.modifyIndexes = true }},
	{models: []model{{0x04E6, 0xE003}}, wrong: "verify with four command bytes and no length field sends padding", does: "sends Escape 80 02 00 before it", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.appendPIN = []byte{0x80, 0x02, 0x00} }},
	{models: []model{{0x046A, 0x0010}}, wrong: "crashes on validation 00 or above 07; modify wants bNumberMessage 03", does: "sends 02, as to every reader; sends 03", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.modifyMessages = 3 }},
	{models: []model{{0x046A, 0x00A1}}, wrong: "rejects bNumberMessage 00 in modify", does: "sends FF", source: srcLibccid, pinpad: true,
		set: func(e *effects) { e.notZero = true }},
}

func below(v uint16) func(*effects) { return func(e *effects) { e.minFirmware = v } }

// lookup combines the quirks of a device; the user's come last and so prevail.
func lookup(d usb.Device, own ...Quirk) effects {
	e := effects{openFactor: 1, factor: 1, verifyMessages: -1, modifyMessages: -1}
	for i := range quirks {
		if quirks[i].matches(d) {
			quirks[i].set(&e)
		}
	}
	for i := range own {
		own[i].apply(&e)
	}
	return e
}

func (q *quirk) matches(d usb.Device) bool {
	return slices.ContainsFunc(q.models, func(m model) bool {
		return m.vendor == d.Vendor && (m.product == d.Product || m.product == 0)
	}) && d.Release >= q.from && (q.to == 0 || d.Release <= q.to)
}

// apply corrects the interface to what the reader really does.
func (e *effects) apply(i *Interface) {
	if e.ifsd != 0 {
		i.MaxIFSD = e.ifsd
	}
	if e.maxRate != 0 {
		i.MaxDataRate = min(i.MaxDataRate, e.maxRate)
	}
	if e.noPINPad {
		i.PINSupport = 0
	}
	if e.level != 0 {
		i.Features = i.Features&^levelMask | e.level
	}
	if e.autoIFSD {
		i.Features |= AutoIFSD
	}
	// SCM readers forgot the message header in dwMaxCCIDMessageLength.
	if i.MaxMessage == 263 {
		i.long = true
	}
}

// known lists readers with an interface of class FF, which hotplug cannot match by class.
// Source: the descriptors that libccid's users sent in.
var known = []reader.ID{
	{Vendor: 0x046A, Product: 0x003E, Model: "Cherry SmartTerminal ST-2xxx"},
	{Vendor: 0x04E6, Product: 0x5111, Model: "SCM SCR331-DI"},
	{Vendor: 0x04E6, Product: 0x511A, Model: "SCM SCR3310 NTTCom"},
	{Vendor: 0x04E6, Product: 0x5120, Model: "SCM SCR331-DI NTTCom"},
	{Vendor: 0x04E6, Product: 0x5121, Model: "SCM SDI 010"},
	{Vendor: 0x04E6, Product: 0x512B, Model: "SCM SDI 011"},
	{Vendor: 0x04E6, Product: 0x512C, Model: "SCM SDI 011"},
	{Vendor: 0x04E6, Product: 0x5291, Model: "SCM SCL010"},
	{Vendor: 0x04E6, Product: 0x5292, Model: "SCM SCL01x"},
	{Vendor: 0x04E6, Product: 0xE003, Model: "SCM SPR 532"},
	{Vendor: 0x076B, Product: 0x532A, Model: "OMNIKEY 5321"},
	{Vendor: 0x076B, Product: 0x5340, Model: "OMNIKEY 5021 CL"},
	{Vendor: 0x08E6, Product: 0x1359, Model: "Verisign secure storage token"},
	{Vendor: 0x08E6, Product: 0x2202, Model: "Gemplus e-Seal Pro"},
	{Vendor: 0x08E6, Product: 0xACE0, Model: "Verisign secure token"},
	{Vendor: 0x0973, Product: 0x0003, Model: "SchlumbergerSema Cyberflex Access"},
	{Vendor: 0x09BE, Product: 0x0002, Model: "MySmartPad"},
	{Vendor: 0x0C4B, Product: 0x0300, Model: "REINER SCT cyberJack pinpad(a)"},
	{Vendor: 0x0C4B, Product: 0x0500, Model: "REINER SCT cyberJack RFID standard"},
	{Vendor: 0x1A74, Product: 0x6354, Model: "Oberthur Cosmo Card"},
	{Vendor: 0x1A74, Product: 0x6356, Model: "Oberthur Cosmo Card"},
	{Vendor: 0x1DB2, Product: 0x0600, Model: "DUALi DE-ABCM6"},
	{Vendor: 0x1DB2, Product: 0x0604, Model: "DUALi DRAGON BT"},
	{Vendor: 0x413C, Product: 0x2100, Model: "Dell SK-3106"},
}
