package ccid

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// A message parses to what it was built from. Any other bytes are an error or a message
// no longer than they are.
func FuzzMessage(f *testing.F) {
	f.Add(unhex("80 02 00 00 00  00 01 00 00 00  90 00"))
	f.Add(unhex("81 00 00 00 00  00 07 42 FE 00"))
	f.Add(unhex("80 F0 FF FF FF  00 03 00 00 00  90 00"))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b)
		if err != nil {
			if len(b) >= headerLen {
				t.Errorf("% X: %v", b, err)
			}
			return
		}
		if len(a.data) > len(b)-headerLen {
			t.Errorf("%d bytes of data in %d", len(a.data), len(b))
		}
		if a.err == nil {
			again := appendCommand(nil, command{a.kind, [3]byte{a.status, a.code, a.param}}, a.slot, a.seq, a.data)
			if string(again) != string(b[:len(again)]) {
				t.Errorf("% X became % X", b, again)
			}
		}
		e := &Error{Command: a.kind, Status: a.status, Code: a.code, Hardware: a.param}
		if e.Error() == "" || e.Unwrap() == nil {
			t.Error("an error without words or kind")
		}
	})
}

func FuzzInterrupt(f *testing.F) {
	for _, s := range []string{"50 03", "50 FF FF", "51 00 01 01", "51 FF 00 00", "40 01", ""} {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, slots := range []int{1, 5, 256} {
			r := &ifd{log: discard, ctx: context.Background(), gone: make(chan struct{})}
			fn := &function{ifd: r}
			fn.pipe = newPipe(r, nil, &Interface{Descriptor: Descriptor{MaxSlotIndex: uint8(slots - 1), MaxBusySlots: 1, MaxMessage: 271}})
			for n := range slots {
				fn.notifies = append(fn.notifies, make(chan struct{}, 1))
				fn.own = append(fn.own, &slot{function: fn, lane: fn.pipe.lanes[n]})
			}
			fn.interrupt(b)
		}
	})
}

// chaos is a reader with fuzzed answers. The first byte of each piece is its length; the
// bytes behind it replace the header fields of the right answer.
type chaos struct {
	data []byte
	last []byte // last message of the host
	desc []byte
	gone chan struct{}
}

func (c *chaos) take(n int) []byte {
	n = min(n, len(c.data))
	b := c.data[:n]
	c.data = c.data[n:]
	return b
}

func (c *chaos) Out(_ context.Context, _ uint8, p []byte, _ bool, _ time.Duration) (int, error) {
	c.last = append(c.last[:0], p...)
	return len(p), nil
}

func (c *chaos) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	kind := c.take(1)
	if len(kind) == 0 || ep != 0x81 {
		if timeout == 0 {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return 0, sleepFor(ctx, timeout)
	}
	switch k := kind[0]; {
	case k == 0xFF:
		return 0, usb.ErrStall
	case k == 0xFE:
		return 0, usb.ErrOverflow
	case k == 0xFD:
		return 0, sleepFor(ctx, timeout)
	case k >= 0x80: // a message with the right header, except for what the piece changes
		body := c.take(int(k) - 0x80)
		msg := []byte{0x80, byte(len(body)), 0, 0, 0, c.last[5], c.last[6], 0, 0, 0}
		switch c.last[0] {
		case cmdSlotStatus, cmdPowerOff, cmdAbort:
			msg[0] = 0x81
		case cmdSetParameters, cmdGetParameters:
			msg[0] = 0x82
		}
		if how := c.take(3); len(how) == 3 {
			msg[7], msg[8], msg[9] = how[0], how[1], how[2]
		}
		return copy(p, append(msg, body...)), nil
	default:
		return copy(p, c.take(int(k))), nil
	}
}

func sleepFor(ctx context.Context, d time.Duration) error {
	if err := sleep(ctx, d); err != nil {
		return err
	}
	return usb.ErrTimeout
}

func (c *chaos) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if s.In() {
		return copy(data, c.take(int(len(data)))), nil
	}
	return len(data), nil
}
func (c *chaos) ClearHalt(context.Context, uint8) error           { return nil }
func (c *chaos) Reset(context.Context) error                      { return nil }
func (c *chaos) Descriptors() []byte                              { return c.desc }
func (c *chaos) String(uint8) string                              { return "" }
func (c *chaos) Gone() <-chan struct{}                            { return c.gone }
func (c *chaos) Close() error                                     { return nil }
func (c *chaos) OpenUSB(context.Context, uint8) (usb.Conn, error) { return c, nil }

