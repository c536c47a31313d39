package emu

import (
	"context"
	"math/bits"
)

// clockHz is the card's clock: 9600 bit/s are 372 clocks a bit.
const clockHz = 372 * 9600

// F and D by TA1 (ISO/IEC 7816-3:2006 tables 7 and 8).
var (
	clockRate = [16]float64{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048}
	bitRate   = [16]float64{0, 1, 2, 4, 8, 16, 32, 64, 12, 20}
)

// fits reports whether the line has the card's speed, to within 3 %.
func (s *life) fits(ta1 byte) bool {
	f, d := clockRate[ta1>>4], bitRate[ta1&0x0F]
	if f == 0 || d == 0 {
		f, d = 372, 1
	}
	s.r.mu.Lock()
	baud := s.baud
	s.r.mu.Unlock()
	ratio := float64(baud) * f / (d * clockHz)
	return ratio > 0.97 && ratio < 1.03
}

func (s *life) inverse() bool {
	card := s.r.Contact.Card()
	return card != nil && len(card.ATR()) > 0 && card.ATR()[0] == 0x3F
}

// parityFits reports whether the reader's parity is the card's. All bits of an inverse card are
// inverted, nine of them.
func (s *life) parityFits() bool {
	s.r.mu.Lock()
	parity := s.parity
	s.r.mu.Unlock()
	return parity == 'N' || s.inverse() == (parity == 'O')
}

// toCard is what the card hears of p.
func (s *life) toCard(p []byte) []byte {
	if !s.parityFits() || !s.fits(s.r.Contact.Rate()) {
		return nil
	}
	if s.inverse() {
		for i, b := range p {
			p[i] = ^bits.Reverse8(b)
		}
	}
	return p
}

// fromCard passes a character of the card on, which it sent with F and D of ta1.
func (s *life) fromCard(c byte, ta1 byte) {
	if s.inverse() {
		c = ^bits.Reverse8(c)
	}
	switch {
	case !s.fits(ta1):
		s.l.SendWrong(c<<3 ^ 0x5A)
	case s.parityFits():
		s.l.Send(c)
	case !s.r.opt.Drops:
		s.l.SendWrong(c)
	}
}

// talk gives the card characters, and passes on what it sends, until it sends no more or
// something else happens.
func (s *life) talk(p []byte) {
	s.hush()
	rate := s.r.Contact.Rate()
	if p = s.toCard(p); len(p) == 0 {
		return
	}
	ctx, stop := context.WithCancel(s.l.Context())
	over := make(chan struct{})
	s.stop, s.over = stop, over
	go func() {
		defer close(over)
		for {
			c := s.r.Contact.Chars(ctx, p, 1)
			if len(c) == 0 || ctx.Err() != nil {
				return
			}
			s.fromCard(c[0], rate)
			p = nil
		}
	}()
}

// hush ends what the card is sending.
func (s *life) hush() {
	if s.stop != nil {
		s.stop()
		<-s.over
		s.stop = nil
	}
}

// reset resets a processor card.
func (s *life) reset(low bool) {
	s.hush()
	s.r.mu.Lock()
	power := s.r.power
	s.r.mu.Unlock()
	if !power || s.r.opt.LowOnly && !low {
		return
	}
	atr, err := s.r.Contact.Activate(s.l.Context(), s.r.Contact.Powered())
	if err != nil {
		return
	}
	for _, c := range atr {
		s.fromCard(c, 0x11)
	}
}
