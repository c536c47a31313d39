package piv

import (
	"bytes"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

const (
	pinLength  = 8 // with the padding
	pinDigits  = 6 // at least
	padding    = 0xFF
	firstPIN   = "123456"
	firstPUK   = "12345678"
	firstTries = 3
)

// reference finds reference data and the security status that it gives. The global PIN
// counts only if the discovery object says that it does (part 1 §3.3.2).
func (a *App) reference(p2 byte) (*applet.PIN, *bool) {
	switch {
	case p2 == refPIN:
		return &a.state.PIN, &a.pin
	case p2 == refPUK:
		return &a.state.PUK, new(bool)
	case p2 == refGlobal && a.globalEnabled():
		return &a.state.Global, &a.global
	}
	return nil, nil
}

// globalEnabled reads bit 6 of the first byte of the PIN usage policy.
func (a *App) globalEnabled() bool {
	objects, err := applet.Objects(a.state.Objects[name(tagDiscovery)])
	if err != nil {
		return false
	}
	policy, ok := applet.Find(objects, 0x5F2F)
	return ok && len(policy) == 2 && policy[0]&0x20 != 0
}

// wellFormed reports whether v can be a PIN or a PUK (part 2 §2.4.3): a PIN has six to eight
// digits, padded with FF. A YubiKey takes other characters, too. The PUK is eight bytes.
func (a *App) wellFormed(p2 byte, v []byte) bool {
	if len(v) != pinLength {
		return false
	}
	bare := bytes.TrimRight(v, string([]byte{padding}))
	if p2 == refPUK {
		return !a.yubikey || len(bare) >= pinDigits
	}
	if len(bare) < pinDigits {
		return false
	}
	for _, b := range bare {
		if b == padding || !a.yubikey && (b < '0' || b > '9') {
			return false
		}
	}
	return true
}

// padded fills a PIN up.
func padded(s string) []byte {
	v := bytes.Repeat([]byte{padding}, pinLength)
	copy(v, s)
	return v
}

// check compares and counts, and sets the security status.
func (a *App) check(p *applet.PIN, verified *bool, v []byte) int {
	if p.Blocked() {
		return applet.SWBlocked
	}
	// Also when the counter stays as it is: with a disk that is full, the right PIN and a wrong one
	// must be answered alike.
	a.store.Changed()
	*verified = p.Check(v)
	if !*verified {
		return applet.SWTries(p.Tries) // 63C0 for the last; 6983 from then on
	}
	return applet.OK
}

// verify is VERIFY (part 2 §3.2.1).
func (a *App) verify(k applet.Command) applet.Answer {
	a.justVerified = false
	p, verified := a.reference(k.P2)
	switch {
	case k.P1 != 0x00 && k.P1 != 0xFF:
		return applet.Status(applet.SWP1P2)
	case p == nil || k.P2 == refPUK:
		return applet.Status(applet.SWNoReference)
	case k.P1 == 0xFF && len(k.Data) > 0:
		return applet.Status(applet.SWData)
	case k.P1 == 0xFF:
		*verified = false
		return applet.Status(applet.OK)
	case len(k.Data) == 0 && *verified:
		return applet.Status(applet.OK)
	case len(k.Data) == 0:
		return applet.Status(p.Left())
	case p.Blocked():
		return applet.Status(applet.SWBlocked)
	case !a.wellFormed(k.P2, k.Data):
		return applet.Status(applet.SWData) // and nothing changes
	}
	sw := a.check(p, verified, k.Data)
	a.justVerified = sw == applet.OK
	return applet.Status(sw)
}

// change is CHANGE REFERENCE DATA (part 2 §3.2.2).
func (a *App) change(k applet.Command) applet.Answer {
	p, verified := a.reference(k.P2)
	switch {
	case k.P1 != 0:
		return applet.Status(applet.SWP1P2)
	case p == nil:
		return applet.Status(applet.SWNoReference)
	case p.Blocked():
		return applet.Status(applet.SWBlocked)
	case len(k.Data) != 2*pinLength || !a.wellFormed(k.P2, k.Data[:pinLength]) || !a.wellFormed(k.P2, k.Data[pinLength:]):
		return applet.Status(applet.SWData)
	}
	if sw := a.check(p, verified, k.Data[:pinLength]); sw != applet.OK {
		return applet.Status(sw)
	}
	a.setPIN(k.P2, p, k.Data[pinLength:])
	return applet.Status(applet.OK)
}

func (a *App) setPIN(ref byte, p *applet.PIN, v []byte) {
	p.Set(v)
	delete(a.state.Defaults, name(int(ref)))
	a.store.Changed()
}

// resetRetry is RESET RETRY COUNTER (part 2 §3.2.3). The PIN's security status stays if the PUK
// is right, and is lost if it is wrong.
func (a *App) resetRetry(k applet.Command) applet.Answer {
	switch {
	case k.P1 != 0:
		return applet.Status(applet.SWP1P2)
	case k.P2 != refPIN:
		return applet.Status(applet.SWNoReference)
	case a.state.PUK.Blocked():
		return applet.Status(applet.SWBlocked)
	case len(k.Data) != 2*pinLength || !a.wellFormed(refPIN, k.Data[pinLength:]):
		return applet.Status(applet.SWData)
	}
	if sw := a.check(&a.state.PUK, new(bool), k.Data[:pinLength]); sw != applet.OK {
		a.pin = false
		return applet.Status(sw)
	}
	a.setPIN(refPIN, &a.state.PIN, k.Data[pinLength:])
	return applet.Status(applet.OK)
}
