package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The outcomes of a mutant.
const (
	killed   = "killed"
	survived = "SURVIVED"
	unbuilt  = "UNBUILT"
)

// runner tries mutants.
type runner struct {
	check   bool
	own     bool
	skip    string
	slack   time.Duration // on top of what tests take
	jobs    int
	verbose bool

	top     string // of the source tree
	module  string
	scratch string                   // removed at the end
	deps    map[string][]string      // by tested package: the packages that its tests are built from
	limits  map[string]time.Duration // by stage: the time its slowest package may take
	copied  bool                     // the tree, to scratch/tree, for edits of C
	flaky   []string                 // tests that failed once, and not again
}

func (r *runner) open(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}} {{.Path}}").Output()
	if err != nil {
		return fmt.Errorf("go list -m: %w", err)
	}
	r.top, r.module, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	// A short name: tests put sockets below it.
	if r.scratch, err = os.MkdirTemp("", "mut"); err != nil {
		return err
	}
	// Tests may run as another user.
	if err := os.Chmod(r.scratch, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-test", "-f", `{{.ImportPath}} {{join .Deps " "}}`}, strings.Fields(fast)...)...)
	cmd.Dir, cmd.Stderr = r.top, os.Stderr
	if out, err = cmd.Output(); err != nil {
		return fmt.Errorf("go list -test: %w", err)
	}
	r.deps, r.limits = map[string][]string{}, map[string]time.Duration{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if name, ok := strings.CutSuffix(words[0], ".test"); ok {
			r.deps[name] = words[1:]
		}
	}
	return nil
}

func (r *runner) close() {
	r.sweep(r.scratch)
	os.RemoveAll(r.scratch)
}

// stages returns the packages to test: first the edited one, whose tests see most, then all
// others.
func (r *runner) stages(m mutant) [][]string {
	if len(m.packages) > 0 {
		return [][]string{m.packages}
	}
	if strings.HasSuffix(m.file, ".c") || strings.HasSuffix(m.file, ".h") {
		return [][]string{{"./tests/clib"}}
	}
	path := r.module + "/" + filepath.Dir(m.file)
	var first, others []string
	for name, deps := range r.deps {
		switch {
		case name == path:
			first = []string{name}
		case !r.own && slices.Contains(deps, path):
			others = append(others, name)
		}
	}
	slices.Sort(others)
	return slices.DeleteFunc([][]string{first, others}, func(s []string) bool { return len(s) == 0 })
}

// try builds m and runs tests until one fails, and returns which.
func (r *runner) try(ctx context.Context, m mutant) (what, by string, err error) {
	text, err := os.ReadFile(filepath.Join(r.top, m.file))
	if err != nil {
		return "", "", err
	}
	text, err = m.apply(text)
	if err != nil {
		return "", "", err
	}
	if filepath.Ext(m.file) == ".go" {
		overlay, err := r.overlay(m.file, text)
		if err != nil {
			return "", "", err
		}
		flags := "GOFLAGS=" + strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay)
		if _, err := r.run(ctx, r.top, flags, "build", "-o", os.DevNull, "./"+filepath.Dir(m.file)); err != nil {
			return unbuilt, "", nil
		}
		return r.test(ctx, m, r.top, flags)
	}
	tree, err := r.copy()
	if err != nil {
		return "", "", err
	}
	file := filepath.Join(tree, m.file)
	right, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	defer os.WriteFile(file, right, 0o644)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return "", "", err
	}
	if filepath.Ext(m.file) == ".c" {
		cc := exec.CommandContext(ctx, "cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"+filepath.Join(tree, "ctapi/clib/common"), file)
		if cc.Run() != nil {
			return unbuilt, "", nil
		}
	}
	return r.test(ctx, m, tree, "GOFLAGS="+os.Getenv("GOFLAGS"))
}

var took = regexp.MustCompile(`(?m)^ok\s+\S+\s+([0-9.]+s)`)

