package ifd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

// TestTwoSlots: one entry of reader.conf makes two readers. Each slot has its own card,
// which is removed and inserted independently.
func TestTwoSlots(t *testing.T) {
	m := mount(t, "--sim", "twoslot")
	c := newClient(t, newPcscd(t, conf("R0", "cardfs:"+m.Dir+"/0")))
	c.want("ok R0 00 00|R0 00 01", "list")
	second := newClientLike(c)
	c.want("ok T=1", "soon", "R0 00 00")
	second.want("ok T=0", "soon", "R0 00 01")
	for range 3 {
		c.tell("send", selectMF)
		second.tell("send", selectMF)
		for _, got := range []string{c.answer(), second.answer()} {
			if got != "ok 9000" {
				t.Error(got)
			}
		}
	}
	m.Ctl("sim 1 remove")
	second.want("ok", "await", "R0 00 01", "empty")
	c.want("ok 9000", "send", selectMF)
	m.Ctl("sim 1 insert")
	second.want("ok 9000", "work", "R0 00 01", selectMF)
	c.want("ok 9000", "send", selectMF)
	// Both leave and return.
	m.Ctl("sim 0 unplug")
	c.want("ok", "await", "R0 00 00", "empty")
	second.want("ok", "await", "R0 00 01", "empty")
	m.Ctl("sim 0 plug")
	c.want("ok 9000", "work", "R0 00 00", selectMF)
	second.want("ok 9000", "work", "R0 00 01", selectMF)
}

// TestSecondSlotAlone: the name of a later slot makes a reader of one slot. A reader that is
// absent at the start has two slots if its name says so.
func TestSecondSlotAlone(t *testing.T) {
	m := newMount(t, "--sim", "twoslot")
	c := newClient(t, newPcscd(t, conf("Two", "cardfs:slots=2:"+m.Dir+"/0")+conf("Second", "cardfs:"+m.Dir+"/1")))
	c.want("ok Two 00 00|Two 00 01|Second 01 00", "list")
	m.Start()
	for _, reader := range []string{"Two 00 00", "Two 00 01", "Second 01 00"} {
		c.want("ok 9000", "work", reader, selectMF)
		c.want("ok", "disconnect", "leave")
	}
}

// The control codes of PC/SC part 10 on Linux: tag, length 4, code.
func features(t *testing.T, c *pcsc) map[string]string {
	t.Helper()
	list, ok := strings.CutPrefix(c.say("control", "42000D48"), "ok ")
	if !ok || len(list)%12 != 0 {
		t.Fatalf("features: %q", list)
	}
	codes := make(map[string]string)
	for ; list != ""; list = list[12:] {
		if list[2:4] != "04" {
			t.Fatalf("a feature with a length of %s", list[2:4])
		}
		codes[list[:2]] = list[4:12]
	}
	return codes
}

