// Package clib builds the C libraries of ctapi/clib together with a fake mount that can
// misbehave (testdata/fake), and runs them under the sanitizers and valgrind.
package clib

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
)

const (
	bundler = "../../ctapi/clib/ifd/bundle.sh"
	common  = "../../ctapi/clib/common"
	ctapi   = "../../ctapi/clib/ctapi"
	ifd     = "../../ctapi/clib/ifd"
)

// wrapped lists the functions that the libraries call and testdata/fake replaces.
var wrapped = []string{
	"open", "openat", "close", "fcntl", "read", "epoll_ctl", "epoll_wait", "write", "ioctl", "readlink",
	"opendir", "readdir", "closedir", "malloc", "calloc", "pthread_create", "pthread_clockjoin_np",
}

var warnings = []string{"-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes", "-Wformat=2"}

// soak tests every fault at every call. It takes an hour, with all sanitizers.
func soak() bool { return os.Getenv("CARDFS_SOAK") != "" }

func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not there: apt-get install %s", name, pkg)
	}
	return path
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	limit := 5 * time.Minute
	if soak() {
		limit = 50 * time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s", filepath.Base(name), args, err, out.String())
	}
	return out.String()
}

// build makes the test program whose sources are in that directory of testdata. The tests
// set how long the libraries wait (testdata/times.h): 30 ms for what comes soon, and 60 ms
// for an answer, unless they set another time.
func build(t *testing.T, name string, flags ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	args := append([]string{"-std=gnu11", "-g", "-O1", "-fno-omit-frame-pointer", "-pthread",
		"-DCF_SOON_MS=test_soon_ms", "-DCF_ANSWER_MS=test_answer_ms", "-DSOON_MS=30", "-DANSWER_MS=60",
		"-include", "testdata/times.h", "-I", "testdata", "-I", "testdata/fake", "-I", ctapi, "-I", ifd, "-I", common,
		"-o", program}, warnings...)
	for _, dir := range []string{name, "fake"} {
		files, err := filepath.Glob("testdata/" + dir + "/*.c")
		if err != nil || len(files) == 0 {
			t.Fatalf("no C files in testdata/%s: %v", dir, err)
		}
		args = append(args, files...)
	}
	args = append(args, flags...)
	for _, f := range wrapped {
		args = append(args, "-Wl,--wrap="+f)
	}
	library := cc.IFDHandler()
	if name == "ctapi" {
		library = cc.CTAPI()
	}
	for _, f := range library.Sources {
		args = append(args, filepath.Join(cc.Root(), f))
	}
	run(t, nil, tool(t, "gcc", "gcc"), args...)
	return program
}

// TestLibraries runs each program once for each kind of mistake that a tool can find.
func TestLibraries(t *testing.T) {
	stride := func(normal string) string {
		if soak() {
			return "STRIDE=1"
		}
		return "STRIDE=" + normal
	}
	for _, program := range []string{"ifd", "ifd_hostile", "ctapi"} {
		t.Run(program, func(t *testing.T) {
			t.Run("plain", func(t *testing.T) {
				t.Parallel()
				p := build(t, program)
				// Here all memory is the program's own, and is searched for PINs.
				t.Logf("%s", run(t, []string{stride("20"), "SCAN=1"}, p))
			})
			t.Run("address,undefined", func(t *testing.T) {
				t.Parallel()
				p := build(t, program, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
				t.Logf("%s", run(t, []string{stride("20"), "ASAN_OPTIONS=detect_stack_use_after_return=1"}, p))
			})
			t.Run("thread", func(t *testing.T) {
				t.Parallel()
				p := build(t, program, "-fsanitize=thread")
				t.Logf("%s", run(t, []string{stride("60")}, p))
			})
			t.Run("valgrind", func(t *testing.T) {
				t.Parallel()
				p := build(t, program)
				t.Logf("%s", run(t, []string{stride("120")}, tool(t, "valgrind", "valgrind"), "-q",
					"--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all",
					"--error-exitcode=9", p))
			})
		})
	}
}

// TestHeaders: the public headers compile on their own, in C and C++. ifd.h describes the
// IFD handler interface as pcsc-lite's header does.
func TestHeaders(t *testing.T) {
	gcc := tool(t, "gcc", "gcc")
	compile := func(t *testing.T, language, text string, flags ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "header."+language)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", ctapi, "-I", ifd, "-I", common}, flags...)
		run(t, nil, gcc, append(args, file)...)
	}
	for _, header := range []string{"cardfs.h", "ctapi.h"} {
		t.Run(header, func(t *testing.T) {
			text := "#include \"" + header + "\"\n#include \"" + header + "\"\n"
			compile(t, "c", text, "-std=c11", "-pedantic")
			if _, err := exec.LookPath("g++"); err == nil {
				compile(t, "cpp", text)
			}
		})
	}
	t.Run("ifdhandler.h", func(t *testing.T) {
		const dir = "/usr/include/PCSC"
		if _, err := os.Stat(dir + "/ifdhandler.h"); err != nil {
			t.Fatalf("%v: apt-get install libpcsclite-dev", err)
		}
		text, err := os.ReadFile("testdata/ifdhandler_h_test.c")
		if err != nil {
			t.Fatal(err)
		}
		compile(t, "c", string(text), "-I", dir)
	})
}

// TestBundle: each ID is at the same place in the three lists of Info.plist. A line that is
// no ID is an error that names it.
func TestBundle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ifd-cardfs.bundle")
	library := filepath.Join(t.TempDir(), "libifdcardfs.so")
	if err := os.WriteFile(library, []byte("so"), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := func(ids string) (string, error) {
		cmd := exec.Command(bundler, library, dir)
		cmd.Stdin = bytes.NewReader([]byte(ids))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, ids := range []string{"", "# nothing\n", "04b9:1300\n", "04b9 1300 x\n", "4b9:1300 x\n", "04b9:1300 a\nx\n"} {
		if out, err := bundle(ids); err == nil || !bytes.Contains([]byte(out), []byte("bundle.sh: ")) {
			t.Errorf("%q: %v %s; want a reason", ids, err, out)
		}
		if _, err := os.Stat(dir + "/Contents/Info.plist"); err == nil {
			t.Errorf("%q left an Info.plist", ids)
		}
	}
	if out, err := bundle("# IDs\n\n04b9:1300 Rainbow iKey 3000\n0529:0600  A & <B>\n"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	plist, err := os.ReadFile(dir + "/Contents/Info.plist")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<key>CFBundleExecutable</key>\n\t<string>libifdcardfs.so</string>",
		"<key>ifdVendorID</key>\n\t<array>\n\t\t<string>0x04b9</string>\n\t\t<string>0x0529</string>\n\t</array>",
		"<key>ifdProductID</key>\n\t<array>\n\t\t<string>0x1300</string>\n\t\t<string>0x0600</string>\n\t</array>",
		"<key>ifdFriendlyName</key>\n\t<array>\n\t\t<string>Rainbow iKey 3000</string>\n\t\t<string>A &amp; &lt;B&gt;</string>\n\t</array>",
	} {
		if !bytes.Contains(plist, []byte(want)) {
			t.Errorf("Info.plist lacks\n%s\nin\n%s", want, plist)
		}
	}
	if _, err := os.Stat(dir + "/Contents/Linux/libifdcardfs.so"); err != nil {
		t.Error(err)
	}
}
