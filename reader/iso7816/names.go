package iso7816

import "fmt"

// CommandName is what a command is called by the standard that gives its class a meaning,
// else by ISO/IEC 7816-4:2020 table 5 and parts 7 to 13; "" if it has no name there.
// Cards use the interindustry instructions in classes of their own.
func CommandName(cla, ins byte) string {
	name := ""
	switch {
	case cla == 0xFF:
		name = readerNames[ins]
	case cla == 0xA0:
		name = gsmNames[ins]
	case cla == 0x90:
		name = desfireNames[ins]
	case cla&0x80 != 0 && cla&0xF0 != 0xB0 && cla&0xF0 != 0xF0:
		name = proprietaryNames[ins]
	}
	if name == "" {
		name = oddNames[ins]
	}
	if name == "" {
		name = interindustryNames[ins&^1]
	}
	return name
}

// interindustryNames goes by the even INS; the odd one is the same command with BER-TLV
// data.
var interindustryNames = map[byte]string{
	0x04: "DEACTIVATE FILE", 0x06: "DEACTIVATE RECORD", 0x08: "ACTIVATE RECORD",
	0x0C: "ERASE RECORD", 0x0E: "ERASE BINARY", 0x10: "PERFORM SCQL OPERATION",
	0x12: "PERFORM TRANSACTION OPERATION", 0x14: "PERFORM USER OPERATION",
	0x20: "VERIFY", 0x22: "MANAGE SECURITY ENVIRONMENT", 0x24: "CHANGE REFERENCE DATA",
	0x26: "DISABLE VERIFICATION REQUIREMENT", 0x28: "ENABLE VERIFICATION REQUIREMENT",
	0x2A: "PERFORM SECURITY OPERATION", 0x2C: "RESET RETRY COUNTER",
	0x2E: "PERFORM BIOMETRIC OPERATION", 0x34: "GET ATTRIBUTE",
	0x40: "APPLICATION MANAGEMENT REQUEST", 0x44: "ACTIVATE FILE",
	0x46: "GENERATE ASYMMETRIC KEY PAIR", 0x48: "IMPORT CARD SECRET", 0x70: "MANAGE CHANNEL",
	0x82: "EXTERNAL AUTHENTICATE", 0x84: "GET CHALLENGE", 0x86: "GENERAL AUTHENTICATE",
	0x88: "INTERNAL AUTHENTICATE", 0xA0: "SEARCH BINARY", 0xA2: "SEARCH RECORD",
	0xA4: "SELECT", 0xB0: "READ BINARY", 0xB2: "READ RECORD", 0xC0: "GET RESPONSE",
	0xC2: "ENVELOPE", 0xCA: "GET DATA", 0xCC: "GET NEXT DATA", 0xD0: "WRITE BINARY",
	0xD2: "WRITE RECORD", 0xD6: "UPDATE BINARY", 0xD8: "PUT NEXT DATA", 0xDA: "PUT DATA",
	0xDC: "UPDATE RECORD", 0xDE: "UPDATE DATA", 0xE0: "CREATE FILE", 0xE2: "APPEND RECORD",
	0xE4: "DELETE FILE", 0xE6: "TERMINATE DF", 0xE8: "TERMINATE EF",
	0xEA: "LOAD APPLICATION", 0xEC: "REMOVE APPLICATION", 0xEE: "DELETE DATA",
	0xFE: "TERMINATE CARD USAGE",
}

// oddNames are odd instructions that are no variant of an even one.
var oddNames = map[byte]string{0x33: "COMPARE", 0xA5: "SELECT DATA", 0xCF: "MANAGE DATA"}

// proprietaryNames are those of GlobalPlatform Card Specification 2.3.1 chapter 11, EMV
// 4.3 Book 3 table 12 and ETSI TS 102 221 table 10.5.
var proprietaryNames = map[byte]string{
	0x10: "TERMINAL PROFILE", 0x12: "FETCH", 0x14: "TERMINAL RESPONSE", 0xAA: "TERMINAL CAPABILITY",
	0x73: "MANAGE SECURE CHANNEL", 0x75: "TRANSACT DATA", 0x76: "SUSPEND UICC", 0x78: "END R-MAC SESSION",
	0x7A: "BEGIN R-MAC SESSION", 0x50: "INITIALIZE UPDATE", 0xD8: "PUT KEY", 0xE2: "STORE DATA", 0xE4: "DELETE",
	0xE6: "INSTALL", 0xE8: "LOAD", 0xF0: "SET STATUS", 0xF2: "GET STATUS",
	0x16: "CARD BLOCK", 0x18: "APPLICATION UNBLOCK", 0x1E: "APPLICATION BLOCK", 0x24: "PIN CHANGE/UNBLOCK",
	0x2A: "COMPUTE CRYPTOGRAPHIC CHECKSUM", 0xA8: "GET PROCESSING OPTIONS", 0xAE: "GENERATE AC",
}

