package ikey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
)

// fake is a token that answers by a table.
type fake = usbtest.Table

type reply = usbtest.Answer

// honest is a token that behaves.
func honest() map[string]reply {
	return map[string]reply{
		identify: {Data: unhex("0A 61 00 07 2D 2D C0 80 80 60")},
		getReset: {Data: unhex("00")},
		getATR:   {Data: unhex("10" + atr + "FF FF FF")},
		getPPS:   {Data: unhex("FF 11 11 FF")},
		getBlock: {Data: unhex("00 00 02 90 00 92")},
	}
}

// run powers up and does one exchange.
func run(ctx context.Context, s reader.Slot) (atr, rx []byte, err error) {
	if atr, err = s.PowerOn(ctx, reader.Cold); err != nil {
		return
	}
	rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: time.Second}, nil)
	return
}

// The driver accepts only plausible answers of the token. Errors say which transfer, on
// which device, and how many bytes, but never the bytes.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		name, transfer, answer string
		is                     error  // nil: accepted
		says                   string // in the error
	}{
		{"another firmware", identify, "0A 61 00 08 2D 2D C0 80 80 60", nil, ""},
		{"identify too short", identify, "0A 61 00 07", reader.ErrProtocol, "identify: 4 bytes, not 10"},
		{"identify too long", identify, "0A 61 00 07 2D 2D C0 80 80 60 00", reader.ErrProtocol, "11 bytes, not 10"},
		{"identify empty", identify, "", reader.ErrProtocol, "0 bytes, not 10"},
		{"reset answers something else", getReset, "01", reader.ErrProtocol, "not 00"},
		{"reset answers two bytes", getReset, "00 00", reader.ErrProtocol, "2 bytes, not 1"},
		{"reset answers nothing", getReset, "", reader.ErrProtocol, "reset"},
		{"ATR without padding", getATR, "10" + atr, nil, ""},
		{"ATR of 31 bytes", getATR, "1F 3B" + strings.Repeat("00", 30), nil, ""},
		{"ATR length beyond what came", getATR, "11" + atr, reader.ErrProtocol, "17 bytes announced, 16 came"},
		{"ATR length FF", getATR, "FF" + atr, reader.ErrProtocol, "255 bytes announced"},
		{"no ATR", getATR, "00 00 00", reader.ErrProtocol, "announces none"},
		{"ATR answer empty", getATR, "", reader.ErrProtocol, "empty"},
		{"PPS response of a faster card", getPPS, "FF 11 94 7A", nil, ""},
		{"PPS response without PPS1", getPPS, "FF 01 FE", nil, ""},
		{"PPS response with wrong PCK", getPPS, "FF 11 11 FE", reader.ErrProtocol, "wrong PCK"},
		{"PPS response for T=0", getPPS, "FF 10 11 FE", reader.ErrProtocol, "T=0"},
		{"PPS response cut", getPPS, "FF 11 11", reader.ErrProtocol, "3 bytes: PPS0 announces 4"},
		{"PPS response empty", getPPS, "", reader.ErrProtocol, "PPS"},
		{"no PPS response", getPPS, "00 11 11 00", reader.ErrProtocol, "not a PPS response"},
		{"block with surplus", getBlock, "00 00 02 90 00 92 40 98 C1", nil, ""},
		{"block of 255 bytes", getBlock, "00 00 FB" + strings.Repeat("00", 251) + "FB", nil, ""},
		{"block cut", getBlock, "00 00 02 90 00", reader.ErrProtocol, "block of 6 bytes, 5 came"},
		{"block of three bytes", getBlock, "00 00 00", reader.ErrProtocol, "3 bytes are no T=1 block"},
		{"block empty", getBlock, "", reader.ErrProtocol, "no T=1 block"},
		{"LEN FF", getBlock, "00 00 FF" + strings.Repeat("00", 252), reader.ErrProtocol, "block of 259 bytes, 255 came"},
	} {
		t.Run(x.name, func(t *testing.T) {
			answers := honest()
			answers[x.transfer] = reply{Data: unhex(x.answer)}
			_, s := open(t, &fake{Answers: answers})
			_, _, err := run(context.Background(), s)
			if x.is == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says) || !strings.HasPrefix(err.Error(), "ikey3k usb:1-2: ") {
				t.Errorf("%v; want %v and %q", err, x.is, x.says)
			}
			if b := unhex(x.answer); len(b) >= 2 && strings.Contains(strings.ReplaceAll(err.Error(), " ", ""), fmt.Sprintf("%X", b[:2])) {
				t.Errorf("bytes of the answer are in %q", err)
			}
		})
	}
}

