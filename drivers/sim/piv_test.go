package sim

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// A PIV card in readers of all levels, by both protocols, through the core: a short Le and
// an extended one, and a chain.
func TestPIVThroughTheCore(t *testing.T) {
	for _, words := range []string{
		"piv", "apdu card=piv", "t1 card=piv", "t0 card=piv atr=t0", "char-t1 card=piv", "char-t0 card=piv atr=t0", "ccid card=piv", "apdu card=piv atr=contactless",
		"ccid card=piv atr=t0", "ccid-char card=piv", "ccid-char card=piv atr=t0", "ccid-ext card=piv", "ccid-ext card=piv atr=t0", "ccid-ext card=piv atr=contactless",
		"ccid-ext card=piv model=yubikey atr=contactless", "acr38 card=piv",
		"t1 card=piv model=yubikey",
	} {
		t.Run(words, func(t *testing.T) {
			m, _ := manager(t)
			ctl(t, m, "attach sim "+words)
			s := open(t, m, 0)
			presents(t, s, words)
			if got := transmit(t, s, "00A4040005A00000030800"); !strings.HasPrefix(got, "61 ") || !strings.HasSuffix(got, "90 00") {
				t.Errorf("SELECT: %s", got)
			}
			if got := transmit(t, s, "00200080"); got != "63 C3" {
				t.Errorf("tries: %s", got)
			}
			for _, x := range []string{"10CB3FFF 02 5C03", "00200080 08 313233343536FFFF"} {
				if got := transmit(t, s, x); got != "90 00" {
					t.Errorf("%s: %s", x, got)
				}
			}
			if strings.Contains(words, "yubikey") {
				return
			}
			// The certificate of 9A is longer than 256 bytes.
			got := transmit(t, s, "00CB3FFF 00 0005 5C035FC105 0000")
			if !strings.HasPrefix(got, "53 82 01 ") || !strings.HasSuffix(got, "90 00") {
				t.Errorf("extended: %.40s…", got)
			}
			if again := transmit(t, s, "00CB3FFF 05 5C035FC105 00"); again != got && !strings.HasSuffix(again, "61 "+again[len(again)-2:]) {
				t.Errorf("short: %.40s…%s", again, again[len(again)-6:])
			}
		})
	}
}

// Yubico's tools look for a reader whose name has the word YubiKey.
func TestYubiKeyName(t *testing.T) {
	for words, want := range map[string]string{"": "Simulated PIV card", "yubikey": "Simulated YubiKey", "yubikey-5.4": "Simulated YubiKey"} {
		m, _ := manager(t)
		ctl(t, m, strings.TrimSuffix("attach sim piv model="+words, " model="))
		if i := m.Slot(0).Info(); i.Model != want || !strings.Contains(i.ByID, strings.ReplaceAll(want, " ", "_")) {
			t.Errorf("model=%s: %s, %s", words, i.Model, i.ByID)
		}
	}
}

func attach(d *Driver, device string, params map[string]string) (reader.Device, error) {
	return d.Attach(reader.Device{Driver: "sim", Address: device, Params: params})
}

// The parameters of cards with an application are refused to others, and checked.
func TestApplicationParameters(t *testing.T) {
	dir := t.TempDir()
	for _, x := range []struct{ device, key, value, want string }{
		{"t1", "state", dir + "/x", "only cards with an application take that: piv"},
		{"t1", "slow", "real", "only cards with an application take that"},
		{"piv", "model", "nitrokey", "is none of yubikey, yubikey-5.4"},
		{"piv", "atr", "t2", "is none of t1, t0, contactless"},
		{"piv", "keys", dir, "none of the files 9a.pem"},
		{"piv", "state", dir + "/no/where", "no such file"},
		{"piv", "slow", "unreal", "no duration"},
	} {
		_, err := attach(New(), x.device, map[string]string{x.key: x.value})
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s %s=%s: %v", x.device, x.key, x.value, err)
		}
	}
	if all, _ := os.ReadDir(dir); len(all) > 0 {
		t.Errorf("left over: %v", all)
	}
}

