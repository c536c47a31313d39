package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/sim"
)

// cardfs runs a command in this process. The command must use a tree of files, not a mount.
func cardfs(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// readers is a tree with a reader of two slots, and one that failed.
func readers(t *testing.T) *client.Mount {
	return tree(t, map[string]string{
		"ctl":      "",
		"event":    "7 0 arrived driver=d device=x reader=A_B\n8 0 ready\n9 0 inserted\n",
		"0/status": "state powered\nreader A B\ndriver d\nby-id ab-0\nsiblings 0 1\nprotocol T=1\natr 3B 00\n",
		"0/event":  "7 0 arrived driver=d device=x reader=A_B\n8 0 ready\n9 0 inserted\n",
		"0/apdu":   "",
		"1/status": "state empty\nreader A B\ndriver d\nby-id ab-1\nsiblings 0 1\n",
		"2/status": "state failed\nreader C\ndriver d\nby-id c\nerror it is broken\n",
	})
}

// "Exit codes: 0 done; 1 it could not be done, and stderr says why; 2 the command line or
// the input makes no sense; 3 there is no such reader, or no card in it." With code 0
// stderr is silent, else it begins with "cardfs: ".
func TestExitCodes(t *testing.T) {
	m := "--mount=" + readers(t).Dir
	full := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(full+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		args   string
		code   int
		stdout string // regular expressions; "": silent
		stderr string
	}{
		{"", 0, `^cardfs mounts smart-card readers as files`, ""},
		{"help exit-codes", 0, `^  0  done`, ""},
		{"nosuch", 2, "", `^cardfs: no command "nosuch"; cardfs help lists them\n$`},
		{"lits", 2, "", `^cardfs: no command "lits"; cardfs help lists them \(did you mean list\?\)\n$`},
		{"help lits", 2, "", `^cardfs: no command "lits"; cardfs help lists them \(did you mean list\?\)\n$`},
		{"help send x", 2, "", `^cardfs: no command "send x"; `},
		{"help", 0, `^cardfs mounts smart-card readers as files`, ""},
		{"help send", 0, `^send exchanges C-APDUs(?s:.*)-h, --help `, ""},
		{"help help", 0, `^help explains a command`, ""},
		{"files", 0, `^A mounted cardfs holds`, ""},
		{"--version", 0, `^cardfs .*\ncommit `, ""},
		{"completion", 2, "", `^cardfs: completion needs a shell: bash, fish, zsh\n$`},
		{"completion tcsh", 2, "", `^cardfs: completion needs a shell: bash, fish, zsh\n$`},
		{"completion bash x", 2, "", `^cardfs: completion bash takes no argument; see cardfs completion bash --help\n$`},
		{"completion zsh", 0, `^#compdef cardfs\n`, ""},
		{"completion fish", 0, `^# fish completion for cardfs`, ""},
		{"list --nosuch", 2, "", `^cardfs: unknown flag: --nosuch; see cardfs list --help\n$`},
		{"watch --timeout soon", 2, "", `invalid argument "soon".*see cardfs watch --help\n$`},

		{"list " + m, 0, `(?m)^0 +powered +A B +d +T=1 +3B00 +ab-0$`, ""},
		{"ls " + m, 0, `(?m)^2: it is broken$`, ""},
		{"list --json " + m, 0, `(?m)^    "error": "it is broken",$`, ""},
		{"list extra " + m, 2, "", `^cardfs: list takes no argument; see cardfs list --help\n$`},

		{"watch --once " + m, 0, `^slot 0: reader arrived: A B \(d x\)\nslot 0: reader ready\nslot 0: card inserted\n$`, ""},
		{"watch --once --json 0 " + m, 0, `^{"number":0,"seq":7,"slot":0,"event":"arrived","more":{"device":"x","driver":"d","reader":"A_B"},"lost":0}\n{"number":0,"seq":8,`, ""},
		{"watch --once -t " + m, 0, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} slot 0: `, ""},
		{"watch --until ready " + m, 0, `slot 0: reader ready\n$`, ""},
		{"watch --until ready --json " + m, 0, `"event":"ready"[^\n]*\n$`, ""},
		{"watch " + m, 0, `slot 0: card inserted\n$`, ""}, // the mount ended
		{"watch 0 --until removed " + m, 3, `card inserted\n$`, `^cardfs: reader 0 left before an event removed\n$`},
		{"watch --until removed " + m, 1, `card inserted\n$`, `^cardfs: the mount ended before an event removed\n$`},
		{"watch --until nosuch " + m, 2, "", `^cardfs: --until nosuch: the events are arrived, ready,`},
		{"watch 0 1 " + m, 2, "", `one slot or none; see cardfs watch --help`},
		{"watch 7 " + m, 3, "", `^cardfs: no reader 7; there are 0, 1, 2\n$`},

		{"send 0 " + m, 2, "", `^cardfs: send needs a slot and at least one command; see cardfs send --help\n$`},
		{"send 0 00 " + m, 2, "", `^cardfs: command 1, 00: .*; nothing was sent\n$`},
		{"send x 00A40000 " + m, 2, "", `^cardfs: "x" is no slot's number, name or directory; cardfs list shows the names\n$`},
		{"send A_B 00A40000 " + m, 2, "", `is the name of slots 0, 1; say one by its number, or by its name in by-id`},
		{"send 5 00A40000 " + m, 3, "", `^cardfs: no reader 5; there are 0, 1, 2\n$`},
		{"send --wait 0 1 00A40000 " + m, 3, "", `^cardfs: no card in slot 1\n$`},
		{"send 0 00A40000 " + m, 1, "", `end of file in place of an answer`},

		{"detach " + m, 2, "", `^cardfs: detach needs a slot; `},
		{"detach 0 1 2 " + m, 2, "", `^cardfs: detach needs a slot; `},
		{"detach --wait 0 0 " + m, 0, "", ""},
		{"detach --wait 0 7 " + m, 3, "", `^cardfs: no reader 7; there are 0, 1, 2\n$`},
		{"attach sim " + m, 2, "", `^cardfs: attach needs a driver and a device; `},
		{"attach --wait 0 sim t1 " + m, 3, "", `arrived and left at once`},

		{"atr 3B 00", 0, `TS`, ""},
		{"atr 3C 00", 1, "", `^cardfs: 3C 00: `},
		{"atr 3B0", 2, "", `^cardfs: 3B0: an odd number of hex digits\n$`},
		{"version", 0, `^cardfs .*\ncommit .*\ngo-fuse .*\ngo`, ""},
		{"version 1", 2, "", `version takes no argument`},
		{"ids", 0, `(?m)^04b9:1300 Rainbow iKey 3000$`, ""},
		{"ids 1", 2, "", `ids takes no argument`},
		{"udev-rules", 0, `idVendor`, ""},
		{"probe", 2, "", `^cardfs: probe needs a serial port; see cardfs probe --help\n$`},
		{"probe a b", 2, "", `^cardfs: probe needs a serial port; `},
		{"probe " + full, 1, "", `^cardfs: \S+full: open: no serial port: `},
		{"probe /dev/null", 1, "", `^cardfs: /dev/null: .*: no serial port: `},
		{"probe /dev/ttyNONE", 1, "", `^cardfs: /dev/ttyNONE: there is no such port\n$`},
		{"udev-rules 1", 2, "", `udev-rules takes no argument`},
		{"reader-conf 1", 2, "", `reader-conf takes no argument`},

		{"list --mount " + full + "/no", 1, "", `/no: no cardfs is mounted there\n$`},
		{"list --mount " + full, 1, "", `full: no cardfs is mounted there\n$`},

		{"mount", 2, "", `^cardfs: mount needs one directory; see cardfs mount --help\n$`},
		{"mount a b", 2, "", `^cardfs: mount needs one directory; `},
		{"mount --usb=libusb " + full, 2, "", `^cardfs: --usb=libusb: .*gousb and usbfs`},
		{"mount --mode 0777 " + full, 2, "", `^cardfs: --mode 0777: three octal digits of read and write bits are wanted, such as 0660\n$`},
		{"mount --mode 1666 " + full, 2, "", `^cardfs: --mode 1666: `},
		{"mount --mode 0661 " + full, 2, "", `^cardfs: --mode 0661: `},
		{"mount --mode 0616 " + full, 2, "", `^cardfs: --mode 0616: `},
		{"mount --mode 669 " + full, 2, "", `^cardfs: --mode 669: `},
		{"mount --mode -1 " + full, 2, "", `^cardfs: --mode -1: `},
		{"mount --group no/such " + full, 2, "", `^cardfs: --group no/such: there is no group "no/such"`},
		{"mount --allow-escape=no/such " + full, 2, "", `^cardfs: --allow-escape: there is no user "no/such"`},
		{"mount --exchange-limit 0s " + full, 2, "", `^cardfs: --exchange-limit 0s: a time above 0 is wanted\n$`},
		{"mount --exchange-limit -1s " + full, 2, "", `^cardfs: --exchange-limit -1s: a time above 0`},
	} {
		code, stdout, stderr := cardfs(t, "", strings.Fields(x.args)...)
		if code != x.code {
			t.Errorf("cardfs %s: exit code %d, want %d", x.args, code, x.code)
		}
		for _, got := range []struct{ what, text, want string }{{"stdout", stdout, x.stdout}, {"stderr", stderr, x.stderr}} {
			if got.want == "" && got.text != "" || !regexp.MustCompile(got.want).MatchString(got.text) {
				t.Errorf("cardfs %s: %s: %q, want %q", x.args, got.what, got.text, got.want)
			}
		}
	}
}

// Output to a full disk is an error.
func TestOutputFails(t *testing.T) {
	m := "--mount=" + readers(t).Dir
	for _, args := range []string{
		"list " + m, "list --json " + m, "watch --once " + m, "watch --once --json " + m, "watch --until ready " + m,
		"atr 3B00", "version", "ids", "udev-rules", "reader-conf --lib /no/lib.so " + m,
	} {
		var errs bytes.Buffer
		if code := run(context.Background(), strings.Fields(args), nil, full{}, &errs); code != exit.Error || !strings.Contains(errs.String(), syscall.ENOSPC.Error()) {
			t.Errorf("cardfs %s: exit code %d, %s", args, code, &errs)
		}
	}
}

// Without arguments, or with -, each line of standard input is an ATR. A refused line does not
// end the command.
func TestATRLines(t *testing.T) {
	for _, x := range []struct {
		stdin  string
		code   int
		ts     int // how many were decoded
		stderr string
	}{
		{"3B00\n\n# no\n3B 00 # yes\n", 0, 2, ""},
		{"3B00", 0, 1, ""},
		{"3C00\n3B00\n", 1, 1, "cardfs: 3C 00: "},
		{"3B0\n3B00\n", 2, 1, "cardfs: 3B0: an odd number"},
		{"3B0\n3C00\n3B00\n", 2, 1, "cardfs: 3C 00: "}, // the worst code
		{"3C00\n3B0\n", 2, 0, "cardfs: 3B0: "},
		{"", 2, 0, "no ATR: neither as arguments nor on standard input"},
		{"# no\n", 2, 0, "no ATR"},
	} {
		for _, args := range [][]string{{"atr"}, {"atr", "-"}} {
			code, out, errs := cardfs(t, x.stdin, args...)
			if n := strings.Count(out, "direct convention"); code != x.code || n != x.ts || !strings.Contains(errs, x.stderr) || errs != "" && x.stderr == "" {
				t.Errorf("%q %q: exit code %d, %d decoded, %q", x.stdin, args, code, n, errs)
			}
			if n := strings.Count(out, "\n\n3B"); n != max(0, x.ts-1) && x.code == 0 {
				t.Errorf("%q: not parted by empty lines:\n%s", x.stdin, out)
			}
		}
	}
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"atr"}, failing{}, io.Discard, &errs); code != exit.Error || !strings.Contains(errs.String(), "standard input: ") {
		t.Errorf("an input that fails: %d, %s", code, &errs)
	}
}

