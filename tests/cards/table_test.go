package cards

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// parts are those of the table. Each runs once for each way, in parallel with others.
var parts = []struct {
	name string
	run  func(t *testing.T, part string, w way)
}{
	{"gpg", gpgLife},
	{"gpg-keytocard", gpgKeytocard},
	{"gpg-ssh", gpgLogin},
	{"gpg-killed", gpgKilled},
	{"opensc-openpgp", openSCOpenPGP},
	{"yubico", yubicoTool},
	{"opensc-piv", openSCPIV},
	{"piv-ssh", pivLogin},
	{"piv-go", pivGo},
}

// versions are the clients whose versions the table is true of, and what prints them.
var versions = [][2]string{
	{"pcscd", "pcscd --version"},
	{"gpg, scdaemon", "gpg --version"},
	{"OpenSC", "opensc-tool --info"},
	{"yubico-piv-tool", "yubico-piv-tool --version"},
	{"piv-go", "go version -m $(which piv-go) | awk '/piv-go/ && /dep/ {print $2, $3}'"},
	{"p11tool", "p11tool --version"},
	{"ssh", "ssh -V"},
	{"openssl", "openssl version"},
}

// clients is the table of this run.
var clients table

// table has a line for each part, client and action, with a result for each way.
type table struct {
	mu    sync.Mutex
	lines []*line
}

type line struct {
	part, client, action string
	results              map[way]string
}

func (tb *table) add(part string, w way, client, action, result string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, l := range tb.lines {
		if l.part == part && l.client == client && l.action == action && l.results[w] == "" {
			l.results[w] = result
			return
		}
	}
	tb.lines = append(tb.lines, &line{part, client, action, map[way]string{w: result}})
}

// String prints the parts in their order, and below it the reasons for what was not done.
func (tb *table) String() string {
	var text strings.Builder
	var reasons []string
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "part\tclient\taction\tthrough pcscd\twithout it")
	for _, p := range parts {
		for _, l := range tb.lines {
			if l.part != p.name {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s", p.name, l.client, l.action)
			for _, way := range ways {
				result, reason, _ := strings.Cut(l.results[way], ": ")
				if reason != "" {
					n := slices.Index(reasons, reason)
					if n < 0 {
						n, reasons = len(reasons), append(reasons, reason)
					}
					result = fmt.Sprintf("%s (%d)", result, n+1)
				}
				fmt.Fprintf(w, "\t%s", result)
			}
			fmt.Fprintln(w)
		}
	}
	w.Flush()
	for n, reason := range reasons {
		fmt.Fprintf(&text, "(%d) %s\n", n+1, reason)
	}
	return text.String()
}

// TestClients prints the table: what each program can do with the cards, both ways.
func TestClients(t *testing.T) {
	clients = table{}
	t.Cleanup(func() { t.Logf("%s\n%s", said(), clients.String()) }) // after all parts
	for _, p := range parts {
		for _, w := range ways {
			t.Run(p.name+"/"+string(w), func(t *testing.T) {
				t.Parallel()
				p.run(t, p.name, w)
			})
		}
	}
}

// said returns the versions.
func said() string {
	var text strings.Builder
	for _, v := range versions {
		cmd := exec.Command("sh", "-c", v[1]+" 2>&1")
		cmd.Env = append(cmd.Environ(), "PATH="+built+":"+os.Getenv("PATH"))
		out, _ := cmd.Output()
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		fmt.Fprintf(&text, "%s: %s\n", v[0], first)
	}
	return text.String()
}
