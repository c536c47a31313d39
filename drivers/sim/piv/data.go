package piv

import (
	"bytes"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

const (
	tagDiscovery  = 0x7E
	tagBIT        = 0x7F61 // biometric information templates group
	tagCHUID      = 0x5FC102
	tagCCC        = 0x5FC107
	tagHistory    = 0x5FC10C
	tagFirst      = 0x5FC101
	tagLast       = 0x5FC123
	tagAdmin      = 0x5FFF00 // Yubico's, to 5FFF15
	tagAdminLast  = 0x5FFF15
	tagList       = 0x5C
	tagObject     = 0x53
	maxObjectSize = 16 << 10
)

// needsPIN reports whether a container is read after VERIFY alone (part 1 table 2): fingerprints,
// facial image, printed information, iris images, pairing code.
func needsPIN(tag int) bool {
	switch tag {
	case 0x5FC103, 0x5FC108, 0x5FC109, 0x5FC121, 0x5FC123:
		return true
	}
	return false
}

// isContainer reports whether there can be such a data object.
func (a *App) isContainer(tag int) bool {
	return tag == tagDiscovery || tag == tagBIT || tag >= tagFirst && tag <= tagLast ||
		a.yubikey && tag >= tagAdmin && tag <= tagAdminLast
}

// asTag reads what a tag list names. It holds one tag.
func asTag(list []byte) (tag int, ok bool) {
	for _, b := range list {
		tag = tag<<8 | int(b)
	}
	return tag, len(list) >= 1 && len(list) <= 3
}

// getData is GET DATA (part 2 §3.1.2).
func (a *App) getData(k applet.Command) applet.Answer {
	if k.P1P2() != 0x3FFF {
		return applet.Status(applet.SWP1P2)
	}
	list, rest, err := applet.Next(k.Data)
	if err != nil || len(rest) > 0 || list.Tag != tagList {
		return applet.Status(applet.SWData)
	}
	tag, ok := asTag(list.Value)
	if !ok {
		return applet.Status(applet.SWData)
	}
	value, ok := a.state.Objects[name(tag)]
	switch {
	case !ok && a.yubikey: // which tells so also without the PIN
		return applet.Status(applet.SWNotFound)
	case needsPIN(tag) && !a.pinGiven():
		return applet.Status(applet.SWSecurity)
	case !ok:
		return applet.Status(applet.SWNotFound)
	case tag == tagDiscovery || tag == tagBIT:
		return applet.Data(applet.TLV(tag, value))
	}
	return applet.Data(applet.TLV(tagObject, value))
}

// pinGiven reports whether the PIN of the application was verified, or the global one.
func (a *App) pinGiven() bool { return a.pin || a.global && a.globalEnabled() }

// putData is PUT DATA (part 2 §3.3.1). An empty object is taken away.
func (a *App) putData(k applet.Command) applet.Answer {
	switch {
	case k.P1P2() != 0x3FFF:
		return applet.Status(applet.SWP1P2)
	case !a.manager:
		return applet.Status(applet.SWSecurity)
	}
	objects, err := applet.Objects(k.Data)
	var tag int
	var value []byte
	switch {
	case err != nil || len(objects) == 0:
		return applet.Status(applet.SWData)
	case len(objects) == 1 && (objects[0].Tag == tagDiscovery || objects[0].Tag == tagBIT):
		tag, value = objects[0].Tag, objects[0].Value
	case len(objects) == 2 && objects[0].Tag == tagList && objects[1].Tag == tagObject:
		t, ok := asTag(objects[0].Value)
		if !ok || t == tagDiscovery || t == tagBIT {
			return applet.Status(applet.SWData)
		}
		tag, value = t, objects[1].Value
	default:
		return applet.Status(applet.SWData)
	}
	switch {
	case !a.isContainer(tag):
		return applet.Status(applet.SWFunction)
	case len(value) > maxObjectSize:
		return applet.Status(applet.SWFull)
	}
	a.setObject(tag, value)
	return applet.Status(applet.OK)
}

func (a *App) setObject(tag int, value []byte) {
	a.state.Objects[name(tag)] = bytes.Clone(value)
	if len(value) == 0 {
		delete(a.state.Objects, name(tag))
	}
	a.store.Changed()
}
