package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// tape is a reader that plays what a test wrote down:
//
//	> 65 …      the host sends this message
//	< 81 …      the reader sends that
//	--          the reader sends nothing until the transfer's time is over
//	< stall     the endpoint stalls; < overflow: the reader sends too much
//	c 21 01 …   the host does this control transfer: setup, data if it goes out
//	c … : 80 25 and what comes back, or : stall
//	# comment
type tape struct {
	t           *testing.T
	descriptors []byte
	gone        chan struct{}

	mu    sync.Mutex
	lines []string
	wake  chan struct{}
}

func record(t *testing.T, cfg Config, script string) *tape {
	cfg.NoInterrupt = true
	tp := &tape{t: t, descriptors: NewEmulator(cfg).Descriptors(), gone: make(chan struct{}), wake: make(chan struct{})}
	for _, l := range strings.Split(script, "\n") {
		l, _, _ = strings.Cut(l, "#")
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			tp.lines = append(tp.lines, l)
		}
	}
	return tp
}

// next is the line that is due; it is taken when it is of that kind.
func (tp *tape) next(kind string) (string, bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(tp.lines) == 0 || !strings.HasPrefix(tp.lines[0], kind) {
		return "", false
	}
	l := tp.lines[0]
	tp.lines = tp.lines[1:]
	return strings.TrimSpace(strings.TrimPrefix(l, kind)), true
}

func (tp *tape) due() string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(tp.lines) == 0 {
		return "the end of the tape"
	}
	return tp.lines[0]
}

func (tp *tape) Out(ctx context.Context, ep uint8, p []byte, zlp bool, timeout time.Duration) (int, error) {
	due := tp.due()
	want, ok := tp.next(">")
	if want == "stall" {
		return 0, usb.ErrStall
	}
	if got := fmt.Sprintf("% X", p); !ok || got != want {
		tp.t.Errorf("host sends > %s\ndue is     %s", got, due)
		return 0, errors.New("off the tape")
	}
	return len(p), nil
}

func (tp *tape) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	if _, ok := tp.next("--"); ok {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(timeout):
			return 0, usb.ErrTimeout
		}
	}
	due := tp.due()
	line, ok := tp.next("<")
	switch {
	case !ok:
		tp.t.Errorf("host reads, due is %s", due)
		return 0, errors.New("off the tape")
	case line == "stall":
		return 0, usb.ErrStall
	case line == "overflow":
		return 0, usb.ErrOverflow
	}
	return copy(p, unhex(line)), nil
}

func (tp *tape) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	got := fmt.Sprintf("%02X %02X %04X %04X", s.RequestType, s.Request, s.Value, s.Index)
	if !s.In() && len(data) > 0 {
		got += fmt.Sprintf(" % X", data)
	}
	due := tp.due()
	line, ok := tp.next("c")
	want, back, _ := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(want) != got {
		tp.t.Errorf("host does c %s\ndue is     %s", got, due)
		return 0, errors.New("off the tape")
	}
	switch back = strings.TrimSpace(back); {
	case back == "stall":
		return 0, usb.ErrStall
	case back == "silence":
		return 0, usb.ErrTimeout
	case s.In():
		return copy(data, unhex(back)), nil
	}
	return len(data), nil
}

func (tp *tape) ClearHalt(ctx context.Context, ep uint8) error {
	if _, ok := tp.next(fmt.Sprintf("clear %02X", ep)); !ok {
		tp.t.Errorf("host clears the halt of %02X, due is %s", ep, tp.due())
	}
	return nil
}

func (tp *tape) Reset(context.Context) error {
	if _, ok := tp.next("reset"); !ok {
		tp.t.Errorf("host resets the port, due is %s", tp.due())
	}
	return nil
}

func (tp *tape) Descriptors() []byte                                        { return tp.descriptors }
func (tp *tape) String(uint8) string                                        { return "" }
func (tp *tape) Gone() <-chan struct{}                                      { return tp.gone }
func (tp *tape) Close() error                                               { return nil }
func (tp *tape) OpenUSB(ctx context.Context, iface uint8) (usb.Conn, error) { return tp, nil }
func (tp *tape) open(t *testing.T) *ifd {
	t.Helper()
	r, err := Driver{}.Open(context.Background(), reader.Device{Link: tp})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if !t.Failed() && tp.due() != "the end of the tape" {
			t.Errorf("left on the tape: %s", tp.due())
		}
	})
	return r.(*ifd)
}

