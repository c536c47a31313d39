package core

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/link"
)

// Control codes, as PC/SC programs on Linux know them from pcsc-lite's
// reader.h and libccid.
const (
	// CtlEscape sends its data to the reader as it is: SCARD_CTL_CODE(1).
	CtlEscape = 0x42000001
	// CtlGetFeatures is CM_IOCTL_GET_FEATURE_REQUEST (PC/SC part 10 §2.2):
	// SCARD_CTL_CODE(3400).
	CtlGetFeatures = 0x42000D48
	// ctlGetFeaturesWindows is its value on Windows, which programs send, too.
	ctlGetFeaturesWindows = 0x00313520
	// ctlFeature plus the number of a feature is the code that does it.
	ctlFeature = 0x42330000
)

// Features of PC/SC part 10 §2.3.
const (
	featureVerifyPINDirect  = 0x06
	featureModifyPINDirect  = 0x07
	featureIFDPINProperties = 0x0A
	featureTLVProperties    = 0x12
	featureCCIDEscape       = 0x13
)

// Control sends a command to the reader itself: code says which. The answer is
// what SCardControl gives. Errors: ErrUnsupported for a code that this reader
// does not have, ErrInvalid for data that do not fit the code, and those of exchanges.
func (slot *Slot) Control(ctx context.Context, code uint32, data []byte, by Caller) ([]byte, error) {
	if err := slot.WaitReady(ctx, by.Wait); err != nil {
		return nil, err
	}
	if err := slot.barred(by); err != nil {
		return nil, err
	}
	switch code {
	case CtlGetFeatures, ctlGetFeaturesWindows:
		slot.stats.count(&slot.stats.control)
		return slot.features(by), nil
	case ctlFeature + featureTLVProperties:
		slot.stats.count(&slot.stats.control)
		return slot.tlvProperties(), nil
	case ctlFeature + featureIFDPINProperties:
		if s := slot.pinSupport(); s.Verify || s.Modify {
			slot.stats.count(&slot.stats.control)
			// PIN_PROPERTIES_STRUCTURE: wLcdLayout, bEntryValidationCondition
			// (07: the host may choose any), bTimeOut2.
			return []byte{byte(s.Columns), byte(s.Lines), 0x07, 0x00}, nil
		}
	case ctlFeature + featureVerifyPINDirect:
		v, err := reader.ParsePINVerify(data)
		if err != nil {
			return nil, err
		}
		return slot.VerifyPIN(ctx, v, by)
	case ctlFeature + featureModifyPINDirect:
		m, err := reader.ParsePINModify(data)
		if err != nil {
			return nil, err
		}
		return slot.ModifyPIN(ctx, m, by)
	case CtlEscape, ctlFeature + featureCCIDEscape:
		return slot.escape(ctx, data, by)
	}
	return nil, fmt.Errorf("control code %08X: %w", code, reader.ErrUnsupported)
}

// features lists what the reader can do: tag, length 4, code big endian
// (PC/SC part 10 §2.2). Escape is listed only for a caller that may use it.
func (slot *Slot) features(by Caller) []byte {
	var list []byte
	add := func(feature byte) {
		list = append(list, feature, 4)
		list = binary.BigEndian.AppendUint32(list, ctlFeature+uint32(feature))
	}
	s := slot.pinSupport()
	if s.Verify {
		add(featureVerifyPINDirect)
	}
	if s.Modify {
		add(featureModifyPINDirect)
	}
	if s.Verify || s.Modify {
		add(featureIFDPINProperties)
	}
	add(featureTLVProperties)
	if by.Escape && slot.Features().Escaper != nil {
		add(featureCCIDEscape)
	}
	return list
}

// tlvProperties is the answer to GET_TLV_PROPERTIES (PC/SC part 10 §2.6.14);
// values are little endian.
func (slot *Slot) tlvProperties() []byte {
	var list []byte
	add := func(tag byte, value ...byte) { list = append(append(list, tag, byte(len(value))), value...) }
	info := slot.Info()
	if s := slot.pinSupport(); s.Verify || s.Modify {
		add(1, byte(s.Columns), byte(s.Lines)) // wLcdLayout
		add(2, 0x07)                           // bEntryValidationCondition
		add(3, 0x00)                           // bTimeOut2
		add(4, byte(s.Columns), 0)             // wLcdMaxCharacters
		add(5, byte(s.Lines), 0)               // wLcdMaxLines
	}
	if v := info.More["version"]; v != "" {
		add(8, []byte(v[:min(len(v), 64)])...) // sFirmwareID
	}
	add(9, 0) // bPPDUSupport: none
	maxData := []byte{0, 0, 1, 0}
	if slot.cardLevel() == reader.ShortAPDU { // nor does the core split what is longer, in T=0 or T=1
		maxData = []byte{0, 0, 0, 0}
	}
	add(10, maxData...) // dwMaxAPDUDataSize: 10000 extended, 0 short
	if id := info.Device.ID; id.Vendor != 0 {
		add(11, byte(id.Vendor), byte(id.Vendor>>8))
		add(12, byte(id.Product), byte(id.Product>>8))
	}
	return list
}

// cardLevel is the level at which the slot speaks with its card.
func (s *Slot) cardLevel() reader.Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.level
}

