package ccid

import (
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// Every exchange level with every kind of card, through the core: what the level
// leaves to the host the core adds (CCID 1.1 §3.2). The emulator answers only
// when the host set the parameters that the card uses.
func TestLevels(t *testing.T) {
	auto := func(c Config, f Features) Config {
		c.Features = f
		return c
	}
	rates := TPDUReader()
	rates.Rates = []uint32{9624, 111870, 0, 0}
	small := TPDUReader()
	small.MaxMessage = 64
	oz := CharacterReader()
	oz.Vendor, oz.Product, oz.DescriptorLast = 0x0B97, 0x7772, true
	chars64 := CharacterReader()
	chars64.MaxMessage = 138
	noIntr := TPDUReader()
	noIntr.NoInterrupt = true
	fast := ExtendedAPDUReader()
	fast.PacketSize = 512
	whole := ExtendedAPDUReader()
	whole.MaxMessage = 65554
	tiny := ExtendedAPDUReader()
	tiny.MaxMessage = 64 // Gnuk
	readers := []struct {
		name string
		cfg  Config
	}{
		{"character", CharacterReader()},
		{"character, O2Micro", oz},
		{"character, 138 byte messages", chars64},
		{"TPDU, manual", TPDUReader()},
		{"TPDU, table of rates", rates},
		{"TPDU, rate set by the host", auto(TPDUReader(), AutoParamsATR|AutoVoltage|AutoClock)},
		{"TPDU, no automatism at all", auto(TPDUReader(), 0)},
		{"TPDU, automatic PPS", auto(TPDUReader(), AutoParamsATR|AutoVoltage|AutoClock|AutoBaud|AutoPPS)},
		{"TPDU, automatic negotiation", auto(TPDUReader(), AutoVoltage|AutoClock|AutoBaud|AutoNegotiate)},
		{"TPDU, automatic IFSD", auto(TPDUReader(), AutoParamsATR|AutoVoltage|AutoClock|AutoBaud|AutoPPS|AutoIFSD)},
		{"TPDU, activation on insertion", auto(TPDUReader(), AutoParamsATR|AutoActivate|AutoClock|AutoBaud)},
		{"TPDU, no interrupt endpoint", noIntr},
		{"TPDU, 64 byte messages", small},
		{"short APDU", ShortAPDUReader()},
		{"short APDU, own negotiation", auto(ShortAPDUReader(), AutoNegotiate|AutoVoltage|AutoClock|AutoBaud|AutoIFSD)},
		{"short APDU, no automatism", auto(ShortAPDUReader(), AutoClock|AutoBaud)},
		{"extended APDU", ExtendedAPDUReader()},
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
						// 49 bytes of data are what such a reader can pass on.
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
