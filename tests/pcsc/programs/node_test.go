package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nodePackage is the PC/SC of node that is kept up: pcsclite itself does not build on
// node 12 and newer.
const nodePackage = "@pokusew/pcsclite@0.6.0"

// node is the row of node's PC/SC, installed in dir.
func node(dir string) row {
	return row{name: "node " + nodePackage, script: "NODE_PATH=" + dir + "/node_modules node $TESTDATA/cards.js 5 A000000079010000", want: "protocol"}
}

// nodePCSC returns the directory where node's package is built, once, and kept for later
// runs. Without node or the registry it says so and returns "".
func nodePCSC(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "cardfs", "node", strings.ReplaceAll(nodePackage, "/", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	// npm since version 11 runs no script of a package that it is not told to run.
	const install = `set -e
found() { ls node_modules/*/*/build/Release/pcsclite.node >/dev/null 2>&1; }
found && exit
npm_config_nodedir=/usr npm_config_fetch_retries=0 npm install --no-audit --no-fund --no-save --foreground-scripts "$0"
found || npm_config_nodedir=/usr npm rebuild --dangerously-allow-all-scripts
found`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", install, nodePackage)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("NOT TESTED: node's pcsclite cannot be had from the npm registry: %v\n%s", err, out)
		return ""
	}
	return dir
}
