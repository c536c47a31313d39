package ccid

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Features is dwFeatures of the class descriptor (CCID 1.1 §5.1).
type Features uint32

const (
	AutoParamsATR Features = 0x00000002 // parameters are configured from the ATR
	AutoActivate  Features = 0x00000004 // the card is activated on insertion
	AutoVoltage   Features = 0x00000008
	AutoClock     Features = 0x00000010 // the clock follows the parameters
	AutoBaud      Features = 0x00000020 // the baud rate follows clock, F and D
	AutoNegotiate Features = 0x00000040 // parameters by the reader's own algorithm
	AutoPPS       Features = 0x00000080 // PPS according to the parameters in force
	ClockStop     Features = 0x00000100
	AnyNAD        Features = 0x00000200 // NAD other than 00 (T=1)
	AutoIFSD      Features = 0x00000400 // S(IFS) as the first exchange (T=1)
	Token         Features = 0x00000800 // ICCD: the card cannot be taken out
	LevelTPDU     Features = 0x00010000
	LevelShort    Features = 0x00020000
	LevelExtended Features = 0x00040000
	Wakeup        Features = 0x00100000 // USB wake-up on insertion and removal

	levelMask = LevelTPDU | LevelShort | LevelExtended
)

// Level returns the level at which exchanges are handed to the reader. Without a level
// bit it is single characters.
func (f Features) Level() reader.Level {
	switch {
	case f&LevelExtended != 0:
		return reader.ExtendedAPDU
	case f&LevelShort != 0:
		return reader.ShortAPDU
	case f&LevelTPDU != 0:
		return reader.TPDU
	}
	return reader.Character
}

// Descriptor is the class descriptor (CCID 1.1 table 5.1-1), 54 bytes. Parse leaves in it
// only values that a host can work with and lists its corrections in Interface.Notes.
type Descriptor struct {
	Release        uint16 // bcdCCID
	MaxSlotIndex   uint8
	VoltageSupport uint8 // 01 5 V, 02 3 V, 04 1.8 V
	Protocols      uint32
	DefaultClock   uint32 // kHz
	MaximumClock   uint32 // kHz
	NumClocks      uint8  // entries of GET_CLOCK_FREQUENCIES; 0: DefaultClock only
	DataRate       uint32 // bit/s
	MaxDataRate    uint32 // bit/s
	NumDataRates   uint8  // entries of GET_DATA_RATES
	MaxIFSD        uint32
	SynchProtocols uint32
	Mechanical     uint32 // 01 accept, 02 eject, 04 capture, 08 lock
	Features       Features
	MaxMessage     uint32 // dwMaxCCIDMessageLength, the header included
	ClassGetResp   uint8  // FF: same class as the command
	ClassEnvelope  uint8  // FF: same class as the command
	LCDLayout      uint16 // lines << 8 | columns; 0: no display
	PINSupport     uint8  // 01 verify, 02 modify
	MaxBusySlots   uint8
}

// Protocols of Interface.Protocol.
const (
	ProtocolCCID  = 0 // bulk transfers
	ProtocolICCDA = 1 // control transfers, T=0 TPDUs
	ProtocolICCDB = 2 // control transfers, messages
)

// Endpoint is one endpoint of an interface; Address 0 means there is none.
type Endpoint struct {
	Address    uint8
	PacketSize uint16
}

// Interface is one CCID or ICCD interface of a device.
type Interface struct {
	Number        uint8
	Class         uint8 // 0B, or FF for readers older than the class
	Protocol      uint8 // ProtocolCCID …
	Name          uint8 // iInterface
	In, Out, Intr Endpoint
	Descriptor
	// long: the reader takes messages longer than dwMaxCCIDMessageLength.
	long bool
	// Notes say which values of the descriptor cannot be true and what replaces them.
	Notes []string
}

const (
	descClass = 0x21

	classLen      = 54
	classCCID     = 0x0B
	classVendor   = 0xFF
	headerLen     = 10
	maxMessageLen = headerLen + 65544 // the longest C-APDU: header, 3 of Lc, 65535, 2 of Le
)

// Parse reads a device descriptor followed by a configuration descriptor, as returned by
// usb.Conn.Descriptors, and returns all CCID and ICCD interfaces in it. It fails if none
// of them can be driven; one that cannot be driven beside others that can is left out.
//
// A class descriptor belongs behind the interface descriptor (CCID 1.1 §5). O2Micro Oz776
// and old REINER SCT readers place it behind the last endpoint. Interfaces of class FF
// are accepted if exactly 54 bytes of class descriptor belong to them: readers older than
// the class number look like that.
func Parse(b []byte) (usb.Device, []Interface, error) {
	dev, err := usb.ParseDevice(b)
	if err != nil {
		return dev, nil, fmt.Errorf("ccid: %w", err)
	}
	var found []Interface
	var bad error
	for _, u := range usb.Interfaces(b) {
		r, ok := candidate(&u)
		if !ok {
			continue
		}
		i, err := r.interpret()
		switch {
		case err == nil:
			found = append(found, i)
		case bad == nil:
			bad = fmt.Errorf("ccid: interface %d: %w", u.Number, err)
		}
	}
	if beyond := usb.Beyond(b); beyond > 0 && len(found) > 0 {
		found[0].Notes = append(found[0].Notes, fmt.Sprintf("more than %d interfaces: %d left out", usb.MaxInterfaces, beyond))
	}
	if len(found) == 0 {
		if bad == nil {
			bad = fmt.Errorf("ccid: %04X:%04X has no CCID interface: %w", dev.Vendor, dev.Product, reader.ErrUnsupported)
		}
		return dev, nil, bad
	}
	return dev, found, nil
}

