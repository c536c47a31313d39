package ccid

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// The emulator is right if a driver of other authors agrees: Debian's libccidtwin, under
// pcscd, at a pseudo-terminal. Then this driver does the same there.
func TestSerialLibccid(t *testing.T) {
	const library = "/usr/lib/pcsc/drivers/serial/libccidtwin.so"
	if _, err := os.Stat(library); err != nil {
		t.Skipf("no libccidtwin (apt-get install libccid): %v", err)
	}
	client := filepath.Join(t.TempDir(), "pcscsh")
	err := cc.Build(t.Context(), client, cc.Target{Sources: []string{"tests/ifd/testdata/pcscsh.c"}, Packages: []string{"libpcsclite"}})
	if err != nil {
		t.Fatal(err)
	}
	t0 := append(commonExchanges[:len(commonExchanges):len(commonExchanges)],
		exchange{"00 84 00 00 00", hexOf(pattern(256)) + " 90 00"})
	t1 := append(commonExchanges[:len(commonExchanges):len(commonExchanges)],
		exchange{"80 EE 00 00 04 01 02 03 04 00", "01 02 03 04 90 00"},
		exchange{"80 EE 00 00 FA " + hexOf(pattern(250)) + " 00", hexOf(pattern(250)) + " 90 00"},
		exchange{"00 84 00 00 00", hexOf(pattern(256)) + " 90 00"})
	for _, c := range []struct {
		name, model, device string
		make                func() *emu.Serial
		atr                 []byte
		protocol            string
		exchanges           []exchange
	}{
		{"Twin T=0", "twin", "", emu.NewTwin, atrT0, "T=0", t0},
		{"Twin T=0 fast", "twin", "", emu.NewTwin, atrT0Fast, "T=0", t0},
		{"Twin T=1", "twin", "", emu.NewTwin, atrT1, "T=1", t1},
		{"Twin T=1 fast", "twin", "", emu.NewTwin, atrT1Fast, "T=1", t1},
		{"GemCore POS Pro", "gemcore", ":GemCorePOSPro", func() *emu.Serial { return emu.NewGemCore(5) }, atrT1Fast, "T=1", t1},
		{"GemCore SIM Pro", "simpro", ":GemCoreSIMPro", func() *emu.Serial { return emu.NewGemCore(2) }, atrT0, "T=0", t0},
		{"GemCore SIM Pro 2", "simpro2", ":GemCoreSIMPro2", emu.NewSIMPro2, atrT0Fast, "T=0", t0},
		{"SEC1210", "sec1210", ":SEC1210", func() *emu.Serial { return emu.NewSEC1210(2) }, atrT1, "T=1", t1},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := c.make()
			e.Contact(0).Insert(&testCard{atr: c.atr})
			p := serialtest.Plug(e)
			defer p.Unplug()
			pty, err := serialtest.OpenPTY(p)
			if err != nil {
				t.Fatal(err)
			}
			defer pty.Close()
			// measure runs the exchanges, and says what they cost: the last one in bytes.
			measure := func(send func(tx string) string, who string) string {
				start := time.Now()
				var out, in, out2, in2 int
				for _, x := range c.exchanges {
					out, in = p.Sent()
					got := send(x.tx)
					out2, in2 = p.Sent()
					if got != x.rx {
						t.Errorf("%s: > %s\n< %s\nwant %s", who, brief(unhex(x.tx)), got, x.rx)
					}
				}
				return fmt.Sprintf("%d APDUs in %v, 256 bytes read with %d characters out, %d in", len(c.exchanges),
					time.Since(start).Round(time.Millisecond), out2-out, in2-in)
			}

			srv, err := pcscd.Start(t.Context(), t.TempDir(),
				fmt.Sprintf("FRIENDLYNAME %q\nDEVICENAME %s%s\nLIBPATH %s\n", "Twin", pty.Name, c.device, library), pcscd.Debug())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				srv.Kill()
				srv.Close()
				if t.Failed() {
					said := srv.Log()
					t.Logf("pcscd said:\n%s", said[:min(len(said), 6000)])
				}
			}()
			l := srv.Shell(t, client)
			defer l.Close()
			name := l.Reader()
			if got := l.Say("soon", name); got != "ok "+c.protocol {
				t.Fatalf("%s: connect: %s", name, got)
			}
			theirs := measure(l.Exchange, "libccid")
			if e.HasKeys() {
				pinWitness(t, l, e.Reader)
			}
			l.Say("disconnect", "unpower")
			l.Close()
			srv.Kill()

			dev, err := Driver{}.Attach(reader.Device{Driver: "ccid", Address: pty.Name, Params: map[string]string{"model": c.model}})
			if err != nil {
				t.Fatal(err)
			}
			m := core.NewManager(core.Options{Drivers: []reader.Driver{Driver{}}})
			defer m.Close(context.Background())
			if err := m.Announce(dev); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := (&bench{t: t, m: m}).session(0)
			ours := measure(func(tx string) string {
				got, err := s.Transmit(ctx, unhex(tx), nil)
				if err != nil {
					return err.Error()
				}
				return hexOf(got)
			}, "cardfs")
			t.Logf("%-14s libccidtwin: %s\n%14s cardfs:      %s", c.name, theirs, "", ours)
		})
	}
}
