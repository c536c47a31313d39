package usb

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	ikeyemu "github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/hex"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// starcos is the card of drivers/ikey's sessions.
type starcos struct{}

const starcosATR = "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"

func (starcos) ATR() []byte { return hex.Bytes(starcosATR) }
func (starcos) Reset(bool)  {}
func (starcos) Process(c []byte) []byte {
	switch fmt.Sprintf("%X", c) {
	case "00A40000023F00":
		return hex.Bytes("90 00")
	case "0084000008":
		return hex.Bytes("11 12 13 14 15 16 17 18 90 00")
	}
	return hex.Bytes("6D 00")
}

// datakey is the same card with the ATR of a Datakey 330.
type datakey struct{ starcos }

const datakeyATR = "3B FF 11 00 00 81 31 FE 4D 80 25 A0 00 00 00 56 57 44 4B 33 33 30 06 00 D0"

func (datakey) ATR() []byte { return hex.Bytes(datakeyATR) }

// The emulated iKeys as USB devices: ATR, APDUs, unplugging and replugging through the
// mounted files. The bytes on the wire are those that OpenCT 0.6.20 was observed to send.
func TestGuestIKey(t *testing.T) {
	machine.NeedGuest(t)
	for _, x := range []struct {
		token *ikeyemu.Token
		card  icc.Card
		file  string
	}{
		{ikeyemu.New3000("0123"), starcos{}, "ikey3000.txt"},
		{ikeyemu.New2032("0123"), datakey{}, "ikey2032.txt"},
	} {
		t.Run(x.file, func(t *testing.T) {
			if err := x.token.Contact.Insert(x.card); err != nil {
				t.Fatal(err)
			}
			guestIKey(t, x.token, hex.Spaced(x.card.ATR()), wireSession(t, x.file))
		})
	}
}

func guestIKey(t *testing.T, token *ikeyemu.Token, atr string, session usbtest.Session) {
	d := mount(t, nil)
	next := d.follow()
	for round := range 3 {
		log := new(usbtest.Log)
		token.Observe(log.Add)
		port, err := usbip.Plug(token.Plug(), usbip.Low)
		if err != nil {
			t.Fatal(err)
		}
		defer port.Unplug()
		if w := next("arrived"); w[1] != "0" {
			t.Errorf("round %d: %q", round, w)
		}
		if got := d.text("0/atr"); got != atr {
			t.Errorf("round %d: ATR %s", round, got)
		}
		c, err := openChannel(d.Path("0/apdu"))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct{ tx, rx string }{
			{"00A40000 02 3F00", "90 00"},
			{"00840000 08", "11 12 13 14 15 16 17 18 90 00"},
		} {
			if got, err := c.send(x.tx); err != nil || got != x.rx {
				t.Errorf("round %d: %s: %s, %v; want %s", round, x.tx, got, err, x.rx)
			}
		}
		compare(t, log.Session(), session)
		if round == 0 {
			t.Logf("status:\n%s\ntransfers:\n%v", d.text("0/status"), log.Session())
			t.Logf("by-id: %s", strings.TrimSpace(run(t, nil, "ls", d.Path("by-id"))))
			before := len(log.Session())
			// The card sends a damaged block, and the host asks for it again.
			token.Contact.SetFaults(icc.Faults{Every: 3, Seed: 1})
			for range 4 {
				if got, err := c.send("00840000 08"); err != nil || got != "11 12 13 14 15 16 17 18 90 00" {
					t.Errorf("with damaged blocks: %s, %v", got, err)
				}
			}
			token.Contact.SetFaults(icc.Faults{})
			t.Logf("with every third block damaged:\n%v", log.Session()[before:])
		}
		if err := port.Unplug(); err != nil {
			t.Error(err)
		}
		next("left")
		if _, err := c.send("00840000 08"); !isGone(err) {
			t.Errorf("round %d: after unplugging: %v, want ENODEV", round, err)
		}
		c.close()
	}
}

// wireSession returns the transfers of a session of drivers/ikey up to the second command.
// The rest of the session only shows the forms of the other blocks.
func wireSession(t *testing.T, file string) (session usbtest.Session) {
	t.Helper()
	all, err := usbtest.Load(onHost(filepath.Join(cc.Root(), "drivers/ikey/testdata", file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Kind == usbtest.Step && l.Name == "other blocks" {
			return session
		}
		if l.Kind == usbtest.Transfer {
			l.Timeout = 0 // the host enforces the time, not the bus
			session = append(session, l)
		}
	}
	t.Fatalf("%s has no other blocks", file)
	return nil
}

// compare checks that the session's transfers are in log in their order. Between power-up
// and commands the host may negotiate an IFSD, even more than once.
func compare(t *testing.T, log, session usbtest.Session) {
	t.Helper()
	i, transfers, extra := 0, 0, 0
	for _, l := range log {
		if l.Kind != usbtest.Transfer {
			continue
		}
		transfers++
		l.Timeout = 0
		switch ifs := l.Setup.Request == 0x17 && l.Setup.Value == 0xC100 || l.In && len(l.Data) > 2 && l.Data[1] == 0xE1; {
		case i < len(session) && session[i].Same(&l):
			i++
		case ifs:
			extra++
		default:
			t.Errorf("a transfer that the session does not have: %v", l)
		}
	}
	if i < len(session) {
		t.Errorf("transfer %d of the session never came: %v\nthe wire had\n%v", i+1, session[i], log)
	}
	t.Logf("%d transfers, %d of them the session's, %d to agree on the IFSD", transfers, i, extra)
}
