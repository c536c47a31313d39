package ccid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Requests of ICCD 1.0 (USB Device Class: Smart Card, ICCD, revision 1.0, 2005):
// a card that speaks USB itself. Version A carries T=0 TPDUs, version B messages
// like those of CCID, both over the control endpoint alone.
const (
	reqPowerOn   = 0x62
	reqPowerOff  = 0x63
	reqXfrBlock  = 0x65
	reqDataBlock = 0x6F
	reqSlotState = 0x81 // B
	reqStatus    = 0xA0 // A

	// Version A: GET_ICC_STATUS.
	iccdBusy  = 0x40
	iccdMute  = 0x80
	iccdReady = 0x10 // for data
	iccdSW    = 0x20 // SW1 SW2 can be fetched

	// Version B: bResponseType beside bChainParameter's values.
	iccdStatus  = 0x40
	iccdPolling = 0x80

	iccdPause = 10 * time.Millisecond
	iccdMost  = 0x1000 // bytes in one transfer, what libccid asks for at most
)

// iccd is the one slot of an ICCD. A T=0 TPDU of version A:
//
//	XFR_BLOCK header --> busy* --> ready: XFR_BLOCK data   --> busy* --> SW: DATA_BLOCK 2
//	                       |  '--> ready: DATA_BLOCK Le    --> busy* --> SW: DATA_BLOCK 2
//	                       '-----> SW: DATA_BLOCK 2
type iccd struct {
	*function
	active bool
	atr    []byte
	pace   pace
	buf    []byte
	silent int // control transfers in a row that timed out
}

var (
	_ reader.Slot             = (*iccd)(nil)
	_ reader.Notifier         = (*iccd)(nil)
	_ reader.ProtocolSelector = (*iccd)(nil)
)

// openICCD takes the power off the card, whatever state an earlier user left it in.
func (f *function) openICCD(ctx context.Context) (*iccd, error) {
	s := &iccd{function: f, buf: make([]byte, min(max(int(f.MaxMessage), 512), iccdMost))}
	err := s.PowerOff(ctx)
	if errors.Is(err, usb.ErrStall) {
		err = nil // no power, nothing to take off
	}
	if err != nil {
		return nil, f.noContact(err)
	}
	return s, nil
}

