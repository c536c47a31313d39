package explain

import "fmt"

// class is what CLA says, ISO/IEC 7816-4:2020 §5.4.1.
func class(cla byte) string {
	switch {
	case cla == 0xFF:
		return "a command to the reader (PC/SC part 3)"
	case cla == 0xA0:
		return "GSM 11.11"
	case cla&0xF0 == 0x80:
		// GlobalPlatform, EMV and TS 102 221 code the rest as the first interindustry class.
		return "proprietary" + firstClass(cla&0x0F)
	case cla&0x80 != 0:
		return "proprietary"
	case cla&0xE0 == 0x20:
		return "reserved by the standard"
	case cla&0x40 != 0:
		return "interindustry" + furtherClass(cla)
	}
	return "interindustry" + firstClass(cla)
}

func firstClass(cla byte) string {
	words := fmt.Sprintf(", channel %d", cla&0x03)
	switch cla & 0x0C {
	case 0x04:
		words += ", proprietary secure messaging"
	case 0x08:
		words += ", secure messaging, header not authenticated"
	case 0x0C:
		words += ", secure messaging, header authenticated"
	}
	return words + chained(cla)
}

func furtherClass(cla byte) string {
	words := fmt.Sprintf(", channel %d", 4+cla&0x0F)
	if cla&0x20 != 0 {
		words += ", secure messaging, header not authenticated"
	}
	return words + chained(cla)
}

func chained(cla byte) string {
	if cla&0x10 != 0 {
		return ", more commands of the chain follow"
	}
	return ""
}

// secured reports whether the data field holds the objects of secure messaging.
func secured(cla byte) bool {
	return cla&0x80 == 0 && (cla&0xE0 == 0 && cla&0x08 != 0 || cla&0x60 == 0x60)
}
