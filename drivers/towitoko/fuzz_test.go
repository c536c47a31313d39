package towitoko

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/towitoko/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// No answer of a reader makes the driver panic, wait without an end, or accept characters
// that did not arrive.
func FuzzAnswers(f *testing.F) {
	f.Add(unhex("03 84 10 35 02 40 83 01 01 01 01 02 40 83 04 3B 02 14 50 01 A4 02 90 00"), false)
	f.Add(unhex("03 80 10 3D 02 C0 82 01 01 01 01 02 40 83 01 01 09 A2 13 10 91 FF FF FF FF E3 01 01 05 07 00 00 00 6F 02 40 83"), true)
	f.Fuzz(func(t *testing.T, in []byte, wrong bool) {
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(serial.Mode{Baud: 9600, Frame: serial.Frame8E2})
				for {
					if _, ok := l.Char(); !ok {
						return
					}
					for { // to all that comes at once
						if e, ok := l.NextWithin(10 * time.Millisecond); !ok {
							return
						} else if e.Kind == serialtest.Timeout {
							break
						}
					}
					if len(in) == 0 {
						continue
					}
					n := min(len(in)-1, int(in[0]))
					for _, c := range in[1 : 1+n] {
						if wrong {
							l.SendWrong(c)
						} else {
							l.Send(c)
						}
					}
					in = in[1+n:]
				}
			}))
			defer p.Unplug()
			r, err := Driver{}.Open(t.Context(), device(p, "memory=i2c:256"))
			if err != nil {
				return
			}
			defer r.Close()
			s := r.Slots()[0].(*slot)
			start := time.Now()
			s.Status(t.Context())
			atr, err := s.PowerOn(t.Context(), reader.Cold)
			if err == nil && (len(atr) < 2 || len(atr) > 33) {
				t.Errorf("ATR % X", atr)
			}
			for _, want := range []int{1, 3, 259} {
				rx, err := s.Exchange(t.Context(), reader.Transfer{Out: challenge, Want: want, Wait: time.Second, CharWait: time.Second}, nil)
				if len(rx) > want || err == nil && len(rx) == 0 {
					t.Errorf("%d bytes and %v, %d were asked for", len(rx), err, want)
				}
			}
			if got, err := s.ReadMemory(t.Context(), 0, 40, nil); err == nil && len(got) != 40 {
				t.Errorf("%d bytes", len(got))
			}
			s.WriteMemory(t.Context(), 0, []byte{1, 2, 3})
			s.VerifyPSC(t.Context(), []byte{1, 2, 3})
			s.PowerOff(t.Context())
			if took := time.Since(start); took > 10*time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// The emulated reader survives any commands.
func FuzzEmulator(f *testing.F) {
	f.Add(unhex("02 00 01 03 60 0F 9C 05 80 6F 00 05 76 09 6F 05 05 62 00 84 00 00 08"), byte(0))
	f.Add(unhex("03 60 0F 9C 05 70 80 62 0F 9B 02 17 2F 07 72 6E 20 38 03 0F BF 05 41 0F 10 0F 3D"), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, options byte) {
		for _, c := range []icc.Card{readertest.Plain, readertest.Block, icc.NewMemory("sle4442"), icc.NewMemory("at24c32")} {
			in := in
			synctest.Test(t, func(t *testing.T) {
				e := newReader(t, emu.Options{Drops: options&1 != 0, Bare: options&2 != 0, Type: options &^ 3, AnyLine: options&4 != 0}, c)
				e.Contact.SetFaults(icc.Faults{Slow: 20 * time.Millisecond})
				p := serialtest.Plug(e)
				defer p.Unplug()
				port, err := p.OpenSerial(t.Context(), slow)
				if err != nil {
					t.Fatal(err)
				}
				defer port.Close()
				for len(in) > 0 {
					n := min(len(in)-1, int(in[0]))
					port.Write(t.Context(), in[1:1+n])
					in = in[1+n:]
					var b [64]byte
					port.Read(t.Context(), b[:], 10*time.Millisecond)
				}
			})
		}
	})
}

// What programs do with a reader that is pulled and fails, in any order.
func FuzzUse(f *testing.F) {
	f.Add(readertest.AllOps)
	f.Add([]byte{11, 1, 2, 0, 12, 1, 2, 24, 2, 36, 1, 2, 48, 11, 1, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 40 {
			t.Skip()
		}
		synctest.Test(t, func(t *testing.T) {
			e := newReader(t, emu.Options{}, mirror)
			p := serialtest.Plug(e)
			defer func() { p.Unplug() }()
			readertest.Use(t, Driver{}, device(p), ops, func(m *core.Manager, n byte) {
				switch n % 5 {
				case 0:
					p.Unplug()
					p = serialtest.Plug(e)
					m.Announce(device(p))
				case 1:
					e.Contact.Remove()
				case 2:
					e.Contact.Insert(readertest.Plain)
				case 3:
					e.Contact.Insert(numbered("sle4442"))
				case 4:
					out, in := p.Sent()
					fault := serialtest.Menu(n&64 != 0, out)[int(n/5)%6]
					if fault.ToHost {
						fault.At = in
					}
					p.Inject(fault)
				}
			})
		})
	})
}
