package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

const (
	codeVerify = ctlFeature + featureVerifyPINDirect
	codeModify = ctlFeature + featureModifyPINDirect
)

// What is malformed, or what this reader does not have: nothing is sent.
func TestControlRefuses(t *testing.T) {
	verify := pinVerifyBytes("00 20 00 01 04 FF FF FF FF")
	modify := pinModifyBytes("00 24 00 01 08 FF FF FF FF FF FF FF FF")
	for _, x := range []struct {
		name string
		code uint32
		data []byte
		err  error
	}{
		{"PIN_VERIFY of no bytes", codeVerify, nil, reader.ErrInvalid},
		{"PIN_VERIFY cut short", codeVerify, verify[:18], reader.ErrInvalid},
		{"PIN_VERIFY without a command", codeVerify, append(bytes.Clone(verify[:15]), 0, 0, 0, 0), reader.ErrInvalid},
		{"PIN_VERIFY with a command of three bytes", codeVerify, append(bytes.Clone(verify[:15]), 3, 0, 0, 0, 0, 0x20, 0), reader.ErrInvalid},
		{"ulDataLength says less", codeVerify, append(bytes.Clone(verify), 0), reader.ErrInvalid},
		{"ulDataLength says more", codeVerify, verify[:len(verify)-1], reader.ErrInvalid},
		{"PIN_VERIFY where PIN_MODIFY is due", codeModify, verify, reader.ErrInvalid},
		{"PIN_MODIFY where PIN_VERIFY is due", codeVerify, modify, reader.ErrInvalid},
		{"PIN_MODIFY cut short", codeModify, modify[:23], reader.ErrInvalid},
		{"MCT_READER_DIRECT", ctlFeature + 0x08, nil, reader.ErrUnsupported},
		{"no code at all", 0, nil, reader.ErrUnsupported},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				pad := newPadSlot(t, "")
				pad.traits.Level = reader.ExtendedAPDU
				b := r.plugPad(pad, true)
				before := len(pad.calls())
				_, err := b.Control(context.Background(), x.code, x.data, someone())
				wantErr(t, x.name, err, x.err)
				if calls := pad.calls(); len(calls) != before {
					t.Errorf("%q", calls)
				}
				if i := b.Info(); i.State != "powered" || i.Err != nil {
					t.Errorf("%s, %v", i.State, i.Err)
				}
			})
		})
	}
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		plain := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, plain)
		mustOpen(t, b, someone())
		for code, data := range map[uint32][]byte{codeVerify: verify, codeModify: modify, CtlEscape: {1}, ctlFeature + featureCCIDEscape: {1}, ctlFeature + featureIFDPINProperties: nil} {
			_, err := b.Control(context.Background(), code, data, someone())
			wantErr(t, fmt.Sprintf("%08X without a PIN pad", code), err, reader.ErrUnsupported)
		}
		wantErr(t, "show", b.Show(context.Background(), "Hi", 0, someone()), reader.ErrUnsupported)
		_, err := b.Input(context.Background(), reader.KeyInput{Max: 1}, someone())
		wantErr(t, "input", err, reader.ErrUnsupported)
		if i := b.Info(); i.State != "powered" || i.Err != nil {
			t.Errorf("%s, %v", i.State, i.Err)
		}
	})
	// A pad that can do one of the two.
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "pin 00 00 00 | 00 20 00 01 04 FF FF FF FF\n<= 90 00")
		pad.traits.Level, pad.support = reader.ExtendedAPDU, reader.PINSupport{Verify: true}
		b := r.plugPad(pad, true)
		_, err := b.Control(context.Background(), codeModify, modify, someone())
		wantErr(t, "modify", err, reader.ErrUnsupported)
		if _, err := b.Control(context.Background(), codeVerify, verify, someone()); err != nil {
			t.Error(err)
		}
	})
}

