package ccid

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// fetchRates sends GET_DATA_RATES (CCID 1.1 §5.3.3). Only a host that does the PPS needs
// the table: it must know which rates it may ask for. A missing table is treated as not
// announced.
func (f *function) fetchRates(ctx context.Context) error {
	if f.NumDataRates == 0 || f.Features&AutoNegotiate != 0 || f.noPPS {
		return nil
	}
	buf := make([]byte, 4*int(f.NumDataRates))
	s := usb.Setup{RequestType: fromInterface, Request: reqGetDataRates, Index: uint16(f.Number)}
	n, err := f.conn.Control(ctx, s, buf, statusLimit)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, reader.ErrGone):
		return err
	case err != nil, n%4 != 0:
		f.log.Info("no table of data rates", "interface", f.Number, "bytes", n, "error", err)
		return nil
	}
	for b := buf[:n]; len(b) > 0; b = b[4:] {
		rate := binary.LittleEndian.Uint32(b)
		if rate > 0 && !(f.dropRates && rate > f.maxRate) { // many tables end with zeros
			f.rates = append(f.rates, rate)
		}
	}
	return nil
}

// rate returns the bit rate of ta1 at the reader's default clock.
func (f *function) rate(ta1 byte) (bitPerSecond uint32, ok bool) {
	factorF, d, _, ok := iso7816.Params{TA1: ta1}.FD()
	if !ok {
		return 0, false
	}
	return uint32(uint64(f.DefaultClock) * 1000 * uint64(d) / uint64(factorF)), true
}

// Protocols returns the protocols of dwProtocols. ICCD version A carries T=0 TPDUs only.
func (f *function) Protocols() []int {
	if f.Protocol == ProtocolICCDA {
		return []int{0}
	}
	var list []int
	for t := range 2 {
		if f.Interface.Protocols&(1<<t) != 0 {
			list = append(list, t)
		}
	}
	return list
}

// Supports reports whether the slot supports the rate of ta1: it must lie between
// dwDataRate and dwMaxDataRate and be in the table of rates, if there is one.
func (s *slot) Supports(ta1 byte) bool {
	if ta1 == iso7816.DefaultTA1 {
		return true
	}
	rate, ok := s.rate(ta1)
	usual, _ := s.rate(iso7816.DefaultTA1)
	if !ok || rate <= max(s.DataRate, usual) || uint64(rate) > uint64(s.MaxDataRate)+2 {
		return false
	}
	rates := s.rates
	if s.lane.slot > 0 && s.slotRates != nil {
		rates = s.slotRates
	}
	if rates == nil {
		return true
	}
	for _, r := range rates {
		if d := int64(r) - int64(rate); d >= -1 && d <= 1 {
			return true
		}
	}
	return false
}

// parameterBlock returns bProtocolNum and abProtocolDataStructure (CCID 1.1 §6.1.7).
func parameterBlock(p iso7816.Params) (protocol byte, data []byte) {
	var convention byte
	if p.Inverse {
		convention = 0x02
	}
	if p.T == 0 {
		return 0, []byte{p.TA1, convention, p.N, p.WI, p.ClockStop}
	}
	checksum := byte(0x10)
	if p.CRC {
		checksum |= 1
	}
	return 1, []byte{p.TA1, checksum | convention, p.N, p.BWI<<4 | p.CWI, p.ClockStop, byte(p.IFSC), 0}
}

// openPGP2 is the ATR of an OpenPGP card of version 2. Its key generation outlasts the
// BWT of its ATR (libccid uses BWI 7 and CWI 5).
var openPGP2 = []byte{0x3B, 0xFA, 0x13, 0x00, 0xFF, 0x81, 0x31, 0x80, 0x45, 0x00,
	0x31, 0xC1, 0x73, 0xC0, 0x01, 0x00, 0x00, 0x90, 0x00, 0xB1}