// Completions are slots with descriptions, drivers that find no device by themselves, mounts,
// and events. They are never an error.
func TestComplete(t *testing.T) {
	m := "--mount=" + readers(t).Dir
	attachable := "" // whose device the user may name, and no other
	for _, d := range drivers.All(drivers.Env{}) {
		if ids := d.IDs(); len(ids) == 0 || slices.Contains([]string{"acr30", "ccid", "gempc"}, d.Name()) {
			attachable += d.Name() + "\n"
		}
	}
	slots := "0\tA B, powered\n1\tA B, empty\n2\tC, failed\n"
	for _, x := range []struct {
		args  []string
		words string // the output begins with this
		not   string
	}{
		{args: []string{"send", m, ""}, words: slots + ":4\n"},
		{args: []string{"watch", m, ""}, words: slots + ":4\n"},
		{args: []string{"detach", m, ""}, words: slots + ":4\n"},
		{args: []string{"detach", m, "0", ""}, not: "A B"},
		{args: []string{"send", "--mount=/no/where", ""}, not: "A B"},
		{args: []string{"attach", ""}, words: attachable + ":4\n", not: "ikey"},
		{args: []string{"probe", "/dev/ttyS0", ""}, words: ":4\n"},
		{args: []string{"attach", "sim", ""}, words: "ikey3k\t"},
		{args: []string{"attach", "sim", "t1", ""}, words: "card=\nstart=\nslow=\nserial=\nt0=\n:6\n"},
		{args: []string{"attach", "sim", "t1", "card="}, words: "card=" + strings.Join(append(sim.Cards(), "none"), "\ncard=") + "\n:4\n"},
		{args: []string{"attach", "sim", "t1", "card=t0", "t0="}, words: "t0=plain\n:4\n"},
		{args: []string{"attach", "sim", "t1", "card=piv", "m"}, words: "card=\nstart=\nslow=\nserial=\nt0=\nslow=\natr=\nkeys=\nmodel=\nseed=\nstate=\n:6\n"},
		{args: []string{"attach", "sim", "piv", "slow="}, words: "slow=100ms\nslow=1s\nslow=real\n:4\n"},
		{args: []string{"attach", "sim", "piv", "atr="}, words: "atr=t1\natr=t0\natr=contactless\n:4\n"},
		{args: []string{"attach", "sim", "t1", "nosuch="}, words: ":4\n"},
		{args: []string{"attach", "vpcd", ""}, words: "127.0.0.1:35963\nunix:\n:4\n"},
		{args: []string{"attach", "vpcd", "unix:x", ""}, words: "timeout=\ncards=\nmode=\npublic=\nt0=\n:6\n"},
		{args: []string{"attach", "vpcd", "unix:x", "mode="}, words: "mode=0600\nmode=0660\nmode=0666\n:4\n"},
		{args: []string{"attach", "replay", "x", "level="}, words: "level=short\nlevel=extended\n:4\n"},
		{args: []string{"attach", "smph", "x", ""}, words: "type=\nclock=\ndetect=\nt0=\n:6\n"},
		{args: []string{"attach", "smph", "x", "detect=c"}, words: "detect=cts-off\ndetect=cts-on\n"},
		{args: []string{"attach", "towitoko", "x", "memory="}, words: "memory=2-wire\nmemory=3-wire\nmemory=i2c:256\n"},
		{args: []string{"attach", "replay", ""}, words: ":0\n"}, // files
		{args: []string{"attach", "nosuch", ""}, words: ":4\n"},
		{args: []string{"attach", "nosuch", "x", ""}, words: ":6\n"},
		{args: []string{"mount", "--sim", ""}, words: "ikey3k\t"},
		{args: []string{"mount", "--sim", "t1 "}, words: "t1 card=\nt1 start=\n"},
		{args: []string{"mount", "--sim", "t1 card=t0 start="}, words: "t1 card=t0 start=100ms\nt1 card=t0 start=1s\n:4\n"},
		{args: []string{"mount", "--attach", ""}, words: attachable + ":6\n"},
		{args: []string{"mount", "--attach", "sim "}, words: "sim ikey3k\t"},
		{args: []string{"mount", "--attach", "sim t1 card=t"}, words: "sim t1 card=token\nsim t1 card=t0\n"},
		{args: []string{"mount", "--group", ""}, words: "root\n"},
		{args: []string{"mount", "--allow-escape="}, words: "root\n"},
		{args: []string{"mount", "--mode", ""}, words: "0600\t"},
		{args: []string{"power", m, ""}, words: slots + ":4\n"},
		{args: []string{"power", m, "x"}, words: slots + "ab-0\tA B, powered\nab-1\tA B, empty\nc\tC, failed\nC\tC, failed\n:4\n"}, // A B has two
		{args: []string{"power", m, "0", ""}, words: "on\tpower the card"},
		{args: []string{"power", m, "0", "on", ""}, words: ":4\n"},
		{args: []string{"protocol", m, "0", ""}, words: "T=0\tcharacters\nT=1\tblocks\n:4\n"},
		{args: []string{"control", m, ""}, words: slots + ":4\n"},
		{args: []string{"control", m, "0", ""}, words: "features\t"},
		{args: []string{"control", m, "0", "features", ""}, words: ":4\n"},
		{args: []string{"status", m, ""}, words: slots + ":4\n"},
		{args: []string{"stats", m, "0", ""}, words: ":4\n"},
		{args: []string{"sim", m, ""}, words: ":4\n"}, // none of them is simulated
		{args: []string{"sim", m, "0", ""}, words: "unplug\tthe reader leaves\nplug\t"},
		{args: []string{"sim", m, "0", "insert", ""}, words: "token\nt0\n"},
		{args: []string{"sim", m, "0", "keys", "1", ""}, words: "ok\ncancel\nclear\n:4\n"},
		{args: []string{"sim", m, "0", "remove", ""}, words: ":4\n"},
		{args: []string{"ctl", ""}, words: "attach\t"},
		{args: []string{"ctl", m, "abort", ""}, words: slots + ":4\n"},
		{args: []string{"ctl", m, "abort", "0", ""}, words: ":4\n"},
		{args: []string{"ctl", "attach", "sim", "t1", "card="}, words: "card=token\n"},
		{args: []string{"ctl", m, "sim", "0", "insert", ""}, words: "token\n"},
		{args: []string{"ctl", "rescan", ""}, words: ":4\n"},
		{args: []string{"mount", "--usb="}, words: "gousb\nusbfs\noff\n"},
		{args: []string{"mount", ""}, words: ":16\n"}, // directories
		{args: []string{"mount", "cards", ""}, words: ":4\n"},
		{args: []string{"watch", "--until", ""}, words: "arrived\nready\nfailed\ninserted\npowered\nreset\nremoved\nleft\n:4\n"},
		{args: []string{"list", ""}, words: ":4\n"},
		{args: []string{"help", ""}, words: "atr\tSay in words what an ATR means\nattach\t"},
		{args: []string{"help", "atr", ""}, words: ":4\n"},
		{args: []string{"atr", ""}, words: ":4\n"},
		{args: []string{"version", ""}, words: ":4\n"},
	} {
		code, out, _ := cardfs(t, "", append([]string{"__complete"}, x.args...)...)
		if code != 0 || !strings.HasPrefix(out, x.words) || x.not != "" && strings.Contains(out, x.not) {
			t.Errorf("%q: %d, %q, want %q", x.args, code, out, x.words)
		}
	}
}