// pinSupport is what the slot's PIN pad can do; nothing if it has no pad.
func (s *Slot) pinSupport() (support reader.PINSupport) {
	if pad := s.Features().PINPad; pad != nil {
		var err error
		defer s.opening.recovered("PINSupport", &err)
		support = pad.PINSupport()
	}
	return support
}

// PINSupport is what the slot's PIN pad can do, once the reader is ready.
func (s *Slot) PINSupport() reader.PINSupport { return s.pinSupport() }

// command is use for a command to the reader itself.
func (slot *Slot) command(ctx context.Context, by Caller, s *Session, do func(*link.Link) ([]byte, error)) ([]byte, error) {
	return slot.use(ctx, by, s, func(l *link.Link) ([]byte, error) {
		slot.stats.count(&slot.stats.control)
		began := time.Now()
		answer, err := do(l)
		slot.logExchange("command to the reader", time.Since(began), err)
		return answer, err
	})
}

// escape is the only way to a reader's Escaper.
func (s *Slot) escape(ctx context.Context, p []byte, by Caller) ([]byte, error) {
	if !by.Escape {
		return nil, fmt.Errorf("escape commands are for the mount's owner, and for whom --allow-escape names: %w", reader.ErrNoPermission)
	}
	return s.command(ctx, by, nil, func(l *link.Link) ([]byte, error) {
		e := l.Features.Escaper
		if e == nil {
			return nil, fmt.Errorf("escape command: %w", reader.ErrUnsupported)
		}
		l.Trace.Printf("> escape [%d bytes]", len(p))
		answer, err := e.Escape(s.underWay, p)
		if err != nil {
			l.Trace.Printf("! %v", err)
		} else {
			l.Trace.Printf("< escape [%d bytes]", len(answer))
		}
		return answer, err
	})
}

// Show shows a text on the reader's display.
func (s *Slot) Show(ctx context.Context, text string, d time.Duration, by Caller) error {
	_, err := s.command(ctx, by, nil, func(l *link.Link) ([]byte, error) {
		display := l.Features.Display
		if display == nil {
			return nil, fmt.Errorf("this reader has no display: %w", reader.ErrUnsupported)
		}
		l.Trace.Printf("> display %q", text)
		return nil, display.Show(s.underWay, text, d)
	})
	return err
}

// Input asks the reader's keypad for digits. Errors: ErrTimeout, ErrCancelled,
// which are no fault of the slot, and those of exchanges.
func (s *Slot) Input(ctx context.Context, in reader.KeyInput, by Caller) ([]byte, error) {
	var ended error
	keys, err := s.command(ctx, by, nil, func(l *link.Link) ([]byte, error) {
		keypad := l.Features.Keypad
		if keypad == nil {
			return nil, fmt.Errorf("this reader has no keypad: %w", reader.ErrUnsupported)
		}
		l.Trace.Printf("> keypad %q", in.Prompt)
		keys, err := keypad.Input(s.underWay, in)
		if err != nil {
			l.Trace.Printf("! %v", err)
		} else {
			l.Trace.Printf("< keypad [masked]")
		}
		if errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrCancelled) {
			ended, err = err, nil
		}
		return keys, err
	})
	if err == nil {
		err = ended
	}
	return keys, err
}

// VerifyPIN has the reader ask for a PIN and send v.APDU with it. The answer is
// the card's R-APDU, 64 00 after the time for the entry, 64 01 if it was cancelled.
func (s *Slot) VerifyPIN(ctx context.Context, v *reader.PINVerify, by Caller) ([]byte, error) {
	return s.usePIN(ctx, by, v.APDU, func(l *link.Link) ([]byte, error) { return l.VerifyPIN(s.underWay, v) })
}

// ModifyPIN is VerifyPIN for a change of the PIN.
func (s *Slot) ModifyPIN(ctx context.Context, m *reader.PINModify, by Caller) ([]byte, error) {
	return s.usePIN(ctx, by, m.APDU, func(l *link.Link) ([]byte, error) { return l.ModifyPIN(s.underWay, m) })
}

// usePIN runs a PIN command only on the card, and in the card's state, of the moment when the
// command was handed over. Another card may come while the command waits. It must not get
// the PIN, so usePIN returns ErrStale.
func (slot *Slot) usePIN(ctx context.Context, by Caller, template []byte, enter func(*link.Link) ([]byte, error)) ([]byte, error) {
	if len(template) < 4 {
		return nil, fmt.Errorf("PIN command of %d bytes: %w", len(template), reader.ErrInvalid)
	}
	slot.mu.Lock()
	card, now := slot.card, &Session{slot: slot, caller: by, epoch: slot.epoch}
	err := slot.readyErr()
	same := slot.epoch.before(by.At)
	slot.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case slot.Features().PINPad == nil:
		return nil, fmt.Errorf("this reader has no PIN pad: %w", reader.ErrUnsupported)
	case card != reader.Powered:
		return nil, fmt.Errorf("PIN command: %w", errUnpowered)
	case !same:
		return nil, fmt.Errorf("PIN command: %w", reader.ErrStale)
	}
	return slot.command(ctx, by, now, enter)
}