// control is one request. A device that stops answering is reset once; then it is dead.
func (s *iccd) control(ctx context.Context, what string, typ, request uint8, value uint16, data []byte) (int, error) {
	if s.silent < 0 {
		return 0, fmt.Errorf("ccid: %s: the device answers nothing any more: %w", what, reader.ErrGone)
	}
	setup := usb.Setup{RequestType: typ, Request: request, Value: value, Index: uint16(s.Number)}
	n, err := s.conn.Control(ctx, setup, data, writeLimit)
	switch {
	case err == nil:
		s.silent = 0
		return n, nil
	case errors.Is(err, usb.ErrTimeout):
		if s.silent++; s.silent > 1 || s.conn.Reset(context.WithoutCancel(ctx)) != nil {
			s.silent = -1
			s.fail()
			err = reader.ErrGone
		}
	case errors.Is(err, usb.ErrStall), errors.Is(err, usb.ErrOverflow):
		s.silent = 0
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return n, fmt.Errorf("ccid: ICCD %s: %w", what, err)
}

// Status is SLOT_STATUS in version B. A card of version A is always there.
func (s *iccd) Status(ctx context.Context) (reader.Status, error) {
	if s.Protocol == ProtocolICCDA {
		if s.active {
			return reader.Powered, nil
		}
		return reader.Present, nil
	}
	var b [3]byte
	n, err := s.control(ctx, "SLOT_STATUS", fromInterface, reqSlotState, 0, b[:])
	if err != nil {
		return reader.Absent, err
	}
	if n < 2 {
		return reader.Absent, fmt.Errorf("ccid: ICCD SLOT_STATUS of %d bytes: %w", n, reader.ErrProtocol)
	}
	switch b[1] & iccMask {
	case iccActive:
		return reader.Powered, nil
	case iccInactive:
		return reader.Present, nil
	}
	return reader.Absent, nil
}

// Changes is nil without an interrupt endpoint.
func (s *iccd) Changes() <-chan struct{} {
	if s.notifies == nil {
		return nil
	}
	return s.notifies[0]
}

func (s *iccd) Traits() reader.Traits { return s.traits() }

// PowerOn is ICC_POWER_ON, after ICC_POWER_OFF: an ICCD knows one kind of reset.
func (s *iccd) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if s.active {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	s.atr, s.pace = nil, pace{}
	var atr []byte
	if s.Protocol == ProtocolICCDA {
		n, err := s.control(ctx, "ICC_POWER_ON", fromInterface, reqPowerOn, 0, s.buf)
		if err != nil {
			return nil, mute(err)
		}
		atr = s.buf[:n]
	} else {
		const automatic = 1 // what libccid sends, and cards in use take
		if _, err := s.control(ctx, "ICC_POWER_ON", toInterface, reqPowerOn, automatic, nil); err != nil {
			return nil, mute(err)
		}
		a, err := s.dataBlock(ctx, cmdPowerOn, powerLimit)
		if err != nil {
			return nil, err
		}
		atr = a.data
	}
	if len(atr) == 0 {
		return nil, fmt.Errorf("ccid: ICCD ICC_POWER_ON: an ATR of no bytes: %w", reader.ErrMute)
	}
	s.active, s.atr = true, append([]byte(nil), atr...)
	s.pace = s.paceOf(s.atr)
	return s.atr, nil
}

// mute makes a refused activation what it means.
func mute(err error) error {
	if errors.Is(err, usb.ErrStall) {
		return fmt.Errorf("%w: %w", reader.ErrMute, err)
	}
	return err
}

// PowerOff is ICC_POWER_OFF; in version B its end is asked for, in version A
// the status brings the interface back to idle.
func (s *iccd) PowerOff(ctx context.Context) error {
	s.active = false
	if _, err := s.control(ctx, "ICC_POWER_OFF", toInterface, reqPowerOff, 0, nil); err != nil {
		return err
	}
	if s.Protocol == ProtocolICCDA {
		_, err := s.state(ctx)
		return err
	}
	_, err := s.Status(ctx)
	return err
}

// SelectProtocol: an ICCD speaks what its ATR offers first.
func (s *iccd) SelectProtocol(_ context.Context, want iso7816.Params) (iso7816.Params, error) {
	atr, err := iso7816.ParseATR(s.atr)
	if err == nil && want.T != atr.Default() {
		return want, fmt.Errorf("ccid: T=%d: an ICCD uses the card's first protocol, T=%d: %w", want.T, atr.Default(), reader.ErrUnsupported)
	}
	return want, nil
}

// Exchange carries a T=0 TPDU in version A, and in version B what dwFeatures says.
func (s *iccd) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	limit := s.pace.limit(s.characterCount(t), t.WTX)
	if s.Protocol == ProtocolICCDA {
		return s.tpdu(ctx, t.Out, dst, limit)
	}
	if s.level() == reader.TPDU {
		if err := s.fits("TPDU", len(t.Out)); err != nil {
			return nil, err
		}
	}
	// Short APDU devices chain as well as extended ones (libccid).
	return chained(ctx, s, int(s.MaxMessage)-headerLen, t.Out, dst, limit)
}

// xfr is XFR_BLOCK and the DATA_BLOCKs that answer it.
func (s *iccd) xfr(ctx context.Context, _ int, level uint16, data []byte, limit time.Duration) (answer, error) {
	if _, err := s.control(ctx, "XFR_BLOCK", toInterface, reqXfrBlock, level<<8, data); err != nil {
		return answer{}, err
	}
	return s.dataBlock(ctx, cmdXfrBlock, limit)
}