const hello = `
	> 65 00 00 00 00  00 00 00 00 00           # GetSlotStatus
	< 81 00 00 00 00  00 00 01 00 00           # a card without power
`

var ctx = context.Background()

func TestWire(t *testing.T) {
	manual := TPDUReader()
	manual.Features = AutoClock
	manual.MaxRate = 200000
	extended := ExtendedAPDUReader()
	extended.MaxMessage = 15
	chars := CharacterReader()
	chars.MaxMessage = 74
	chars.Vendor, chars.Product = 0x0B97, 0x7762
	chars.Release = 0x0111
	scm := ShortAPDUReader()
	scm.MaxMessage = 263
	rates := TPDUReader()
	rates.Rates = []uint32{1, 2, 3}
	mech := TPDUReader()
	mech.Mechanical = 2

	tests := []struct {
		name   string
		cfg    Config
		script string
		do     func(t *testing.T, s *slot)
	}{
		{
			// CCID 1.1 §6.1.1, §6.2.1: bPowerSelect 00 where the reader selects
			// the voltage; bStatus 00: active.
			name: "power", cfg: TPDUReader(), script: hello + `
				> 62 00 00 00 00  00 01 00 00 00
				< 80 04 00 00 00  00 01 00 00 00  3B 02 14 50
				> 65 00 00 00 00  00 02 00 00 00
				< 81 00 00 00 00  00 02 00 00 00
				> 62 00 00 00 00  00 03 00 00 00         # a warm reset is IccPowerOn again
				< 80 04 00 00 00  00 03 00 00 00  3B 02 14 50
				> 63 00 00 00 00  00 04 00 00 00         # a cold one takes the power away
				< 81 00 00 00 00  00 04 01 00 01
				> 62 00 00 00 00  00 05 00 00 00
				< 80 04 00 00 00  00 05 00 00 00  3B 02 14 50
				> 63 00 00 00 00  00 06 00 00 00
				< 81 00 00 00 00  00 06 01 00 01
				> 65 00 00 00 00  00 07 00 00 00
				< 81 00 00 00 00  00 07 42 FE 00         # "failed, absent" is no error
			`, do: func(t *testing.T, s *slot) {
				for _, how := range []reader.Reset{reader.Cold, reader.Warm, reader.Cold} {
					atr, err := s.PowerOn(ctx, how)
					check(t, atr, err, atrT0, nil)
					if how == reader.Cold && !s.active {
						t.Error("not active")
					}
					if st, err := statusOnce(t, s, how); st != reader.Powered || err != nil {
						t.Error(st, err)
					}
				}
				if err := s.PowerOff(ctx); err != nil {
					t.Error(err)
				}
				if st, err := s.Status(ctx); st != reader.Absent || err != nil {
					t.Error(st, err)
				}
			},
		},
		{
			// ISO/IEC 7816-3:2006 §6.2.4: the next class after deactivation when
			// the card does not answer. 5 V, 1.8 V, 3 V; then the one that worked.
			name: "voltage", cfg: manual, script: hello + `
				> 62 00 00 00 00  00 01 01 00 00
				< 80 00 00 00 00  00 01 41 FE 00
				> 63 00 00 00 00  00 02 00 00 00
				< 81 00 00 00 00  00 02 01 00 00
				> 62 00 00 00 00  00 03 03 00 00
				< 80 00 00 00 00  00 03 41 F8 00
				> 63 00 00 00 00  00 04 00 00 00
				< 81 00 00 00 00  00 04 01 00 00
				> 62 00 00 00 00  00 05 02 00 00
				< 80 04 00 00 00  00 05 00 00 00  3B 02 14 50
				> 63 00 00 00 00  00 06 00 00 00
				< 81 00 00 00 00  00 06 01 00 00
				> 62 00 00 00 00  00 07 02 00 00
				< 80 04 00 00 00  00 07 00 00 00  3B 02 14 50
			`, do: func(t *testing.T, s *slot) {
				for range 2 {
					atr, err := s.PowerOn(ctx, reader.Cold)
					check(t, atr, err, atrT0, nil)
				}
			},
		},
		{
			name: "no card", cfg: TPDUReader(), script: hello + `
				> 62 00 00 00 00  00 01 00 00 00
				< 80 00 00 00 00  00 01 42 FE 00
				> 62 00 00 00 00  00 02 00 00 00
				< 80 00 00 00 00  00 02 41 F2 00          # busy with the activation on insertion
				> 62 00 00 00 00  00 03 00 00 00
				< 80 00 00 00 00  00 03 41 FE 00          # mute
			`, do: func(t *testing.T, s *slot) {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, nil, reader.ErrNoCard)
				atr, err = s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, nil, reader.ErrMute)
			},
		},
		{
			// CCID 1.1 §6.2: a time extension multiplies the time by bError.
			// §6.1: an answer with another bSeq or bSlot is not to this command.
			name: "time extension, stale answers, empty packets", cfg: TPDUReader(), script: hello + `
				> 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				< 80 00 00 00 00  00 01 80 01 00
				< 80 00 00 00 00  00 01 80 0A 00
				< 80 02 00 00 00  00 00 00 00 00  6F 00   # bSeq 00: to an earlier command
				< 80 02 00 00 00  07 01 00 00 00  6F 00   # there is no slot 7
				<                                          # zero-length packet
				< 80 03 00 00 00  00 01 00 00 00  00 90 00
				> 6F 05 00 00 00  00 02 04 00 00  00 84 00 00 01   # bBWI: the granted WTX
				< 80 03 00 00 00  00 02 00 00 00  00 90 00  FF FF  # bytes behind dwLength
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, []byte{0xAA})
				check(t, rx, err, unhex("AA 00 90 00"), nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01"), WTX: 4}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
			},
		},
		{
			// CCID 1.1 §5.3.1: a command that ends without an answer is aborted
			// by the control request and the bulk message with the same bSeq.
			name: "abort", cfg: TPDUReader(), script: hello + `
				> 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				--
				c 21 01 0200 0000
				> 72 00 00 00 00  00 02 00 00 00
				< 80 00 00 00 00  00 01 40 FF 00           # the command: aborted by the host
				< 81 00 00 00 00  00 02 00 00 00
				> 6F 05 00 00 00  00 03 00 00 00  00 84 00 00 01
				< 80 03 00 00 00  00 03 00 00 00  00 90 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrTimeout)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, unhex("00 90 00"), nil)
			},
		},
		{
			name: "abort, by a reader that knows none of it", cfg: TPDUReader(), script: hello + `
				> 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				--
				c 21 01 0200 0000: stall
				> 72 00 00 00 00  00 02 00 00 00
				< 81 00 00 00 00  00 02 40 00 00           # command not supported
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrTimeout)
			},
		},
		{
			name: "harder and harder", cfg: TPDUReader(), script: hello + `
				> 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				--
				c 21 01 0200 0000: silence
				> 72 00 00 00 00  00 02 00 00 00
				--
				clear 81
				clear 02
				> 65 00 00 00 00  00 03 00 00 00
				--
				reset
				> 65 00 00 00 00  00 04 00 00 00
				< 81 00 00 00 00  00 04 01 00 00
				> 62 00 00 00 00  00 05 00 00 00
				< 80 04 00 00 00  00 05 00 00 00  3B 02 14 50
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrTimeout)
				rx, err = s.PowerOn(ctx, reader.Cold)
				check(t, rx, err, atrT0, nil)
			},
		},
		{
			name: "dead", cfg: TPDUReader(), script: hello + `
				> 6F 05 00 00 00  00 01 00 00 00  00 84 00 00 01
				--
				c 21 01 0200 0000
				> 72 00 00 00 00  00 02 00 00 00
				--
				clear 81
				clear 02
				> 65 00 00 00 00  00 03 00 00 00
				--
				reset
				> 65 00 00 00 00  00 04 00 00 00
				--
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 01")}, nil)
				check(t, rx, err, nil, reader.ErrGone)
				<-s.ifd.Gone()
				_, err = s.Status(ctx)
				check(t, nil, err, nil, reader.ErrGone)
			},
		},
		{
			name: "stalls", cfg: TPDUReader(), script: hello + `
				> 6F 01 00 00 00  00 01 00 00 00  00
				< stall
				clear 81
				< 80 02 00 00 00  00 01 00 00 00  90 00    # the answer comes behind the halt
				> stall
				clear 02
				c 21 01 0300 0000
				> 72 00 00 00 00  00 03 00 00 00
				< 81 00 00 00 00  00 03 00 00 00
				> 6F 01 00 00 00  00 04 00 00 00  00
				< overflow
				c 21 01 0500 0000
				> 72 00 00 00 00  00 05 00 00 00
				< overflow
				< 81 00 00 00 00  00 05 00 00 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
				check(t, rx, err, unhex("90 00"), nil)
				for range 2 {
					rx, err = s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
					check(t, rx, err, nil, reader.ErrProtocol)
				}
			},
		},
		{
			// An answer whose length or type is wrong ends the command: no abort,
			// a GetSlotStatus brings both sides together.
			name: "wrong answers", cfg: TPDUReader(), script: hello + `
				> 6F 01 00 00 00  00 01 00 00 00  00
				< 80 03 00 00 00  00 01 00 00 00  90 00    # one byte is missing
				> 65 00 00 00 00  00 02 00 00 00
				< 00                                        # and comes too late
				< 81 00 00 00 00  00 02 00 00 00
				> 6F 01 00 00 00  00 03 00 00 00  00
				< 80 F0 FF FF FF  00 03 00 00 00  90 00
				> 65 00 00 00 00  00 04 00 00 00
				< 81 00 00 00 00  00 04 00 00 00
				> 6F 01 00 00 00  00 05 00 00 00  00
				< 82 02 00 00 00  00 05 00 00 00  90 00
				> 65 00 00 00 00  00 06 00 00 00
				< 81 00 00 00 00  00 06 00 00 00
				> 6F 01 00 00 00  00 07 00 00 00  00
				< 80 00 00
				> 65 00 00 00 00  00 08 00 00 00
				< 81 00 00 00 00  00 08 00 00 00
			`, do: func(t *testing.T, s *slot) {
				for range 4 {
					rx, err := s.Exchange(ctx, reader.Transfer{Out: []byte{0}}, nil)
					check(t, rx, err, nil, reader.ErrProtocol)
				}
			},
		},
		{
			// CCID 1.1 §6.1.7: SetParameters after the PPS; §6.1.14 where the rate
			// does not follow it. 3580000·16/512 = 111875 bit/s.
			name: "parameters", cfg: manual, script: hello + `
				> 62 00 00 00 00  00 01 01 00 00
				< 80 04 00 00 00  00 01 00 00 00  3F 02 14 50
				> 61 07 00 00 00  00 02 01 00 00  95 13 FF 45 03 FE 00   # T=1, CRC, inverse
				< 82 07 00 00 00  00 02 00 00 01  95 13 FF 45 03 FE 00
				> 73 08 00 00 00  00 03 00 00 00  FC 0D 00 00  03 B5 01 00
				< 84 08 00 00 00  00 03 00 00 00  FC 0D 00 00  FF B4 01 00
				> 61 05 00 00 00  00 04 00 00 00  11 02 00 0A 00         # T=0
				< 82 05 00 00 00  00 04 00 00 00  11 02 00 0A 00
				> 61 05 00 00 00  00 05 00 00 00  11 02 00 0A 00
				< 82 00 00 00 00  00 05 40 0D 00                         # "parameter at offset 13": let it be
				> 61 05 00 00 00  00 06 00 00 00  11 02 00 0A 00
				< 82 00 00 00 00  00 06 40 00 00                         # not supported
			`, do: func(t *testing.T, s *slot) {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, atrInverse, nil)
				err = s.SetParams(ctx, iso7816.Params{T: 1, TA1: 0x95, N: 0xFF, IFSC: 254, BWI: 4, CWI: 5, CRC: true, ClockStop: 3})
				check(t, nil, err, nil, nil)
				for _, want := range []error{nil, nil, reader.ErrUnsupported} {
					err = s.SetParams(ctx, iso7816.Params{T: 0, TA1: 0x11, WI: 10})
					check(t, nil, err, nil, want)
				}
				for ta1, ok := range map[byte]bool{0x11: true, 0x95: true, 0x18: true, 0x96: false, 0x97: false, 0x01: false, 0x71: false, 0x1F: false} {
					if s.Supports(ta1) != ok {
						t.Errorf("Supports(%02X) is %v", ta1, !ok)
					}
				}
			},
		},
		{
			name: "OpenPGP card", cfg: TPDUReader(), script: hello + `
				> 62 00 00 00 00  00 01 00 00 00
				< 80 14 00 00 00  00 01 00 00 00  3B FA 13 00 FF 81 31 80 45 00 31 C1 73 C0 01 00 00 90 00 B1
				> 61 07 00 00 00  00 02 01 00 00  13 10 FF 75 00 FE 00   # BWI 7, CWI 5 instead of 4, 5
				< 82 07 00 00 00  00 02 00 00 01  13 10 FF 75 00 FE 00
			`, do: func(t *testing.T, s *slot) {
				atr, err := s.PowerOn(ctx, reader.Cold)
				check(t, atr, err, openPGP2, nil)
				check(t, nil, s.SetParams(ctx, iso7816.Params{T: 1, TA1: 0x13, N: 0xFF, IFSC: 254, BWI: 4, CWI: 5}), nil, nil)
				if s.pace.wait < 12*time.Second {
					t.Error(s.pace)
				}
			},
		},
		{
			// CCID 1.1 §5.3.3; zeros at the end of the table are many readers'.
			name: "rates", cfg: rates, script: hello + `
				c A1 03 0000 0000: 98 25 00 00  04 B5 01 00  00 00 00 00
			`, do: func(t *testing.T, s *slot) {
				if !s.Supports(0x95) || s.Supports(0x94) {
					t.Error(s.rates)
				}
			},
		},
		{
			name: "no rates", cfg: rates, script: hello + `
				c A1 03 0000 0000: stall
			`, do: func(t *testing.T, s *slot) {
				if !s.Supports(0x95) || !s.Supports(0x94) {
					t.Error(s.rates)
				}
			},
		},
		{
			// CCID 1.1 §6.1.4: wLevelParameter and bChainParameter, parts of 5 bytes.
			name: "chaining", cfg: extended, script: hello + `
				> 6F 05 00 00 00  00 01 00 01 00  00 01 02 03 04
				< 80 00 00 00 00  00 01 00 00 10
				> 6F 05 00 00 00  00 02 00 03 00  05 06 07 08 09
				< 80 00 00 00 00  00 02 00 00 10
				> 6F 02 00 00 00  00 03 00 02 00  0A 0B
				< 80 05 00 00 00  00 03 00 00 01  01 02 03 04 05
				> 6F 00 00 00 00  00 04 00 10 00
				< 80 05 00 00 00  00 04 00 00 03  06 07 08 09 0A
				> 6F 00 00 00 00  00 05 00 10 00
				< 80 00 00 00 00  00 05 00 00 10             # not ready: asked again
				> 6F 00 00 00 00  00 06 00 10 00
				< 80 02 00 00 00  00 06 00 00 02  90 00
				> 6F 05 00 00 00  00 07 00 00 00  00 01 02 03 04
				< 80 02 00 00 00  00 07 00 00 00  90 00
				> 6F 05 00 00 00  00 08 00 01 00  00 01 02 03 04
				< 80 02 00 00 00  00 08 00 00 00  67 00      # does not take parts
				> 6F 01 00 00 00  00 09 00 00 00  00
				< 80 02 00 00 00  00 09 00 00 77  90 00      # undefined
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(12)}, nil)
				check(t, rx, err, unhex("01 02 03 04 05 06 07 08 09 0A 90 00"), nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(5)}, nil)
				check(t, rx, err, unhex("90 00"), nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(6)}, nil)
				check(t, rx, err, nil, reader.ErrProtocol)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(1)}, nil)
				check(t, rx, err, nil, reader.ErrProtocol)
			},
		},
		{
			// CCID 1.1 §6.1.4: at character level wLevelParameter is how many
			// characters are expected. The Oz776 loses messages of 64 bytes.
			name: "characters", cfg: chars, script: hello + `
				> 6F 05 00 00 00  00 01 00 01 00  00 84 00 00 36
				< 80 01 00 00 00  00 01 00 00 00  84
				> 6F 00 00 00 00  00 02 00 01 00
				< 80 01 00 00 00  00 02 00 00 00  00
				> 6F 00 00 00 00  00 03 00 35 00
				< 80 02 00 00 00  00 03 00 00 00  01 02       # the card sent no more
				> 6F 40 00 00 00  00 04 00 00 00  00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 28 29 2A 2B 2C 2D 2E 2F 30 31 32 33 34 35 36 37 38 39 3A 3B 3C 3D 3E 3F
				< 80 00 00 00 00  00 04 00 00 00
				> 6F 06 00 00 00  00 05 00 02 00  40 41 42 43 44 45
				< 80 02 00 00 00  00 05 00 00 00  90 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: unhex("00 84 00 00 36"), Want: 1}, nil)
				check(t, rx, err, []byte{0x84}, nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Want: 54}, nil)
				check(t, rx, err, []byte{0, 1, 2}, nil)
				rx, err = s.Exchange(ctx, reader.Transfer{Out: pattern(70), Want: 2}, nil)
				check(t, rx, err, unhex("90 00"), nil)
			},
		},
		{
			name: "eject and escape", cfg: mech, script: hello + `
				> 71 00 00 00 00  00 01 02 00 00
				< 81 00 00 00 00  00 01 02 00 00
				> 6B 02 00 00 00  00 02 00 00 00  1F 02
				< 83 01 00 00 00  00 02 02 00 00  77
				> 6B 01 00 00 00  00 03 00 00 00  99
				< 83 00 00 00 00  00 03 42 00 00
			`, do: func(t *testing.T, s *slot) {
				check(t, nil, s.Eject(ctx), nil, nil)
				rx, err := s.Escape(ctx, unhex("1F 02"))
				check(t, rx, err, []byte{0x77}, nil)
				rx, err = s.Escape(ctx, unhex("99"))
				check(t, rx, err, nil, reader.ErrUnsupported)
			},
		},
		{
			// dwMaxCCIDMessageLength 263 forgot the header: 261 bytes go out.
			name: "SCM's message length", cfg: scm, script: hello + `
				> 6F FE 00 00 00  00 01 00 00 00  ` + fmt.Sprintf("% X", pattern(254)) + `
				< 80 02 00 00 00  00 01 00 00 00  90 00
			`, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(254)}, nil)
				check(t, rx, err, unhex("90 00"), nil)
			},
		},
		{
			name: "too long", cfg: TPDUReader(), script: hello, do: func(t *testing.T, s *slot) {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(262)}, nil)
				check(t, rx, err, nil, reader.ErrUnsupported)
				check(t, nil, s.Eject(ctx), nil, reader.ErrUnsupported)
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := record(t, tt.cfg, tt.script).open(t)
				tt.do(t, r.slots[0].(*slot))
			})
		})
	}
}

