package applet

import (
	"crypto/rand"
	"crypto/subtle"

	"golang.org/x/crypto/scrypt"
)

// Cost is the parameter N of scrypt. Each PIN keeps the one that it was set with.
type Cost int

const (
	// Normal takes some 50 ms and 16 MiB, which is what RFC 7914 §2 calls interactive.
	Normal Cost = 1 << 14
	// Cheap is for tests.
	Cheap Cost = 1 << 2
)

// PIN is reference data with its counter. What is kept is a salted hash by a slow
// function. A PIN has no more than a few million values, so the hash delays whoever has the
// state file but does not stop him.
type PIN struct {
	Salt, Hash []byte
	Cost       Cost
	Tries, Max int
}

// NewPIN makes a PIN that may be tried that often.
func NewPIN(value []byte, tries int, cost Cost) PIN {
	p := PIN{Cost: cost, Max: tries}
	p.Set(value)
	return p
}

// Set gives the PIN a value and all its tries. An empty value never matches.
func (p *PIN) Set(value []byte) {
	p.Tries = p.Max
	p.Salt, p.Hash = nil, nil
	if len(value) == 0 {
		return
	}
	p.Salt = make([]byte, 16)
	rand.Read(p.Salt)
	p.Hash = p.hash(value)
}

// IsSet reports whether the PIN has a value.
func (p *PIN) IsSet() bool { return len(p.Hash) > 0 }

// Blocked reports whether no try is left.
func (p *PIN) Blocked() bool { return p.Tries == 0 }

// Check compares and counts: a wrong value takes a try away, the right one gives all back.
// A blocked PIN is not compared. The caller says Changed to the Store.
func (p *PIN) Check(value []byte) bool {
	if p.Blocked() {
		return false
	}
	p.Tries--
	if !p.IsSet() || subtle.ConstantTimeCompare(p.hash(value), p.Hash) != 1 {
		return false
	}
	p.Tries = p.Max
	return true
}

// Left is the status word for the question how many tries are left.
func (p *PIN) Left() int {
	if p.Blocked() {
		return SWBlocked
	}
	return SWTries(p.Tries)
}

// hash panics only when Cost is no power of two, which Store.Bind's user checks with Valid.
func (p *PIN) hash(value []byte) []byte {
	h, err := scrypt.Key(value, p.Salt, int(p.Cost), 8, 1, 32)
	if err != nil {
		panic(err)
	}
	return h
}

// Valid reports whether a PIN that was read from a file can be used.
func (p *PIN) Valid() bool {
	return p.Cost >= 2 && p.Cost <= 1<<20 && p.Cost&(p.Cost-1) == 0 && p.Max > 0 && p.Max < 256 && p.Tries >= 0 && p.Tries <= p.Max
}
