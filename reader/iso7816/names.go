package iso7816

import "fmt"

// CommandName is what ISO/IEC 7816-4:2013 table 4 calls an instruction; "" if
// it has no name there.
func CommandName(ins byte) string { return commandNames[ins&^1] }

// commandNames goes by the even INS; the odd one is the same command with BER-TLV data.
var commandNames = map[byte]string{
	0x04: "DEACTIVATE FILE", 0x0E: "ERASE BINARY", 0x0C: "ERASE RECORD",
	0x10: "PERFORM SCQL OPERATION", 0x20: "VERIFY", 0x22: "MANAGE SECURITY ENVIRONMENT",
	0x24: "CHANGE REFERENCE DATA", 0x26: "DISABLE VERIFICATION REQUIREMENT",
	0x28: "ENABLE VERIFICATION REQUIREMENT", 0x2A: "PERFORM SECURITY OPERATION",
	0x2C: "RESET RETRY COUNTER", 0x44: "ACTIVATE FILE", 0x46: "GENERATE ASYMMETRIC KEY PAIR",
	0x70: "MANAGE CHANNEL", 0x82: "EXTERNAL AUTHENTICATE", 0x84: "GET CHALLENGE",
	0x86: "GENERAL AUTHENTICATE", 0x88: "INTERNAL AUTHENTICATE", 0xA0: "SEARCH BINARY",
	0xA2: "SEARCH RECORD", 0xA4: "SELECT", 0xB0: "READ BINARY", 0xB2: "READ RECORD",
	0xC0: "GET RESPONSE", 0xC2: "ENVELOPE", 0xCA: "GET DATA", 0xD0: "WRITE BINARY",
	0xD2: "WRITE RECORD", 0xD6: "UPDATE BINARY", 0xDA: "PUT DATA", 0xDC: "UPDATE RECORD",
	0xE0: "CREATE FILE", 0xE2: "APPEND RECORD", 0xE4: "DELETE FILE",
	0xE6: "TERMINATE DF", 0xE8: "TERMINATE EF", 0xFE: "TERMINATE CARD USAGE",
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
