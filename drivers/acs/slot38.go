package acs

import (
	"context"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// slot38 is a card position of an ACR38, with which the host does the PPS.
type slot38 struct {
	slot
	changes chan struct{}
	agreed  bool // SetParams was called since the last power-up
}

var (
	_ reader.Slot        = (*slot38)(nil)
	_ reader.Notifier    = (*slot38)(nil)
	_ reader.ParamSetter = (*slot38)(nil)
	_ reader.RateLimiter = (*slot38)(nil)
)

// Changes carries a value when a card may have come or gone. A SAM never changes while the
// reader is open.
func (s *slot38) Changes() <-chan struct{} { return s.changes }

func (s *slot38) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	s.agreed = false
	return s.slot.PowerOn(ctx, how)
}

// Supports is for no more than the fastest rate that libacsccid was seen to ask for, F=372
// and D=12. How a SAM gets another rate than the default is not known.
func (s *slot38) Supports(ta1 byte) bool {
	f, d, _, ok := iso7816.Params{TA1: ta1}.FD()
	return ok && d*372 <= 12*f && !s.sam
}

// SetParams tells the reader the rate that the card has agreed to.
func (s *slot38) SetParams(ctx context.Context, p iso7816.Params) error {
	s.agreed, s.t = true, p.T
	if p.TA1 == iso7816.DefaultTA1 {
		return nil
	}
	return s.fail("set the rate", s.do(ctx, insOwnPPS, iso7816.PPSRequest(p.T, p.TA1), s.wait, nil))
}

// Exchange sends a PPS request, a T=0 TPDU or a T=1 block.
func (s *slot38) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if !s.agreed && len(x.Out) > 0 && x.Out[0] == 0xFF {
		// libacsccid takes an answer without data for the card's consent.
		return s.exchange(ctx, s.ins.pps, x.Out, x.Wait, dst, x.Out)
	}
	ins, err := s.tpdu(x.Out)
	if err != nil {
		return dst, err
	}
	return s.exchange(ctx, ins, x.Out, x.Wait, dst, nil)
}