// actualTimes returns p with the waiting times that the card really needs.
func (s *slot) actualTimes(p iso7816.Params) iso7816.Params {
	if p.T == 1 && s.atr != nil && bytes.Equal(s.atr.Bytes(), openPGP2) {
		p.BWI, p.CWI = 7, 5
	}
	return p
}

// SetParams sends the parameters agreed with the card to the reader (SetParameters). It
// also sets the rate if the reader does not derive it.
func (s *slot) SetParams(ctx context.Context, p iso7816.Params) error {
	p = s.actualTimes(p)
	a, err := s.setParameters(ctx, p)
	if failed := (*Error)(nil); refused(&a, err) && errors.As(err, &failed) &&
		(p.TA1 == iso7816.DefaultTA1 || failed.Code == codeUnsupported && s.Features&AutoParamsATR != 0) {
		// The card is still active, and these parameters hold since the ATR, or the
		// reader takes them from the ATR. Readers with a memory card in them answer so.
		s.log.Info("the parameters were not accepted", "bSlot", s.lane.slot, "error", err)
		err = nil
	}
	if err != nil {
		return err
	}
	if s.Features&AutoBaud == 0 && p.TA1 != iso7816.DefaultTA1 {
		if err := s.setRate(ctx, p.TA1); err != nil {
			return err
		}
	}
	s.pace = s.timing(p)
	return nil
}

// setParameters returns the answer, which has the parameters now in force.
func (s *slot) setParameters(ctx context.Context, p iso7816.Params) (answer, error) {
	protocol, data := parameterBlock(p)
	c := command{kind: cmdSetParameters, param: [3]byte{protocol}}
	a, err := s.patient(ctx, c, data, statusLimit+exchangeTime(s.pace, 8, 0)) // it may do the PPS
	var failed *Error
	switch {
	case err == nil || !errors.As(err, &failed) || errors.Is(err, reader.ErrNoCard):
		return a, err
	case s.forgive:
		// See the quirk: after two more activations it works with its own parameters.
		for range 2 {
			if _, err := s.activate(ctx, byte(max(0, s.voltage))); err != nil {
				return answer{}, err
			}
		}
		return answer{}, nil
	case failed.Code == codeRate && p.TA1 != iso7816.DefaultTA1, !refused(&a, err):
		return a, err
	case failed.Code != codeUnsupported && failed.Code != codeProtocolNum && failed.Code < 0x80:
		// A reader that finds fault with another parameter still works.
		s.log.Info("a parameter was not accepted", "bSlot", s.lane.slot, "error", err)
		return answer{}, nil
	}
	return a, err
}

// refused reports whether the reader failed a command and left the card active.
func refused(a *answer, err error) bool {
	var failed *Error
	return errors.As(err, &failed) && a.kind != 0 && a.icc() == iccActive
}

// setRate sends SetDataRateAndClockFrequency (CCID 1.1 §6.1.14).
func (s *slot) setRate(ctx context.Context, ta1 byte) error {
	rate, _ := s.rate(ta1)
	data := binary.LittleEndian.AppendUint32(nil, s.DefaultClock)
	data = binary.LittleEndian.AppendUint32(data, rate)
	a, err := s.patient(ctx, command{kind: cmdSetRate}, data, statusLimit)
	var failed *Error
	switch {
	case errors.As(err, &failed) && failed.Code == codeUnsupported:
		// The reader derives the rate from the parameters, though its descriptor does
		// not say so.
		return nil
	case err != nil:
		return err
	}
	if len(a.data) == 8 {
		if got := binary.LittleEndian.Uint32(a.data[4:]); got > rate+rate/100 || got < rate-rate/100 {
			return fmt.Errorf("ccid: SetDataRateAndClockFrequency: %d bit/s asked for, %d set: %w", rate, got, reader.ErrProtocol)
		}
	}
	return nil
}

