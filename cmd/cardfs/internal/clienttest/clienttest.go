// Package clienttest has what tests of the client commands share.
package clienttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// Tree makes a directory that looks like a mount: plain files, which answer nothing. It
// shows what a client makes of what it reads.
func Tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Code is the exit code that err comes to.
func Code(err error) int {
	if err == nil {
		return exit.OK
	}
	status := exit.Status{Code: exit.Error}
	errors.As(err, &status)
	return status.Code
}

// WantError fails the test unless err has this exit code and contains words.
func WantError(t *testing.T, what string, err error, code int, words string) {
	t.Helper()
	if Code(err) != code || !strings.Contains(fmt.Sprint(err), words) {
		t.Errorf("%s: %v, exit code %d; want %q, %d", what, err, Code(err), words, code)
	}
}