func TestPINPad(t *testing.T) {
	m, c := up(t, "pinpad", "t1")
	c.want("ok T=1", "soon", name(0))
	codes := features(t, c)
	for _, tag := range []string{"06", "07", "12"} { // VERIFY, MODIFY, TLV properties
		if codes[tag] == "" {
			t.Fatalf("no feature %s in %v", tag, codes)
		}
	}
	if got := c.say("control", codes["12"]); !strings.HasPrefix(got, "ok ") || len(got) < 9 {
		t.Errorf("TLV properties: %s", got)
	}
	// The DF that knows the PIN; then VERIFY with 8 bytes of ASCII, filled up.
	c.want("ok 9000", "send", "00A4000C025000")
	const apdu = "0020000108FFFFFFFFFFFFFFFF"
	verify := "1E1E" + // timeouts
		"82" + "08" + "00" + // ASCII, from the left; 8-byte block; no length inside
		"0804" + // at least 4, at most 8 digits
		"02" + "00" + "0904" + "00" + "000000" + // ended by OK; no message; language; T=1 prologue
		"0D000000" + apdu
	for _, step := range []struct{ keys, want string }{
		{"9999", "ok 63C2"},
		{"1234", "ok 9000"},
		{"cancel", "ok 6401"},
	} {
		m.Ctl("sim 0 keys %s", step.keys)
		if got := c.say("control", codes["06"], verify); got != step.want {
			t.Errorf("VERIFY with %s at the keys: %s, want %s", step.keys, got, step.want)
		}
	}
	modify := "1E1E" + "82" + "08" + "00" +
		"0008" + "0804" + // old PIN at 0, new at 8 of the data; 4 to 8 digits
		"03" + // ask for the old one, and for the new one twice
		"02" + "00" + "0904" + "000000" + "000000" +
		"15000000" + "0024000110" + strings.Repeat("FF", 16)
	for _, step := range []struct{ keys, want string }{
		{"1234 ok 4321 ok 4322", "ok 6402"}, // the two differ, and nothing is sent
		{"1234 ok 4321 ok 4321", "ok 9000"},
		{"1234 ok 5678 ok 5678", "ok 63C2"}, // the old one is no longer accepted
	} {
		m.Ctl("sim 0 keys %s", step.keys)
		if got := c.say("control", codes["07"], modify); got != step.want {
			t.Errorf("MODIFY with %s at the keys: %s, want %s", step.keys, got, step.want)
		}
	}
	c.want("ok 9000", "send", selectMF)
	c.want("UNSUPPORTED_FEATURE", "control", "42424242")
	if got := c.say("control", codes["06"], verify[:20]); strings.HasPrefix(got, "ok") {
		t.Errorf("half a PIN_VERIFY: %s", got)
	}

	// A reader without a keypad says so. A reader can be addressed without a card.
	c.want("ok T=1", "soon", name(1))
	if codes := features(t, c); codes["06"] != "" || codes["07"] != "" {
		t.Errorf("a PIN pad that is not there: %v", codes)
	}
	m.Ctl("sim 1 remove")
	c.want("ok", "await", name(1), "empty")
	c.want("ok T=-", "connect", name(1), "direct")
	features(t, c)
}

// TestAttributes: the attributes that SCardGetAttrib returns.
func TestAttributes(t *testing.T) {
	_, c := up(t, "ikey3k")
	c.want("ok T=1", "soon", name(0))
	c.want("ok "+tokenATR, "attrib", "90303")
	c.want("ok 00", "attrib", "180")
	c.want("ok 02", "attrib", "90300")
	c.want("ok 01", "attrib", "90301")
	c.want("ok 08000100", "attrib", "7A007") // 65,544, little endian
	c.want(fmt.Sprintf("ok %X00", "Rainbow iKey 3000"), "attrib", "10100")
	c.want("UNSUPPORTED_FEATURE", "attrib", "31234")
}

// TestCardAway: a card that was taken out has no ATR any more, and its contacts are off.
func TestCardAway(t *testing.T) {
	m, c := up(t, "t1")
	c.want("ok T=1", "soon", name(0))
	c.want("ok "+tokenATR, "attrib", "90303")
	m.Ctl("sim 0 remove")
	c.want("ok", "await", name(0), "empty")
	c.want("ok T=-", "connect", name(0), "direct")
	c.want("ok", "attrib", "90303")
	c.want("ok", "attrib", "303")
	c.want("ok 00", "attrib", "90301")
}

// TestMuteCard: a card that answers no reset is in the slot all the same, as with other
// drivers, and works after a reset that it answers.
func TestMuteCard(t *testing.T) {
	m, c := up(t, "t1 card=none")
	m.Ctl("sim 0 mute")
	m.Ctl("sim 0 insert token")
	daemon.Eventually(t, "the card is mute", func() bool { return c.say("state", name(0)) == "ok mute" })
	c.want("UNPOWERED_CARD", "connect", name(0))
	c.want("ok T=-", "connect", name(0), "direct")
	c.want("ok 02", "attrib", "90300")
	m.Ctl("sim 0 normal")
	c.want("ok", "reconnect", "reset")
	c.want("ok "+tokenATR, "attrib", "90303")
	c.want("ok 9000", "send", selectMF)
}
