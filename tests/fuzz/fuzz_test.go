// Package fuzz feeds fuzzed descriptors, answers and notifications to whole readers, through
// the core. Nothing that a device sends may end the daemon, keep it from ending, or leave a
// goroutine behind.
package fuzz

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/drivers/ikey"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
	"github.com/cardfs/cardfs/tests/internal/hex"
)

// script is what a device sends: pieces, each with its length in the first byte.
type script struct {
	mu   sync.Mutex
	data []byte
}

func (s *script) take(n int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.data))
	b := s.data[:n]
	s.data = s.data[n:]
	return b
}

// device is a USB device that answers by its scripts, and then not at all.
type device struct {
	desc             []byte
	answers, notices script
	gone, closed     chan struct{}
	leave, close     sync.Once

	mu   sync.Mutex
	last [10]byte // header of the host's last message
}

func (d *device) OpenUSB(context.Context, uint8) (usb.Conn, error) { return d, nil }
func (d *device) Descriptors() []byte                              { return d.desc }
func (d *device) String(uint8) string                              { return "made up" }
func (d *device) Gone() <-chan struct{}                            { return d.gone }
func (d *device) ClearHalt(context.Context, uint8) error           { return nil }
func (d *device) Reset(context.Context) error                      { return nil }
func (d *device) unplug()                                          { d.leave.Do(func() { close(d.gone) }) }

func (d *device) Close() error {
	d.close.Do(func() { close(d.closed) })
	return nil
}

// silence is the result of a transfer without an answer.
func (d *device) silence(ctx context.Context, timeout time.Duration) error {
	var over <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
		return usb.ErrTimeout
	case <-ctx.Done():
		return ctx.Err()
	case <-d.gone:
		return reader.ErrGone
	case <-d.closed:
		return reader.ErrGone
	}
}

func (d *device) Out(ctx context.Context, _ uint8, p []byte, _ bool, _ time.Duration) (int, error) {
	d.mu.Lock()
	copy(d.last[:], p)
	d.mu.Unlock()
	return len(p), ctx.Err()
}

func (d *device) In(ctx context.Context, ep uint8, p []byte, timeout time.Duration) (int, error) {
	from := &d.answers
	if timeout == 0 {
		from = &d.notices
	}
	kind := from.take(1)
	if len(kind) == 0 {
		return 0, d.silence(ctx, timeout)
	}
	switch k := kind[0]; {
	case k == 0xFF:
		return 0, usb.ErrStall
	case k == 0xFE:
		return 0, usb.ErrOverflow
	case k == 0xFD:
		return 0, usb.ErrReset
	case k == 0xFC && timeout > 0:
		return 0, d.silence(ctx, timeout)
	case k == 0xFB:
		d.unplug()
		return 0, reader.ErrGone
	case k >= 0x80: // an answer whose header fits, but for its last three bytes
		body := from.take(int(k) - 0x80)
		d.mu.Lock()
		message := []byte{0x80, byte(len(body)), 0, 0, 0, d.last[5], d.last[6], 0, 0, 0}
		switch d.last[0] {
		case 0x63, 0x65, 0x72, 0x6E, 0x71, 0x6A: // answered by slot status
			message[0] = 0x81
		case 0x61, 0x6C, 0x6D: // by parameters
			message[0] = 0x82
		case 0x6B:
			message[0] = 0x83
		case 0x73:
			message[0] = 0x84
		}
		d.mu.Unlock()
		copy(message[7:], from.take(3))
		return copy(p, append(message, body...)), nil
	default:
		return copy(p, from.take(int(k))), nil
	}
}

func (d *device) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if !s.In() {
		return len(data), ctx.Err()
	}
	kind := d.answers.take(1)
	switch {
	case len(kind) == 0, kind[0] == 0xFC:
		return 0, d.silence(ctx, max(timeout, time.Second))
	case kind[0] == 0xFF:
		return 0, usb.ErrStall
	}
	return copy(data, d.answers.take(int(kind[0]&0x7F))), nil
}

// patch puts pairs of place and byte into a copy of desc: most of a descriptor has to be
// right before the rest is examined. If the first byte is FF, the rest is the descriptor.
func patch(desc, how []byte) []byte {
	if len(how) > 0 && how[0] == 0xFF {
		return how[1:]
	}
	desc = append([]byte{}, desc...)
	for ; len(how) >= 2; how = how[2:] {
		if at := int(how[0]); at < len(desc) {
			desc[at] = how[1]
		}
	}
	return desc
}

