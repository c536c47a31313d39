package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/config"
	"github.com/cardfs/cardfs/drivers/bus/usb/transports"
	"github.com/cardfs/cardfs/fs"
)

// settledConf returns the options after a configuration file has set the flags not given.
func settledConf(t *testing.T, text string, given ...string) (*mountOptions, *settings, *faults) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var o mountOptions
	cmd := new(cobra.Command)
	o.addFlags(cmd)
	if err := cmd.ParseFlags(given); err != nil {
		t.Fatal(err)
	}
	o.config = name
	s, bad := o.settle(cmd, cmd.Flags().Changed)
	return &o, s, bad
}

// "[mount]: the flags of cardfs mount. A flag without a value is true." A value means the same
// as on a command line.
func TestConfMount(t *testing.T) {
	plain := func() mountOptions {
		return mountOptions{mode: "0600", usb: transports.Default, exchangeLimit: time.Hour}
	}
	for text, change := range map[string]func(*mountOptions){
		"":                             func(*mountOptions) {},
		`allow-other = true`:           func(o *mountOptions) { o.allowOther = true },
		`allow_other = false`:          func(*mountOptions) {},
		`group = "0"`:                  func(o *mountOptions) { o.group = "0" },
		`group = 0`:                    func(o *mountOptions) { o.group = "0" },
		`mode = "0640"`:                func(o *mountOptions) { o.mode = "0640" },
		`mode = 640`:                   func(o *mountOptions) { o.mode = "640" },
		`mode = 0o640`:                 func(o *mountOptions) { o.mode = "0640" },
		`usb = "off"`:                  func(o *mountOptions) { o.usb = "off" },
		`usb = true`:                   func(*mountOptions) {},
		`usb = false`:                  func(o *mountOptions) { o.usb = "false" },
		`allow-escape = true`:          func(o *mountOptions) { o.allowEscape = []string{everybody} },
		`allow-escape = false`:         func(*mountOptions) {},
		`allow-escape = []`:            func(*mountOptions) {},
		`allow-escape = "root"`:        func(o *mountOptions) { o.allowEscape = []string{"root"} },
		`allow-escape = ["root", 7]`:   func(o *mountOptions) { o.allowEscape = []string{"root", "7"} },
		`open-timeout = "1m"`:          func(o *mountOptions) { o.openTimeout = time.Minute },
		`idle_off = "2s"`:              func(o *mountOptions) { o.idleOff = 2 * time.Second },
		`exchange-limit = "1ms"`:       func(o *mountOptions) { o.exchangeLimit = time.Millisecond },
		`log = "/a"`:                   func(o *mountOptions) { o.log = "/a" },
		`verbose = true`:               func(o *mountOptions) { o.verbose = 1 },
		`verbose = 2`:                  func(o *mountOptions) { o.verbose = 2 },
		`verbose = false`:              func(*mountOptions) {},
		"mode = \"0640\"\nusb = false": func(o *mountOptions) { o.mode, o.usb = "0640", "false" },
	} {
		want := plain()
		change(&want)
		got, s, bad := settledConf(t, "[mount]\n"+text)
		got.config = ""
		if !bad.none() || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, %+v; want %+v", text, got, bad, want)
		}
		if mode, _ := parseMode(want.mode); s.mode != mode || (s.transport == nil) != (want.usb != transports.Default) || (s.gid == 0) != (want.group != "") || s.gid > 0 {
			t.Errorf("%s: %+v", text, s)
		}
	}
	for text, want := range map[string]string{
		`nosuch = 1`: `[mount] has no key "nosuch"`, `help = true`: "help: not in [mount]", `check = true`: "check: not in [mount]",
		`config = "a"`: "config: not in [mount]", `background = true`: "background: not in [mount]",
		`sim = "t0"`: "sim: not in [mount]: write [[attach]]", `attach = ["sim t0"]`: "attach: not in [mount]: write [[attach]]",
		`mode = ["0600", "0640"]`: "mode: one value is wanted", `mode = []`: "mode: one value is wanted", `mode = "0700"`: "mode: three octal digits",
		`mode = 0`:             "",
		`allow-other = "yes"`:  "allow-other: true or false is wanted",
		`allow-other = 1`:      "allow-other: true or false is wanted",
		`open-timeout = "-1s"`: "open-timeout: a time is wanted", `idle-off = "-1s"`: "idle-off: a time is wanted", `exchange-limit = "0s"`: "exchange-limit: a time above 0",
		`idle-off = 5`: `idle-off: time: missing unit`, `group = "no/such"`: `group: there is no group "no/such"`, `usb = "libusb"`: "usb: ",
		`allow-escape = ["root", "no/such"]`: `allow-escape: there is no user "no/such"`, `verbose = "x"`: "verbose: ",
	} {
		_, _, bad := settledConf(t, "[mount]\n\n"+text)
		if want == "" {
			if !bad.none() {
				t.Errorf("%s: %+v", text, bad)
			}
			continue
		}
		if len(bad.flags) != 0 || len(bad.file) != 1 || bad.file[0].Line != 3 || !strings.HasPrefix(bad.file[0].Err.Error(), want) {
			t.Errorf("%s: %+v, want %s", text, bad, want)
		}
	}
}