// bound returns how long the tests of a package of the stage may take: several times what
// they take without an edit. A test that fails without an edit proves nothing.
func (r *runner) bound(ctx context.Context, packages []string) (time.Duration, error) {
	key := strings.Join(packages, " ")
	if limit := r.limits[key]; limit > 0 {
		return limit, nil
	}
	var out []byte
	var err error
	once := map[string]bool{}
	for range 10 {
		if out, err = r.run(ctx, r.top, "GOFLAGS="+os.Getenv("GOFLAGS"), r.args(5*time.Minute, packages)...); err == nil {
			break
		}
		name := failure(out)
		if name != "" && once[name] {
			fmt.Fprintf(os.Stderr, "fails without an edit, left out: %s\n", name)
			r.flaky = append(r.flaky, name)
		}
		once[name] = true
	}
	if err != nil {
		return 0, fmt.Errorf("without an edit: %w\n%s", err, out)
	}
	slowest := time.Duration(0)
	for _, found := range took.FindAllSubmatch(out, -1) {
		if d, err := time.ParseDuration(string(found[1])); err == nil {
			slowest = max(slowest, d)
		}
	}
	r.limits[key] = r.slack + 4*slowest
	return r.limits[key], nil
}

func (r *runner) args(limit time.Duration, packages []string) []string {
	skip := strings.Join(append([]string{r.skip}, r.flaky...), "|")
	return append([]string{"test", "-count=1", "-vet=off", "-failfast", "-timeout", limit.String(),
		"-p", strconv.Itoa(r.jobs), "-skip", skip}, packages...)
}

var (
	failed = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	died   = regexp.MustCompile(`(?m)^panic: (test timed out|.*)|^WARNING: (DATA RACE)`)
)

// failure is the pattern of the first test that failed, with its subtest; "" if
// the tests ended in another way.
func failure(out []byte) string {
	name := ""
	for _, found := range failed.FindAllSubmatch(out, -1) {
		if name != "" && !strings.HasPrefix(string(found[1]), name+"/") {
			break
		}
		name = string(found[1])
	}
	if name == "" {
		return ""
	}
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

func (r *runner) test(ctx context.Context, m mutant, dir, flags string) (what, by string, err error) {
	if r.check {
		return "fits", "", nil
	}
	for _, packages := range r.stages(m) {
		limit, err := r.bound(ctx, packages)
		if err != nil {
			return "", "", err
		}
	again:
		out, err := r.run(ctx, dir, flags, r.args(limit, packages)...)
		if err == nil {
			continue
		}
		if r.verbose {
			os.Stdout.Write(out)
		}
		if bytes.Contains(out, []byte("[build failed]")) {
			return unbuilt, "", nil
		}
		if found := died.FindSubmatch(out); found != nil {
			return killed, "by " + oneLine(string(bytes.Join(found[1:], nil))) + " ", nil
		}
		name := failure(out)
		if name == "" {
			return killed, "by a hang ", nil
		}
		// A test that fails now and then proves nothing.
		if _, err := r.run(ctx, dir, flags, append(r.args(limit, packages), "-run", name)...); err == nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "flaky: %s\n", name)
			r.flaky = append(r.flaky, name)
			goto again
		}
		return killed, "by " + strings.NewReplacer("^", "", "$", "", `\`, "").Replace(name) + " ", nil
	}
	return survived, "", nil
}

// overlay writes the replacement of a Go file, and returns the name of the overlay list.
func (r *runner) overlay(file string, text []byte) (string, error) {
	name := filepath.Join(r.scratch, "file.go")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(r.top, file): name}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return "", err
	}
	overlay := filepath.Join(r.scratch, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o644)
}

// copy makes the scratch copy of the files that git tracks.
func (r *runner) copy() (string, error) {
	tree := filepath.Join(r.scratch, "tree")
	if r.copied {
		return tree, nil
	}
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = r.top
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		from, to := filepath.Join(r.top, name), filepath.Join(tree, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return "", err
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			return "", err
		}
	}
	r.copied = true
	return tree, nil
}

// run runs the go command in a process group and a temporary directory of its
// own, and leaves nothing of either behind.
func (r *runner) run(ctx context.Context, dir, flags string, args ...string) ([]byte, error) {
	tmp := filepath.Join(r.scratch, "t")
	if err := os.Mkdir(tmp, 0o777); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o777|fs.ModeSticky); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	defer r.sweep(tmp)
	// The tests end themselves after the limit; this ends those that do not.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), flags, "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return out, err
}

// sweep ends the processes whose temporary directory is in dir, and unmounts the mounts
// below it.
func (r *runner) sweep(dir string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		env, err := os.ReadFile(name)
		if err != nil || !slices.ContainsFunc(strings.Split(string(env), "\x00"), func(s string) bool {
			return s == "TMPDIR="+dir || strings.HasPrefix(s, "TMPDIR="+dir+"/")
		}) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if words := strings.Fields(line); len(words) > 1 && strings.HasPrefix(words[1], dir+"/") {
			syscall.Unmount(words[1], syscall.MNT_DETACH)
		}
	}
}
