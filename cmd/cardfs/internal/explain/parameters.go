package explain

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// parameters is what P1 P2 say, by the command's name; "" where nothing is known of them.
func parameters(name string, c iso7816.Command) string {
	p1p2 := uint16(c.P1)<<8 | uint16(c.P2)
	switch name {
	case "SELECT":
		return selects(c)
	case "READ BINARY", "UPDATE BINARY", "WRITE BINARY", "ERASE BINARY", "SEARCH BINARY":
		return binary(c)
	case "READ RECORD", "UPDATE RECORD", "WRITE RECORD", "ERASE RECORD", "APPEND RECORD", "SEARCH RECORD", "SEEK", "ACTIVATE RECORD", "DEACTIVATE RECORD":
		return record(c)
	case "GET DATA", "PUT DATA", "GET NEXT DATA", "PUT NEXT DATA", "UPDATE DATA":
		return dataObject(c)
	case "VERIFY", "CHANGE REFERENCE DATA", "DISABLE VERIFICATION REQUIREMENT", "ENABLE VERIFICATION REQUIREMENT", "RESET RETRY COUNTER", "PIN CHANGE/UNBLOCK":
		return referenceData(name, c)
	case "VERIFY CHV", "CHANGE CHV", "DISABLE CHV", "ENABLE CHV", "UNBLOCK CHV":
		return fmt.Sprintf("CHV %d", c.P2)
	case "MANAGE SECURITY ENVIRONMENT":
		return environment(c)
	case "PERFORM SECURITY OPERATION":
		return cmp.Or(operations[p1p2], fmt.Sprintf("answer %02X, data %02X", c.P1, c.P2))
	case "EXTERNAL AUTHENTICATE":
		if c.CLA&0xFC == 0x84 { // GlobalPlatform Card Specification 2.3.1 table E-5
			return "security level: " + cmp.Or(securityLevels[c.P1], fmt.Sprintf("%02X", c.P1))
		}
		return algorithmAndKey(c)
	case "INTERNAL AUTHENTICATE", "GENERAL AUTHENTICATE":
		return algorithmAndKey(c)
	case "GENERATE ASYMMETRIC KEY PAIR":
		return cmp.Or(map[byte]string{0x80: "generate", 0x81: "read the public key", 0x82: "generate", 0x83: "read the public key"}[c.P1], "generate")
	case "MANAGE CHANNEL":
		return channel(c)
	case "GET CHALLENGE", "GET RESPONSE":
		return p1p2Unless(p1p2 == 0, c)
	case "GENERATE AC":
		words := [4]string{"AAC: decline", "TC: approve offline", "ARQC: ask the issuer", "RFU"}[c.P1>>6]
		if c.P1&0x10 != 0 {
			words += ", with CDA"
		}
		return words
	case "INITIALIZE UPDATE":
		return fmt.Sprintf("key version %d, key identifier %d", c.P1, c.P2)
	case "GET STATUS":
		return globalStatus(c)
	case "INSTALL":
		return install(c.P1)
	case "DELETE":
		if c.P2&0x80 != 0 {
			return "the object and related ones"
		}
		return "the object"
	case "LOAD", "STORE DATA":
		if c.P1&0x80 != 0 {
			return fmt.Sprintf("block %d, the last", c.P2)
		}
		return fmt.Sprintf("block %d", c.P2)
	case "PUT KEY":
		return fmt.Sprintf("key version %d, key identifier %d", c.P1&0x7F, c.P2&0x7F)
	}
	return p1p2Unless(p1p2 == 0, c)
}

// p1p2Unless shows them where they say something that is not known.
func p1p2Unless(plain bool, c iso7816.Command) string {
	if plain {
		return ""
	}
	return fmt.Sprintf("P1 %02X, P2 %02X", c.P1, c.P2)
}

