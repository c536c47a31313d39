package ccid

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Requests of ICCD 1.0 (USB Device Class: Smart Card, ICCD, revision 1.0, 2005), for
// cards with a USB interface of their own. Version A carries T=0 TPDUs, version B
// messages like those of CCID. Both use the control endpoint only.
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
	iccdReady = 0x10 // ready for data
	iccdSW    = 0x20 // SW1 SW2 can be fetched

	// Version B: bResponseType, whose other values are those of bChainParameter.
	iccdStatus  = 0x40
	iccdPolling = 0x80

	iccdPause = 10 * time.Millisecond
	iccdMost  = 0x1000 // bytes in one transfer; libccid asks for no more
)

// iccd is the one slot of an ICCD. A T=0 TPDU of version A:
//
//	XFR_BLOCK header --> busy* --> ready: XFR_BLOCK data   --> busy* --> SW: DATA_BLOCK 2
//	                       |  '--> ready: DATA_BLOCK Le    --> busy* --> SW: DATA_BLOCK 2
//	                       '-----> SW: DATA_BLOCK 2
//
// Neither version numbers its messages. An answer that was not read to its end would be
// taken for that of the next command. So an exchange that fails between its first
// XFR_BLOCK and the end of its last DATA_BLOCK ends with ICC_POWER_OFF.
type iccd struct {
	*function
	active bool // the driver activated the card, and its power was not removed since
	unsure bool // the device may hold an answer and could not be told to drop it
	atr    *iso7816.ATR
	pace   iso7816.Timing
	buf    []byte
	silent int // consecutive control transfers that timed out
	until  time.Time
	more   func() // Extended of reader.Transfer
}

var (
	_ reader.Slot             = (*iccd)(nil)
	_ reader.Notifier         = (*iccd)(nil)
	_ reader.ProtocolLister   = (*iccd)(nil)
	_ reader.ProtocolSelector = (*iccd)(nil)
)

// openICCD powers the card off, in whatever state an earlier user left it.
func (f *function) openICCD(ctx context.Context) (*iccd, error) {
	s := &iccd{function: f, buf: make([]byte, min(max(int(f.MaxMessage), 512), iccdMost))}
	if err := s.PowerOff(ctx); err != nil {
		return nil, f.noContact(err)
	}
	return s, nil
}

// control sends one request. A device that stops answering is reset once; then it is
// dead.
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
		s.active = false // by the reset, if not before
		if s.silent++; s.silent > 1 || s.conn.Reset(s.ctx) != nil {
			s.silent = -1
			s.leave()
			err = reader.ErrGone
		}
	case errors.Is(err, usb.ErrReset):
		s.active, s.silent = false, 0
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	case errors.Is(err, usb.ErrStall), errors.Is(err, usb.ErrOverflow):
		s.silent = 0
		err = fmt.Errorf("%w: %w", err, reader.ErrProtocol)
	}
	return n, fmt.Errorf("ccid: ICCD %s: %w", what, err)
}

// Status sends SLOT_STATUS in version B. A version A card is always present.
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
	return s.note(b[1]), nil
}

// note records the card's state from a version B status: bmICCStatus.
func (s *iccd) note(status byte) reader.Status {
	switch status & iccMask {
	case iccActive:
		return reader.Powered
	case iccInactive:
		s.active = false
		return reader.Present
	}
	s.active = false
	return reader.Absent
}

// Changes returns nil without an interrupt endpoint.
func (s *iccd) Changes() <-chan struct{} {
	if s.notifies == nil {
		return nil
	}
	return s.notifies[0]
}

func (s *iccd) Traits() reader.Traits { return s.traits() }

