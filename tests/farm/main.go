// Command farm shows how a cardfs grows that has the readers of many machines:
//
//	go run ./tests/farm                          (make farm: builds first)
//	go run ./tests/farm -machines 10 -readers 100 -delay 20ms
//
// Each machine is a cardfs of its own with simulated readers, reached by an sshfs of its own
// over a line that takes its time. There is no SSH: package sftp has the line. It prints a table
// with a column for each number of machines. At the end a machine hangs, stopped by SIGSTOP, and
// the others' readers are measured again.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/farm"
)

type options struct {
	cardfs    string
	machines  []int
	readers   int
	delay     time.Duration
	watch     time.Duration // how long what lasts is watched
	filebench string        // the program, once it is built
}

func main() {
	var o options
	flag.StringVar(&o.cardfs, "cardfs", filepath.Join(cc.Root(), "build/cardfs"), "the `PROGRAM`")
	machines := flag.String("machines", "1,10,100", "`N,…` machines, a column each")
	flag.IntVar(&o.readers, "readers", 10, "`N` readers of each machine")
	flag.DurationVar(&o.delay, "delay", 5*time.Millisecond, "how long the line to a machine takes, each way")
	flag.DurationVar(&o.watch, "watch", 5*time.Second, "how long to watch a client at each reader, and the idle CPU")
	flag.Parse()
	for word := range strings.SplitSeq(*machines, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			flag.Usage()
			os.Exit(2)
		}
		o.machines = append(o.machines, n)
	}
	if flag.NArg() > 0 || o.readers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "farm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "farm")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.filebench = filepath.Join(dir, "filebench")
	if err := cc.Build(ctx, o.filebench, cc.Target{Sources: []string{"tests/bench/c/filebench.c"}, Include: []string{"ctapi/clib/common"}}); err != nil {
		return err
	}
	var columns []*column
	for _, n := range o.machines {
		fmt.Fprintf(os.Stderr, "%d machines …\n", n)
		c, err := o.column(ctx, filepath.Join(dir, strconv.Itoa(n)), n)
		if err != nil {
			return fmt.Errorf("%d machines: %w", n, err)
		}
		columns = append(columns, c)
	}
	fmt.Fprintf(out, "%d readers a machine; the line takes %v each way\n\n", o.readers, o.delay)
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	for i := range columns[0].rows {
		fmt.Fprintf(t, "| %s\t", columns[0].rows[i].what)
		for _, c := range columns {
			fmt.Fprintf(t, "| %s\t", c.rows[i].value)
		}
		fmt.Fprintln(t, "|")
		if i == 0 {
			fmt.Fprintln(t, "|---"+strings.Repeat("\t|---", len(columns))+"\t|")
		}
	}
	return t.Flush()
}

// column measures a farm of so many machines.
func (o options) column(ctx context.Context, dir string, machines int) (c *column, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := farm.Start(ctx, farm.Options{Cardfs: o.cardfs, Dir: dir, Machines: machines, Readers: o.readers, Delay: o.delay})
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err != nil {
		return nil, err
	}
	c = &column{options: o, farm: f}
	for _, measure := range []func(context.Context) error{
		c.size, c.start, c.exchange, c.open, c.events, c.atOnce, c.memory, c.idle, c.hang,
	} {
		if err := measure(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}
