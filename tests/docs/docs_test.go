package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/debian"
)

// elsewhere lists commands that are not run in the Debian, with the reasons.
var elsewhere = []struct{ prefix, why string }{
	{"git clone", "the sources are what is tested"},
	{"make test", "runs this test"},
	{"make lint", "run by .ci/run"},
	{"make soak", "takes hours"},
	{"make fuzz", "takes hours"},
	{"make mutants", "takes hours"},
	{"make bench", "has bounds of its own, on a quiet machine"},
	{"go run ./tests/bench", "as make bench"},
	{"make farm", "runs a hundred machines; tests/farm's TestTable"},
	{"make run", "TestRun"},
	{"make deb", "done before, by debian.Packages"},
	{"make build", "done before, by make deb"},
	{"sudo make install", "cmd/cardfs's TestInstall"},
	{"sudo make uninstall", "cmd/cardfs's TestInstall"},
	{"cardfs probe /dev/tty", "there is no serial port"},
	{"sudo udevadm control", "a udev of its own would act on this machine's devices"},
}

// run is the shell function that runs a block. Each command must succeed within a limit. A
// command that runs until it is interrupted is interrupted, and must then end as it should.
const run = `set -u
shopt -s expand_aliases
alias sudo=
n=0
cmd=
while IFS= read -r line; do
	cmd+=$line$'\n'
	bash -nc "$cmd" 2>/dev/null || continue # it goes on in the next line
	eval "$cmd" </dev/null
	rc=$?
	if [ $rc != 0 ]; then
		echo "FAILED, exit code $rc: $cmd"
		exit 1
	fi
	cmd=
done <<'END OF BLOCK'
%s
END OF BLOCK
[ -z "$cmd" ] || { echo "FAILED, not a command: $cmd"; exit 1; }
`

// lasting lists commands that run until they are interrupted, unless something ends them.
var (
	lasting = regexp.MustCompile(`^cardfs (watch|top|capture|record)\b[^\n|]*`)
	ending  = regexp.MustCompile(`--(once|until|duration|help)\b| -- |&$| -b\b`)
)

// fstab matches a line for /etc/fstab.
var fstab = regexp.MustCompile(`(?m)^cardfs (/\S+) fuse\.cardfs .*$`)

// scripted turns a block into commands for run: a mount continues in the background, and
// lasting commands are interrupted.
func scripted(text string) string {
	var out strings.Builder
	if line := fstab.FindStringSubmatch(text); line != nil {
		return fmt.Sprintf("systemctl stop cardfs\nmkdir -p %[2]s\necho '%[1]s' >/etc/fstab\nmount %[2]s\nls %[2]s/ctl\numount %[2]s\nrm /etc/fstab\n", strings.TrimSpace(line[0]), line[1])
	}
lines:
	for line := range strings.Lines(text) {
		for _, e := range elsewhere {
			if strings.HasPrefix(line, e.prefix) {
				continue lines
			}
		}
		if at := strings.Index(line, "cardfs mount "); at >= 0 && !strings.Contains(line, " -b") && !strings.Contains(line, "--check") && !strings.Contains(line, "--help") {
			line = line[:at] + "cardfs mount -b " + line[at+len("cardfs mount "):]
		}
		if !ending.MatchString(strings.TrimSpace(line)) {
			line = lasting.ReplaceAllString(line, `{ timeout --preserve-status -s INT 2 $0 || [ $$? = 130 ]; } `)
		}
		out.WriteString(line)
	}
	return out.String()
}

