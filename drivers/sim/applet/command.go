package applet

// Status words (ISO/IEC 7816-4:2013 tables 5 and 6).
const (
	OK             = 0x9000
	SWMemory       = 0x6581
	SWLength       = 0x6700
	SWChannel      = 0x6881
	SWSecureMsg    = 0x6882
	SWChaining     = 0x6884
	SWSecurity     = 0x6982
	SWBlocked      = 0x6983
	SWConditions   = 0x6985
	SWData         = 0x6A80
	SWFunction     = 0x6A81
	SWNotFound     = 0x6A82
	SWFull         = 0x6A84
	SWP1P2         = 0x6A86
	SWNoReference  = 0x6A88
	SWINS          = 0x6D00
	SWCLA          = 0x6E00
	SWFailure      = 0x6F00
	swMore         = 0x6100
	swTries        = 0x63C0
	maxShort       = 256
	maxExtended    = 65536
	claChained     = 0x10
	insSelect      = 0xA4
	insGetResponse = 0xC0
)

// SWTries says that a comparison failed and how many tries are left.
func SWTries(left int) int { return swTries | min(left, 15) }

// Command is a parsed C-APDU.
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	Le               int  // 0: there is no Le field
	Extended         bool // Lc or Le has three or two bytes
}

// P1P2 is P1 and P2 as one number.
func (k Command) P1P2() int { return int(k.P1)<<8 | int(k.P2) }

// Answer is what an application answers.
type Answer struct {
	Data []byte
	SW   int
}

// Status answers SW1 SW2 alone.
func Status(sw int) Answer { return Answer{SW: sw} }

// Data answers data and 9000.
func Data(data []byte) Answer { return Answer{data, OK} }

// Parse reads a C-APDU of any case (ISO/IEC 7816-3:2006 §12.1). The data is that of b.
func Parse(b []byte) (k Command, ok bool) {
	if len(b) < 4 {
		return k, false
	}
	k = Command{CLA: b[0], INS: b[1], P1: b[2], P2: b[3]}
	most, b := maxShort, b[4:]
	switch {
	case len(b) == 0:
		return k, true
	case len(b) == 1:
		k.Le = int(b[0])
	case b[0] != 0:
		n := int(b[0])
		if len(b) != 1+n && len(b) != 2+n {
			return k, false
		}
		k.Data = b[1 : 1+n]
		if len(b) == 1+n {
			return k, true
		}
		k.Le = int(b[1+n])
	case len(b) < 3:
		return k, false
	default:
		k.Extended, most = true, maxExtended
		n := int(b[1])<<8 | int(b[2])
		switch {
		case len(b) == 3:
			k.Le = n
		case n == 0 || len(b) != 3+n && len(b) != 5+n:
			return k, false
		case len(b) == 3+n:
			k.Data = b[3:]
			return k, true
		default:
			k.Data = b[3 : 3+n]
			k.Le = int(b[3+n])<<8 | int(b[4+n])
		}
	}
	if k.Le == 0 {
		k.Le = most
	}
	return k, true
}
