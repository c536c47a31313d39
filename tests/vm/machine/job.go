package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// hidden are the host's directories that the guest replaces by its own.
var hidden = []string{"/tmp", "/run", "/var"}

// jobScript is what the guest's shell runs: it sets up the command's environment, then
// becomes the command.
func jobScript(c Config, cards string) ([]byte, error) {
	if len(c.Command) == 0 {
		return nil, errors.New("no command to run in the machine")
	}
	dir := c.Dir
	if dir == "" {
		var err error
		if dir, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	argv := slices.Clone(c.Command)
	if p, err := exec.LookPath(argv[0]); err == nil && strings.Contains(argv[0], "/") {
		if argv[0], err = filepath.Abs(p); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}

	var b bytes.Buffer
	// The command, its directory or this program may lie in a directory that the guest
	// replaces by its own. They are mounted at their places.
	if isHidden(dir) {
		fmt.Fprintf(&b, "mkdir -p %[1]s && mount --bind /run/host%[1]s %[1]s\n", quote(dir))
	}
	for _, f := range []string{argv[0], self} {
		if isHidden(f) {
			fmt.Fprintf(&b, "[ -e %[1]s ] || { mkdir -p %[2]s && : >%[1]s && mount --bind /run/host%[1]s %[1]s; }\n",
				quote(f), quote(filepath.Dir(f)))
		}
	}
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	for _, kv := range env {
		k, v, ok := strings.Cut(kv, "=")
		if ok && isName(k) && !slices.Contains([]string{"HOME", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_", "XDG_RUNTIME_DIR"}, k) {
			fmt.Fprintf(&b, "export %s=%s\n", k, quote(v))
		}
	}
	fmt.Fprintf(&b, "export HOME=/tmp/home %s=1 %s=%s\n", envInside, envCards, quote(cards))
	if !strings.HasSuffix(self, ".test") {
		fmt.Fprintf(&b, "ln -sf %s /run/bin/vm\n", quote(self))
	}
	b.WriteString("export PATH=/run/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin\n")
	fmt.Fprintf(&b, "cd %s || exit 126\nexec", quote(dir))
	for _, a := range argv {
		b.WriteByte(' ')
		b.WriteString(quote(a))
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func isHidden(name string) bool {
	for _, h := range hidden {
		if strings.HasPrefix(name, h+"/") {
			return true
		}
	}
	return false
}

// isName reports whether the shell takes s as the name of a variable.
func isName(s string) bool {
	for i, r := range s {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
