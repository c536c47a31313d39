package clib

import (
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
)

const pcsc = "../../ctapi/clib/pcsc"

// The parts of abi.h.
var (
	guard    = regexp.MustCompile(`(?m)^#(ifndef|define) CARDFS_PCSC_ABI_H$|^#endif$`)
	comment  = regexp.MustCompile(`(?s)/\*.*?\*/`)
	defined  = regexp.MustCompile(`(?m)^#define (\w+) .*$`)
	enumText = regexp.MustCompile(`(?s)enum \{.*?\};`)
	enumName = regexp.MustCompile(`\b([A-Z]\w+)( = [^,]+)?(,|\s*\})`)
	structs  = regexp.MustCompile(`(?s)typedef struct \{(.*?)\} (\w+);`)
	member   = regexp.MustCompile(`\b(\w+)(\[\w+\])?;`)
)

// abi.h has what pcsc-lite's headers have: the values, the members of structures with their
// places and types, the types, and the functions with their parameters.
func TestPCSCHeader(t *testing.T) {
	const dir = "/usr/include/PCSC"
	if _, err := os.Stat(dir + "/winscard.h"); err != nil {
		t.Fatalf("%v: apt-get install libpcsclite-dev", err)
	}
	file, err := os.ReadFile(pcsc + "/abi.h")
	if err != nil {
		t.Fatal(err)
	}
	text := guard.ReplaceAllString(comment.ReplaceAllString(string(file), ""), "")
	constants := strings.Join(append(defined.FindAllString(text, -1), enumText.FindAllString(text, -1)...), "\n")
	declarations := structs.ReplaceAllString(enumText.ReplaceAllString(defined.ReplaceAllString(text, ""), ""), "")

	var names []string
	for _, m := range defined.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	for _, e := range enumText.FindAllString(text, -1) {
		for _, m := range enumName.FindAllStringSubmatch(e, -1) {
			names = append(names, m[1])
		}
	}
	if len(names) < 60 || !slices.Contains(names, "SCARD_W_REMOVED_CARD") || !slices.Contains(names, "SCARD_STATE_MUTE") {
		t.Fatalf("only %d values in abi.h: %q", len(names), names)
	}

	// pcscd alone knows it (pcsc-lite, src/winscard.c).
	names = slices.DeleteFunc(names, func(n string) bool { return n == "SCARD_PROTOCOL_ANY_OLD" })

	var c strings.Builder
	c.WriteString("#include <stddef.h>\n#include <winscard.h>\n#include <reader.h>\n")
	for _, n := range names {
		fmt.Fprintf(&c, "#ifndef %s\n#error %[1]s is not in the headers of pcsc-lite\n#endif\nenum { their_%[1]s = (long)(%[1]s) };\n#undef %[1]s\n", n)
	}
	c.WriteString(constants + "\n")
	for _, n := range names {
		fmt.Fprintf(&c, "_Static_assert((long)(%s) == (long)their_%[1]s, \"%[1]s differs\");\n", n)
	}
	found := structs.FindAllStringSubmatch(text, -1)
	if len(found) != 2 {
		t.Fatalf("%d structures in abi.h, not two", len(found))
	}
	for _, m := range found {
		body, name := m[1], m[2]
		fmt.Fprintf(&c, "typedef struct {%s} our_%s;\n_Static_assert(sizeof(our_%[2]s) == sizeof(%[2]s), \"%[2]s: another size\");\n", body, name)
		for _, f := range member.FindAllStringSubmatch(body, -1) {
			fmt.Fprintf(&c, "_Static_assert(offsetof(our_%s, %[2]s) == offsetof(%[1]s, %[2]s) &&\n"+
				"\t__builtin_types_compatible_p(__typeof__(((our_%[1]s *)0)->%[2]s), __typeof__(((%[1]s *)0)->%[2]s)), \"%[1]s.%[2]s differs\");\n", name, f[1])
		}
	}
	// To declare anew what has another type is an error.
	c.WriteString(declarations)
	source := filepath.Join(t.TempDir(), "abi.c")
	if err := os.WriteFile(source, []byte(c.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, nil, tool(t, "gcc", "gcc"), "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", dir, source)
	// It needs no other header.
	alone := filepath.Join(t.TempDir(), "alone.c")
	if err := os.WriteFile(alone, []byte("#include \"abi.h\"\n#include \"abi.h\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, nil, tool(t, "gcc", "gcc"), "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", pcsc, alone)
}

// exported lists what a library shows: of functions the names, of data the sizes as well.
func exported(t *testing.T, file string) []string {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]bool{}
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF || s.Section == elf.SHN_ABS {
			continue
		}
		what := fmt.Sprintf("%s %v", s.Name, elf.ST_TYPE(s.Info))
		if elf.ST_TYPE(s.Info) == elf.STT_OBJECT {
			what += fmt.Sprintf(" of %d", s.Size)
		}
		list[what] = true
	}
	return slices.Sorted(maps.Keys(list))
}

// "pcsc-lite's ABI: all exported functions and data", and nothing else.
func TestPCSCExports(t *testing.T) {
	theirs := strings.TrimSpace(run(t, nil, tool(t, "gcc", "gcc"), "-print-file-name=libpcsclite.so.1"))
	if !filepath.IsAbs(theirs) {
		t.Fatal("there is no libpcsclite.so.1: apt-get install libpcsclite1")
	}
	ours := filepath.Join(t.TempDir(), "libpcsclite.so.1")
	if err := cc.Build(t.Context(), ours, cc.PCSC()); err != nil {
		t.Fatal(err)
	}
	want, got := exported(t, theirs), exported(t, ours)
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("exported are\n%s\nby pcsc-lite\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
