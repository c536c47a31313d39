package smph

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/reader/readertest"
)

// babbler is whatever may be behind a port: it answers each reset, and each character that it is
// sent, with what comes next of a script: a count of characters, of which bit 7 says that their
// parity is wrong and bit 6 that they come late, and the characters. With echo it is the echo
// first.
type babbler struct {
	script []byte
	echo   bool
}

func (b *babbler) Serve(l *serialtest.Line) {
	l.SetMode(serial.Mode{})
	for {
		e, ok := l.Next()
		if !ok {
			return
		}
		if e.Kind == serialtest.Char && b.echo {
			l.Send(e.Char)
		}
		if len(b.script) == 0 {
			continue
		}
		head := b.script[0]
		n := min(int(head&0x3F), len(b.script)-1)
		say := b.script[1 : 1+n]
		b.script = b.script[1+n:]
		if head&0x40 != 0 {
			time.Sleep(700 * time.Millisecond)
		}
		if e.Kind == serialtest.LinesChange {
			l.SetLines(serial.CTS&serial.Lines(head), serial.CTS&^serial.Lines(head))
		}
		for _, c := range say {
			if head&0x80 != 0 {
				l.SendWrong(c)
			} else {
				l.Send(c)
			}
		}
	}
}

// Whatever comes, the driver neither panics nor hangs, and nothing is left of it.
func FuzzUse(f *testing.F) {
	f.Add([]byte("\x00\x00\x04\x3B\x02\x14\x50"), true, readertest.AllOps)
	f.Add([]byte("\x00\x00\x00\x8A\x03\x59\xFF\xFF\x7F\xBF\x3F\xDF\x5F\x5F"), true, readertest.AllOps)
	f.Add([]byte("\x00\x00\x07\x3B\x80\x81\x31\xFE\x45\x8B\x00\x00\x00\x00\x05\x00\xE1\x01\xFE\x1E"), true, readertest.AllOps)
	f.Add([]byte("\x00\x00\x22\x3B"+string(bytes.Repeat([]byte{0xFF}, 33))), false, readertest.AllOps)
	f.Add([]byte("\x00\x00\x03\x3B\x05\x11\x00\x03\x3B\x05\x11\x42\x61\x90"), true, readertest.AllOps)
	f.Fuzz(func(t *testing.T, script []byte, echo bool, ops []byte) {
		if len(script) > 2000 || len(ops) > 40 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			p := serialtest.Plug(&babbler{bytes.Clone(script), echo})
			defer p.Unplug()
			readertest.Use(t, Driver{}, device(p, ""), ops, func(_ *core.Manager, n byte) {
				if n&1 == 0 {
					p.Unplug()
				}
			})
		})
	})
}

// An ATR of any bytes is returned as it came, or refused with an error that the core knows, in the
// time that its characters may take.
func FuzzATR(f *testing.F) {
	f.Add([]byte{0x3B, 0x02, 0x14, 0x50}, false)
	f.Add([]byte{0x3F, 0x65, 0, 0, 1, 2, 3, 4, 5}, true)
	f.Add([]byte{0x3B, 0xF0, 0x11, 0x11, 0x11, 0x81, 0xF1, 0x11, 0x11, 0x11, 0x81}, false)
	f.Fuzz(func(t *testing.T, atr []byte, wrong bool) {
		if len(atr) > 60 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			raw, atr := bytes.Clone(atr), bytes.Clone(atr)
			if len(raw) > 0 && raw[0] == 0x3F {
				convert(raw)
			} else if len(raw) > 0 && raw[0] == 0x03 {
				convert(atr)
			}
			p := serialtest.Plug(serialtest.DeviceFunc(func(l *serialtest.Line) {
				l.SetMode(serial.Mode{})
				for {
					e, ok := l.Next()
					if !ok {
						return
					}
					for i := 0; e.Kind == serialtest.LinesChange && e.Lines == serial.DTR && i < len(raw); i++ {
						if wrong {
							l.SendWrong(raw[i])
						} else {
							l.Send(raw[i])
						}
					}
				}
			}))
			defer p.Unplug()
			s := open(t, p, "")
			start := time.Now()
			got, err := s.PowerOn(t.Context(), reader.Cold)
			if err != nil {
				got, err = s.PowerOn(t.Context(), reader.Cold)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			good := len(atr) > 0 && (atr[0] == 0x3B || atr[0] == 0x3F) && len(atr) <= iso7816.MaxATR && iso7816.ATRLength(atr) <= iso7816.MaxATR
			if good != (err == nil) || good && !bytes.Equal(got, atr) {
				t.Errorf("% X: % X, %v", atr, got, err)
			}
		})
	})
}
