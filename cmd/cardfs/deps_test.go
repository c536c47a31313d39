package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
)

// deps runs .ci/deps for the sets build and test on a system that has only the given programs,
// as shell scripts, and the shell's own.
func deps(t *testing.T, programs map[string]string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sh", filepath.Join(cc.Root(), ".ci/deps"), "build", "test")
	cmd.Env = []string{"PATH=" + dir}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The needs of make build and make test are installed once. After that neither root nor a
// network is needed. A user who cannot install is told what is missing.
func TestDeps(t *testing.T) {
	const installed, missing = `echo installed`, `[ "$4" = pcscd ] || echo installed`
	const user, root, goThere = "echo 1000", "echo 0", "exit 0"

	t.Run("nothing is missing", func(t *testing.T) {
		out, err := deps(t, map[string]string{"dpkg-query": installed, "id": user, "go": goThere, "mkdir": "exit 0", "sudo": `"$@"`})
		if err != nil || out != "" {
			t.Errorf("%v, %q; want silence", err, out)
		}
	})
	t.Run("no way to install", func(t *testing.T) {
		out, err := deps(t, map[string]string{"dpkg-query": missing, "id": user, "go": goThere})
		if err == nil || !strings.Contains(out, "run as root: apt-get install pcscd\n") {
			t.Errorf("%v, %q; want what to do", err, out)
		}
	})
	t.Run("lists out of date", func(t *testing.T) {
		dir := t.TempDir()
		apt := `echo "$*" >>` + dir + `/log; case "$*" in *update) : >` + dir + `/updated;; *) [ -e ` + dir + `/updated ] || { echo E: Unable to locate >&2; exit 100; };; esac`
		out, err := deps(t, map[string]string{"dpkg-query": missing, "id": root, "go": goThere, "mkdir": "exit 0",
			"env": `shift; exec "$@"`, "apt-get": apt})
		log, _ := os.ReadFile(dir + "/log")
		if err != nil || out != "installing pcscd\n" || strings.Count(string(log), "install pcscd\n") != 2 {
			t.Errorf("%v, %q, apt-get %q", err, out, log)
		}
	})
	t.Run("no network", func(t *testing.T) {
		out, err := deps(t, map[string]string{"dpkg-query": missing, "id": root, "go": goThere,
			"env": `shift; exec "$@"`, "apt-get": "echo E: no network >&2; exit 100"})
		if err == nil || !strings.Contains(out, "E: no network") {
			t.Errorf("%v, %q; want apt-get's reason", err, out)
		}
	})
}