// "A flag on the command line counts, whatever the file says", and an error in it names the
// flag.
func TestConfGiven(t *testing.T) {
	o, _, bad := settledConf(t, "[mount]\nmode = \"999\"\nverbose = 2\nallow-other = true\n", "--mode=0640", "-v")
	if !bad.none() || o.mode != "0640" || o.verbose != 1 || !o.allowOther {
		t.Errorf("%+v, %+v", o, bad)
	}
	_, _, bad = settledConf(t, "[mount]\nmode = \"0640\"\nidle-off = \"-1s\"\n", "--mode=999")
	var out strings.Builder
	err := bad.err(&out)
	if lines := strings.Split(out.String(), "\n"); len(lines) != 3 || !strings.HasSuffix(lines[0], "conf:3: idle-off: a time is wanted, or 0 for never") || !strings.HasPrefix(lines[1], "cardfs: --mode 999: three octal") || err == nil {
		t.Errorf("%q, %v", lines, err)
	}
}

// [[reader]] gives group and mode, which are -1 and 0 if left out. [[quirk]] gives IDs and
// settings.
func TestConfTables(t *testing.T) {
	_, s, bad := settledConf(t, `[[reader]]
by-id = "a*"
group = "root"
[[reader]]
by-id = "b"
mode = "0640"
[[quirk]]
usb = "08e6:3437"
ifsd = 32
`)
	if want := []fs.Access{{ByID: "a*", GID: 0}, {ByID: "b", GID: -1, Mode: 0o640}}; !bad.none() || !reflect.DeepEqual(s.access, want) {
		t.Errorf("%+v, %+v", s.access, bad)
	}
	if got := fmt.Sprintf("%04X %04X %v", s.quirks[0].Vendor, s.quirks[0].Product, s.quirks[0].Settings); got != "08E6 3437 map[ifsd:32]" || len(s.quirks) != 1 {
		t.Error(got)
	}
}

// [[quirk]] of a Rutoken S has a setting of its driver, which others do not have.
func TestConfRutoken(t *testing.T) {
	for setting, says := range map[string]string{
		"usb = \"0a89:0020\"\nrewrite = \"off\"":   "",
		"usb = \"0a89:0012\"\nrewrite = \"on\"":    "",
		"usb = \"0a89:0020\"\nrewrite = \"maybe\"": "conf:3: rewrite: on or off is wanted",
		"usb = \"0a89:0020\"\nifsd = 32":           "conf:3: no setting \"ifsd\" of an Aktiv Rutoken S; there is rewrite",
		"usb = \"0a89:0030\"\nrewrite = \"off\"":   "conf:3: no setting \"rewrite\"",
		"usb = \"08e6:0020\"\nrewrite = \"off\"":   "conf:3: no setting \"rewrite\"",
	} {
		_, s, bad := settledConf(t, "[[quirk]]\n"+setting+"\n")
		switch {
		case says == "" && (!bad.none() || len(s.quirks) != 1):
			t.Errorf("%s: %+v", setting, bad)
		case says != "" && (len(bad.file) != 1 || !strings.Contains(bad.file[0].Error(), says)):
			t.Errorf("%s: %+v, want %q", setting, bad, says)
		}
	}
}

// A mode of 0 would be taken for a missing one, so it is refused.
func TestConfNobody(t *testing.T) {
	_, _, bad := settledConf(t, "[[reader]]\nby-id = \"a\"\nmode = \"0000\"\n")
	if len(bad.file) != 1 || bad.file[0].Error() == "" || !strings.Contains(bad.file[0].Error(), "conf:1: [[reader]] mode 0000: the bits of somebody") {
		t.Errorf("%+v", bad)
	}
}

// Changed settings of [mount] that cannot change during the life of a mount are named, except
// those that a flag overrides.
func TestConfFixed(t *testing.T) {
	file := func(text string) *settings {
		f, err := config.Parse("f", []byte("[mount]\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		return &settings{file: *f}
	}
	for _, c := range []struct{ before, after, want string }{
		{"", "", ""}, {"mode = 640", "mode = 640", ""}, {"mode = 640", "mode = \"640\"", ""}, {"mode = 640", "mode = 600", "mode"},
		{"", "mode = 640", "mode"}, {"mode = 640", "", "mode"}, {"log = \"a\"", "log = \"b\"", ""},
		{"allow-escape = [\"a\", \"b\"]", "allow-escape = [\"a\"]", "allow-escape"},
		{"usb = true\nmode = 640\nlog = \"a\"", "mode = 600\nidle-off = 1", "idle-off mode usb"},
	} {
		conf := &configured{given: func(flag string) bool { return flag == "log" }, now: file(c.before)}
		if got := strings.Join(conf.fixed(file(c.after)), " "); got != c.want {
			t.Errorf("%q to %q: %q, want %q", c.before, c.after, got, c.want)
		}
	}
}

// The error for a missing file names the file, not a flag.
func TestConfMissing(t *testing.T) {
	o := mountOptions{config: filepath.Join(t.TempDir(), "conf")}
	_, bad := o.settle(new(cobra.Command), nil)
	if len(bad.flags) > 0 || len(bad.file) != 1 || !errors.Is(bad.file[0], os.ErrNotExist) {
		t.Errorf("%+v", bad)
	}
}