// CountSlots returns the number of slots of a device with these descriptors, and 0 if the
// device is not for this driver. Hotplug calls it before the device is opened.
func (Driver) CountSlots(descriptors []byte) int {
	dev, ifs, err := Parse(descriptors)
	if err != nil {
		return 0
	}
	n := 0
	for _, i := range usable(ifs, lookup(dev), anyInterface) {
		n += i.slots()
	}
	return n
}

// slots returns the number of slots of the interface.
func (i *Interface) slots() int { return int(i.MaxSlotIndex) + 1 }

// anyInterface as usable's argument means that the user named no interface.
const anyInterface = -1

// usable removes the interfaces that a quirk excludes, all others than only (unless it is
// anyInterface), and those that exceed the slots a device may have.
func usable(ifs []Interface, e effects, only int) []Interface {
	var use []Interface
	slots, beyond := 0, 0
	for _, i := range ifs {
		switch {
		case e.interfaces != nil && !slices.Contains(e.interfaces, i.Number), only != anyInterface && int(i.Number) != only:
		case slots+i.slots() > maxSlots:
			beyond++
		default:
			slots += i.slots()
			use = append(use, i)
		}
	}
	if beyond > 0 {
		use[0].Notes = append(use[0].Notes, fmt.Sprintf("more than %d slots: %d interfaces left out", maxSlots, beyond))
	}
	return use
}

// rawInterface is one interface descriptor and its class descriptor.
type rawInterface struct {
	Interface
	class []byte
}

// candidate reports whether an interface belongs to the class.
func candidate(u *usb.Interface) (*rawInterface, bool) {
	r := &rawInterface{Interface: Interface{Number: u.Number, Class: u.Class, Protocol: u.Protocol, Name: u.Name}}
	u.Split(func(d []byte) {
		if len(d) == classLen && r.class == nil && (d[1] == descClass || d[1] == classVendor) {
			r.class = d
		}
	})
	for _, e := range u.Endpoints {
		r.endpoint(e)
	}
	return r, u.Class == classCCID || u.Class == classVendor && r.class != nil && len(u.Extra) == classLen
}

func (r *rawInterface) endpoint(e usb.Endpoint) {
	const bulk, interrupt = 2, 3
	var into *Endpoint
	switch kind, in := e.Attributes&3, e.Address&0x80 != 0; {
	case kind == bulk && in:
		into = &r.In
	case kind == bulk:
		into = &r.Out
	case kind == interrupt && in:
		into = &r.Intr
	default:
		return
	}
	if into.Address == 0 && e.Address&0x0F != 0 {
		*into = Endpoint{e.Address, uint16(e.MaxPacket)}
	}
}

// interpret checks the collected descriptors and makes an Interface of them.
func (r *rawInterface) interpret() (Interface, error) {
	if r.class == nil {
		return Interface{}, fmt.Errorf("no class descriptor of 54 bytes: %w", reader.ErrProtocol)
	}
	switch r.Protocol {
	case ProtocolCCID:
		if r.In.Address == 0 || r.Out.Address == 0 {
			return Interface{}, fmt.Errorf("no pair of bulk endpoints: %w", reader.ErrProtocol)
		}
	case ProtocolICCDA, ProtocolICCDB:
	default:
		return Interface{}, fmt.Errorf("bInterfaceProtocol %02X is not defined: %w", r.Protocol, reader.ErrUnsupported)
	}
	r.Descriptor = decodeClass(r.class)
	err := r.correct()
	return r.Interface, err
}

func decodeClass(c []byte) Descriptor {
	le := binary.LittleEndian
	return Descriptor{
		Release:        le.Uint16(c[2:]),
		MaxSlotIndex:   c[4],
		VoltageSupport: c[5],
		Protocols:      le.Uint32(c[6:]),
		DefaultClock:   le.Uint32(c[10:]),
		MaximumClock:   le.Uint32(c[14:]),
		NumClocks:      c[18],
		DataRate:       le.Uint32(c[19:]),
		MaxDataRate:    le.Uint32(c[23:]),
		NumDataRates:   c[27],
		MaxIFSD:        le.Uint32(c[28:]),
		SynchProtocols: le.Uint32(c[32:]),
		Mechanical:     le.Uint32(c[36:]),
		Features:       Features(le.Uint32(c[40:])),
		MaxMessage:     le.Uint32(c[44:]),
		ClassGetResp:   c[48],
		ClassEnvelope:  c[49],
		LCDLayout:      le.Uint16(c[50:]),
		PINSupport:     c[52],
		MaxBusySlots:   c[53],
	}
}

