package piv

import (
	"fmt"

	"github.com/cardfs/cardfs/drivers/sim/applet"
)

// Key references (SP 800-78-4 table 6-1; F9 is Yubico's).
const (
	refGlobal      = 0x00
	refPIN         = 0x80
	refPUK         = 0x81
	slotAuth       = 0x9A
	slotManagement = 0x9B
	slotSignature  = 0x9C
	slotKey        = 0x9D
	slotCard       = 0x9E
	slotRetired    = 0x82 // to 95
	slotAttest     = 0xF9
)

// PIN policies, as Yubico's metadata have them.
const (
	pinNever  = 1
	pinOnce   = 2
	pinAlways = 3
	touchNone = 1
)

// state is what the card keeps.
type state struct {
	Model            string
	PIN, PUK, Global applet.PIN
	Management       management
	Keys             map[string]*key   // by slot: 9A
	Objects          map[string][]byte // by tag: 5FC105; the value of 53
	Generated        int               // counts key pairs
	Defaults         map[string]bool   // which of 80, 81, 9B have their first value
}

// management is the card management key.
type management struct {
	Alg, Touch byte
	Key        []byte
}

// key is an asymmetric key.
type key struct {
	Alg, PIN, Touch byte
	Imported        bool
	Private         applet.Key
}

func (s *state) valid() bool {
	if !s.PIN.Valid() || !s.PUK.Valid() || !s.Global.Valid() || len(s.Management.Key) != keyLength(s.Management.Alg) || s.Management.Key == nil {
		return false
	}
	for slot, k := range s.Keys {
		if k == nil || k.Private.PrivateKey == nil || algorithmOf(k.Private) != k.Alg || len(slot) != 2 {
			return false
		}
	}
	if s.Keys == nil {
		s.Keys = map[string]*key{}
	}
	if s.Objects == nil {
		s.Objects = map[string][]byte{}
	}
	if s.Defaults == nil {
		s.Defaults = map[string]bool{}
	}
	return true
}

func name(n int) string { return fmt.Sprintf("%02X", n) }

func (a *App) key(slot byte) *key { return a.state.Keys[name(int(slot))] }

func (a *App) setKey(slot byte, k *key) {
	a.state.Keys[name(int(slot))] = k
	a.store.Changed()
}

// isSlot reports whether a slot may hold a key.
func (a *App) isSlot(slot byte) bool {
	return slot == slotAuth || slot >= slotSignature && slot <= slotCard || slot >= slotRetired && slot <= slotRetired+19 ||
		slot == slotAttest && a.yubikey
}

// slots are all those that hold keys of the card's owner.
func slots() []byte {
	all := []byte{slotAuth, slotSignature, slotKey, slotCard}
	for s := byte(slotRetired); s <= slotRetired+19; s++ {
		all = append(all, s)
	}
	return all
}

// container is the tag of the certificate of a slot (SP 800-73-4 part 1 table 3).
func container(slot byte) int {
	switch slot {
	case slotAuth:
		return 0x5FC105
	case slotSignature:
		return 0x5FC10A
	case slotKey:
		return 0x5FC10B
	case slotCard:
		return 0x5FC101
	case slotAttest:
		return 0x5FFF01
	}
	return 0x5FC10D + int(slot-slotRetired)
}

// defaultPIN is the policy of a slot whose key has none of its own (part 1 table 4b).
func defaultPIN(slot byte) byte {
	switch slot {
	case slotSignature:
		return pinAlways
	case slotCard:
		return pinNever
	}
	return pinOnce
}
