package main

import (
	"go/format"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const sample = `package p

func f(a, b int) (int, error) {
	defer g()
	if a < b && b != 0 {
		return 0, errLess
	}
	for a > 0 {
		a--
		a -= 2
		g()
		log.Info("no edit of this")
	}
	switch a {
	case 1, 2:
		return 1, nil
	}
	g()
	return a, nil
}
`

func TestList(t *testing.T) {
	list, err := parseList(`# words
p/f.go:17 the last call
-	g()
+
@ ./p ./q

p/f.go
-	a--
-	a -= 2
+	a -= 3
= three either way
`)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if m := list[0]; m.note != "the last call" || m.line != 17 || !slices.Equal(m.packages, []string{"./p", "./q"}) {
		t.Errorf("%+v", m)
	}
	got, err := list[0].apply([]byte(sample))
	if err != nil || !strings.HasSuffix(string(got), "}\n\t\n\treturn a, nil\n}\n") {
		t.Errorf("%v\n%s", err, got)
	}
	if m := list[1]; m.equal != "three either way" {
		t.Errorf("%+v", m)
	}
	if got, err = list[1].apply([]byte(sample)); err != nil || !strings.Contains(string(got), "{\n\t\ta -= 3\n\t\tg()") {
		t.Errorf("%v\n%s", err, got)
	}
	for _, bad := range []string{"p/f.go\n", "p/f.go\n-a\n+a\n", "p/f.go:x\n-a\n+b\n", "p/f.go\n?\n"} {
		if _, err := parseList(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, m := range []mutant{{old: "g()"}, {old: "h()"}, {}} {
		if _, err := m.apply([]byte(sample)); err == nil {
			t.Errorf("%+v is found", m)
		}
	}
}

// Every edit changes the text, still parses, and is described correctly in a list.
func TestEdits(t *testing.T) {
	kinds := map[string]int{}
	err := edits("p/f.go", []byte(sample), func(kind string, m mutant) {
		kinds[kind]++
		text, err := m.apply([]byte(sample))
		if err != nil || string(text) == sample {
			t.Errorf("%s: %v", m.note, err)
		}
		if _, err := format.Source(text); err != nil {
			t.Errorf("%s: %v\n%s", m.note, err, text)
		}
		list, err := parseList(m.String())
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v", m, err)
		}
		if again, err := list[0].apply([]byte(sample)); err != nil || string(again) != string(text) {
			t.Errorf("as a list: %v\n%s%s", err, m, again)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]int{
		"condition negated": 2, "limit moved by one": 2, "&& and || swapped": 1, "call dropped": 2,
		"defer dropped": 1, "assignment dropped": 2, "error dropped": 1, "case dropped": 1, "literal off by one": 7,
	} {
		if kinds[kind] != want {
			t.Errorf("%d of %q, want %d", kinds[kind], kind, want)
		}
	}
}

func TestFailure(t *testing.T) {
	for out, want := range map[string]string{
		"--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/b_1.2 (0.00s)\n        x_test.go:1: no\n--- FAIL: TestC (1s)\nFAIL\n": `^TestA$/^b_1\.2$`,
		"--- FAIL: TestA (0.00s)\n--- FAIL: TestC (1s)\n":                                                                   "^TestA$",
		"panic: no\n": "",
	} {
		if got := failure([]byte(out)); got != want {
			t.Errorf("%q: %s, want %s", out, got, want)
		}
	}
}

// The lists can be parsed, and name existing files.
func TestLists(t *testing.T) {
	names, err := filepath.Glob("*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	list, err := readLists(names)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if _, err := os.Stat(filepath.Join("../..", m.file)); err != nil {
			t.Error(err)
		}
	}
}

// Emulators are left out, by the folder that they are in.
func TestApart(t *testing.T) {
	r := &runner{}
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	of := func(apart string) (emu, driver bool) {
		t.Helper()
		all, err := r.generate(t.Context(), []string{"../../drivers/ikey/..."}, 1, "", apart)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if strings.HasPrefix(m.file, "drivers/ikey/emu/") {
				emu = true
			} else {
				driver = true
			}
		}
		return emu, driver
	}
	if emu, driver := of(emulators); emu || !driver {
		t.Errorf("edits of the emulator %v, of the driver %v", emu, driver)
	}
	if emu, driver := of(""); !emu || !driver {
		t.Errorf("without -apart: edits of the emulator %v, of the driver %v", emu, driver)
	}
}