// selects is ISO/IEC 7816-4:2020 tables 62 and 63.
func selects(c iso7816.Command) string {
	if c.CLA == 0xA0 {
		return "by file identifier"
	}
	how, ok := map[byte]string{
		0: "by file identifier", 1: "child DF", 2: "EF under the current DF", 3: "the parent of the current DF",
		4: "by DF name (AID)", 8: "by path from the MF", 9: "by path from the current DF", 0x10: "the parent of the current constructed object",
	}[c.P1]
	if !ok {
		return p1p2Unless(false, c)
	}
	if c.P1 == 0 && len(c.Data) == 0 {
		how = "the MF"
	}
	which := [4]string{"", ", the last", ", the next", ", the previous"}[c.P2&3]
	answer := [4]string{", answer: FCI", ", answer: FCP", ", answer: FMD", ", no answer data"}[c.P2>>2&3]
	return how + which + answer
}

// binary is §11.3: an offset of 15 bits, or a short EF identifier and an offset of 8.
func binary(c iso7816.Command) string {
	switch {
	case c.CLA == 0xFF:
		return fmt.Sprintf("block %d", int(c.P1)<<8|int(c.P2))
	case c.INS&1 == 1 && c.P1 == 0 && c.P2 < 0x20:
		return cmp.Or(shortEF(c.P2), "the current EF") + ", offset in the data"
	case c.INS&1 == 1:
		return fmt.Sprintf("file %02X%02X, offset in the data", c.P1, c.P2)
	case c.P1&0xE0 == 0x80:
		return fmt.Sprintf("%s, offset %d", cmp.Or(shortEF(c.P1&0x1F), "the current EF"), c.P2)
	case c.P1&0x80 != 0:
		return p1p2Unless(false, c)
	}
	return fmt.Sprintf("offset %d", int(c.P1)<<8|int(c.P2))
}

func shortEF(sfi byte) string {
	if sfi == 0 {
		return ""
	}
	return fmt.Sprintf("short EF identifier %d", sfi)
}

// record is §11.4, table 58.
func record(c iso7816.Command) string {
	var words string
	switch number := fmt.Sprint("record ", c.P1); c.P2 & 7 {
	case 0, 1, 2, 3:
		words = [4]string{"first", "last", "next", "previous"}[c.P2&3] + " record"
		if c.P1 != 0 {
			words += fmt.Sprintf(" with identifier %d", c.P1)
		}
	case 4:
		words = number
		if c.P1 == 0 {
			words = "the current record"
		}
	case 5:
		words = "all from " + number + " to the last"
	case 6:
		words = "all from the last to " + number
	case 7:
		return p1p2Unless(false, c)
	}
	if ef := shortEF(c.P2 >> 3); ef != "" {
		words += ", " + ef
	}
	return words
}

// dataObject is §11.5, table 70.
func dataObject(c iso7816.Command) string {
	tag := uint32(c.P1)<<8 | uint32(c.P2)
	switch {
	case c.CLA == 0xFF && c.INS == 0xCA && c.P1 == 0:
		return "the card's UID"
	case c.CLA == 0xFF && c.INS == 0xCA && c.P1 == 1:
		return "historical bytes of the ATS"
	case c.INS&1 == 1 && tag == 0x3FFF:
		return "in the current DF"
	case c.INS&1 == 1 && tag == 0:
		return "in the current EF"
	case c.INS&1 == 1:
		return fmt.Sprintf("in file %04X", tag)
	case c.P1 == 0x02:
		return fmt.Sprintf("SIMPLE-TLV tag %02X", c.P2)
	case c.P1 == 0x01:
		return fmt.Sprintf("application data %04X", tag)
	}
	words := fmt.Sprintf("tag %X", tag)
	if name := tagName(anywhere, tag); name != "" {
		words += ", " + name
	}
	return words
}

// referenceData is §11.6, table 86.
func referenceData(name string, c iso7816.Command) string {
	var words string
	switch {
	case c.P2 == 0:
		words = "the card's only or implied reference data"
	case c.P2&0x80 != 0:
		words = fmt.Sprintf("reference data %d of the DF", c.P2&0x1F)
	default:
		words = fmt.Sprintf("reference data %d of the card", c.P2&0x1F)
	}
	switch {
	case name == "CHANGE REFERENCE DATA" && c.P1 == 0:
		words += ", old and new"
	case name == "CHANGE REFERENCE DATA" && c.P1 == 1:
		words += ", new alone"
	case name == "RESET RETRY COUNTER" && c.P1 < 4:
		words += [4]string{", resetting code and new data", ", resetting code alone", ", new data alone", ""}[c.P1]
	case name == "VERIFY" && c.P1 == 0xFF:
		words += ", ends the verification"
	case name == "VERIFY" && len(c.Data) == 0:
		words += ", asks for the tries left"
	}
	return words
}

