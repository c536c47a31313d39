package ccid

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/memcard"
)

// memoryReader is an emulated reader with a memory card in it.
func memoryReader(t *testing.T, cfg emu.Config, card string, params ...string) (*memorySlot, *icc.Memory) {
	t.Helper()
	e := newDevice(cfg)
	chip := icc.NewMemory(card)
	e.Contact(0).Insert(chip)
	return open(t, e, params...).slots[0].(*memorySlot), chip
}

// Every chip that these readers take, through all the layers: its ATR, its bytes, a write by pages, its PSC. The
// reader makes an ATR of H1 to H4 or finds the card mute; both are the same to programs.
func TestMemoryCards(t *testing.T) {
	for _, synthetic := range []bool{false, true} {
		for _, tt := range []struct {
			card, say, atr string
			psc            string
		}{
			{"sle4432", "", "A2 13 10 91", ""},
			{"sle4442", "", "A2 13 10 91", "FF FF FF"},
			{"sle4418", "", "92 23 10 91", ""},
			{"sle4428", "", "92 23 10 91", "FF FF"},
			{"at24c01", "memory=i2c:128", "82 0B 10 84", ""},
			{"at24c16", "memory=i2c:2048", "82 2B 10 84", ""},
			{"at24c32", "memory=i2c:4096", "82 33 10 84", ""},
			{"at24c512", "memory=i2c:65536", "82 53 10 84", ""},
		} {
			t.Run(fmt.Sprintf("%s %v", tt.card, synthetic), func(t *testing.T) {
				cfg := emu.MemoryReader()
				cfg.MemoryATR = synthetic
				m, chip := memoryReader(t, cfg, tt.card, tt.say)
				atr, err := m.PowerOn(ctx, reader.Cold)
				if err != nil || !bytes.Equal(atr, unhex(tt.atr)) || m.Traits().Level != reader.Synchronous {
					t.Fatalf("% X, %v, %+v", atr, err, m.Traits())
				}
				if status, err := m.Status(ctx); status != reader.Powered || err != nil {
					t.Errorf("status %v, %v", status, err)
				}
				for _, line := range chip.Log() {
					if strings.HasSuffix(line, "/0") {
						t.Errorf("written to find out what it is: %s", line)
					}
				}
				c, err := memcard.Open(ctx, m)
				if err != nil {
					t.Fatal(err)
				}
				if m.Chip().PSC != len(unhex(tt.psc)) {
					t.Errorf("%+v", m.Chip())
				}
				at := m.Chip().Size - 80
				if tt.psc != "" {
					chip.ClearLog()
					if _, err := c.Write(ctx, at, []byte{1}, 0); !errors.Is(err, reader.ErrNoPermission) {
						t.Errorf("write without the PSC: %v", err)
					}
					wrong := make([]byte, m.Chip().PSC)
					full, _, _ := c.PSC()
					if ok, err := c.Verify(ctx, wrong); ok || err != nil {
						t.Errorf("wrong PSC: %v, %v", ok, err)
					}
					if tries, _, _ := c.PSC(); tries != full-1 {
						t.Errorf("%d tries", tries)
					}
					if ok, err := c.Verify(ctx, unhex(tt.psc)); !ok || err != nil || !chip.Bits().Verified {
						t.Errorf("right PSC: %v, %v", ok, err)
					}
					if tries, _, _ := c.PSC(); tries != full {
						t.Errorf("%d tries", tries)
					}
				}
				data := make([]byte, 70)
				for i := range data {
					data[i] = byte(i)
				}
				if n, err := c.Write(ctx, at, data, 0); n != len(data) || err != nil || !bytes.Equal(chip.Contents()[at:at+len(data)], data) {
					t.Errorf("write: %d, %v", n, err)
				}
				got, err := c.Read(ctx, 0, m.Chip().Size, nil)
				if err != nil || len(got) != m.Chip().Size || !bytes.Equal(got[:at+70], chip.Contents()[:at+70]) {
					t.Errorf("read: %d bytes, %v", len(got), err)
				}
				if tt.psc != "" {
					fresh := unhex("41 42 43")[:m.Chip().PSC]
					if err := c.Change(ctx, fresh); err != nil || !bytes.Equal(chip.Bits().PSC, fresh) {
						t.Errorf("change: %v", err)
					}
				}
				if m.Chip().Protected > 0 {
					if n, err := c.Write(ctx, 2, []byte{0x10, 0}, 0); n != 1 || !errors.Is(err, reader.ErrReadOnly) {
						t.Errorf("a locked byte: %d, %v", n, err)
					}
				}
				// Power takes the verification; the card is the same then.
				if err := m.PowerOff(ctx); err != nil || m.Traits().Level == reader.Synchronous {
					t.Errorf("power off: %v", err)
				}
				if again, err := m.PowerOn(ctx, reader.Cold); err != nil || !bytes.Equal(again, atr) || chip.Bits().Verified {
					t.Errorf("again: % X, %v", again, err)
				}
				if again, err := m.PowerOn(ctx, reader.Warm); err != nil || !bytes.Equal(again, atr) {
					t.Errorf("warm: % X, %v", again, err)
				}
			})
		}
	}
}

// A card with a processor in the same reader, also one whose historical bytes look like H1 to
// H4; a card that nobody can read; and a card that is pulled meanwhile.
func TestOtherCards(t *testing.T) {
	for _, atr := range [][]byte{atrT1, atrT0, unhex("3B 04 A2 13 10 91")} {
		e := newDevice(emu.MemoryReader())
		e.Contact(0).Insert(&testCard{atr: atr})
		m := open(t, e).slots[0].(*memorySlot)
		got, err := m.PowerOn(ctx, reader.Cold)
		if err != nil || !bytes.Equal(got, atr) || m.Traits().Level != reader.TPDU {
			t.Errorf("% X: % X, %v", atr, got, err)
		}
	}
	m, chip := memoryReader(t, emu.MemoryReader(), "at24c32")
	if _, err := m.PowerOn(ctx, reader.Cold); !errors.Is(err, reader.ErrMute) {
		t.Errorf("an I2C card of unknown size: %v", err)
	}
	if slices.ContainsFunc(chip.Log(), func(line string) bool { return strings.HasPrefix(line, "A0") }) {
		t.Errorf("tried as an I2C card: %q", chip.Log())
	}
	if _, err := newMemorySlot(m.slot, reader.Device{Params: map[string]string{"memory": "i2c:3"}}); !errors.Is(err, reader.ErrInvalid) {
		t.Errorf("memory=i2c:3: %v", err)
	}
	d := newDevice(emu.MemoryReader())
	d.Contact(0).Insert(icc.NewMemory("sle4442"))
	m = open(t, d).slots[0].(*memorySlot)
	if _, err := m.PowerOn(ctx, reader.Cold); err != nil {
		t.Fatal(err)
	}
	d.Contact(0).Remove()
	if _, err := m.ReadMemory(ctx, 0, 4, nil); !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("pulled: %v", err)
	}
	if _, err := m.PowerOn(ctx, reader.Cold); !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("pulled: %v", err)
	}
	d.Unplug()
	if _, err := m.ReadMemory(ctx, 0, 4, nil); !errors.Is(err, reader.ErrGone) {
		t.Errorf("unplugged: %v", err)
	}
}

// Other readers have nothing of it.
func TestNoMemoryCards(t *testing.T) {
	for _, s := range open(t, newDevice(emu.TPDUReader())).slots {
		if _, ok := reader.As[reader.Memory](s); ok {
			t.Error("a reader of no known maker takes memory cards")
		}
	}
}
