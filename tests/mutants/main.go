// Mutants makes small wrong edits, one at a time, and runs the fast tests that
// can see them. An edit that no test sees is a rule that no test holds.
//
// With file names it reads lists; with -generate it picks edits itself:
//
//	go run ./tests/mutants tests/mutants/fs.txt
//	go run ./tests/mutants -generate -n 40 -seed 7 ./fs ./reader
//
// The tree is never written to: Go files are replaced by an overlay (go help
// build, -overlay), and C files are edited in a scratch copy.
//
// An entry of a list says where, what is there, what to put in its place:
//
//	fs/lock.go:131 an unlock wakes nobody
//	-	t.wake()
//	+
//	@ ./fs ./cmd/cardfs
//	= nobody can wait here: the reason why no test can see it
//
// The line number chooses between several places with the same text; without
// it the text must be unique in the file. Spaces at the beginning and the end
// of a line do not count. More "-" or "+" lines make a text of several lines.
// "@" names the packages to test instead of the file's own and those that
// import it. "=" marks an edit that changes nothing that can be observed.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fast lists the packages whose tests run for every edit below them.
const fast = "./fs/... ./reader/... ./ctapi ./drivers/... ./cmd/cardfs/... ./tests/clib"

// emulators are devices for tests, and not part of the product.
const emulators = "(^|/)emu/"

func main() {
	r := &runner{}
	generate := flag.Bool("generate", false, "the arguments are packages; make edits of them")
	n := flag.Int("n", 40, "how many edits to make that build")
	seed := flag.Uint64("seed", 1, "of the choice of edits")
	files := flag.String("files", "", "make edits only of files whose name matches")
	apart := flag.String("apart", emulators, "make no edits of files whose path matches")
	only := flag.String("only", "", "try only entries whose place or note matches")
	list := flag.Bool("list", false, "print the edits as a list; run nothing")
	flag.BoolVar(&r.check, "check", false, "only see that the edits fit and build")
	flag.BoolVar(&r.own, "own", false, "run only the tests of the edited package")
	flag.StringVar(&r.skip, "skip", "InMachine|Witness|Soak", "tests to leave out")
	flag.DurationVar(&r.slack, "slack", 15*time.Second, "on top of four times what tests take without an edit; a hang is a kill")
	flag.IntVar(&r.jobs, "p", 2, "how many packages to test at once")
	flag.BoolVar(&r.verbose, "v", false, "show what the failing tests said")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: mutants [flags] LIST...\n       mutants [flags] -generate PACKAGE...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := func() (bool, error) {
		if err := r.open(ctx); err != nil {
			return false, err
		}
		defer r.close()
		var mutants []mutant
		var err error
		if *generate {
			mutants, err = r.generate(ctx, flag.Args(), *seed, *files, *apart)
		} else {
			mutants, err = readLists(flag.Args())
			*n = len(mutants)
		}
		if err != nil {
			return false, err
		}
		if *only != "" {
			match, err := regexp.Compile(*only)
			if err != nil {
				return false, err
			}
			mutants = slices.DeleteFunc(mutants, func(m mutant) bool {
				return !match.MatchString(fmt.Sprintf("%s:%d %s", m.file, m.line, m.note))
			})
		}
		if *list {
			for _, m := range mutants[:min(*n, len(mutants))] {
				fmt.Print(m)
			}
			return true, nil
		}
		return r.all(ctx, mutants, *n, os.Stdout)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// count is the outcome for a directory's mutants.
type count struct{ killed, survived int }

// all tries mutants until n of them were built. It prints a line for each and a table, and
// reports whether each behaved as its list says.
func (r *runner) all(ctx context.Context, mutants []mutant, n int, w io.Writer) (bool, error) {
	ok, counts := true, map[string]*count{}
	for _, m := range mutants {
		if n == 0 {
			break
		}
		start := time.Now()
		got, by, err := r.try(ctx, m)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			ok = false
			fmt.Fprintf(w, "STALE     %s:%d %v\n", m.file, m.line, err)
			continue
		}
		dir := filepath.Dir(m.file)
		if counts[dir] == nil {
			counts[dir] = &count{}
		}
		switch {
		case got == unbuilt && m.generated:
			continue // not a mutant: another takes its place
		case got == unbuilt:
			ok = false
		case got == "fits":
		case m.equal != "" && got == survived:
			got = "equal"
		case m.equal != "":
			got = "UNEQUAL" // the list is wrong: a test saw it
			ok = false
		case got == killed:
			counts[dir].killed++
		default:
			counts[dir].survived++
			ok = false
		}
		n--
		fmt.Fprintf(w, "%-9s %s:%d %s  %s%.0fs\n", got, m.file, m.line, m.describe(), by, time.Since(start).Seconds())
	}
	fmt.Fprintln(w)
	for _, dir := range slices.Sorted(maps.Keys(counts)) {
		if c := counts[dir]; c.killed+c.survived > 0 {
			fmt.Fprintf(w, "%-20s %3d of %3d killed, %3d %%\n", dir, c.killed, c.killed+c.survived, 100*c.killed/(c.killed+c.survived))
		}
	}
	return ok, ctx.Err()
}

// oneLine shortens a text for the report.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 60 {
		s = s[:57] + "..."
	}
	return s
}