// PowerOn sends ICC_POWER_OFF, then ICC_POWER_ON: an ICCD has only one kind of reset.
func (s *iccd) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if s.active || s.unsure {
		if err := s.PowerOff(ctx); err != nil {
			return nil, err
		}
	}
	s.atr, s.pace = nil, iso7816.Timing{}
	var atr []byte
	s.unsure = true // until the ATR was read, or the device said that there is none
	if s.Protocol == ProtocolICCDA {
		n, err := s.control(ctx, "ICC_POWER_ON", fromInterface, reqPowerOn, 0, s.buf)
		if err != nil {
			return nil, mute(err)
		}
		atr = s.buf[:n]
	} else {
		const automatic = 1 // libccid sends it, and cards in use accept it
		if _, err := s.control(ctx, "ICC_POWER_ON", toInterface, reqPowerOn, automatic, nil); err != nil {
			return nil, mute(err)
		}
		a, err := s.dataBlock(ctx, cmdPowerOn, powerLimit)
		if err != nil {
			return nil, err
		}
		atr = a.data
	}
	s.unsure = false
	if len(atr) == 0 {
		return nil, fmt.Errorf("ccid: ICCD ICC_POWER_ON: an ATR of no bytes: %w: %w", reader.ErrProtocol, reader.ErrMute)
	}
	s.active = true
	s.atr, _ = iso7816.ParseATR(atr)
	s.pace = s.timingOf(s.atr)
	return bytes.Clone(atr), nil
}

// mute returns ErrMute for a refused activation.
func mute(err error) error {
	if errors.Is(err, usb.ErrStall) {
		return fmt.Errorf("%w: %w", reader.ErrMute, err)
	}
	return err
}

// PowerOff sends ICC_POWER_OFF. Version B then polls for its end; in version A reading
// the status returns the interface to idle.
func (s *iccd) PowerOff(ctx context.Context) error {
	s.active, s.unsure = false, true
	_, err := s.control(ctx, "ICC_POWER_OFF", toInterface, reqPowerOff, 0, nil)
	switch {
	case errors.Is(err, usb.ErrStall): // the card has no power already
	case err != nil:
		return err
	case s.Protocol == ProtocolICCDA:
		_, err = s.state(ctx)
	default:
		_, err = s.Status(ctx)
	}
	if err == nil || errors.Is(err, usb.ErrStall) {
		s.unsure, err = false, nil
	}
	return err
}

// SelectProtocol accepts only the first protocol of the ATR: an ICCD uses no other.
func (s *iccd) SelectProtocol(_ context.Context, want iso7816.Params) (iso7816.Params, error) {
	if s.atr != nil && want.T != s.atr.Default() {
		return want, fmt.Errorf("ccid: T=%d: an ICCD uses the card's first protocol, T=%d: %w", want.T, s.atr.Default(), reader.ErrUnsupported)
	}
	return want, nil
}

// Exchange carries a T=0 TPDU in version A, and in version B what dwFeatures says.
func (s *iccd) Exchange(ctx context.Context, t reader.Transfer, dst []byte) ([]byte, error) {
	switch {
	case s.left():
		return nil, fmt.Errorf("ccid: ICCD: %w", reader.ErrGone)
	case !s.active:
		return nil, fmt.Errorf("ccid: ICCD: the card has lost its power: %w", reader.ErrStale)
	case s.Protocol == ProtocolICCDA && len(t.Out) < 5:
		return nil, fmt.Errorf("ccid: ICCD version A takes T=0 TPDUs of 5 bytes and more, this has %d: %w", len(t.Out), reader.ErrInvalid)
	case s.Protocol == ProtocolICCDB && s.level() == reader.TPDU:
		if err := s.fits("TPDU", len(t.Out)); err != nil {
			return nil, err
		}
	}
	s.until, s.more = t.Until, t.Extended
	rx, err := s.exchange(ctx, &t, dst)
	s.until, s.more = time.Time{}, nil
	return rx, err
}

func (s *iccd) exchange(ctx context.Context, t *reader.Transfer, dst []byte) (rx []byte, err error) {
	limit := exchangeTime(s.pace, s.characterCount(t), t.WTX)
	halfway := true
	if s.Protocol == ProtocolICCDA {
		rx, err = s.tpdu(ctx, t.Out, dst, limit)
	} else {
		// Short APDU devices chain like extended ones (libccid).
		rx, halfway, err = chained(ctx, s, min(int(s.MaxMessage)-headerLen, iccdMost), t.Out, dst, limit)
	}
	if err == nil {
		return rx, nil
	}
	// A status in place of the response is a complete answer if the command was complete.
	if failed := (*Error)(nil); halfway || !errors.As(err, &failed) {
		if off := s.PowerOff(s.ctx); off != nil {
			err = fmt.Errorf("%w; power off: %w", err, off)
		}
	}
	return nil, err
}

