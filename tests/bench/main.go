// Command bench measures the limits that cardfs sets itself: ratios of medians,
// all of one run, on whatever machine it is.
//
//	go run ./tests/bench            (make bench: builds first)
//	go run ./tests/bench -rounds 5  (shorter)
//	go run ./tests/bench -against OTHER/cardfs   (this version and another, in turns)
//
// All that is compared runs at the same time and is measured in short turns, what is
// compared with each other one right after the other, so that what else the machine
// does hits all alike. It exits 1 if a bound is missed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "echo" { // the harness runs itself, see echo.go
		if err := echo(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench echo:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.cardfs, "cardfs", filepath.Join(cc.Root(), "build/cardfs"), "the `PROGRAM` to measure")
	flag.StringVar(&o.ifd, "ifd", filepath.Join(cc.Root(), "build/libifdcardfs.so"), "the IFD handler `LIBRARY` to measure; its rows are left out where it is not there")
	flag.StringVar(&o.pcsc, "pcsc", filepath.Join(cc.Root(), "build/pcsc/libpcsclite.so.1"), "the PC/SC `LIBRARY` to measure; its rows are left out where it is not there")
	flag.StringVar(&o.against, "against", "", "compare with this `PROGRAM`, another version of cardfs, and measure nothing else")
	flag.StringVar(&o.only, "only", "", "measure only rows, and with -against tasks, that have `WORDS` in their names")
	flag.IntVar(&o.rounds, "rounds", 28, "`N` rounds of measuring everything in turn")
	flag.IntVar(&o.readers, "readers", 1000, "`N` is many readers")
	flag.DurationVar(&o.idle, "idle", 20*time.Second, "how long to watch the idle CPU")
	flag.BoolVar(&o.verbose, "v", false, "print each round, and the servers' logs at the end")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.readers < 2 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.against != "" {
		if err := against(ctx, o); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	met, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if !met {
		fmt.Fprintln(os.Stderr, "bench: a bound is missed")
		os.Exit(1)
	}
}

type options struct {
	cardfs, ifd, pcsc string
	against, only     string
	rounds, readers   int
	idle              time.Duration
	verbose           bool
}

func run(ctx context.Context, o options) (met bool, err error) {
	e, err := newEnv(ctx, o)
	defer func() {
		if cerr := e.close(); err == nil {
			err = cerr
		}
	}()
	if err != nil {
		return false, err
	}
	e.keep(o.only)
	res := results{}
	turns := inTurn(e.subjects)
	for round := range o.rounds {
		slices.Reverse(turns) // nobody is always the one after a slow turn
		for _, s := range turns {
			got, err := s.take(ctx)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if err != nil {
				return false, fmt.Errorf("%s: %w", s.name, err)
			}
			res[s.name] = append(res[s.name], got...)
			if o.verbose {
				fmt.Fprintf(os.Stderr, "round %d: %-32s %s\n", round+1, s.name, s.show(median(got)))
			}
		}
		if !o.verbose {
			fmt.Fprintf(os.Stderr, "\rround %d of %d", round+1, o.rounds)
		}
	}
	fmt.Fprintln(os.Stderr)
	for _, s := range e.once {
		got, err := s.take(ctx)
		if err != nil {
			return false, fmt.Errorf("%s: %w", s.name, err)
		}
		res[s.name] = got
	}
	return report(os.Stdout, e, res), nil
}
