package egate

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/egate/emu"
	"github.com/cardfs/cardfs/reader"
)

// No answer of a token makes the driver panic, wait for ever, or accept what did not arrive.
// The token answers by the fuzzer's bytes: a length, then so many bytes; FF stalls.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("01 00  0A"+atr+"01 00  01 40  01 10  08 0102030405060708  01 20  02 9000"), unhex(challenge))
	f.Add(unhex("01 00  0A"+atr+"01 00  01 10  01 20  02 9000"), unhex(selectMF))
	f.Add(unhex("01 00  0A"+atr+"01 20  01 00"), unhex(selectMF))
	f.Fuzz(func(t *testing.T, in, tpdu []byte) {
		synctest.Test(t, func(t *testing.T) {
			sent := 0 // bytes to the host
			port := usbtest.New(usbtest.Model{
				Descriptors: emu.New("").Descriptors(),
				Control: func(_ context.Context, s usb.Setup, p []byte) (int, error) {
					if !s.In() {
						return len(p), nil
					}
					if len(in) == 0 || in[0] == 0xFF {
						in = in[min(1, len(in)):]
						return 0, usb.ErrStall
					}
					n := copy(p, in[1:min(len(in), 1+int(in[0]))])
					in = in[1+n:]
					sent += n
					return n, nil
				},
			}).Plug()
			defer port.Unplug()
			_, s := open(t, port)
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if (err == nil) != (len(got) > 0) || len(got) > atrAsked {
				t.Errorf("ATR of %d bytes, %v", len(got), err)
			}
			sent = 0
			rx, err := s.Exchange(t.Context(), reader.Transfer{Out: tpdu, Wait: time.Second}, nil)
			if err == nil && (len(rx) < 2 || len(rx) > 258 || len(rx) > sent) || err != nil && len(rx) > 0 {
				t.Errorf("%d bytes of %d, %v", len(rx), sent, err)
			}
		})
	})
}

// The emulated token survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("40 90 0000 0000 00  C0 A0 0000 0000 01  C0 83 0000 0000 23"))
	f.Add(unhex("40 90 0000 0000 00  40 80 0000 0000 05 C0 A4 00 00 02  C0 A0 0000 0000 01  40 82 0000 0000 02 3F 00  C0 A0 0000 0000 01  C0 81 0000 0000 02"))
	f.Fuzz(func(t *testing.T, in []byte) {
		port := newToken(t, newCard()).Plug()
		defer port.Unplug()
		usbtest.Fuzz(t, port, in, time.Microsecond)
	})
}

// What the emulated token refuses: requests in another state, of another length, and those
// of others.
func TestRequests(t *testing.T) {
	const ok, stall = "", "stall"
	type request struct {
		rt, rq uint8
		value  uint16
		data   string // or the number of bytes asked for
		n      int
		want   string
	}
	reset, look := request{0x40, 0x90, 0, "", 0, ok}, request{0xC0, 0xA0, 0, "", 1, "00"}
	header := request{0x40, 0x80, 0, "C0 A4 00 00 02", 0, ok}
	busy, data, sw := request{0xC0, 0xA0, 0, "", 1, "40"}, request{0xC0, 0xA0, 0, "", 1, "10"}, request{0xC0, 0xA0, 0, "", 1, "20"}
	for _, x := range []struct {
		name string
		all  []request
	}{
		{"ATR without a status read", []request{reset, {0xC0, 0x83, 0, "", 35, stall}, look, {0xC0, 0x83, 0, "", 35, "3B 95 18 40 FF 62 01 02 01 04"}}},
		{"ATR cut by the host", []request{reset, look, {0xC0, 0x83, 0, "", 2, "3B 95"}}},
		{"a command before the first reset", []request{{0x40, 0x80, 0, "00 84 00 00 08", 0, stall}}},
		{"a header of four bytes", []request{reset, {0x40, 0x80, 0, "00 84 00 00", 0, stall}}},
		{"a header with data", []request{reset, {0x40, 0x80, 0, "C0 A4 00 00 02 3F 00", 0, stall}}},
		{"wValue", []request{reset, {0xC0, 0xA0, 1, "", 1, stall}}},
		{"data without a header", []request{reset, {0x40, 0x82, 0, "3F 00", 0, stall}}},
		{"data that are short", []request{reset, header, busy, data, {0x40, 0x82, 0, "3F", 0, stall}}},
		{"data that are long", []request{reset, header, busy, data, {0x40, 0x82, 0, "3F 00 00", 0, stall}}},
		{"a read in place of data", []request{reset, header, busy, data, {0xC0, 0x81, 0, "", 2, stall}}},
		{"a header in place of data", []request{reset, header, busy, data, {0x40, 0x80, 0, "C0 A4 00 00 02", 0, stall}}},
		{"ATR in place of data", []request{reset, header, busy, data, {0xC0, 0x83, 0, "", 35, stall}}},
		{"SW1 SW2 of another length", []request{reset, {0x40, 0x80, 0, "00 70 00 00 00", 0, ok}, busy, sw, {0xC0, 0x81, 0, "", 1, stall}, {0xC0, 0x81, 0, "", 3, stall}, {0xC0, 0x81, 0, "", 2, "6D 00"}, {0xC0, 0x81, 0, "", 2, stall}, look}},
		{"a reset in the middle", []request{reset, header, busy, reset, look, header}},
		{"another's requests", []request{{0xC1, 0xA0, 0, "", 1, stall}, {0x21, 0x90, 0, "", 0, stall}, {0x40, 0x91, 0, "", 0, stall}, {0x40, 0x90, 0, "00", 0, stall}}},
		{"descriptor", []request{{0x80, 6, 0x0100, "", 64, "12 01 10 01 FF 00 00 08 73 09 01 00 00 01 01 02 00 01"}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			port := newToken(t, newCard()).Plug()
			defer port.Unplug()
			for i, r := range x.all {
				p := unhex(r.data)
				if r.rt&0x80 != 0 {
					p = make([]byte, r.n)
				}
				n, err := port.Control(t.Context(), usb.Setup{RequestType: r.rt, Request: r.rq, Value: r.value}, p, time.Second)
				got := ""
				if r.rt&0x80 != 0 {
					got = fmt.Sprintf("% X", p[:n])
				}
				if err == usb.ErrStall {
					got = stall
				} else if err != nil {
					got = err.Error()
				}
				if got != r.want {
					t.Errorf("%s: request %d, %02X: %q, want %q", x.name, i, r.rq, got, r.want)
				}
			}
		})
	}
}
