package ccid

import (
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// Every exchange level with every kind of card, through the core, which adds what the
// level leaves to the host (CCID 1.1 §3.2). The emulator answers only if the host has set
// the parameters that the card uses.
func TestLevels(t *testing.T) {
	auto := func(c emu.Config, f emu.Features) emu.Config {
		c.Features = f
		return c
	}
	rates := emu.TPDUReader()
	rates.Rates = []uint32{9624, 111870, 0, 0}
	small := emu.TPDUReader()
	small.MaxMessage = 64
	oz := emu.CharacterReader()
	oz.Vendor, oz.Product, oz.DescriptorLast = 0x0B97, 0x7772, true
	chars64 := emu.CharacterReader()
	chars64.MaxMessage = 138
	noIntr := emu.TPDUReader()
	noIntr.NoInterrupt = true
	fast := emu.ExtendedAPDUReader()
	fast.PacketSize = 512
	whole := emu.ExtendedAPDUReader()
	whole.MaxMessage = 65554
	tiny := emu.ExtendedAPDUReader()
	tiny.MaxMessage = 64 // Gnuk
	readers := []struct {
		name string
		cfg  emu.Config
	}{
		{"character", emu.CharacterReader()},
		{"character, O2Micro", oz},
		{"character, 138 byte messages", chars64},
		{"TPDU, manual", emu.TPDUReader()},
		{"TPDU, table of rates", rates},
		{"TPDU, rate set by the host", auto(emu.TPDUReader(), emu.AutoParamsATR|emu.AutoVoltage|emu.AutoClock)},
		{"TPDU, no automatism at all", auto(emu.TPDUReader(), 0)},
		{"TPDU, automatic PPS", auto(emu.TPDUReader(), emu.AutoParamsATR|emu.AutoVoltage|emu.AutoClock|emu.AutoBaud|emu.AutoPPS)},
		{"TPDU, automatic negotiation", auto(emu.TPDUReader(), emu.AutoVoltage|emu.AutoClock|emu.AutoBaud|emu.AutoNegotiate)},
		{"TPDU, automatic IFSD", auto(emu.TPDUReader(), emu.AutoParamsATR|emu.AutoVoltage|emu.AutoClock|emu.AutoBaud|emu.AutoPPS|emu.AutoIFSD)},
		{"TPDU, activation on insertion", auto(emu.TPDUReader(), emu.AutoParamsATR|emu.AutoActivate|emu.AutoClock|emu.AutoBaud)},
		{"TPDU, no interrupt endpoint", noIntr},
		{"TPDU, 64 byte messages", small},
		{"short APDU", emu.ShortAPDUReader()},
		{"short APDU, own negotiation", auto(emu.ShortAPDUReader(), emu.AutoNegotiate|emu.AutoVoltage|emu.AutoClock|emu.AutoBaud|emu.AutoIFSD)},
		{"short APDU, no automatism", auto(emu.ShortAPDUReader(), emu.AutoClock|emu.AutoBaud)},
		{"extended APDU", emu.ExtendedAPDUReader()},
		{"extended APDU, high speed", fast},
		{"extended APDU, one message", whole},
		{"extended APDU, 64 byte messages", tiny},
	}
	cards := []struct {
		name string
		atr  []byte
		t    int
	}{
		{"T=0", atrT0, 0},
		{"T=0 fast", atrT0Fast, 0},
		{"T=0 inverse", atrInverse, 0},
		{"T=1", atrT1, 1},
		{"T=1 IFSC 254", atrT1IFSC, 1},
		{"T=1 CRC", atrT1CRC, 1},
		{"T=1 fast", atrT1Fast, 1},
		{"both", atrBoth, 0},
		{"T=1 specific", atrSpecific, 1},
	}
	for _, r := range readers {
		for _, c := range cards {
			t.Run(r.name+"/"+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					card := &testCard{atr: c.atr}
					b := plug(t, r.cfg, card)
					s := b.session(0)
					if r.cfg.MaxMessage == 64 && r.cfg.Level == reader.TPDU && c.t == 0 {
						// Such a reader can pass on 49 bytes of data.
						transmit(t, s, unhex("00 84 00 00 20"), append(pattern(32), 0x90, 0))
						return
					}
					longest := 0
					switch {
					case r.cfg.Level == reader.ExtendedAPDU:
						longest = 65535
					case r.cfg.Level <= reader.TPDU && c.t == 1:
						longest = 1024 // in many blocks
					}
					exercise(t, s, longest)
				})
			})
		}
	}
}
