// Package icc is the card's side of ISO/IEC 7816-3: what an emulated reader
// finds in its contacts. It is the counterpart of package iso7816. The two share no
// code, so that an error in one is not hidden by the same error in the other.
package icc

// Card is the application side of an emulated card. Calls never overlap.
type Card interface {
	// ATR is what the card sends after a reset.
	ATR() []byte
	// Reset forgets the security state; warm is false after power was taken away.
	Reset(warm bool)
	// Process answers a C-APDU of any case with an R-APDU, SW1 SW2 last.
	Process(capdu []byte) []byte
}