// Whatever a reader answers, every call ends, and errors are those of package reader.
func FuzzReader(f *testing.F) {
	for level := range byte(6) {
		f.Add(level, unhex("80 00 00 00  84 3B 02 14 50 00 00 00  85 11 00 00 0A 00 00 00 00  82 90 00 00 00 00"))
		f.Add(level, unhex("80 00 00 00  84 3B 02 14 50 00 00 00  80 80 FF 00  80 80 00 00  FD FF FE 03 01 02 03"))
		f.Add(level, unhex("80 00 00 00  84 3B 02 14 50 00 00 00  82 90 00 00 00 01  80 00 00 10  80 00 00 10"))
	}
	f.Fuzz(func(t *testing.T, level byte, data []byte) {
		if len(data) > 1000 {
			return
		}
		cfgs := []emu.Config{emu.CharacterReader(), emu.TPDUReader(), emu.ShortAPDUReader(), emu.ExtendedAPDUReader(), emu.ICCDA(), emu.ICCDB()}
		cfg := cfgs[int(level)%len(cfgs)]
		cfg.NoInterrupt, cfg.PINPad = true, true
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			c := &chaos{data: data, last: make([]byte, 10), desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}
			r, err := Driver{}.Open(context.Background(), reader.Device{Link: c})
			if err != nil {
				kind(t, err)
				return
			}
			defer r.Close()
			s := r.Slots()[0]
			_, err = s.Status(ctx)
			kind(t, err)
			_, err = s.PowerOn(ctx, reader.Cold)
			kind(t, err)
			if p, ok := s.(reader.ParamSetter); ok {
				kind(t, p.SetParams(ctx, iso7816.DefaultParams(1)))
			}
			if p, ok := s.(reader.ProtocolSelector); ok {
				_, err = p.SelectProtocol(ctx, iso7816.DefaultParams(0))
				kind(t, err)
			}
			for _, n := range []int{5, 300} {
				rx, err := s.Exchange(ctx, reader.Transfer{Out: pattern(n), Want: 3}, nil)
				kind(t, err)
				if len(rx) > maxResponse+70000 {
					t.Errorf("%d bytes", len(rx))
				}
			}
			if p, ok := s.(reader.PINPad); ok {
				_, err = p.VerifyPIN(ctx, &reader.PINVerify{PINFormat: format2()}, nil)
				kind(t, err)
			}
			kind(t, s.PowerOff(ctx))
			if took := time.Since(start); took > 12*exchangeLimit {
				t.Errorf("it took %v", took)
			}
		})
	})
}

func kind(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, k := range []error{reader.ErrGone, reader.ErrNoCard, reader.ErrMute, reader.ErrStale, reader.ErrTimeout, reader.ErrProtocol, reader.ErrUnsupported, reader.ErrInvalid} {
		if errors.Is(err, k) {
			return
		}
	}
	t.Errorf("an error of no kind: %v", err)
}

// deaf is a card that accepts anything.
type deaf struct{}

func (deaf) ATR() []byte           { return atrT0 }
func (deaf) Reset(bool)            {}
func (deaf) Process([]byte) []byte { return []byte{0x6D, 0x00} }

// Whatever a host sends, the emulated reader stays consistent.
func FuzzEmulator(f *testing.F) {
	for kind := range byte(6) {
		f.Add(kind, unhex("0A 62 00 00 00 00 00 01 00 00 00  0F 6F 05 00 00 00 00 02 00 00 00 00 84 00 00 01"))
		f.Add(kind, unhex("0A 62 00 00 00 00 00 01 00 00 00  26 69 1C 00 00 00 00 01 00 00 00 00 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 00 20 00 01 08 20 FF FF FF FF FF FF FF"))
		f.Add(kind, unhex("FF A1 62 00 00  FF 21 65 00 00  FF A1 6F 00 00  FF A1 A0 00 00  FF 21 01 05 00 0A 72 00 00 00 00 00 05 00 00 00"))
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		cfgs := []emu.Config{emu.CharacterReader(), emu.TPDUReader(), emu.PINPadReader(), emu.ExtendedAPDUReader(), emu.ICCDA(), emu.ICCDB()}
		synctest.Test(t, func(t *testing.T) {
			e := newDevice(cfgs[int(kind)%len(cfgs)])
			defer e.Unplug()
			e.Contact(0).Insert(deaf{})
			e.Press(0, "1234\r1234\r1234\r")
			buf := make([]byte, 512)
			for len(data) > 0 {
				n := int(data[0])
				data = data[1:]
				if n == 0xFF && len(data) >= 4 {
					e.port.Control(ctx, usb.Setup{RequestType: data[0], Request: data[1], Value: uint16(data[2]) | uint16(data[3])<<8}, buf[:5], time.Second)
					data = data[4:]
					continue
				}
				n = min(n, len(data))
				e.port.Out(ctx, 0x02, data[:n], false, time.Second)
				data = data[n:]
				for range 3 {
					n, err := e.port.In(ctx, 0x81, buf, 10*time.Millisecond)
					if err == nil && n < headerLen && n > 0 {
						t.Errorf("% X is no message", buf[:n])
					}
				}
			}
		})
	})
}

func FuzzParsePIN(f *testing.F) {
	f.Add(unhex("1E 1E 89 47 04 08 04 02 01 09 04 00 00 00 00 0D 00 00 00 00 20 00 01 08 20 FF FF FF FF FF FF FF"))
	f.Add(unhex("1E 1E 89 47 04 00 08 04 08 03 02 03 04 09 00 01 02 00 00 00 00 00 00 05 00 24 00 01 10"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := reader.ParsePINVerify(b); err == nil && len(v.APDU) != len(b)-19 {
			t.Error(len(v.APDU))
		}
		if m, err := reader.ParsePINModify(b); err == nil && len(m.APDU) != len(b)-24 {
			t.Error(len(m.APDU))
		}
	})
}