// A state file belongs to one card, and to none once that is detached or another card has its place.
func TestStateFile(t *testing.T) {
	d := New()
	params := map[string]string{"state": filepath.Join(t.TempDir(), "state"), "seed": "x"}
	first, err := attach(d, "piv", params)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attach(d, "piv", params); err == nil || !strings.Contains(err.Error(), "another card has it open") {
		t.Errorf("a second card: %v", err)
	}
	first.Link.(*plug).Detached()
	second, err := attach(d, "piv", params)
	if err != nil {
		t.Fatal(err)
	}
	run := func(words ...string) {
		t.Helper()
		if err := d.Command(t.Context(), second, words); err != nil {
			t.Error(err)
		}
	}
	run("remove")
	run("insert", "piv") // the same file
	run("remove")
	run("insert", "token")
	third, err := attach(d, "piv", params)
	if err != nil {
		t.Error(err)
	}
	run("remove")
	if err := d.Command(t.Context(), second, []string{"insert", "piv"}); err == nil {
		t.Error("a card inserted with the state file of another")
	}
	third.Link.(*plug).Detached()
	second.Link.(*plug).Detached()
}

// `status` of a slot with such a card says that it is no place for keys that matter, also while
// the card computes, and no longer than it is there.
func TestWarning(t *testing.T) {
	m, _ := manager(t)
	ctl(t, m, "attach sim t1 card=openpgp")
	s := open(t, m, 0)
	want := func(want string) {
		t.Helper()
		if got := s.Slot().Info().More["warning"]; got != want {
			t.Errorf("status has the warning %q, want %q", got, want)
		}
	}
	want(applet.Warning)
	busy := make(chan struct{})
	go func() {
		transmit(t, s, "00200083 08 3132333435363738")
		transmit(t, s, "00478000 02 B600 00")
		close(busy)
	}()
	for done := false; !done; {
		want(applet.Warning)
		select {
		case <-busy:
			done = true
		default:
		}
	}
	ctl(t, m, "sim 0 remove")
	want("")
	ctl(t, m, "sim 0 insert token")
	want("")
	ctl(t, m, "sim 0 remove")
	ctl(t, m, "sim 0 insert piv")
	want(applet.Warning)
}

// With slow=real a command takes as long as with a real card, and with slow=DURATION that much
// longer, whatever the protocol does meanwhile: S(WTX) in T=1, NULL in T=0.
func TestSlowReal(t *testing.T) {
	for _, x := range []struct {
		attach, command string
		want            time.Duration
	}{
		{"apdu card=openpgp", "00CA006E00", applet.TimeCommand},
		{"apdu card=openpgp", "00200083 08 3132333435363738", applet.TimePIN},
		{"t1 card=openpgp", "00200083 08 3132333435363738", applet.TimePIN},
		{"t0 card=openpgp atr=t0", "00200083 08 3132333435363738", applet.TimePIN},
		{"char-t1 card=openpgp", "00200083 08 3132333435363738", applet.TimePIN},
		{"char-t0 card=openpgp atr=t0", "00200083 08 3132333435363738", applet.TimePIN},
		{"ccid card=openpgp", "00200083 08 3132333435363738", applet.TimePIN},
		{"apdu card=piv", "00200080 08 313233343536FFFF", applet.TimePIN},
		{"apdu card=piv", "0087039B 04 7C028100 00", applet.TimeCommand},
	} {
		synctest.Test(t, func(t *testing.T) {
			mgr := core.NewManager(core.Options{Drivers: []reader.Driver{New()}})
			defer mgr.Close(t.Context())
			ctl(t, mgr, "attach sim "+x.attach+" slow=real")
			s := open(t, mgr, 0)
			start := time.Now()
			transmit(t, s, x.command) // refused or not
			if took := time.Since(start); took < x.want || took > x.want+100*time.Millisecond {
				t.Errorf("%s, %s: took %v, want %v", x.attach, x.command, took, x.want)
			}
		})
	}
	for params, want := range map[string]time.Duration{"": 0, "slow=real": 80 * time.Millisecond, "slow=3s": 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			mgr := core.NewManager(core.Options{Drivers: []reader.Driver{New()}})
			defer mgr.Close(t.Context())
			ctl(t, mgr, "attach sim t1 card=piv "+params)
			s := open(t, mgr, 0)
			start := time.Now()
			// 9E signs without a PIN.
			if got := transmit(t, s, "0087119E 26 7C24 8200 8120"+strings.Repeat("11", 32)+"00"); !strings.HasSuffix(got, "90 00") {
				t.Errorf("%q: %s", params, got)
			}
			if took := time.Since(start); took != want {
				t.Errorf("%q: took %v, want %v", params, took, want)
			}
		})
	}
}