// reader-conf reports what keeps pcscd from using its lines. It does not list readers that the
// bundle beside the library finds.
func TestReaderConfCommand(t *testing.T) {
	c := tree(t, map[string]string{
		"ctl": "", "0/status": "state empty\nreader A\ndriver d\nby-id a\n",
		"1/status": "state powered\nreader iKey\ndriver ikey3k\nby-id i\nbus usb\nusb-id 04b9:1300\n",
	})
	lib := filepath.Join(t.TempDir(), "serial/lib.so")
	plist := filepath.Join(filepath.Dir(lib), bundle, "Contents/Info.plist")
	m := "--mount=" + c.Dir
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		code, out, errs := cardfs(t, "", append([]string{"reader-conf", m}, args...)...)
		if code != want {
			t.Errorf("%q: exit code %d, want %d: %s", args, code, want, errs)
		}
		return out, errs
	}
	out, errs := run(0, "--lib", lib)
	if strings.Count(out, "LIBPATH      "+lib+"\n") != 2 || !strings.Contains(errs, "until it is there pcscd ends when it reads these lines; run make install") {
		t.Errorf("%s\n%s", out, errs)
	}
	for _, path := range []string{lib, plist} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, errs = run(0, "--lib", lib)
	if strings.Count(out, "LIBPATH") != 1 || !strings.Contains(errs, "iKey (1) is left out") || strings.Contains(errs, "pcscd ends") {
		t.Errorf("%s\n%s", out, errs)
	}
	if out, errs = run(0, "--lib", lib, "--all"); strings.Count(out, "LIBPATH") != 2 || errs != "" {
		t.Errorf("%s\n%s", out, errs)
	}
	if _, errs = run(2, "--lib", "/a b/lib.so"); !strings.Contains(errs, "use others than /a b/lib.so") {
		t.Error(errs)
	}
	t.Chdir(filepath.Dir(lib))
	if out, _ = run(0, "--lib", "lib.so", "--all"); strings.Count(out, "LIBPATH      "+lib+"\n") != 2 {
		t.Errorf("a relative name stays one:\n%s", out)
	}
	for _, state := range []string{"0", "1"} {
		os.RemoveAll(c.Path(state))
	}
	if out, errs = run(0, "--lib", lib); out != "" || !strings.Contains(errs, "no reader at "+c.Dir) {
		t.Errorf("%q %q", out, errs)
	}
}