// Limits for the values of a descriptor.
const (
	minMessageLen = headerLen + 5 // a T=0 header
	maxIFSD       = 254           // ISO/IEC 7816-3:2006 §11.4.2

	// Readers in use announce between 250 kHz and 13.56 MHz. The minimum of ISO/IEC
	// 7816-3:2006 §5.2.3 is 1 MHz: waiting times are never computed with less.
	minClockKHz = 250
	isoClockKHz = 1000
	maxClockKHz = 40_000

	// The readers in use with the most slots have 8. Each slot costs a directory, a
	// buffer for a message, and polling.
	maxSlotIndex = 15 // of an interface
	maxSlots     = 32 // of a device
)

// correct replaces impossible values by safe ones. It refuses the interface if there is
// no safe value.
func (r *rawInterface) correct() error {
	note := func(format string, a ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, a...)) }
	if r.MaxMessage < minMessageLen {
		return fmt.Errorf("dwMaxCCIDMessageLength %d does not hold a header and a command: %w", r.MaxMessage, reader.ErrProtocol)
	}
	if r.MaxMessage > maxMessageLen {
		note("dwMaxCCIDMessageLength %d: %d is enough for any APDU", r.MaxMessage, maxMessageLen)
		r.MaxMessage = maxMessageLen
	}
	if n := r.Features & levelMask; n&(n-1) != 0 {
		note("dwFeatures %08X has more than one exchange level: the highest", uint32(r.Features))
		for _, l := range []Features{LevelExtended, LevelShort} {
			if r.Features&l != 0 {
				r.Features = r.Features&^levelMask | l
				break
			}
		}
	}
	if r.VoltageSupport&7 == 0 {
		note("bVoltageSupport %02X has no voltage: any", r.VoltageSupport)
		r.VoltageSupport = 7
	}
	if p := r.Protocols; p&3 == 0 {
		// One reader (09BE:0002) has its double words shifted up by one byte.
		if r.Protocols = p >> 8 & 3; r.Protocols == 0 {
			r.Protocols = 3
		}
		note("dwProtocols %08X has neither T=0 nor T=1: %02X", p, r.Protocols)
	}
	if r.DefaultClock < minClockKHz || r.DefaultClock > maxClockKHz {
		was := r.DefaultClock
		r.DefaultClock = 3580
		for _, kHz := range []uint32{was >> 8, was / 1000} { // shifted as above; given in Hz instead of kHz
			if kHz >= 1000 && kHz <= 20_000 {
				r.DefaultClock = kHz
				break
			}
		}
		note("dwDefaultClock %d kHz: %d", was, r.DefaultClock)
	}
	if r.MaxIFSD > maxIFSD || r.MaxIFSD == 0 {
		if r.Protocols&2 != 0 && r.Features.Level() < reader.ShortAPDU {
			note("dwMaxIFSD %d: %d", r.MaxIFSD, maxIFSD)
		}
		r.MaxIFSD = maxIFSD
	}
	if r.MaxDataRate < r.DataRate {
		note("dwMaxDataRate %d is below dwDataRate %d: the latter", r.MaxDataRate, r.DataRate)
		r.MaxDataRate = r.DataRate
	}
	if r.Mechanical&^0x0F != 0 {
		note("dwMechanical %08X has undefined bits: ignored", r.Mechanical)
		r.Mechanical &= 0x0F
	}
	if r.MaxSlotIndex > maxSlotIndex && r.Protocol == ProtocolCCID {
		note("bMaxSlotIndex %d: %d slots are taken", r.MaxSlotIndex, maxSlotIndex+1)
		r.MaxSlotIndex = maxSlotIndex
	}
	switch slots := r.slots(); {
	case r.Protocol != ProtocolCCID && slots > 1:
		note("bMaxSlotIndex %d: an ICCD has one card", r.MaxSlotIndex)
		r.MaxSlotIndex, r.MaxBusySlots = 0, 1
	case r.MaxBusySlots == 0:
		note("bMaxCCIDBusySlots 0: 1")
		r.MaxBusySlots = 1
	case int(r.MaxBusySlots) > slots:
		note("bMaxCCIDBusySlots %d of %d slots: %d", r.MaxBusySlots, slots, slots)
		r.MaxBusySlots = uint8(slots)
	}
	for _, e := range []*Endpoint{&r.In, &r.Out, &r.Intr} {
		if e.Address != 0 && e.PacketSize == 0 {
			note("endpoint %02X has packets of 0 bytes: 64", e.Address)
			e.PacketSize = 64
		}
	}
	return nil
}
