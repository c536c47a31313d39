package emu

import (
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Protocols: bInterfaceProtocol (CCID 1.1 §5.1, ICCD 1.0 table 4).
const (
	CCID     = 0 // bulk transfers
	VersionA = 1 // ICCD: control transfers, T=0 TPDUs
	VersionB = 2 // ICCD: control transfers, messages
)

// Features is dwFeatures without the level (CCID 1.1 table 5.1-1).
type Features uint32

const (
	AutoParamsATR Features = 1 << 1  // parameters from the ATR
	AutoActivate  Features = 1 << 2  // an inserted card is activated
	AutoVoltage   Features = 1 << 3  // the reader finds the right voltage
	AutoClock     Features = 1 << 4  // the clock follows the parameters
	AutoBaud      Features = 1 << 5  // so does the rate
	AutoNegotiate Features = 1 << 6  // parameters are negotiated
	AutoPPS       Features = 1 << 7  // PPS, for the parameters that the host sets
	ClockStop     Features = 1 << 8  // the clock can be stopped
	AnyNAD        Features = 1 << 9  // T=1: NAD other than 0
	AutoIFSD      Features = 1 << 10 // T=1: S(IFS) before the first block
	Token         Features = 1 << 11 // ICCD: the card stays in
)

// Config describes an emulated reader. A zero field gets the value of most readers in
// use; see complete.
type Config struct {
	Vendor, Product, Release   uint16
	Manufacturer, Name, Serial string

	Class    uint8 // 0B
	Protocol uint8 // CCID, VersionA or VersionB
	Level    reader.Level
	// Features are dwFeatures without the level. The emulator does what they say and
	// leaves everything else to the host.
	Features Features
	Slots    int // 1
	// BusySlots is bMaxCCIDBusySlots; 0 means all.
	BusySlots  int
	MaxMessage int // 271; 65554 at extended APDU level
	MaxIFSD    int // 254
	Clock      int // kHz, 3580
	DataRate   int // 9600
	MaxRate    int // 344086
	// Rates is the answer to GET_DATA_RATES. Without any, the request stalls.
	Rates []uint32
	// Voltages is bVoltageSupport. CardVoltages are those that the cards support: 01 5 V,
	// 02 3 V, 04 1.8 V. 0 means 07.
	Voltages, CardVoltages uint8
	Mechanical             uint32
	// PINPad gives the reader keys (Press) and a display.
	PINPad bool
	// NoInterrupt leaves the interrupt endpoint out.
	NoInterrupt bool
	PacketSize  int // of the bulk endpoints, 64
	// DescriptorLast puts the class descriptor behind the last endpoint.
	DescriptorLast bool
	// Lie, if not nil, changes the class descriptor before the host sees it.
	Lie func(class []byte) []byte

	// ExtensionEvery is the interval at which the reader asks for more time while the
	// card works; 0 means 500 ms.
	ExtensionEvery time.Duration
	// PrefersT1 makes a reader with AutoNegotiate choose T=1 if the card offers it.
	PrefersT1 bool
	// Protocols is dwProtocols; 0 means 3.
	Protocols uint32
	// Memory: the reader takes ACS's pseudo-APDUs for memory cards. MemoryATR: IccPowerOn makes an
	// ATR of a memory card's H1 to H4, for which it is mute otherwise.
	Memory, MemoryATR bool
	// EMV starts the reader in EMV mode: IccPowerOn fails with BB until Escape 1F 01.
	EMV bool
}

func (c Config) complete() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Vendor == 0 {
		c.Vendor, c.Product = 0xF055, 0xCC1D
	}
	if c.Release == 0 {
		c.Release = 0x0100
	}
	if c.Name == "" {
		c.Manufacturer, c.Name = "cardfs", "emulated CCID reader"
	}
	if c.Class == 0 {
		c.Class = 0x0B
	}
	if c.Protocol != CCID {
		c.Slots = 1
		if c.Protocol == VersionA {
			c.Level = reader.Character
		}
	}
	def(&c.Slots, 1)
	def(&c.BusySlots, c.Slots)
	if c.Level == reader.ExtendedAPDU {
		def(&c.MaxMessage, 65554)
	}
	def(&c.MaxMessage, 271)
	def(&c.MaxIFSD, 254)
	def(&c.Clock, 3580)
	def(&c.DataRate, 9600)
	def(&c.MaxRate, 344086)
	def(&c.PacketSize, 64)
	if c.Protocols == 0 {
		c.Protocols = 3
	}
	if c.Voltages == 0 {
		c.Voltages = 7
	}
	if c.CardVoltages == 0 {
		c.CardVoltages = 7
	}
	if c.ExtensionEvery == 0 {
		c.ExtensionEvery = 500 * time.Millisecond
	}
	return c
}

// Readers to choose from. They have the features of most readers of their kind.

// CharacterReader passes single characters and leaves everything to the host.
func CharacterReader() Config {
	return Config{Name: "emulated character level reader", Level: reader.Character, Features: AutoClock | AutoBaud}
}

// TPDUReader leaves PPS, parameters and T=1 to the host.
func TPDUReader() Config {
	return Config{Name: "emulated TPDU level reader", Level: reader.TPDU, Features: AutoParamsATR | AutoVoltage | AutoClock | AutoBaud}
}

// ShortAPDUReader accepts short APDUs and handles everything below them.
func ShortAPDUReader() Config {
	return Config{Name: "emulated short APDU level reader", Level: reader.ShortAPDU,
		Features: AutoParamsATR | AutoVoltage | AutoClock | AutoBaud | AutoPPS | AutoIFSD}
}

// ExtendedAPDUReader accepts any APDU, long ones in parts.
func ExtendedAPDUReader() Config {
	return Config{Name: "emulated extended APDU level reader", Level: reader.ExtendedAPDU, MaxMessage: 1034,
		Features: AutoParamsATR | AutoVoltage | AutoClock | AutoBaud | AutoNegotiate | AutoIFSD}
}

// TwoSlotReader has two slots that work concurrently.
func TwoSlotReader() Config {
	c := TPDUReader()
	c.Name, c.Slots = "emulated two-slot reader", 2
	return c
}

// PINPadReader has keys and a display of two lines of 16 characters.
func PINPadReader() Config {
	c := ShortAPDUReader()
	c.Name, c.PINPad = "emulated PIN pad reader", true
	return c
}

// MemoryReader also takes memory cards, and has the IDs of an ACR39U.
func MemoryReader() Config {
	c := TPDUReader()
	c.Name, c.Vendor, c.Product, c.Memory = "emulated memory card reader", 0x072F, 0xB100, true
	return c
}

// ICCDA is a USB card of ICCD version A. Its card must speak T=0.
func ICCDA() Config {
	return Config{Name: "emulated ICCD version A", Protocol: VersionA, Features: AutoNegotiate | Token, NoInterrupt: true}
}

// ICCDB is a USB card of ICCD version B.
func ICCDB() Config {
	return Config{Name: "emulated ICCD version B", Protocol: VersionB, Level: reader.ExtendedAPDU, MaxMessage: 271,
		Features: AutoNegotiate | Token, NoInterrupt: true}
}