// environment is §11.6.11, tables 97 and 98.
func environment(c iso7816.Command) string {
	what := [16]string{1: "SET", 2: "STORE", 3: "RESTORE", 4: "ERASE"}[c.P1&0x0F]
	if what == "" {
		return p1p2Unless(false, c)
	}
	if c.P1&0x0F != 1 {
		return fmt.Sprintf("%s, environment %d", what, c.P2)
	}
	var uses []string
	for i, use := range [4]string{"secure messaging in commands", "secure messaging in answers", "computation, decipherment, internal authentication", "verification, encipherment, external authentication"} {
		if c.P1&(0x10<<i) != 0 {
			uses = append(uses, use)
		}
	}
	template := cmp.Or(tagName(inCRT, uint32(c.P2)), fmt.Sprintf("template %02X", c.P2))
	return strings.Join(append([]string{what, template}, uses...), ", ")
}

// operations are those of ISO/IEC 7816-8:2016 §5.4, by the tags of answer and data.
var operations = map[uint16]string{
	0x9E9A: "COMPUTE DIGITAL SIGNATURE", 0x8086: "DECIPHER", 0x8084: "DECIPHER", 0x8680: "ENCIPHER", 0x8480: "ENCIPHER",
	0x9080: "HASH", 0x90A0: "HASH", 0x8E80: "COMPUTE CRYPTOGRAPHIC CHECKSUM", 0x00A2: "VERIFY CRYPTOGRAPHIC CHECKSUM",
	0x00A8: "VERIFY DIGITAL SIGNATURE", 0x0092: "VERIFY CERTIFICATE", 0x00AE: "VERIFY CERTIFICATE", 0x00BE: "VERIFY CERTIFICATE",
}

var securityLevels = map[byte]string{
	0x00: "none", 0x01: "C-MAC", 0x03: "C-DECRYPTION and C-MAC", 0x10: "R-MAC", 0x11: "C-MAC and R-MAC",
	0x13: "C-DECRYPTION, C-MAC and R-MAC", 0x33: "C-DECRYPTION, R-ENCRYPTION, C-MAC and R-MAC",
}

func algorithmAndKey(c iso7816.Command) string {
	var words []string
	if c.P1 != 0 {
		words = append(words, fmt.Sprintf("algorithm %02X", c.P1))
	}
	if c.P2 != 0 {
		words = append(words, fmt.Sprintf("key %02X", c.P2))
	}
	return strings.Join(words, ", ")
}

// channel is §11.2.2.
func channel(c iso7816.Command) string {
	switch {
	case c.P1 == 0 && c.P2 == 0:
		return "open; the card chooses the number"
	case c.P1 == 0:
		return fmt.Sprintf("open channel %d", c.P2)
	case c.P1 == 0x80 && c.P2 == 0:
		return "close this channel"
	case c.P1 == 0x80:
		return fmt.Sprintf("close channel %d", c.P2)
	}
	return p1p2Unless(false, c)
}

// globalStatus is GlobalPlatform Card Specification 2.3.1 table 11-32. ETSI TS 102 221
// has a STATUS with the same INS.
func globalStatus(c iso7816.Command) string {
	what := map[byte]string{
		0x80: "issuer security domain", 0x40: "applications and security domains", 0x20: "executable load files", 0x10: "executable load files and modules",
	}[c.P1]
	if what == "" {
		return p1p2Unless(false, c)
	}
	if c.P2&1 != 0 {
		what += ", the next"
	}
	return what
}

// install is GlobalPlatform Card Specification 2.3.1 table 11-42.
func install(p1 byte) string {
	var uses []string
	for i, use := range [7]string{"", "for load", "for install", "make selectable", "for extradition", "for personalization", "for registry update"} {
		if use != "" && p1&(1<<i) != 0 {
			uses = append(uses, use)
		}
	}
	if p1&0x80 != 0 {
		uses = append(uses, "more to come")
	}
	return strings.Join(uses, ", ")
}
