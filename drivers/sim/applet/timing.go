package applet

import "time"

// How long real cards compute, for slow=real. That is the order of what is reported of cards made
// from 2015 to 2023, which differ by a factor of three and more. A key of RSA 2048 takes "about 9
// secs" (github.com/trustcrypto/OnlyKey-Firmware, issue 66); the rest are estimates from the same
// time. Longer keys of RSA follow from those of 2048 bits: an operation grows with the
// third power of the length, the search for primes with the fourth.
const (
	TimeCommand    = 10 * time.Millisecond
	TimePIN        = 30 * time.Millisecond // compared, and its counter written twice
	TimeWrite      = 50 * time.Millisecond
	TimeCurve      = 80 * time.Millisecond // a signature or an agreement
	TimeCurveKey   = 200 * time.Millisecond
	timeRSA2048    = 250 * time.Millisecond
	timeRSA2048Key = 9 * time.Second
)

// TimeRSA is that of an operation with a private key.
func TimeRSA(bits int) time.Duration {
	n := time.Duration(bits / 1024)
	return timeRSA2048 * n * n * n / 8
}

// TimeRSAKey is that of making a key.
func TimeRSAKey(bits int) time.Duration {
	n := time.Duration(bits / 1024)
	return timeRSA2048Key * n * n * n * n / 16
}
