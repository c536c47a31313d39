package explain

import (
	"cmp"
	"fmt"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// Status is what SW1 SW2 says after the command, ISO/IEC 7816-4:2020 §5.6.
func Status(c iso7816.Command, sw uint16) string {
	name := iso7816.CommandName(c.CLA, c.INS)
	sw1, sw2 := byte(sw>>8), byte(sw)
	switch {
	case c.CLA == 0x90 && sw1 == 0x91:
		return cmp.Or(desfireWords[sw2], classWords[0x90])
	case c.CLA == 0xA0 && gsmStatus[sw] != "":
		return gsmStatus[sw]
	case sw == 0x6300 && countsTries[name]:
		return "wrong; how many tries are left is not told"
	case sw == 0x6310 && name == "GET STATUS":
		return "more data: GET STATUS, the next"
	case sw1 == 0x63 && sw2>>4 == 0xC:
		return counter(name, len(c.Data) > 0, int(sw2&0x0F))
	case statusWords[sw] != "":
		return statusWords[sw]
	}
	switch {
	case sw == 0x6100:
		return "done; 256 bytes or more to fetch with GET RESPONSE"
	case sw1 == 0x61:
		return fmt.Sprintf("done; %s to fetch with GET RESPONSE", count(int(sw2)))
	case (sw1 == 0x62 || sw1 == 0x64) && sw2 >= 0x02 && sw2 <= 0x80:
		return fmt.Sprintf("%s; the card has a query of %s for the host", classWords[sw1], count(int(sw2)))
	case sw1 == 0x6C:
		return fmt.Sprintf("wrong Le; the card has %s", count(le(sw2)))
	case sw1 == 0x91:
		return fmt.Sprintf("done; the card has a proactive command of %s (ETSI TS 102 221)", count(le(sw2)))
	case sw1 == 0x92 && sw2 < 0x10:
		return fmt.Sprintf("done after %d internal retries (ETSI TS 102 221)", sw2)
	case sw1 == 0x9F:
		return fmt.Sprintf("done; %s to fetch with GET RESPONSE (GSM 11.11)", count(le(sw2)))
	case classWords[sw1] != "":
		return classWords[sw1]
	case sw1>>4 == 9:
		return classWords[0x90]
	}
	return "no status word: SW1 is 6X or 9X"
}

// counter is 63CX: what is counted depends on the command. Without data VERIFY only asks.
func counter(name string, tried bool, n int) string {
	words := "not verified"
	if tried {
		words = "wrong"
	}
	switch {
	case !countsTries[name]:
		return fmt.Sprintf("warning; a counter is %d", n)
	case n == 0:
		return words + "; no try left: blocked"
	case n == 1:
		return words + "; 1 try left"
	}
	return fmt.Sprintf("%s; %d tries left", words, n)
}

// countsTries has the commands after which 63CX counts tries.
var countsTries = map[string]bool{
	"VERIFY": true, "CHANGE REFERENCE DATA": true, "RESET RETRY COUNTER": true, "DISABLE VERIFICATION REQUIREMENT": true,
	"ENABLE VERIFICATION REQUIREMENT": true, "PERFORM BIOMETRIC OPERATION": true, "EXTERNAL AUTHENTICATE": true,
	"GENERAL AUTHENTICATE": true, "PIN CHANGE/UNBLOCK": true, "VERIFY CHV": true, "CHANGE CHV": true, "DISABLE CHV": true,
	"ENABLE CHV": true, "UNBLOCK CHV": true,
}

// le is the number of bytes that SW2 codes as Le does.
func le(sw2 byte) int {
	if sw2 == 0 {
		return 256
	}
	return int(sw2)
}

func count(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}

// classWords are what SW1 alone says.
var classWords = map[byte]string{
	0x61: "done", 0x62: "warning; non-volatile memory is unchanged", 0x63: "warning; non-volatile memory may have changed",
	0x64: "execution error; non-volatile memory is unchanged", 0x65: "execution error; non-volatile memory may have changed",
	0x66: "execution error; a matter of security", 0x67: "wrong length", 0x68: "a function of CLA is not supported",
	0x69: "command not allowed", 0x6A: "wrong parameters P1 P2", 0x6B: "wrong parameters P1 P2", 0x6C: "wrong Le",
	0x6D: "INS is not supported or invalid", 0x6E: "CLA is not supported", 0x6F: "error without a precise diagnosis",
	0x60: "still at work (T=0 procedure byte)", 0x90: "defined by the card's application",
}

// statusWords are the status words of ISO/IEC 7816-4:2020 tables 6 to 9.
var statusWords = map[uint16]string{
	0x9000: "done",
	0x6200: "warning, without further information; non-volatile memory is unchanged",
	0x6281: "part of the data may be corrupted",
	0x6282: "end of file or record before Le bytes, or nothing found",
	0x6283: "the selected file is deactivated",
	0x6284: "the file's control information is badly formatted",
	0x6285: "the selected file is terminated",
	0x6286: "no input from a sensor on the card",
	0x6287: "a referenced record is deactivated",
	0x6300: "warning, without further information; non-volatile memory may have changed",
	0x6340: "the comparison failed",
	0x6381: "the file is filled up by the last write",
	0x6400: "execution error, without further information; non-volatile memory is unchanged",
	0x6401: "the card wants an immediate response",
	0x6481: "the logical channel is not shared",
	0x6482: "the logical channel could not be opened",
	0x6500: "execution error, without further information; non-volatile memory may have changed",
	0x6581: "memory failure",
	0x6600: "execution error; a matter of security",
	0x6700: "wrong length, without further information",
	0x6701: "the command's format does not comply with the standard",
	0x6702: "wrong Lc",
	0x6800: "a function of CLA is not supported, without further information",
	0x6881: "logical channels are not supported",
	0x6882: "secure messaging is not supported",
	0x6883: "the last command of the chain was expected",
	0x6884: "command chaining is not supported",
	0x6900: "command not allowed, without further information",
	0x6981: "the command does not fit the file's structure",
	0x6982: "the security status is not satisfied: something must be verified first",
	0x6983: "the authentication method is blocked",
	0x6984: "the reference data cannot be used",
	0x6985: "the conditions of use are not satisfied",
	0x6986: "command not allowed: no EF is selected",
	0x6987: "data objects of secure messaging are missing",
	0x6988: "data objects of secure messaging are incorrect",
	0x6A00: "wrong parameters P1 P2, without further information",
	0x6A80: "wrong data in the command",
	0x6A81: "the function is not supported",
	0x6A82: "file or application not found",
	0x6A83: "record not found",
	0x6A84: "not enough memory in the file",
	0x6A85: "Lc does not fit the TLV structure",
	0x6A86: "wrong P1 P2",
	0x6A87: "Lc does not fit P1 P2",
	0x6A88: "referenced data not found",
	0x6A89: "the file exists already",
	0x6A8A: "the DF name exists already",
	0x6B00: "wrong parameters P1 P2, as an offset outside the file",
	0x6D00: "INS is not supported or invalid",
	0x6E00: "CLA is not supported",
	0x6F00: "error without a precise diagnosis",
}

// gsmStatus are the status words of GSM 11.11 §9.4 that nobody else has.
var gsmStatus = map[uint16]string{
	0x9240: "memory problem", 0x9300: "SIM application toolkit is busy", 0x9400: "no EF is selected",
	0x9402: "out of range: invalid address", 0x9404: "file or pattern not found", 0x9408: "the file does not fit the command",
	0x9802: "no CHV initialised", 0x9804: "access not fulfilled, or CHV wrong", 0x9808: "in contradiction with the CHV status",
	0x9810: "in contradiction with the invalidation status", 0x9840: "CHV wrong, and no try left: blocked",
	0x9850: "the value cannot be increased: the maximum is reached",
}

// desfireWords are SW2 after SW1 91 of a DESFire command (NXP AN12343).
var desfireWords = map[byte]string{
	0x00: "done", 0x0C: "no changes", 0x0E: "out of memory", 0x1C: "the command is not supported", 0x1E: "integrity error", 0x40: "no such key",
	0x7E: "wrong length", 0x9D: "permission denied", 0x9E: "wrong parameter", 0xA0: "application not found", 0xAE: "authentication error",
	0xAF: "done; more frames follow", 0xBE: "out of the file's boundary", 0xCA: "the command was aborted", 0xCD: "the PICC is disabled",
	0xCE: "too many applications", 0xDE: "the file or application exists already", 0xEE: "memory error", 0xF0: "file not found",
}