// The same holds for an iKey 2032. Identities of other firmware are accepted, and the ATR
// has the length that the identity announces.
func TestAnswers2032(t *testing.T) {
	const (
		identity = "0D 63 00 06 2D 2D C0 80 80 60 80 01 19"
		reset2   = "IN C1 01 0000 0000 02"
		reset32  = "IN C1 01 0000 0000 20"
		getATR25 = "IN C1 01 0000 0000 19"
		getATR9  = "IN C1 01 0000 0000 09"
		atrNine  = "3B 65 00 00 01 02 03 04 05"
	)
	for _, x := range []struct {
		name, transfer, answer string
		want                   string // the ATR
		says                   string // or the error
	}{
		{"as seen", identify, identity, string(datakey), ""},
		{"as seen in 2003", identify, "0D 60 00 03 2D 2D C0 80 80 60 80 01 19", string(datakey), ""},
		{"a later firmware", identify, "0D 6F 00 FF 2D 2D C0 80 80 60 80 01 19", string(datakey), ""},
		{"an ATR of 9 bytes", identify, "0D 63 00 06 2D 2D C0 80 80 60 80 01 09", atrNine, ""},
		{"an ATR of no bytes", identify, "0D 63 00 06 2D 2D C0 80 80 60 80 01 00", "", "an ATR of 0 bytes"},
		{"an ATR of 33 bytes", identify, "0D 63 00 06 2D 2D C0 80 80 60 80 01 21", "", "an ATR of 33 bytes"},
		{"another length", identify, "0C 63 00 06 2D 2D C0 80 80 60 80 01 19", "", "not an iKey 2032's"},
		{"another kind", identify, "0D 50 00 06 2D 2D C0 80 80 60 80 01 19", "", "not an iKey 2032's"},
		{"an iKey 3000's", identify, "0A 61 00 07 2D 2D C0 80 80 60", "", "identify: 10 bytes, not 13"},
		{"a byte too many", identify, identity + "00", "", "identify: 14 bytes, not 13"},
		{"ATR too short", getATR25, strings.Repeat("3B", 24), "", "power up: answer: 24 bytes, not 25"},
		{"no ATR", getATR25, "", "", "power up: answer: 0 bytes, not 25"},
		{"the first reset fails", reset2, "01", "", "reset the card interface: answer: not 00"},
		{"the third reset is long", reset32, "00 00", "", "reset the card interface: answer: 2 bytes, not 1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			answers := map[string]reply{
				identify: {Data: unhex(identity)}, reset2: {Data: []byte{0}}, reset32: {Data: []byte{0}},
				getATR25: {Data: unhex(string(datakey))}, getATR9: {Data: unhex(atrNine)},
			}
			answers[x.transfer] = reply{Data: unhex(x.answer)}
			_, s := openAs(t, IKey2032, &fake{Answers: answers})
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if x.says == "" {
				if err != nil || !bytes.Equal(got, unhex(x.want)) {
					t.Errorf("ATR % X, %v", got, err)
				}
				return
			}
			if !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "ikey2k usb:1-2: ") || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v, want %q", err, x.says)
			}
			if st, _ := s.Status(t.Context()); st != reader.Present {
				t.Errorf("status %v", st)
			}
		})
	}
}

