package openpgp

import (
	"crypto/elliptic"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// 7.2.2: VERIFY, the question how many tries are left, and taking a verification back.
func TestVerify(t *testing.T) {
	script(t, newCard(t, applet.Settings{}), `
		00200081 → 63C3
		00200082 → 63C3
		00200083 → 63C3
		`+verifySign+` → 9000
		00200081 → 9000
		00200082 → 63C3    # each mode by itself
		00200083 → 63C3
		00200082 06 313233343537 → 6982
		00200081 → 63C2    # a wrong PW1 takes both modes back
		00CA00C4 00 → 00 7F7F7F 02 00 03 9000
		`+verifyUser+` → 9000
		00CA00C4 00 → 00 7F7F7F 03 00 03 9000
		00200082 → 9000
		00200081 → 63C3
		`+verifySign+` → 9000
		0020FF82 → 9000
		00200082 → 63C3
		00200081 → 9000
		0020FF81 01 00 → 6700
		`+verifyAdmin+` → 9000
		00200083 → 9000
		0020FF83 → 9000
		00200083 → 63C3
		00200084 → 6A86
		00200080 → 6A86
		00200181 06 313233343536 → 6A86
		00200081 05 3132333435 → 6982
		00200081 07 31323334353637 → 6982
		00200081 06 313233343537 → 6982
		00200081 → 6983
		`+verifySign+` → 6983
		`+verifyUser+` → 6983
		00240081 0C 313233343536 313233343536 → 6983
		00CA00C4 00 → 00 7F7F7F 00 00 03 9000
		00200083 08 3132333435363737 → 6982
		00200083 08 3132333435363737 → 6982
		00200083 08 3132333435363737 → 6982
		`+verifyAdmin+` → 6983
		00240083 10 3132333435363738 3132333435363738 → 6983
		00CA00C4 00 → 00 7F7F7F 00 00 00 9000
	`)
}

// A wrong password takes back what was verified by it, whichever command had it.
func TestWrongTakesBack(t *testing.T) {
	script(t, newCard(t, applet.Settings{}), verifySign+" → 9000\n"+verifyUser+" → 9000\n"+verifyAdmin+` → 9000
		00200081 06 303030303030 → 6982
		00200082 → 63C2
		00200083 → 9000
		`+verifySign+` → 9000
		`+verifyUser+` → 9000
		00240081 0C 303030303030 363534333231 → 6982
		00200081 → 63C2
		00200082 → 63C2
		00240083 10 3030303030303030 3132333435363738 → 6982
		00200083 → 63C2
	`)
}

// 4.3: a reset of the card and SELECT take all verifications back.
func TestVerifiedUntil(t *testing.T) {
	for name, end := range map[string]func(*applet.Card){
		"reset":  func(c *applet.Card) { c.Reset(true) },
		"SELECT": func(c *applet.Card) { send(c, "00A4040006D27600012401") },
	} {
		c := newCard(t, applet.Settings{})
		script(t, c, verifySign+" → 9000\n"+verifyUser+" → 9000\n"+verifyAdmin+" → 9000\n")
		end(c)
		t.Log(name)
		script(t, c, "00200081 → 63C3\n00200082 → 63C3\n00200083 → 63C3\n")
	}
}

// 7.2.3: CHANGE REFERENCE DATA.
func TestChangeReference(t *testing.T) {
	script(t, newCard(t, applet.Settings{}), `
		00240081 0C 313233343536 363534333231 → 9000
		`+verifySign+` → 6982
		00200081 06 363534333231 → 9000
		00240081 0B 363534333231 3132333435 → 6A80   # five are too few
		00CA00C4 00 → 00 7F7F7F 03 00 03 9000
		00240081 06 363534333231 → 6A80
		00240081 0D 313233343536 31323334353637 → 6982
		00200081 → 63C2
		00240081 03 363534 → 6982
		00240081 10 363534333231 31323334353637383930 → 9000
		00CA00C4 00 → 00 7F7F7F 03 00 03 9000
		00240081 10 31323334353637383930 313233343536 → 9000
		00240083 0F 3132333435363738 31323334353637 → 6A80
		00240083 11 3132333435363738 393837363534333231 → 9000
		`+verifyAdmin+` → 6982
		00200083 09 393837363534333231 → 9000
		00240082 0C 313233343536 313233343536 → 6A86
		00240181 0C 313233343536 313233343536 → 6A86
	`)
	c := newCard(t, applet.Settings{})
	long := make([]byte, maxPassword+1)
	for i := range long {
		long[i] = 'x'
	}
	change := func(n int) string {
		return "00240081" + hex.EncodeToString([]byte{byte(6 + n)}) + "313233343536" + hex.EncodeToString(long[:n])
	}
	script(t, c, change(maxPassword+1)+" → 6A80\n"+change(maxPassword)+" → 9000\n002000817F"+hex.EncodeToString(long[:maxPassword])+" → 9000\n")
}

// 7.2.4: RESET RETRY COUNTER with PW3 and with the resetting code, whose counter is its own.
func TestResetRetryCounter(t *testing.T) {
	block := "00200081 06 303030303030 → 6982\n"
	block += block + block
	script(t, newCard(t, applet.Settings{}), block+`
		002C0281 06 363534333231 → 6982
		002C0081 0E 3132333435363738 363534333231 → 6983   # there is no resetting code
		`+verifyAdmin+` → 9000
		002C0281 05 3132333435 → 6A80
		002C0281 80 `+strings.Repeat("41", 128)+` → 6A80
		`+verifySign+` → 6983
		002C0281 06 363534333231 → 9000
		00200081 06 363534333231 → 9000
		002C0281 06 363534333231 → 9000
		00200081 → 63C3          # the new one was not verified yet
		00DA00D3 07 31323334353637 → 6A80
		00DA00D3 08 3837363534333231 → 9000
		00CA00C4 00 → 00 7F7F7F 03 03 03 9000
		0020FF83 → 9000
		`+block+`
		002C0081 0E 3837363534333232 313233343536 → 6982
		00CA00C4 00 → 00 7F7F7F 00 02 03 9000
		002C0081 0D 3837363534333231 3132333435 → 6A80
		002C0081 88 3837363534333231 `+strings.Repeat("41", 128)+` → 6A80
		00CA00C4 00 → 00 7F7F7F 00 03 03 9000
		002C0081 0E 3837363534333231 313233343536 → 9000
		`+verifySign+` → 9000
		002C0081 0E 3837363534333232 313233343536 → 6982
		00200081 → 9000          # the resetting code is not PW1
		002C0081 01 38 → 6982
		002C0081 0E 3837363534333232 313233343536 → 6982
		002C0081 0E 3837363534333231 313233343536 → 6983
		00CA00C4 00 → 00 7F7F7F 03 00 03 9000
		`+verifyAdmin+` → 9000
		00DA00D3 08 3837363534333231 → 9000
		00CA00C4 00 → 00 7F7F7F 03 03 03 9000
		00DA00D3 → 9000
		00CA00C4 00 → 00 7F7F7F 03 00 03 9000
		002C0081 06 313233343536 → 6983
		002C0081 → 6983
		002C0181 06 313233343536 → 6A86
		002C0282 06 313233343536 → 6A86
		002C0283 08 3132333435363738 → 6A86
	`)
}

// 4.4.3.10: PW1 for one signature or for several.
func TestSeveralSignatures(t *testing.T) {
	const sign = "002A9E9A 04 01020304 00"
	c := newCard(t, applet.Settings{})
	script(t, c, verifyAdmin+` → 9000
		00DA00C1 09 132A8648CE3D030107 → 9000
		`+sign+` → 6A88
		00478000 02 B600 00 → …9000
		`+sign+` → 6982
		`+verifyUser+` → 9000
		`+sign+` → 6982
		`+verifySign+` → 9000
		002A9E9A → 6A80
		`+sign+` → …9000
		00CA0093 00 → 0000019000
		`+sign+` → 6982
		00CA0093 00 → 0000019000
		00DA00C2 09 122A8648CE3D030107 → 9000
		00478000 02 B800 00 → …9000
		00CA0093 00 → 0000019000    # the count is of the key for signatures
		00DA00C4 01 01 → 9000
		00CA00C4 00 → 017F7F7F0300039000
		`+verifySign+` → 9000
		`+sign+` → …9000
		`+sign+` → …9000
		00CA0093 00 → 0000039000
		00DA00C4 01 02 → 6A80
		00DA00C4 04 007F7F7F → 9000
		00DA00C4 04 01207F7F → 6A80
		00DA00C4 02 0000 → 6A80
		00DA00C4 → 6A80
		`+sign+` → …9000
		`+sign+` → 6982
		00478000 02 B600 00 → …9000
		00CA007A 00 → 93030000009000    # a new key begins at zero
		002A9E9B 04 01020304 00 → 6A86
	`)
}

// 4.3.2: with a KDF-DO the passwords are the initial hashes that it brings.
func TestKDF(t *testing.T) {
	h := func(b byte) string {
		s := ""
		for range 32 {
			s += hex.EncodeToString([]byte{b})
		}
		return s
	}
	const parameters = "810103 820108 830400010000 84080102030405060708"
	fields, public := parameters+"8720"+h(0xA1)+"8820"+h(0xA3), parameters+"8720"+h(0)+"8820"+h(0)
	put := func(do string) string { return "00DA00F9" + hex.EncodeToString([]byte{byte(len(unhex(do)))}) + do }
	c := newCard(t, applet.Settings{})
	script(t, c, verifyAdmin+` → 9000
		00DA00D3 08 3837363534333231 → 9000
		`+put("81010382010A83040001000084080102030405060708 8720"+h(0xA1)+"8820"+h(0xA3))+` → 6A80
		`+put("810103820108830400010000 8720"+h(0xA1)+"8820"+h(0xA3))+` → 6A80
		`+put("81010382010883040001000084080102030405060708 8720"+h(0xA1))+` → 6A80
		`+put("810104")+` → 6A80
		`+put("810103")+` → 6A80
		`+put("8101")+` → 6A80
		`+put("820108")+` → 6A80
		`+put("810100820108")+` → 6A80
		`+put(fields)+` → 9000
		00CA00F9 00 → `+public+` 9000
		`+verifyUser+` → 6982
		00200081 → 63C2
		00200082 20 `+h(0xA1)+` → 9000
		00200081 20 `+h(0xA1)+` → 9000
		00200083 20 `+h(0xA3)+` → 9000
		00CA00C4 00 → 007F7F7F0300039000
		00DA00D3 08 3837363534333231 → 9000
		00CA00C4 00 → 007F7F7F0303039000
		`+put("810100")+` → 9000
		00CA00C4 00 → 007F7F7F0300039000
		00200081 → 63C3
		00200082 → 63C3
		00CA00F9 00 → 8101009000
		`+verifyUser+` → 9000
		`+verifyAdmin+` → 9000
	`)
}

// Each command needs its own password (7.2.8 to 7.2.14): another one that was verified, or PW1 in
// the other mode, does not do.
func TestOtherPasswords(t *testing.T) {
	user := []string{"002A8086 02 0001 00", "002A8680 10 " + strings.Repeat("00", 16) + " 00", "00880000 04 01020304 00"}
	sign := []string{"002A9E9A 04 01020304 00"}
	admin := []string{"00478000 02 B600 00", "00DB3FFF 0E 4D0C B600 7F4803920101 5F480101", "00DA005B 01 41", "00DA00C1 09 132A8648CE3D030107",
		"00DA00C4 01 01", "00DA00C7 14 " + strings.Repeat("41", 20), "00DA00CE 04 00000001", "00DA00D3 08 3837363534333231", "00DA00D5 10 " + strings.Repeat("00", 16),
		"00DA00D6 02 0120", "00DA00F9 03 810100", "00DA7F21 01 00", "002C0281 06 363534333231", "00E60000"}
	for verified, refused := range map[string][][]string{verifySign: {user, admin}, verifyUser: {sign, admin}, verifyAdmin: {user, sign}} {
		c, a := fuzzCard(t)
		for i := range a.Slots {
			a.Slots[i].Key = p256Key(t, a)
		}
		a.Reset()
		script(t, c, verified+" → 9000")
		for _, commands := range refused {
			for _, command := range commands {
				script(t, c, command+" → 6982")
			}
		}
	}
}

func p256Key(t *testing.T, a *App) applet.Key {
	t.Helper()
	k, err := a.source.EC("a key", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	return k
}