// xfr sends one XFR_BLOCK and reads the DATA_BLOCKs that answer it.
func (s *iccd) xfr(ctx context.Context, _ int, level uint16, data []byte, _ time.Duration) (answer, error) {
	if _, err := s.control(ctx, "XFR_BLOCK", toInterface, reqXfrBlock, level<<8, data); err != nil {
		return answer{}, err
	}
	return s.dataBlock(ctx, cmdXfrBlock, exchangeLimit)
}

// dataBlock reads a version B response. The device says when to ask again; it may do so
// until limit and the exchange limit are reached.
func (s *iccd) dataBlock(ctx context.Context, command byte, limit time.Duration) (answer, error) {
	start := time.Now()
	last := earlier(start.Add(limit), s.until)
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
			s.note(b[1])
			if took := time.Since(start); command == cmdXfrBlock {
				return answer{}, &Error{Command: command, Status: b[1], Code: b[2], took: took, waited: took >= s.pace.Wait/2}
			}
			s.unsure = false // no ATR will come
			return answer{}, &Error{Command: command, Status: b[1], Code: b[2]}
		case iccdPolling:
			pause := iccdPause
			if n >= 3 {
				pause *= time.Duration(max(1, binary.LittleEndian.Uint16(b[1:])))
			}
			if s.more != nil {
				s.more()
			}
			if time.Now().Add(pause).After(last) {
				return answer{}, fmt.Errorf("ccid: ICCD DATA_BLOCK: polled for %v: %w", time.Since(start).Round(time.Second), reader.ErrTimeout)
			}
			if err := sleep(ctx, pause); err != nil {
				return answer{}, err
			}
		}
	}
}

// state sends GET_ICC_STATUS of version A.
func (s *iccd) state(ctx context.Context) (byte, error) {
	var b [1]byte
	n, err := s.control(ctx, "GET_ICC_STATUS", fromInterface, reqStatus, 0, b[:])
	if err == nil && n != 1 {
		err = fmt.Errorf("ccid: ICCD GET_ICC_STATUS of %d bytes: %w", n, reader.ErrProtocol)
	}
	return b[0], err
}

// settled waits until a version A card expects or offers data. While the card is busy it
// waits up to the exchange limit, otherwise up to limit.
func (s *iccd) settled(ctx context.Context, limit time.Duration) (byte, error) {
	start := time.Now()
	last := earlier(start.Add(exchangeLimit), s.until)
	for idle := start; ; {
		b, err := s.state(ctx)
		now := time.Now()
		switch {
		case err != nil:
			return b, err
		case b&iccdMute != 0:
			return b, fmt.Errorf("ccid: ICCD: the card is mute (status %02X): %w", b, reader.ErrTimeout)
		case b&iccdBusy == 0 && b&(iccdReady|iccdSW) != 0:
			return b, nil
		case b&iccdBusy != 0:
			idle = now
			if s.more != nil && now.Sub(start) > limit {
				s.more()
			}
		}
		if now.Sub(idle) > limit || now.After(last) {
			return b, fmt.Errorf("ccid: ICCD: status %02X after %v: %w", b, now.Sub(start).Round(time.Millisecond), reader.ErrTimeout)
		}
		if err := sleep(ctx, iccdPause); err != nil {
			return b, err
		}
	}
}

// tpdu exchanges a T=0 TPDU in version A.
func (s *iccd) tpdu(ctx context.Context, tx, dst []byte, limit time.Duration) ([]byte, error) {
	start := len(dst)
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
			clear(s.buf[:n])
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
	return iso7816.AppendResponse(dst, start, s.buf[:2]...), nil
}
