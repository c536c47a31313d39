package acs

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/faulttest"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// The port is the address, and nothing else can be said of the reader.
func TestACR30Attach(t *testing.T) {
	dev, err := ACR30{}.Attach(reader.Device{Driver: "acr30", Address: "/dev/ttyS0"})
	if _, ok := dev.Link.(serial.Opener); err != nil || !ok || dev.ID.Model != serialModel {
		t.Errorf("%+v, %v", dev, err)
	}
	_, err = ACR30{}.Attach(reader.Device{Driver: "acr30", Address: "/dev/ttyS0", Params: map[string]string{"baud": "1"}})
	if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), "baud") {
		t.Error(err)
	}
}

// A port without a reader fails within seconds, with words.
func TestNoSerialACR30(t *testing.T) {
	restless := faulttest.Refusal{Says: "never quiet", Is: reader.ErrProtocol}
	faulttest.Strangers{
		Driver: ACR30{}, Device: serial30(nil), Mode: mode30, Limit: 10 * time.Second,
		Mute:      faulttest.Refusal{Says: "status", Is: reader.ErrTimeout},
		Echo:      faulttest.Refusal{Says: "status", Is: reader.ErrProtocol},
		Leaves:    faulttest.Refusal{Says: "settings", Is: reader.ErrGone},
		Unplugged: "open",
		More: []faulttest.Stranger{
			{Name: "babble", Serve: serialtest.Babble(100*time.Millisecond, 0x02, '0', '1', 0x03), Refusal: restless},
			{Name: "messages without end", Serve: serialtest.Babble(100*time.Millisecond, frameOf("01 FF 01 00", true)...), Refusal: restless},
			{Name: "a frame without end", Serve: func(l *serialtest.Line) {
				l.Send(0x02)
				for {
					if _, ok := l.NextWithin(time.Millisecond); !ok {
						return
					}
					l.Send('0', '1')
				}
			}, Refusal: restless},
		},
	}.Run(t)
}

// A question for the status finds the reader, and changes nothing. Another answer, or an echo,
// is no reader.
func TestACR30Probe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSerial30(t, t0)
		p := serialtest.Plug(e)
		defer p.Unplug()
		before := p.Line().HostMode()
		found, err := ACR30{}.Probe(t.Context(), serial30(p))
		if out, _ := p.Sent(); err != nil || found.Model != serialModel || found.Params != nil || out != 10 || e.Contact.Powered() {
			t.Errorf("%+v, %v, %d characters were sent, %v", found, err, out, before)
		}
	})
	for answer, is := range map[string]error{
		"": reader.ErrTimeout, "\x0201010000\x03": reader.ErrProtocol,
		string(frameOf("01 60 05 00", true)):                                        reader.ErrProtocol,
		string(frameOf("01 90 00 00", true)):                                        reader.ErrProtocol,
		string(frameOf("01 90 00 10 "+strings.Repeat("41 ", 15)+"04", true)):        reader.ErrProtocol,
		string(frameOf("01 90 00 10 "+strings.Repeat("41 ", 15)+"03 00 00", false)): reader.ErrProtocol,
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode30)
				if l.Read(make([]byte, 10)) {
					l.Send([]byte(answer)...)
				}
				l.Next()
			}))
			defer p.Unplug()
			if _, err := (ACR30{}).Probe(t.Context(), serial30(p)); !errors.Is(err, is) {
				t.Errorf("%q: %v", answer, err)
			}
		})
	}
}

// A reader may refuse to be silent about cards, but not the option; neither has data.
func TestACR30Settings(t *testing.T) {
	for _, x := range []struct {
		notify, option string
		is             error
	}{
		{"01 90 00 00", "01 90 00 00", nil},
		{"01 60 05 00", "01 90 00 00", nil},
		{"01 90 00 00", "01 60 05 00", reader.ErrProtocol},
		{"01 90 00 01 41", "01 90 00 00", reader.ErrProtocol},
		{"01 90 00 00", "01 90 00 01 41", reader.ErrProtocol},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(mode30)
				var text []byte
				for {
					c, ok := l.Char()
					if text = append(text, c); !ok {
						return
					}
					if c == etx {
						answer := map[byte]string{'6': x.notify, '7': x.option, '1': "01 90 00 10 " + strings.Repeat("41 ", 15) + "01"}[text[4]]
						text = text[:0]
						l.Send(frameOf(answer, true)...)
					}
				}
			}))
			defer p.Unplug()
			r, err := ACR30{}.Open(t.Context(), serial30(p))
			if !errors.Is(err, x.is) {
				t.Errorf("%+v: %v", x, err)
			}
			if err == nil {
				r.Close()
			}
		})
	}
}

// A reader that was switched off gets its settings again. A card that was exchanged before its
// protocol is selected is noticed by its ATR.
func TestACR30KeepsSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSerial30(t, t0)
		p := serialtest.Plug(e)
		defer p.Unplug()
		r, s := open30(t, serial30(p))
		defer r.Close()
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SelectProtocol(t.Context(), iso7816.Params{TA1: 0x11}); err != nil || e.Contact.Rate() != 0x11 {
			t.Fatalf("rate %02X, %v", e.Contact.Rate(), err)
		}
		e.Switch(false)
		if _, err := s.Status(t.Context()); !errors.Is(err, reader.ErrTimeout) {
			t.Error(err)
		}
		e.Switch(true)
		if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil || e.Contact.Rate() != 0x11 {
			t.Errorf("rate %02X, %v", e.Contact.Rate(), err)
		}
		e.Contact.Remove()
		if err := e.Contact.Insert(bare); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SelectProtocol(t.Context(), iso7816.Params{TA1: 0x18}); !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("another card: %v", err)
		}
	})
}