// statusOnce asks after the first reset only: the tape has one status.
func statusOnce(t *testing.T, s *slot, how reader.Reset) (reader.Status, error) {
	if s.lane.seq != 1 {
		return reader.Powered, nil
	}
	return s.Status(ctx)
}

func check(t *testing.T, got []byte, err error, want []byte, wantErr error) {
	t.Helper()
	if !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		t.Errorf("error %v, want %v", err, wantErr)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
}

// The first contact is kept apart from what an earlier user left in the reader,
// and its failure is the failure of Open.
func TestFirstContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		record(t, TPDUReader(), `
			> 65 00 00 00 00  00 00 00 00 00
			< 80 02 00 00 00  00 17 00 00 00  90 00
			< 81 00 00 00 00  00 00 01 00 00
		`).open(t)
	})
	synctest.Test(t, func(t *testing.T) {
		tp := record(t, TPDUReader(), `
			> 65 00 00 00 00  00 00 00 00 00
			--
			c 21 01 0100 0000: silence
			> 72 00 00 00 00  00 01 00 00 00
			--
			clear 81
			clear 02
			> 65 00 00 00 00  00 02 00 00 00
			--
			reset
			> 65 00 00 00 00  00 03 00 00 00
			--
		`)
		_, err := Driver{}.Open(ctx, reader.Device{Link: tp})
		check(t, nil, err, nil, reader.ErrGone)
	})
}
