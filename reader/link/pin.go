package link

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// VerifyPIN has the reader ask for a PIN and send v.APDU with it. The answer is the
// card's R-APDU, or what the PIN pad says instead of one (reader.PINPad).
func (l *Link) VerifyPIN(ctx context.Context, v *reader.PINVerify) ([]byte, error) {
	pad := l.Features.PINPad
	return l.usePIN(ctx, v.APDU, func(prologue [3]byte, dst []byte) ([]byte, error) {
		if !pad.PINSupport().Verify {
			return nil, fmt.Errorf("PIN verification at the reader: %w", reader.ErrUnsupported)
		}
		with := *v
		with.Prologue = prologue
		return pad.VerifyPIN(ctx, &with, dst)
	})
}

// ModifyPIN is VerifyPIN for a change of the PIN.
func (l *Link) ModifyPIN(ctx context.Context, m *reader.PINModify) ([]byte, error) {
	pad := l.Features.PINPad
	return l.usePIN(ctx, m.APDU, func(prologue [3]byte, dst []byte) ([]byte, error) {
		if !pad.PINSupport().Modify {
			return nil, fmt.Errorf("PIN modification at the reader: %w", reader.ErrUnsupported)
		}
		with := *m
		with.Prologue = prologue
		return pad.ModifyPIN(ctx, &with, dst)
	})
}

// usePIN is enterPIN with what the trace says of it.
func (l *Link) usePIN(ctx context.Context, template []byte, enter func(prologue [3]byte, dst []byte) ([]byte, error)) ([]byte, error) {
	if l.Features.PINPad == nil {
		return nil, fmt.Errorf("this reader has no PIN pad: %w", reader.ErrUnsupported)
	}
	if l.traits.Level == reader.Synchronous {
		return nil, fmt.Errorf("PIN command: %w", errSynchronous)
	}
	l.Trace.Printf("> PIN pad: % X …", template[:4])
	answer, err := l.enterPIN(ctx, template, enter)
	if err != nil {
		l.Trace.Printf("! %v", concealed{err})
	} else {
		l.Trace.Printf("< PIN pad: %s", iso7816.MaskedAnswer(answer))
	}
	return answer, err
}

// errPINAgain: the card wants the block repeated that had the PIN. The host has only the
// template, which the card would take for a wrong PIN and count.
var errPINAgain = fmt.Errorf("the card wants the PIN command again: %w", reader.ErrProtocol)

// enterPIN runs the exchange whose command the reader completes. Under T=1 at
// TPDU level the host gives the block's prologue and gets the card's block, so
// that the machine's sequence numbers stay right.
func (l *Link) enterPIN(ctx context.Context, template []byte, enter func(prologue [3]byte, dst []byte) ([]byte, error)) (answer []byte, err error) {
	l.conceal(nil) // whatever the command is
	defer func() { l.reveal(err) }()
	if l.t1 == nil {
		return enter([3]byte{}, nil)
	}
	step := l.t1.Start(template, nil)
	if !step.Done && (len(step.Send) < 3 || step.Send[1]&0xA0 != 0) {
		// Chained, or an S-block comes first: the reader completes one I-block.
		l.t1.Withdraw()
		return nil, fmt.Errorf("PIN command of %d bytes does not fit one block of the card: %w", len(template), reader.ErrUnsupported)
	}
	var none []byte // the reader's answer where no PIN was entered
	entered := false
	err = l.run(ctx, step, func(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
		switch {
		case entered && len(x.Out) > 1 && x.Out[1]&0x80 == 0:
			return dst, errPINAgain
		case entered:
			return l.Slot.Exchange(ctx, x, dst)
		}
		entered = true
		rx, err := enter([3]byte(x.Out[:3]), dst)
		switch {
		case err == nil && len(rx) == 2 && rx[0] == 0x64:
			none = slices.Clone(rx)
			return rx, unsent{} // the card knows of no block
		case errors.Is(err, reader.ErrGone), errors.Is(err, reader.ErrNoCard), errors.Is(err, reader.ErrStale), errors.Is(err, reader.ErrUnsupported), errors.Is(err, reader.ErrInvalid):
			return rx, unsent{err}
		}
		return rx, err
	})
	switch {
	case err != nil:
		return nil, err
	case none != nil:
		return none, nil
	}
	return l.t1.Response(), nil
}