// No code has an answer before the driver has initialised the reader, or after it
// left.
func TestControlNotReady(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "")
		fake := newFakeReader(pad.fakeSlot)
		fake.slots = []reader.Slot{pad}
		opening := make(chan struct{})
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { <-opening; return fake, nil }
		b := r.announce(reader.Device{})
		codes := []uint32{CtlGetFeatures, ctlFeature + featureTLVProperties, ctlFeature + featureIFDPINProperties, CtlEscape}
		for _, code := range codes {
			_, err := b.Control(context.Background(), code, nil, hasty())
			wantErr(t, fmt.Sprintf("%08X while it starts", code), err, reader.ErrNotReady)
		}
		close(opening)
		if list, err := b.Control(context.Background(), CtlGetFeatures, nil, someone()); len(list) != 30 || err != nil {
			t.Errorf("% X, %v", list, err)
		}
		fake.unplug()
		synctest.Wait()
		for _, code := range codes {
			_, err := b.Control(context.Background(), code, nil, someone())
			wantErr(t, fmt.Sprintf("%08X after it left", code), err, reader.ErrGone)
		}
	})
}

// Neither trace nor status shows what is entered, or the template, which may be
// a default PIN.
func TestControlTrace(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, `
			> 00 C1 01 FE
			< 00 E1 01 FE
			pin 00 00 09 | 00 20 00 01 04 31 32 33 34
			< 00 C3 01 03
			> 00 E3 01 03
			< 00 00 06 31 32 33 34 63 C2
			pin 00 40 09 | 00 20 00 01 04 31 32 33 34
			< 00 91 00
		`)
		pad.keys = func() ([]byte, error) { return []byte("1234"), nil }
		b := r.plugPad(pad, true)
		trace := b.FollowTrace()
		defer b.CloseTrace(trace)
		if _, err := b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01 04 31 32 33 34"), someone()); err != nil {
			t.Error(err)
		}
		if keys, err := b.Input(context.Background(), reader.KeyInput{Prompt: "Code?", Max: 8}, someone()); string(keys) != "1234" {
			t.Error(keys, err)
		}
		if answer, err := b.Control(context.Background(), CtlEscape, []byte("1234"), someone()); string(answer) != "reply to 1234" {
			t.Error(answer, err)
		}
		b.Show(context.Background(), "Hello", 0, someone())
		_, err := b.Control(context.Background(), codeVerify, pinVerifyBytes("00 20 00 01 04 31 32 33 34"), someone())
		wantErr(t, "verify", err, reader.ErrProtocol)
		lines := traceLines(trace)
		for _, secret := range []string{"31 32", "31323334", "1234", "reply"} {
			if info := fmt.Sprintf("%+v", b.Info()); strings.Contains(lines, secret) || strings.Contains(info, secret) {
				t.Errorf("%q shows:\n%s%s", secret, lines, info)
			}
		}
		for _, want := range []string{"> PIN pad: 00 20 00 01", "< PIN pad: [masked] 63 C2", `> keypad "Code?"`, "> escape [4 bytes]", `> display "Hello"`} {
			if !strings.Contains(lines, want) {
				t.Errorf("%q does not show:\n%s", want, lines)
			}
		}
	})
}

// A card holder who is slow or cancels is no error of the slot.
func TestInputEnds(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		pad := newPadSlot(t, "")
		pad.traits.Level = reader.ExtendedAPDU
		b := r.plugPad(pad, true)
		for _, want := range []error{reader.ErrTimeout, reader.ErrCancelled} {
			pad.keys = func() ([]byte, error) { return nil, fmt.Errorf("pad: %w", want) }
			keys, err := b.Input(context.Background(), reader.KeyInput{Max: 8}, someone())
			if !errors.Is(err, want) || keys != nil || b.Info().Err != nil || b.Info().State != "powered" {
				t.Errorf("%q, %v; %s, %v", keys, err, b.Info().State, b.Info().Err)
			}
		}
		pad.keys = func() ([]byte, error) { return nil, reader.ErrProtocol }
		if _, err := b.Input(context.Background(), reader.KeyInput{Max: 8}, someone()); !errors.Is(err, reader.ErrProtocol) || b.Info().Err == nil {
			t.Errorf("%v; %v", err, b.Info().Err)
		}
	})
}
