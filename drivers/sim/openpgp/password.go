package openpgp

import "github.com/cardfs/cardfs/drivers/sim/applet"

const (
	tries       = 3
	maxPassword = 127 // of each password (4.4.3.10)
	minPW1      = 6   // (4.3)
	minPW3      = 8
	minRC       = 8

	initialPW1 = "123456"
	initialPW3 = "12345678"
)

// References of passwords in P2 (7.2.2).
const (
	refSign  = 0x81
	refUser  = 0x82
	refAdmin = 0x83
)

// password knows how long it is: CHANGE REFERENCE DATA has the old and the new one without
// anything between them.
type password struct {
	applet.PIN
	Length int
}

func (a *App) newPassword(value []byte) password {
	return password{applet.NewPIN(value, tries, a.cost), len(value)}
}

func (a *App) initialPasswords() {
	a.PW1, a.PW3 = a.newPassword([]byte(initialPW1)), a.newPassword([]byte(initialPW3))
}

func (p *password) set(value []byte) {
	p.Set(value)
	p.Length = len(value)
}

// left is the number of tries. That of a resetting code that is not set is 0 (4.4.3.10).
func (p *password) left() int {
	if !p.IsSet() {
		return 0
	}
	return p.Tries
}

// verify is VERIFY (7.2.2).
func (a *App) verify(k applet.Command) int {
	var p *password
	var verified *bool
	switch k.P2 {
	case refSign:
		p, verified = &a.PW1, &a.signs
	case refUser:
		p, verified = &a.PW1, &a.user
	case refAdmin:
		p, verified = &a.PW3, &a.admin
	default:
		return applet.SWP1P2
	}
	switch {
	case k.P1 == 0xFF && len(k.Data) == 0:
		*verified = false
		return applet.OK
	case k.P1 == 0xFF:
		return applet.SWLength
	case k.P1 != 0:
		return applet.SWP1P2
	case len(k.Data) == 0 && *verified:
		return applet.OK
	case len(k.Data) == 0:
		return p.Left()
	}
	sw := a.check(p, k.Data)
	*verified = sw == applet.OK
	return sw
}

// check compares and counts. A wrong password takes back what was verified by it.
func (a *App) check(p *password, value []byte) int {
	if p.Blocked() {
		return applet.SWBlocked
	}
	a.store.Changed()
	switch {
	case p.Check(value):
		return applet.OK
	case p == &a.PW1:
		a.signs, a.user = false, false
	case p == &a.PW3:
		a.admin = false
	}
	return applet.SWSecurity
}

// changeReference is CHANGE REFERENCE DATA (7.2.3).
func (a *App) changeReference(k applet.Command) int {
	var p *password
	least := minPW1
	switch {
	case k.P1 != 0:
		return applet.SWP1P2
	case k.P2 == refSign:
		p = &a.PW1
	case k.P2 == refAdmin:
		p, least = &a.PW3, minPW3
	default:
		return applet.SWP1P2
	}
	if p.Blocked() {
		return applet.SWBlocked
	}
	// What is too short for both is wrong, but counts: it says how long the password is.
	old := k.Data[:min(p.Length, len(k.Data))]
	fresh := k.Data[len(old):]
	if sw := a.check(p, old); sw != applet.OK {
		return sw
	}
	if len(fresh) < least || len(fresh) > maxPassword {
		return applet.SWData
	}
	p.set(fresh)
	return applet.OK
}

// resetRetryCounter is RESET RETRY COUNTER (7.2.4): a new PW1 with the resetting code
// before it, or after PW3 was verified.
func (a *App) resetRetryCounter(k applet.Command) int {
	fresh := k.Data
	switch {
	case k.P2 != refSign:
		return applet.SWP1P2
	case k.P1 == 2 && !a.admin:
		return applet.SWSecurity
	case k.P1 == 2:
	case k.P1 != 0:
		return applet.SWP1P2
	case a.RC.left() == 0:
		return applet.SWBlocked
	default:
		old := k.Data[:min(a.RC.Length, len(k.Data))]
		fresh = k.Data[len(old):]
		if sw := a.check(&a.RC, old); sw != applet.OK {
			return sw
		}
	}
	if len(fresh) < minPW1 || len(fresh) > maxPassword {
		return applet.SWData
	}
	a.PW1.set(fresh)
	a.signs, a.user = false, false
	a.store.Changed()
	return applet.OK
}

