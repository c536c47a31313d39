// Package cc builds the C programs that tests and benchmarks run. They are built on demand,
// so that `go test` of a single package is enough.
package cc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Target is one program, or one library to load.
type Target struct {
	Sources  []string // relative to the top of the tree
	Include  []string // directories, likewise
	Packages []string // of pkg-config
	Flags    []string // additional ones for the compiler, such as -fsanitize=address
	Shared   bool     // a library
}

// Flags are the compiler's for every target.
var Flags = []string{"-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"}

// Root is the top of the source tree.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// IFDHandler is the library that pcscd loads (ctapi/clib/ifd).
func IFDHandler() Target { return library("ifd") }

// CTAPI is the library of CT-API (ctapi/clib/ctapi).
func CTAPI() Target { return library("ctapi") }

// PCSC is the library that PC/SC programs load (ctapi/clib/pcsc).
func PCSC() Target { return library("pcsc") }

// library returns a library of ctapi/clib, with the files that all of them share. Only
// symbols that its headers mark are visible, and an undefined symbol is an error.
func library(name string) Target {
	t := Target{
		Include: []string{"ctapi/clib/common"},
		Flags:   []string{"-U_GNU_SOURCE", "-fvisibility=hidden", "-Wl,-z,defs,-z,nodelete"},
		Shared:  true,
	}
	for _, dir := range []string{name, "common"} {
		files, _ := filepath.Glob(filepath.Join(Root(), "ctapi/clib", dir, "*.c"))
		for _, f := range files {
			t.Sources = append(t.Sources, filepath.Join("ctapi/clib", dir, filepath.Base(f)))
		}
	}
	return t
}

// Build compiles t to the file out.
func Build(ctx context.Context, out string, t Target) error {
	args := append([]string{}, Flags...)
	if t.Shared {
		args = append(args, "-fPIC", "-shared", "-fvisibility=default")
	}
	args = append(args, "-o", out)
	for _, d := range t.Include {
		args = append(args, "-I"+filepath.Join(Root(), d))
	}
	args = append(args, t.Flags...)
	for _, s := range t.Sources {
		args = append(args, filepath.Join(Root(), s))
	}
	if len(t.Packages) > 0 {
		say, err := run(ctx, "pkg-config", append([]string{"--cflags", "--libs"}, t.Packages...)...)
		if err != nil {
			return err
		}
		args = append(args, strings.Fields(say)...)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	_, err := run(ctx, "cc", args...)
	return err
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w (`make deps` installs what is missing)\n%s", name, err, stderr.String())
	}
	return string(out), nil
}
