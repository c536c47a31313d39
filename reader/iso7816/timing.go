package iso7816

import (
	"math"
	"time"
)

// Timing is how fast a card and its reader work, at the slowest.
type Timing struct {
	Char time.Duration // a character with its guard time
	Wait time.Duration // until an answer begins: block waiting time, or T=0's work waiting time
	Gap  time.Duration // between two characters of an answer: CharWait
}

// CharWait is the longest time that a card may let pass between two characters of an answer: the
// character waiting time of T=1, the work waiting time of T=0.
func (p Params) CharWait(clockHz int) time.Duration {
	if p.T == 0 {
		return p.WWT(clockHz)
	}
	return p.CWT(clockHz)
}

// Timing is that of a card with these parameters.
func (p Params) Timing(clockHz int) Timing {
	t := Timing{Char: p.GT(clockHz), Wait: p.BWT(clockHz), Gap: p.CharWait(clockHz)}
	if p.T == 0 {
		t.Wait = t.Gap
	}
	return t
}

// Slowest is the timing of the card before anything was negotiated: for each protocol
// that it offers at the default rate or that of TA1, whichever is slower. timing is
// Params.Timing, or what stands for it.
func (a *ATR) Slowest(timing func(Params) Timing) (t Timing) {
	for _, protocol := range a.Protocols() {
		if p, err := a.Params(protocol); err == nil {
			t = t.Slower(timing(p))
		}
		if p, err := a.Best(protocol, nil); err == nil {
			t = t.Slower(timing(p))
		}
	}
	return t
}

// Slower takes the longer of each of the times.
func (t Timing) Slower(u Timing) Timing {
	return Timing{max(t.Char, u.Char), max(t.Wait, u.Wait), max(t.Gap, u.Gap)}
}

// Limit is how long an exchange of n characters takes at the most that a card has been
// seen to do: characters at half the pace, the wait for the answer (wtx times, what S(WTX)
// granted), and some gaps. No card makes every single gap as long as allowed, which would be
// four minutes for 256 bytes.
func (t Timing) Limit(n, wtx int) time.Duration {
	sum := time.Duration(0)
	for _, d := range [...]time.Duration{times(times(t.Char, 2), n), times(t.Wait, max(1, wtx)), times(t.Gap, 4)} {
		if sum += d; sum < 0 {
			return math.MaxInt64
		}
	}
	return sum
}

// times is n times d, or the longest time there is.
func times(d time.Duration, n int) time.Duration {
	if n > 0 && d > math.MaxInt64/time.Duration(n) {
		return math.MaxInt64
	}
	return d * time.Duration(n)
}