func boot(t *testing.T) *debian.System {
	root := debian.Fresh(t)
	debian.Packages(t, root, "0.1+docs")
	s := debian.Boot(t, root, debian.Options{})
	for _, script := range []string{
		"dpkg -i /packages/0.1+docs/*.deb && mkdir -p build && ln -s /packages/0.1+docs build/packages",
		// The documentation takes this for granted: a machine that can be reached by ssh.
		`echo 127.0.0.1 localhost >/etc/hosts; mkdir -p .ssh && ssh-keygen -q -t ed25519 -N "" -f .ssh/id_ed25519 && cp .ssh/id_ed25519.pub .ssh/authorized_keys &&
systemctl restart ssh && ssh-keyscan localhost >.ssh/known_hosts && rm -f /etc/reader.conf.d/libccidtwin`,
	} {
		if out, err := s.Run(script); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return s
}

// tidy ends what a block left running.
const tidy = `
cd /root
systemctl stop cardfs pcscd.socket pcscd 2>/dev/null
for i in 1 2 3; do findmnt -rno TARGET -t fuse.cardfs,fuse.sshfs | while read -r m; do umount -l "$m"; done; done
while pkill -x cardfs; do sleep 0.1; done
rm -rf work`

// try runs a block in a new directory.
func (b block) try(t *testing.T, s *debian.System, before string) {
	t.Helper()
	script := fmt.Sprintf("mkdir -p work; cd work; %s\n"+run, before, scripted(b.text))
	out, err := s.Run(script)
	if err != nil {
		t.Errorf("%s: %v\n%s\nIt was:\n%s", b.at, err, out, b.text)
	} else if testing.Verbose() {
		t.Logf("%s\n%s", b.at, out)
	}
	s.Run(tidy)
}

// simulated sets up what the examples in the commands' help assume.
const simulated = `mkdir -p cards /mnt/cards; cardfs mount -b --usb=off --sim ikey3k cards; ln -s /usr/bin/true script; echo 00A4000C023F00 >script.apdu`

func TestDocumentation(t *testing.T) {
	s := boot(t)
	t.Run("README", func(t *testing.T) { readme(t, s) })
	t.Run("help", func(t *testing.T) { help(t, s) })
	t.Run("pages", func(t *testing.T) { pages(t, s) })
}

func help(t *testing.T, s *debian.System) {
	words, err := s.Run(`cardfs __complete help "" 2>/dev/null`)
	if err != nil {
		t.Fatalf("%v\n%s", err, words)
	}
	blocks := 0
	for word := range strings.Lines(words) {
		name, _, ok := strings.Cut(strings.TrimSpace(word), "\t")
		if !ok {
			continue
		}
		text, err := s.Run("cardfs help " + name)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		list := indented("cardfs help "+name, text, "  ")
		if _, examples, ok := strings.Cut(text, "\nExamples:\n"); ok {
			examples, _, _ = strings.Cut(examples, "\n\n")
			examples = strings.ReplaceAll("\n"+examples, "\n  ", "\n")
			list = []block{{at: "cardfs help " + name + ", Examples", lang: "sh", text: strings.TrimPrefix(examples, "\n") + "\n"}}
		}
		before := simulated
		switch name {
		case "mount", "cardfs":
			before = "mkdir -p /mnt/cards"
		case "doctor":
			before = "systemctl start cardfs"
		case "udev-rules":
			before = "mkdir -p /etc/udev/rules.d"
		}
		for _, b := range list {
			blocks++
			t.Run(name, func(t *testing.T) { b.try(t, s, before) })
		}
	}
	if blocks < 10 {
		t.Errorf("only %d blocks of commands in the help", blocks)
	}
}

// The manual pages that are not generated.
func pages(t *testing.T, s *debian.System) {
	all, err := filepath.Glob(filepath.Join(cc.Root(), "cmd/cardfs/install/man/*.md"))
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	examples := 0
	for _, page := range all {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range indented(filepath.Base(page), string(text), "    ") {
			t.Run(filepath.Base(page), func(t *testing.T) { b.try(t, s, "systemctl start cardfs") })
		}
		for _, b := range tables(filepath.Base(page), string(text), "    ") {
			examples++
			out, err := s.Run("cat >example.conf <<'END'\n" + b.text + "END\ncardfs mount --check --config example.conf")
			if err != nil {
				t.Errorf("%s: %v\n%s", b.at, err, out)
			}
		}
	}
	if examples == 0 {
		t.Error("no example of a configuration file in the pages")
	}
	// The settings that are commented out in the installed file may be enabled.
	if out, err := s.Run(`sed -E 's/^#(\[|[a-z])/\1/' /etc/cardfs.conf >example.conf && grep -c '^\[' example.conf && cardfs mount --check --config example.conf`); err != nil {
		t.Errorf("/etc/cardfs.conf without its comments: %v\n%s", err, out)
	}
}

// The README is read from the top, and the effects of one block remain for the next.
func readme(t *testing.T, s *debian.System) {
	text, err := os.ReadFile(filepath.Join(cc.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	list := fenced("README.md", string(text))
	if len(list) < 5 {
		t.Errorf("only %d blocks of commands in the README", len(list))
	}
	// Before the README installs the packages, only the programs built from the sources
	// exist.
	const before = `cp /usr/bin/cardfs /usr/local/bin/ && mkdir /usr/local/bin/pcsc && cp /usr/lib/*/cardfs/libpcsclite.so.1 /usr/local/bin/pcsc/ && dpkg --purge libctapi-cardfs-dev libctapi-cardfs1 libifdcardfs cardfs 2>&1`
	if out, err := s.Run(before); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, b := range list {
		switch b.lang {
		case "console":
			session(t, s, b)
		case "sh":
			if strings.Contains(b.text, "apt-get install") {
				s.Run("rm -r /usr/local/bin/cardfs /usr/local/bin/pcsc")
			}
			out, err := s.Run(typed + fmt.Sprintf(run, scripted(b.text)))
			if err != nil {
				t.Errorf("%s: %v\n%s\nIt was:\n%s", b.at, err, out, b.text)
			}
		case "python":
			if out, err := s.Run("python3 - <<'END'\n" + b.text + "END\n"); err != nil {
				t.Errorf("%s: %v\n%s", b.at, err, out)
			}
		case "ini":
			script := "mkdir -p /etc/systemd/system/pcscd.service.d; cat >/etc/systemd/system/pcscd.service.d/readme.conf <<'END'\n" + b.text +
				"END\nsystemctl daemon-reload && systemd-analyze --man=no verify pcscd.service 2>&1"
			if out, err := s.Run(script); err != nil || strings.Contains(out, "readme.conf") {
				t.Errorf("%s: %v\n%s", b.at, err, out)
			}
		case "text":
		default:
			t.Errorf("%s: a block of %q: of what?", b.at, b.lang)
		}
	}
	s.Run(tidy)
	// The machine's own key, which opens the door as well, is of Ed25519.
	if out, err := s.Run(`journalctl --no-pager -u ssh | grep 'Accepted publickey for root .* ECDSA '`); err != nil {
		t.Errorf("nobody logged in with the PIV card's key: %v\n%s", err, out)
	}
}

// typed types the PIN that ssh asks for.
const typed = `printf '#!/bin/sh\necho 123456\n' >/root/.ssh/askpass && chmod 700 /root/.ssh/askpass
export SSH_ASKPASS=/root/.ssh/askpass SSH_ASKPASS_REQUIRE=force
`

// session runs the commands after "$ " and compares their output. … stands for anything.
func session(t *testing.T, s *debian.System, b block) {
	t.Helper()
	var script, want strings.Builder
	for line := range strings.Lines(b.text) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			script.WriteString(command)
			continue
		}
		want.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*"))
	}
	out, err := s.Run(fmt.Sprintf(run, scripted(script.String())))
	if err != nil || !regexp.MustCompile("(?m)^"+want.String()+"$").MatchString(out) {
		t.Errorf("%s: %v\n%s\nIt was:\n%s", b.at, err, out, b.text)
	}
}
