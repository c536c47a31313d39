package explain

import (
	"bytes"
	"encoding/hex"
	"strings"
)

// Application is a well-known card application.
type Application struct {
	Name  string // as `select` takes it
	AID   []byte
	Words string
}

// Applications are the well-known ones, by what their AIDs begin with.
var Applications = []Application{
	app("piv", "A000000308000010000100", "PIV card (NIST SP 800-73)"),
	app("openpgp", "D27600012401", "OpenPGP card"),
	app("pkcs15", "A000000063504B43532D3135", "PKCS #15 tokens"),
	app("emrtd", "A0000002471001", "travel document (ICAO 9303)"),
	app("eid", "E80704007F00070302", "German identity card"),
	app("esign", "A000000167455349474E", "eSign (EN 419212)"),
	app("egk", "D2760001448000", "German health card"),
	app("fido", "A0000006472F0001", "FIDO U2F and FIDO2"),
	app("isd", "A000000151000000", "GlobalPlatform issuer security domain"),
	app("yubikey-otp", "A0000005272001", "YubiKey OTP"),
	app("yubikey-mgmt", "A000000527471117", "YubiKey management"),
	app("oath", "A0000005272101", "OATH (Yubico)"),
	app("ndef", "D2760000850101", "NFC Forum type 4 tag"),
	app("desfire", "D2760000850100", "DESFire"),
	app("usim", "A0000000871002", "USIM (3GPP TS 31.102)"),
	app("isim", "A0000000871004", "ISIM (3GPP TS 31.103)"),
	app("csim", "A0000003431002", "CSIM (3GPP2)"),
	app("pse", "315041592E5359532E4444463031", "payment system environment, 1PAY.SYS.DDF01"),
	app("ppse", "325041592E5359532E4444463031", "proximity payment system environment, 2PAY.SYS.DDF01"),
	app("visa", "A0000000031010", "Visa credit or debit"),
	app("visa-electron", "A0000000032010", "Visa Electron"),
	app("vpay", "A0000000032020", "V PAY"),
	app("mastercard", "A0000000041010", "Mastercard"),
	app("maestro", "A0000000043060", "Maestro"),
	app("amex", "A00000002501", "American Express"),
	app("discover", "A0000001523010", "Discover"),
	app("diners", "A0000001524010", "Diners Club"),
	app("jcb", "A0000000651010", "JCB"),
	app("unionpay", "A000000333010101", "UnionPay debit"),
	app("girocard", "A0000003591010028001", "girocard"),
	app("cb", "A0000000421010", "Cartes Bancaires"),
	app("interac", "A0000002771010", "Interac"),
	app("cardfs", "F063617264667301", "DF 5000 of the simulated cards"),
}

func app(name, aid, words string) Application {
	b, err := hex.DecodeString(aid)
	if err != nil {
		panic(err) // of the table above
	}
	return Application{name, b, words}
}

// LookUp finds an application by its name.
func LookUp(name string) (Application, bool) {
	for _, a := range Applications {
		if strings.EqualFold(a.Name, name) {
			return a, true
		}
	}
	return Application{}, false
}

// aidWords names the application whose AID it is, and else its registered provider. Cards
// append versions and serial numbers to an AID.
func aidWords(aid []byte) string {
	words, longest := "", 0
	for _, a := range Applications {
		if bytes.HasPrefix(aid, a.AID) && len(a.AID) > longest {
			words, longest = a.Words, len(a.AID)
		}
	}
	if words == "" && len(aid) >= 5 {
		words = providers[string(aid[:5])]
	}
	return words
}

// providers are registered application providers (ISO/IEC 7816-5), by their RID.
var providers = map[string]string{
	"\xA0\x00\x00\x00\x03": "of Visa", "\xA0\x00\x00\x00\x04": "of Mastercard", "\xA0\x00\x00\x00\x25": "of American Express",
	"\xA0\x00\x00\x00\x65": "of JCB", "\xA0\x00\x00\x00\x87": "of 3GPP", "\xA0\x00\x00\x00\x09": "of ETSI", "\xA0\x00\x00\x01\x51": "of GlobalPlatform",
	"\xA0\x00\x00\x03\x08": "of NIST", "\xA0\x00\x00\x05\x27": "of Yubico", "\xA0\x00\x00\x06\x47": "of the FIDO Alliance",
	"\xD2\x76\x00\x00\x85": "of NXP", "\xD2\x76\x00\x01\x24": "of FSF Europe", "\xA0\x00\x00\x02\x47": "of ISO/IEC JTC 1 SC 17",
}
