package epass3k

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/epass3k/emu"
	"github.com/cardfs/cardfs/reader"
)

// No answer of a token makes the driver panic, wait for ever, or accept what did not arrive.
// The token sends the fuzzer's bytes as transfers: a length, then so many bytes.
func FuzzAnswers(f *testing.F) {
	f.Add(byte(64), unhex("1C 52 36 00 00 00 16 00 00"+atr+"00 00 00  08 52 36 00 00 00 02 90 00"), unhex(selectMF))
	f.Add(byte(8), unhex("0E 52 36 00 00 00 08 00 00 3B 01 FF 00 00 00  10 52 36 00 00 00 0A 11 12 13 14 15 16 17 18 90 00"), unhex(challenge))
	f.Add(byte(8), unhex("00 0E 52 36 00 00 00 08 00 00 3B 01 FF 00 00 00  00  09 52 36 00 00 00 0A 11 12 13"), unhex(challenge))
	f.Fuzz(func(t *testing.T, packet byte, in, tpdu []byte) {
		if packet == 0 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			token := usbtest.New(usbtest.Model{
				Descriptors: emu.NewConfig("", emu.Config{Packet: packet}).Descriptors(),
				Out:         func(uint8, []byte) {},
			})
			port := token.Plug()
			defer port.Unplug()
			sent := len(in)
			for zlp := false; len(in) > 0; zlp = !zlp {
				n := min(int(in[0]), len(in)-1)
				token.SendPackets(0x81, in[1:1+n], zlp)
				in = in[1+n:]
			}
			_, s := open(t, port)
			start := time.Now()
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if (err == nil) != (len(got) > 0) || len(got) > longATR {
				t.Errorf("ATR of %d bytes, %v", len(got), err)
			}
			rx, e := s.Exchange(t.Context(), reader.Transfer{Out: tpdu, Wait: time.Second}, nil)
			switch {
			case e == nil && (err != nil || len(rx) < 1 || len(rx) > longestAnswer || len(rx)+len(got)+2*headerLen > sent):
				t.Errorf("%d bytes, and an ATR of %d, of %d; %v", len(rx), len(got), sent, err)
			case e != nil && len(rx) > 0, err != nil && !errors.Is(e, reader.ErrStale) && !errors.Is(e, reader.ErrInvalid):
				t.Errorf("%d bytes, %v after %v", len(rx), e, err)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// The emulated token survives any transfers.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("06 52 36 00 01 00 00 80  0D 52 36 00 02 00 07 00 A4 00 00 02 3F 00 80"))
	f.Add(unhex("03 52 36 00 03 01 00 00  80 04 52 36 00 02 80"))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			port := newConfig(t, emu.Config{Packet: 8, ZLP: true, Direct: true}, newCard()).Plug()
			defer port.Unplug()
			for len(in) > 0 {
				n := int(in[0])
				in = in[1:]
				if n >= 0x80 {
					port.In(t.Context(), 0x81, make([]byte, n), time.Microsecond)
					port.ClearHalt(t.Context(), 0x02)
					continue
				}
				n = min(n, len(in))
				port.Out(t.Context(), 0x02, in[:n], false, time.Microsecond)
				in = in[n:]
			}
		})
	})
}

// What the emulated token takes, and what it refuses.
func TestMessages(t *testing.T) {
	const power, stall = "52 36 00 01 00 00", "stall"
	atrMessage := "52 36 00 00 00 16 00 00 " + atr + " 00 00 00"
	for _, x := range []struct {
		name string
		sent []string // the last one is answered
		want string
	}{
		{"get ATR", []string{power}, atrMessage},
		{"get ATR in two transfers", []string{"52 36 00", "01 00 00"}, atrMessage},
		{"a TPDU in three", []string{power, "52 36 00 02 00 05", "00 84 00", "00 08"}, "52 36 00 00 00 0A 11 12 13 14 15 16 17 18 90 00"},
		{"a command before the first ATR", []string{"52 36 00 02 00 05 00 84 00 00 08"}, stall},
		{"another tag", []string{"52 37 00 01 00 00"}, stall},
		{"an unknown command", []string{power, "52 36 00 03 00 00"}, stall},
		{"a high command", []string{"52 36 01 01 00 00"}, stall},
		{"get ATR with a value", []string{"52 36 00 01 00 01 00"}, stall},
		{"a TPDU of four bytes", []string{power, "52 36 00 02 00 04 00 84 00 00"}, stall},
		{"a TPDU of 261 bytes", []string{power, "52 36 00 02 01 05"}, stall},
		{"a byte too many", []string{"52 36 00 01 00 00 00"}, stall},
		{"after a stall", []string{"52 36 00", "FF FF FF", power}, atrMessage},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newToken(t, newCard())
			port := e.Plug()
			defer port.Unplug()
			got := ""
			for i, m := range x.sent {
				_, err := port.Out(t.Context(), 0x02, unhex(m), false, time.Second)
				if errors.Is(err, usb.ErrStall) {
					port.ClearHalt(t.Context(), 0x02)
					got = stall
					continue
				}
				p := make([]byte, 64)
				n, err := port.In(t.Context(), 0x81, p, time.Millisecond)
				if got = fmt.Sprintf("% X", p[:n]); err != nil && i == len(x.sent)-1 {
					got = err.Error()
				}
			}
			if got != x.want {
				t.Errorf("%s: %q, want %q", x.name, got, x.want)
			}
		})
	}
}

// An ePass3000 as its descriptors show it; nobody knows the real ones but for the endpoints.
func TestDescriptors(t *testing.T) {
	got := fmt.Sprintf("% X", emu.NewConfig("S1", emu.Config{Packet: 16, Interface: 1}).Descriptors())
	const want = "12 01 10 01 00 00 00 08 6E 09 01 04 00 01 01 02 03 01" +
		" 09 02 29 00 02 01 00 80 32" +
		" 09 04 00 00 00 FF 00 00 00" +
		" 09 04 01 00 02 FF 00 00 00 07 05 02 02 10 00 00 07 05 81 02 10 00 00"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
