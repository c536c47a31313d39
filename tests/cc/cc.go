// Package cc builds the C programs that tests and benchmarks run: from where
// they are needed, so that `go test` of a single package is enough.
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
	Flags    []string // more for the compiler, as -fsanitize=address
	Shared   bool     // a library
}

// Flags are every target's.
var Flags = []string{"-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"}

// Root is the top of the source tree.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
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