// Every transfer may fail in every way. The error names the transfer, and is one that the
// core can distinguish.
func TestTransferErrors(t *testing.T) {
	transfers := []string{identify, sendReset, getReset, sendATR, getATR, sendPPS, getPPS, sendBlock, getBlock}
	for _, transfer := range transfers {
		for _, x := range usbtest.Failures {
			t.Run(transfer+"/"+x.Name, func(t *testing.T) {
				answers := honest()
				answers[transfer] = x.Answer
				_, s := open(t, &fake{Answers: answers})
				atr, rx, err := run(context.Background(), s)
				if !errors.Is(err, x.Is) || !strings.HasPrefix(err.Error(), "ikey3k usb:1-2: ") {
					t.Fatalf("%v; want %v", err, x.Is)
				}
				words := strings.Fields(transfer)
				if x.Err != nil && !strings.Contains(err.Error(), "request "+words[2]+": ") {
					t.Errorf("%v does not name the transfer %s", err, transfer)
				}
				// The length of VERIFY would reveal the PIN's.
				if transfer == sendBlock && strings.Contains(err.Error(), "byte") {
					t.Errorf("%q tells the command's length", err)
				}
				// NAD PCB LEN INF stand in wValue and wIndex.
				if strings.Contains(err.Error(), words[3]+" "+words[4]) {
					t.Errorf("bytes of the command are in %q", err)
				}
				if rx != nil {
					t.Errorf("% X and %v", rx, err)
				}
				powered := transfer == sendBlock || transfer == getBlock
				if st, _ := s.Status(context.Background()); (powered && x.Name != "reset") != (st == reader.Powered) || powered != (atr != nil) {
					t.Errorf("status %v, ATR % X", st, atr)
				}
			})
		}
	}
}

// A card that does not answer to reset is mute, however the token reports it.
func TestMute(t *testing.T) {
	answers := honest()
	answers[getATR] = reply{Err: usb.ErrTimeout}
	_, s := open(t, &fake{Answers: answers})
	if _, err := s.PowerOn(context.Background(), reader.Cold); !errors.Is(err, reader.ErrMute) || !errors.Is(err, reader.ErrTimeout) {
		t.Error(err)
	}
}

func TestInvalidBlock(t *testing.T) {
	_, s := open(t, &fake{Answers: honest()})
	for _, n := range []int{0, 3, 259} {
		dst := []byte("kept")
		got, err := s.Exchange(context.Background(), reader.Transfer{Out: make([]byte, n)}, dst)
		if !errors.Is(err, reader.ErrInvalid) || string(got) != "kept" {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	for i, want := range []string{"Rainbow iKey 3000", "Rainbow iKey 2032"} {
		r, _ := openAs(t, kinds[i].driver, kinds[i].make("42").Plug())
		model, more := r.(reader.Identifier).Identify()
		if model != want || more["version"] != "1.00" {
			t.Errorf("%s %v", model, more)
		}
	}
}

func TestNotUSB(t *testing.T) {
	if _, err := IKey3000.Open(context.Background(), reader.Device{Address: "x"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// No answer of a token makes the driver panic or accept bytes that did not arrive.
func FuzzAnswers(f *testing.F) {
	a := honest()
	f.Add(a[identify].Data, a[getReset].Data, a[getATR].Data, a[getPPS].Data, a[getBlock].Data)
	f.Fuzz(func(t *testing.T, id, reset, atr, pps, block []byte) {
		_, s := open(t, &fake{Answers: map[string]reply{
			identify: {Data: id}, getReset: {Data: reset}, getATR: {Data: atr}, getPPS: {Data: pps}, getBlock: {Data: block},
		}})
		got, rx, err := run(context.Background(), s)
		if got != nil && !bytes.HasPrefix(atr[1:], got) {
			t.Errorf("ATR % X of % X", got, atr)
		}
		if rx != nil && !bytes.HasPrefix(block, rx) {
			t.Errorf("block % X of % X", rx, block)
		}
		if err == nil && (len(rx) < 4 || len(rx) != 4+int(rx[2])) {
			t.Errorf("block % X", rx)
		}
	})
}