// gsmNames are those of GSM 11.11 (ETSI TS 100 977) table 9 that differ from the
// interindustry ones.
var gsmNames = map[byte]string{
	0x04: "INVALIDATE", 0x10: "TERMINAL PROFILE", 0x12: "FETCH", 0x14: "TERMINAL RESPONSE",
	0x20: "VERIFY CHV", 0x24: "CHANGE CHV", 0x26: "DISABLE CHV", 0x28: "ENABLE CHV",
	0x2C: "UNBLOCK CHV", 0x32: "INCREASE", 0x44: "REHABILITATE", 0x88: "RUN GSM ALGORITHM",
	0xA2: "SEEK", 0xF2: "STATUS", 0xFA: "SLEEP",
}

// readerNames are commands that the reader answers, PC/SC part 3 chapter 3.2.2; FF 00 is
// what many readers call it.
var readerNames = map[byte]string{
	0x00: "DIRECT TRANSMIT", 0x82: "LOAD KEYS", 0x86: "GENERAL AUTHENTICATE", 0x88: "AUTHENTICATE",
	0xC2: "TRANSPARENT SESSION",
}

// desfireNames are DESFire's native commands in C-APDUs (NXP AN12343).
var desfireNames = map[byte]string{
	0x0A: "AUTHENTICATE", 0x1A: "AUTHENTICATE ISO", 0xAA: "AUTHENTICATE AES", 0x71: "AUTHENTICATE EV2 FIRST",
	0x77: "AUTHENTICATE EV2 NON FIRST", 0xAF: "ADDITIONAL FRAME", 0x60: "GET VERSION", 0x6A: "GET APPLICATION IDS",
	0x5A: "SELECT APPLICATION", 0x6F: "GET FILE IDS", 0xF5: "GET FILE SETTINGS", 0x45: "GET KEY SETTINGS",
	0x64: "GET KEY VERSION", 0x6E: "FREE MEMORY", 0x51: "GET CARD UID", 0xC4: "CHANGE KEY", 0xBD: "READ DATA",
	0x3D: "WRITE DATA", 0x6C: "GET VALUE", 0x0C: "CREDIT", 0xDC: "DEBIT", 0xBB: "READ RECORDS",
	0x3B: "WRITE RECORD", 0xC7: "COMMIT TRANSACTION", 0xA7: "ABORT TRANSACTION", 0xFC: "FORMAT PICC",
	0xCA: "CREATE APPLICATION", 0xDA: "DELETE APPLICATION", 0xCD: "CREATE STANDARD DATA FILE", 0xDF: "DELETE FILE",
}

// DescribeBlock names a T=1 block by its PCB (ISO/IEC 7816-3:2006 §11.3.2.2).
func DescribeBlock(block []byte) string {
	if len(block) < 3 {
		return "short block"
	}
	pcb := block[1]
	switch {
	case pcb&0x80 == 0:
		more := ""
		if pcb&0x20 != 0 {
			more = ", more follows"
		}
		return fmt.Sprintf("I(%d%s)", pcb>>6&1, more)
	case pcb&0xC0 == 0x80:
		reason := [4]string{"", ", EDC or parity error", ", other error", ", error 3"}[pcb&3]
		return fmt.Sprintf("R(%d%s)", pcb>>4&1, reason)
	}
	kind := "request"
	if pcb&0x20 != 0 {
		kind = "response"
	}
	name := [...]string{"RESYNCH", "IFS", "ABORT", "WTX"}
	if t := int(pcb & 0x1F); t < len(name) {
		return fmt.Sprintf("S(%s %s)", name[t], kind)
	}
	return fmt.Sprintf("S(%02X)", pcb)
}
