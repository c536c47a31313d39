package openpgp

import (
	"bytes"
	"fmt"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

const (
	maxChallenge   = 2048
	maxCertificate = 4096
	maxSpecial     = 2048 // DOs for private use, login data, URL, and so on
	maxCommand     = 8192 // of DO 7F66: a certificate and its headers, and more
	maxAnswer      = 8192
)

// Tags of data objects that the code names (4.4).
const (
	tagAID          = 0x4F
	tagName         = 0x5B
	tagLanguage     = 0x5F2D
	tagSex          = 0x5F35
	tagHistorical   = 0x5F52
	tagCardholder   = 0x65
	tagApplication  = 0x6E
	tagDiscretion   = 0x73
	tagSecurity     = 0x7A
	tagCounter      = 0x93
	tagCertificate  = 0x7F21
	tagLengths      = 0x7F66
	tagFeatures     = 0x7F74
	tagCapabilities = 0xC0
	tagAttributes   = 0xC1 // to C3
	tagPasswords    = 0xC4
	tagFingerprints = 0xC5
	tagCAs          = 0xC6
	tagFingerprint  = 0xC7 // to C9
	tagCA           = 0xCA // to CC
	tagTimes        = 0xCD
	tagTime         = 0xCE // to D0
	tagResetting    = 0xD3
	tagAES          = 0xD5
	tagUIF          = 0xD6 // to D8
	tagKeys         = 0xDE
	tagKDF          = 0xF9
	tagAlgorithms   = 0xFA
)

// access is who may read or write a data object.
type access int

const (
	never access = iota
	always
	user  // PW1, mode 82
	admin // PW3
)

func (a *App) granted(c access) bool {
	return c == always || c == user && a.user || c == admin && a.admin
}

// simple are the data objects that the card keeps as they are written (4.4.1, 4.4.2).
var simple = map[int]struct {
	read, write access
	least, most int // length
}{
	0x0101:      {always, user, 0, maxSpecial},
	0x0102:      {always, admin, 0, maxSpecial},
	0x0103:      {user, user, 0, maxSpecial},
	0x0104:      {admin, admin, 0, maxSpecial},
	tagName:     {always, admin, 0, 39},
	0x5E:        {always, admin, 0, maxSpecial},
	tagLanguage: {always, admin, 2, 8},
	tagSex:      {always, admin, 1, 1},
	0x5F50:      {always, admin, 0, maxSpecial},
}

func objectKey(tag int) string { return fmt.Sprintf("%X", tag) }

// get returns a data object that was written, or its initial value.
func (a *App) get(tag int) []byte {
	if v, ok := a.Objects[objectKey(tag)]; ok {
		return v
	}
	switch tag {
	case tagLanguage:
		return []byte("en")
	case tagSex:
		return []byte("9") // not announced (4.4.3.5)
	case tagKDF:
		return applet.TLV(kdfAlgorithm, []byte{kdfNone})
	case tagUIF, tagUIF + 1, tagUIF + 2:
		return []byte{uifOff, featureButton}
	}
	return nil
}

func (a *App) put(tag int, value []byte) {
	a.Objects[objectKey(tag)] = bytes.Clone(value)
	a.store.Changed()
}

// getData is GET DATA (7.2.6).
func (a *App) getData(k applet.Command) applet.Answer {
	if len(k.Data) > 0 {
		return applet.Status(applet.SWLength)
	}
	tag := k.P1P2()
	if s, ok := simple[tag]; ok {
		if !a.granted(s.read) {
			return applet.Status(applet.SWSecurity)
		}
		return applet.Data(a.get(tag))
	}
	if v, ok := a.object(tag); ok {
		return applet.Data(v)
	}
	return applet.Status(applet.SWNoReference)
}

// object is the value of a data object that anybody may read.
func (a *App) object(tag int) ([]byte, bool) {
	// template is a constructed object with those in it.
	template := func(tags ...int) ([]byte, bool) {
		var v []byte
		for _, t := range tags {
			o := a.get(t)
			if _, kept := simple[t]; !kept {
				o, _ = a.object(t)
			}
			v = applet.AppendObject(v, t, o)
		}
		return v, true
	}
	switch tag {
	case tagAID:
		return a.aid, true
	case tagHistorical:
		return a.historical(), true
	case tagCardholder:
		return template(tagName, tagLanguage, tagSex)
	case tagApplication:
		return template(tagAID, tagHistorical, tagLengths, tagFeatures, tagDiscretion)
	case tagDiscretion:
		return template(tagCapabilities, tagAttributes, tagAttributes+1, tagAttributes+2, tagPasswords, tagFingerprints,
			tagCAs, tagTimes, tagKeys, tagUIF, tagUIF+1, tagUIF+2)
	case tagSecurity:
		return template(tagCounter)
	case tagCounter:
		return []byte{byte(a.Signatures >> 16), byte(a.Signatures >> 8), byte(a.Signatures)}, true
	case tagCertificate:
		return a.Certificates[a.occurrence], true
	case tagLengths: // 4.1.3.1
		return append(applet.TLV(0x02, []byte{maxCommand >> 8, maxCommand & 0xFF}), applet.TLV(0x02, []byte{maxAnswer >> 8, maxAnswer & 0xFF})...), true
	case tagFeatures: // 4.1.3.2
		return applet.TLV(0x81, []byte{featureButton}), true
	case tagCapabilities:
		return capabilities, true
	case tagAttributes, tagAttributes + 1, tagAttributes + 2:
		return a.Slots[tag-tagAttributes].Attributes, true
	case tagPasswords:
		return a.passwordStatus(), true
	case tagFingerprints:
		return a.ofSlots(func(s slot) []byte { return s.Fingerprint }), true
	case tagCAs:
		return a.ofSlots(func(s slot) []byte { return s.CA }), true
	case tagTimes:
		return a.ofSlots(func(s slot) []byte { return s.Time }), true
	case tagKeys: // 4.4.3.8
		return []byte{1, byte(a.Slots[signature].Origin), 2, byte(a.Slots[decryption].Origin), 3, byte(a.Slots[authentication].Origin)}, true
	case tagUIF, tagUIF + 1, tagUIF + 2, tagKDF:
		return a.get(tag), true
	case tagAlgorithms:
		return algorithmInformation(), true
	}
	return nil, false
}

func (a *App) ofSlots(value func(slot) []byte) (all []byte) {
	for _, s := range a.Slots {
		all = append(all, value(s)...)
	}
	return all
}

// capabilities is DO C0 (4.4.3.7): GET CHALLENGE, import of keys, changeable password status,
// DOs for private use, changeable attributes, AES and KDF-DO; no secure messaging, no PIN
// block 2; MANAGE SECURITY ENVIRONMENT.
var capabilities = []byte{0x7F, 0x00,
	maxChallenge >> 8, maxChallenge & 0xFF,
	maxCertificate >> 8, maxCertificate & 0xFF,
	maxSpecial >> 8, maxSpecial & 0xFF, 0x00, 0x01}

// historicalBytes are the historical bytes of a card in use (6): selection by whole and partial
// DF name, GET DATA for DOs, no MF; command chaining, extended length and DO 7F66; and the life
// cycle, operational.
var historicalBytes = []byte{0x00, 0x31, 0xC5, 0x73, 0xC0, 0x01, 0xE0, 0x05, 0x90, 0x00}

func (a *App) historical() []byte {
	h := bytes.Clone(historicalBytes)
	if a.Terminated {
		h[7] = 0x03 // initialisation state
	}
	return h
}

// putData is PUT DATA (7.2.8).
func (a *App) putData(k applet.Command) int {
	tag, value := k.P1P2(), k.Data
	if s, ok := simple[tag]; ok {
		switch {
		case !a.granted(s.write):
			return applet.SWSecurity
		case len(value) < s.least || len(value) > s.most:
			return applet.SWData
		case tag == tagSex && !bytes.Contains([]byte("0129"), value):
			return applet.SWData
		}
		a.put(tag, value)
		return applet.OK
	}
	if !a.admin {
		if a.writable(tag) {
			return applet.SWSecurity
		}
		return applet.SWNoReference
	}
	sw := a.putObject(tag, value)
	if sw == applet.OK {
		a.store.Changed()
	}
	return sw
}

// writable reports whether PW3 opens the object for writing.
func (a *App) writable(tag int) bool {
	switch tag {
	case tagCertificate, tagResetting, tagAES, tagKDF, tagPasswords:
		return true
	}
	return tag >= tagAttributes && tag < tagAttributes+slots || tag >= tagUIF && tag < tagUIF+slots ||
		tag >= tagFingerprint && tag < tagTime+slots && tag != tagTimes
}

// putObject writes an object that is not simple. PW3 was verified.
func (a *App) putObject(tag int, value []byte) int {
	// of is where the object of one of the three slots lies.
	of := func(first int, field func(*slot) []byte) int {
		into := field(&a.Slots[tag-first])
		if len(value) != len(into) {
			return applet.SWData
		}
		copy(into, value)
		return applet.OK
	}
	switch {
	case tag == tagCertificate:
		if len(value) > maxCertificate {
			return applet.SWData
		}
		a.Certificates[a.occurrence] = bytes.Clone(value)
		return applet.OK
	case tag == tagResetting:
		return a.putResettingCode(value)
	case tag == tagPasswords:
		return a.putPasswordStatus(value)
	case tag == tagKDF:
		return a.putKDF(value)
	case tag == tagAES:
		if len(value) != 16 && len(value) != 32 {
			return applet.SWData
		}
		a.AES = bytes.Clone(value)
		return applet.OK
	case tag >= tagAttributes && tag < tagAttributes+slots:
		return a.putAttributes(tag-tagAttributes, value)
	case tag >= tagFingerprint && tag < tagFingerprint+slots:
		return of(tagFingerprint, func(s *slot) []byte { return s.Fingerprint })
	case tag >= tagCA && tag < tagCA+slots:
		return of(tagCA, func(s *slot) []byte { return s.CA })
	case tag >= tagTime && tag < tagTime+slots:
		return of(tagTime, func(s *slot) []byte { return s.Time })
	case tag >= tagUIF && tag < tagUIF+slots:
		return a.putInteraction(tag, value)
	}
	return applet.SWNoReference
}

// User interaction flags (4.4.3.6).
const (
	uifOff        = 0x00
	uifPermanent  = 0x02
	featureButton = 0x20
)

// putInteraction writes a flag of user interaction. One that is on permanently stays so until the next
// ACTIVATE FILE.
func (a *App) putInteraction(tag int, value []byte) int {
	switch {
	case len(value) != 2 || value[0] > uifPermanent || value[1] != featureButton:
		return applet.SWData
	case a.get(tag)[0] == uifPermanent && value[0] != uifPermanent:
		return applet.SWConditions
	}
	a.put(tag, value)
	return applet.OK
}

// selectData is SELECT DATA (7.2.5). The occurrences of DO 7F21 are that of the key for
// authentication, of that for decryption, of that for signatures.
func (a *App) selectData(k applet.Command) int {
	if k.P2 != 0x04 {
		return applet.SWP1P2
	}
	o, rest, err := applet.Next(k.Data)
	if err != nil || len(rest) > 0 || o.Tag != 0x60 {
		return applet.SWData
	}
	list, rest, err := applet.Next(o.Value)
	switch {
	case err != nil || len(rest) > 0 || list.Tag != 0x5C:
		return applet.SWData
	case !bytes.Equal(list.Value, []byte{tagCertificate >> 8, tagCertificate & 0xFF}) || k.P1 >= slots:
		return applet.SWNoReference
	}
	a.occurrence = int(k.P1)
	return applet.OK
}

// getNextData is GET NEXT DATA (7.2.7).
func (a *App) getNextData(k applet.Command) applet.Answer {
	switch {
	case len(k.Data) > 0:
		return applet.Status(applet.SWLength)
	case k.P1P2() != tagCertificate || a.occurrence+1 >= slots:
		return applet.Status(applet.SWNoReference)
	}
	a.occurrence++
	return applet.Data(a.Certificates[a.occurrence])
}