// putResettingCode is PUT DATA of DO D3 (4.3.4). An empty one takes the code away.
func (a *App) putResettingCode(value []byte) int {
	if n := len(value); n > 0 && n < minRC || n > maxPassword {
		return applet.SWData
	}
	a.RC.set(value)
	return applet.OK
}

// passwordStatus is DO C4 (4.4.3.10). The highest bit of a length would say PIN block 2.
func (a *App) passwordStatus() []byte {
	several := byte(0)
	if a.Several {
		several = 1
	}
	return []byte{several, maxPassword, maxPassword, maxPassword, byte(a.PW1.left()), byte(a.RC.left()), byte(a.PW3.left())}
}

// putPasswordStatus is PUT DATA of DO C4: the first byte, or the first four, of which the
// lengths cannot be changed.
func (a *App) putPasswordStatus(value []byte) int {
	switch {
	case len(value) != 1 && len(value) != 4, value[0] > 1:
		return applet.SWData
	case len(value) == 4 && string(value[1:]) != string([]byte{maxPassword, maxPassword, maxPassword}):
		return applet.SWData
	}
	a.Several = value[0] == 1
	return applet.OK
}

// Tags in the KDF-DO (4.3.2, 4.4.3.13).
const (
	kdfAlgorithm  = 0x81
	kdfHash       = 0x82
	kdfCount      = 0x83
	kdfSaltPW1    = 0x84
	kdfSaltRC     = 0x85
	kdfSaltPW3    = 0x86
	kdfInitialPW1 = 0x87
	kdfInitialPW3 = 0x88

	kdfNone       = 0x00
	kdfIterSalted = 0x03
	hashSHA256    = 0x08
	hashSHA512    = 0x0A
)

// putKDF is PUT DATA of DO F9. The passwords become the initial ones that it brings: from now
// on the host sends hashes in their place. What is kept, and read again, has zeros for these
// hashes: they count as passwords, and GET DATA and the state file must not have those.
func (a *App) putKDF(value []byte) int {
	all, err := applet.Objects(value)
	if err != nil {
		return applet.SWData
	}
	field := func(tag, length int) []byte {
		v, _ := applet.Find(all, tag)
		if len(v) != length {
			return nil
		}
		return v
	}
	algorithm := field(kdfAlgorithm, 1)
	switch {
	case algorithm == nil:
		return applet.SWData
	case algorithm[0] == kdfNone && len(all) == 1:
		a.initialPasswords()
		a.RC.set(nil)
	case algorithm[0] == kdfIterSalted:
		size := 0
		switch h := field(kdfHash, 1); {
		case h == nil:
		case h[0] == hashSHA256:
			size = 32
		case h[0] == hashSHA512:
			size = 64
		}
		pw1, pw3 := field(kdfInitialPW1, size), field(kdfInitialPW3, size)
		if size == 0 || field(kdfCount, 4) == nil || field(kdfSaltPW1, 8) == nil || pw1 == nil || pw3 == nil {
			return applet.SWData
		}
		a.PW1.set(pw1)
		a.PW3.set(pw3)
		a.RC.set(nil)
	default:
		return applet.SWData
	}
	a.signs, a.user = false, false
	var kept []byte
	for _, o := range all {
		if o.Tag == kdfInitialPW1 || o.Tag == kdfInitialPW3 {
			o.Value = make([]byte, len(o.Value))
		}
		kept = applet.AppendObject(kept, o.Tag, o.Value)
	}
	a.put(tagKDF, kept)
	return applet.OK
}
