package acs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// ACR30 drives the ACR30, on USB and on serial ports.
type ACR30 struct {
	Log *slog.Logger // of the serial ports; may be nil
}

var _ reader.Attacher = ACR30{}

// Name is "acr30".
func (ACR30) Name() string { return "acr30" }

// IDs lists the USB models. A serial reader is attached by the name of its port.
func (ACR30) IDs() []reader.ID {
	return []reader.ID{
		{Vendor: acs, Product: 0x0001, Model: "ACS ACR30U"},
		{Vendor: acs, Product: 0x8009, Model: "PertoSmart AC1030"},
	}
}

// serialModel is what a reader on a serial port is called.
const serialModel = "ACS ACR30 (serial)"

// Attach takes a reader on a serial port, whose name is the address.
func (d ACR30) Attach(dev reader.Device) (reader.Device, error) {
	if err := dev.OnlyParams(); err != nil {
		return dev, err
	}
	dev.ID = reader.ID{Model: serialModel}
	return serial.Attach(dev, d.Log)
}

// Open claims the reader, or opens its port.
func (ACR30) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r := newDevice(dev,
		setting{ins: insNotify, value: notifyOff, optional: true}, // OpenCT does not look at the answer
		setting{ins: insOption, value: optionNone})
	var c carrier
	var err error
	if _, ok := dev.Link.(serial.Opener); ok {
		r.wait = serialWait
		c, err = openSerialCarrier(ctx, dev)
	} else {
		c, err = openCarrier(ctx, dev)
	}
	if err != nil {
		return nil, r.fail("open", err)
	}
	if err := r.start(ctx, &hexLine{carrier: c}); err != nil {
		_ = c.Close()
		return nil, err
	}
	r.model = cmp.Or(dev.ID.Model, serialModel)
	if !slices.ContainsFunc(r.own, func(b byte) bool { return b < 0x20 || b > 0x7E }) {
		r.version = string(r.own)
	}
	r.slots = []reader.Slot{&slot30{slot: slot{device: r, ins: mainSlot}, option: &r.settings[1]}}
	return r, nil
}

// slot30 is the card position of an ACR30, which does the PPS by itself when it resets the
// card.
type slot30 struct {
	slot
	atr     *iso7816.ATR
	option  *setting // which tells the reader whether the card may be faster than 9600 bit/s
	command [longest30]byte
}

var (
	_ reader.Slot             = (*slot30)(nil)
	_ reader.ProtocolSelector = (*slot30)(nil)
	_ reader.RateLimiter      = (*slot30)(nil)
)

// Traits has the PPS by the reader.
func (s *slot30) Traits() reader.Traits {
	t := s.slot.Traits()
	t.AutoPPS = true
	return t
}

// PowerOn resets the card. The reader chooses the protocol.
func (s *slot30) PowerOn(ctx context.Context, how reader.Reset) ([]byte, error) {
	s.kind, s.atr = typeAutomatic, nil
	atr, err := s.slot.PowerOn(ctx, how)
	if err != nil {
		return nil, err
	}
	s.t = 0
	if s.atr, err = iso7816.ParseATR(atr); err != nil {
		return atr, nil // the core says what is wrong with it
	}
	s.t = s.atr.Default()
	return atr, nil
}

// Supports is for the two rates that the reader can be told: that which the card offers, and
// the default.
func (s *slot30) Supports(ta1 byte) bool {
	return ta1 == iso7816.DefaultTA1 || s.atr == nil || ta1 == s.offered()
}

// offered is the rate that the reader uses unless it is told to be slow.
func (s *slot30) offered() byte {
	best, err := s.atr.Best(s.t, func(byte) bool { return true })
	if err != nil {
		return iso7816.DefaultTA1
	}
	return best.TA1
}

// SelectProtocol resets the card once more if it is to have another protocol or rate than the
// reader chose.
func (s *slot30) SelectProtocol(ctx context.Context, want iso7816.Params) (iso7816.Params, error) {
	if s.atr == nil {
		return want, s.fail("select the protocol", reader.ErrStale)
	}
	option := s.option.value
	switch {
	case s.offered() == iso7816.DefaultTA1: // it makes no difference
	case want.TA1 == iso7816.DefaultTA1:
		option = option9600
	default:
		option = optionNone
	}
	if option == s.option.value && want.T == s.t {
		return want, nil
	}
	if option != s.option.value {
		s.option.value = option // also after the reader was restarted
		if err := s.do(ctx, insOption, []byte{option}, s.wait, nil); err != nil {
			return want, s.fail("option", err)
		}
	}
	s.kind = typeT0 + byte(want.T)
	atr, err := s.slot.PowerOn(ctx, reader.Cold)
	switch {
	case err != nil:
		return want, err
	case !bytes.Equal(atr, s.atr.Bytes()):
		return want, s.fail("select the protocol", fmt.Errorf("the card has another ATR than before: %w", reader.ErrProtocol))
	}
	s.t = want.T
	return want, nil
}

// Exchange sends a T=0 TPDU or a T=1 block.
func (s *slot30) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	ins, err := s.tpdu(x.Out)
	if err != nil {
		return dst, err
	}
	out := x.Out
	if s.t == 0 {
		out = withLcLe(s.command[:0], out)
		defer clear(out)
	}
	dst, err = s.exchange(ctx, ins, out, x.Wait, dst, nil)
	if errors.Is(err, reader.ErrStale) {
		// 6004 is for both: "card not powered", or taken out during the command.
		if status, e := s.Status(ctx); e == nil && status == reader.Absent {
			err = s.fail("exchange", reader.ErrNoCard)
		}
	}
	return dst, err
}

// withLcLe completes a TPDU, in which the reader wants Lc and Le both.
func withLcLe(dst, tpdu []byte) []byte {
	if len(tpdu) <= 5 {
		dst = append(append(dst, tpdu[:4]...), 0)
		return append(append(dst, tpdu[4:]...), make([]byte, 5-len(tpdu))...)
	}
	return append(append(dst, tpdu...), 0)
}

var _ reader.Prober = ACR30{}

// probeWait is for the answer to a question, of 42 characters.
const probeWait = time.Second

// Probe is reader.Prober. It asks for the status.
func (ACR30) Probe(ctx context.Context, dev reader.Device) (reader.Found, error) {
	port, err := serial.Open(ctx, dev, mode30)
	if err != nil {
		return reader.Found{}, err
	}
	r := newDevice(dev)
	r.line = &hexLine{carrier: &serialCarrier{Port: port}}
	p, err := r.command(ctx, insStatus, nil, probeWait)
	if err == nil && !r.isStatus(p) {
		err = fmt.Errorf("another answer than a status: %w", reader.ErrProtocol)
	}
	if e := port.Close(); err == nil {
		err = e
	}
	return reader.Found{Model: serialModel}, r.fail("probe", err)
}