// dataBlock fetches a response of version B; the device names the time until it
// is worth asking again.
func (s *iccd) dataBlock(ctx context.Context, command byte, limit time.Duration) (answer, error) {
	last := time.Now().Add(max(limit, extensionLimit))
	for {
		n, err := s.control(ctx, "DATA_BLOCK", fromInterface, reqDataBlock, 0, s.buf)
		if err != nil {
			return answer{}, err
		}
		b := s.buf[:n]
		if n == 0 {
			return answer{}, fmt.Errorf("ccid: ICCD DATA_BLOCK of no bytes: %w", reader.ErrProtocol)
		}
		switch b[0] {
		default:
			return answer{kind: ansDataBlock, param: b[0], data: b[1:]}, nil
		case iccdStatus:
			if n < 3 {
				return answer{}, fmt.Errorf("ccid: ICCD DATA_BLOCK: status of %d bytes: %w", n, reader.ErrProtocol)
			}
			return answer{}, &Error{Command: command, Status: b[1], Code: b[2]}
		case iccdPolling:
			pause := iccdPause
			if n >= 3 {
				pause *= time.Duration(max(1, binary.LittleEndian.Uint16(b[1:])))
			}
			if time.Now().Add(pause).After(last) {
				return answer{}, fmt.Errorf("ccid: ICCD DATA_BLOCK: polled for %v: %w", max(limit, extensionLimit), reader.ErrTimeout)
			}
			if err := sleep(ctx, pause); err != nil {
				return answer{}, err
			}
		}
	}
}

// state is GET_ICC_STATUS of version A.
func (s *iccd) state(ctx context.Context) (byte, error) {
	var b [1]byte
	n, err := s.control(ctx, "GET_ICC_STATUS", fromInterface, reqStatus, 0, b[:])
	if err == nil && n != 1 {
		err = fmt.Errorf("ccid: ICCD GET_ICC_STATUS of %d bytes: %w", n, reader.ErrProtocol)
	}
	return b[0], err
}

// settled waits until the card of version A wants or has something.
func (s *iccd) settled(ctx context.Context, limit time.Duration) (byte, error) {
	for last := time.Now().Add(limit); ; {
		b, err := s.state(ctx)
		switch {
		case err != nil:
			return b, err
		case b&iccdMute != 0:
			return b, fmt.Errorf("ccid: ICCD: the card is mute (status %02X): %w", b, reader.ErrTimeout)
		case b&iccdBusy == 0 && b&(iccdReady|iccdSW) != 0:
			return b, nil
		case time.Now().After(last):
			return b, fmt.Errorf("ccid: ICCD: status %02X for %v: %w", b, limit, reader.ErrTimeout)
		}
		if err := sleep(ctx, iccdPause); err != nil {
			return b, err
		}
	}
}

// tpdu exchanges a T=0 TPDU by version A.
func (s *iccd) tpdu(ctx context.Context, tx, dst []byte, limit time.Duration) ([]byte, error) {
	if len(tx) < 5 {
		return nil, fmt.Errorf("ccid: ICCD version A takes T=0 TPDUs of 5 bytes and more, this has %d: %w", len(tx), reader.ErrInvalid)
	}
	if _, err := s.control(ctx, "XFR_BLOCK", toInterface, reqXfrBlock, 0, tx[:5]); err != nil {
		return nil, err
	}
	state, err := s.settled(ctx, limit)
	if err != nil {
		return nil, err
	}
	if state&iccdSW == 0 {
		if data := tx[5:]; len(data) > 0 {
			_, err = s.control(ctx, "XFR_BLOCK", toInterface, reqXfrBlock, 0, data)
		} else {
			le := int(tx[4])
			if le == 0 {
				le = 256
			}
			var n int
			n, err = s.control(ctx, "DATA_BLOCK", fromInterface, reqDataBlock, 0, s.buf[:le])
			if err == nil && n != le {
				err = fmt.Errorf("ccid: ICCD DATA_BLOCK: %d bytes, P3 says %d: %w", n, le, reader.ErrProtocol)
			}
			dst = append(dst, s.buf[:n]...)
		}
		if err != nil {
			return nil, err
		}
		if state, err = s.settled(ctx, limit); err != nil {
			return nil, err
		}
		if state&iccdSW == 0 {
			return nil, fmt.Errorf("ccid: ICCD: status %02X where SW1 SW2 are due: %w", state, reader.ErrProtocol)
		}
	}
	n, err := s.control(ctx, "DATA_BLOCK", fromInterface, reqDataBlock, 0, s.buf[:2])
	if err != nil {
		return nil, err
	}
	if n != 2 {
		return nil, fmt.Errorf("ccid: ICCD: SW1 SW2 of %d bytes: %w", n, reader.ErrProtocol)
	}
	return append(dst, s.buf[:2]...), nil
}