// SelectProtocol serves readers that do the PPS, or the whole negotiation, themselves.
func (s *slot) SelectProtocol(ctx context.Context, want iso7816.Params) (iso7816.Params, error) {
	atr := s.atr
	if atr == nil {
		return want, fmt.Errorf("ccid: the card's ATR cannot be read: %w", reader.ErrProtocol)
	}
	var err error
	want = s.actualTimes(want)
	_, _, specific := atr.Specific()
	first := atr.Default()
	switch {
	case s.Features&AutoNegotiate != 0:
		want, err = s.negotiated(ctx, atr, want, first)
	case s.noPPS:
		if want.T != first {
			return want, fmt.Errorf("ccid: T=%d: this reader can do no PPS, the card's first protocol is T=%d: %w", want.T, first, reader.ErrUnsupported)
		}
		if !specific {
			want.TA1 = iso7816.DefaultTA1
		}
		var a answer
		if a, err = s.setParameters(ctx, want); refused(&a, err) {
			err = nil
		}
	default:
		if !specific && (s.Features&AutoPPS == 0 || !s.Supports(want.TA1)) {
			want.TA1 = iso7816.DefaultTA1
		}
		var a answer
		switch a, err = s.setParameters(ctx, want); {
		case err == nil && len(a.data) >= 5 && int(a.param) <= 1 && int(a.param) != want.T,
			refused(&a, err) && want.T == first && !s.refusesRate(err, atr, want):
			want, err = s.negotiated(ctx, atr, want, first)
		case err == nil:
			want.TA1 = inForce(&a, want)
		}
	}
	if err != nil {
		return want, err
	}
	s.pace = s.pace.Slower(s.timing(want))
	return want, nil
}

// refusesRate reports whether the reader may have refused the parameters because of their
// rate, and another rate can be asked for.
func (s *slot) refusesRate(err error, atr *iso7816.ATR, p iso7816.Params) bool {
	var failed *Error
	_, _, specific := atr.Specific()
	return errors.As(err, &failed) && failed.Code != codeUnsupported && failed.Code != codeProtocolNum &&
		p.TA1 != iso7816.DefaultTA1 && (!specific || atr.Changeable())
}

// negotiated asks a reader that negotiates alone for its choice (dwFeatures 40: "the host
// shall not try to change FI, DI and the protocol").
func (s *slot) negotiated(ctx context.Context, atr *iso7816.ATR, want iso7816.Params, first int) (iso7816.Params, error) {
	offered := atr.Protocols()
	if len(offered) == 1 && want.T == first && s.level() >= reader.ShortAPDU {
		return want, nil // no choice, and the host needs no timing
	}
	a, err := s.patient(ctx, command{kind: cmdGetParameters}, nil, statusLimit)
	var failed *Error
	t := int(a.param)
	if errors.As(err, &failed) && !errors.Is(err, reader.ErrNoCard) && !errors.Is(err, reader.ErrStale) ||
		err == nil && (len(a.data) < 5 || !slices.Contains(offered, t)) {
		t, err = first, nil // no usable answer: assume the card's first offer
	}
	switch {
	case err != nil:
		return want, err
	case t != want.T && want.T != first:
		return want, fmt.Errorf("ccid: T=%d: the reader negotiates by itself and chose T=%d: %w", want.T, t, reader.ErrUnsupported)
	case t != want.T:
		if want, err = atr.Params(t); err != nil {
			return want, fmt.Errorf("ccid: the reader chose T=%d: %w", t, err)
		}
	}
	want.TA1 = inForce(&a, want)
	return want, nil
}

// inForce returns the TA1 that the reader says it uses, or p's if the answer has no valid
// one.
func inForce(a *answer, p iso7816.Params) byte {
	if len(a.data) >= 5 && int(a.param) == p.T {
		if _, _, _, ok := (iso7816.Params{TA1: a.data[0]}).FD(); ok {
			return a.data[0]
		}
	}
	return p.TA1
}