// FuzzCCID is a reader that lies about itself and then answers anything.
func FuzzCCID(f *testing.F) {
	configs := []emu.Config{emu.CharacterReader(), emu.TPDUReader(), emu.ShortAPDUReader(), emu.ExtendedAPDUReader(),
		emu.PINPadReader(), emu.TwoSlotReader(), emu.ICCDA(), emu.ICCDB()}
	for kind := range byte(len(configs)) {
		f.Add(kind, []byte{}, hex.Bytes("80 00 00 00  84 3B 02 14 50 00 00 00  85 11 00 00 0A 00 00 00 00  82 90 00 00 00 00"), []byte{2, 0x50, 3}, readertest.AllOps)
		f.Add(kind, []byte{54, 0xFF, 55, 0xFF}, hex.Bytes("80 00 00 00  80 00 00 00  84 3B 80 81 01 00 00 00  87 11 10 00 4D 00 FE 00 00 00 00  FC FF FE 03 01 02 03"), []byte{0xFF, 0xFD, 3, 0x51, 0, 0}, readertest.AllOps)
		f.Add(kind, []byte{0xFF, 18, 1, 0, 2, 0, 0, 0, 8}, []byte{}, []byte{}, readertest.AllOps)
	}
	f.Fuzz(func(t *testing.T, kind byte, how, answers, notices, ops []byte) {
		if len(answers) > 2000 || len(ops) > 40 || len(notices) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			d := &device{
				desc:    patch(emu.New(configs[int(kind)%len(configs)]).Descriptors(), how),
				answers: script{data: answers}, notices: script{data: notices},
				gone: make(chan struct{}), closed: make(chan struct{}),
			}
			readertest.Use(t, ccid.Driver{}, reader.Device{Driver: "ccid", Address: "a", Link: d}, ops, func(*core.Manager, byte) { d.unplug() })
		})
	})
}

// FuzzIKey3000 is the same for the token's driver.
func FuzzIKey3000(f *testing.F) {
	desc := hex.Bytes("12 01 10 01 00 00 00 08 B9 04 00 13 00 01 00 00 00 01  09 02 12 00 01 01 00 80 32  09 04 00 00 00 FF 00 00 00")
	f.Add([]byte{}, hex.Bytes("0D 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D  01 00  11 10 3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1  04 FF 11 11 FF  05 00 E1 01 FE 1E  06 00 00 02 90 00 92"), readertest.AllOps)
	f.Fuzz(func(t *testing.T, how, answers, ops []byte) {
		if len(answers) > 2000 || len(ops) > 40 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			d := &device{desc: patch(desc, how), answers: script{data: answers}, gone: make(chan struct{}), closed: make(chan struct{})}
			readertest.Use(t, ikey.IKey3000, reader.Device{Driver: "ikey3k", Address: "a", Link: d}, ops, func(*core.Manager, byte) { d.unplug() })
		})
	})
}

// The things a person may do to a simulated reader, by the op that does them.
var simCommands = []string{"unplug", "plug", "remove", "insert", "insert t0", "insert token", "mute", "slow 300ms", "slow 3h",
	"noisy 1/2", "normal", "keys 1234", "keys cancel", "unplug"}

// FuzzSim exercises every simulated reader with random actions.
func FuzzSim(f *testing.F) {
	models := sim.Devices()
	for model := range byte(len(models)) {
		f.Add(model, readertest.AllOps)
		// A command, and a random action during it.
		for n := range byte(len(simCommands)) {
			f.Add(model, []byte{1, 2, 12 * 7, 3, 12 * n, 2, 7, 6, 9, 12 * 1, 12 * 3, 12 * 10, 1, 2})
		}
	}
	f.Fuzz(func(t *testing.T, model byte, ops []byte) {
		if len(ops) > 40 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			d := sim.New()
			dev, err := d.Attach(reader.Device{Driver: "sim", Address: models[int(model)%len(models)]})
			if err != nil {
				t.Fatal(err)
			}
			readertest.Use(t, d, dev, ops, func(m *core.Manager, n byte) {
				fs.Ctl(m, "sim 0 "+simCommands[int(n)%len(simCommands)])
			})
		})
	})
}
