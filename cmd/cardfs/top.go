package main

import (
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/top"
)

func newTop() *cobra.Command {
	o := top.Options{}
	var batch bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show all slots live",
		Long: `top shows all slots on the terminal, a line each, anew every second: number, state,
reader, card, sessions (opens that use the card), exchanges a second, how long one took
in the mean, a plot of that, and how many errors programs got (EAGAIN, by which a
program that polls learns that it is too early, is none). A bar of the plot is one look,
three times the time one step higher, from below 100 µs to above 100 ms. What happens
to a slot is shown at once; rows out of sight are looked at less often, one after the
other.

A card is named as in smartcard_list.txt, if that is installed (pcsc-tools), with the
number of other cards that have the same ATR; otherwise its protocol and ATR are shown.

Keys:

` + top.Help + `

Reset, power off and eject are asked about, for they take the card from whoever uses it;
who holds a transaction is not disturbed: EBUSY. NO_COLOR in the environment turns
colours off.

Where standard output is no terminal, or with -b, top prints all slots as text, with what
happened in the interval before: once, or as often as -n says.`,
		Example: `  cardfs top
  cardfs top -b
  cardfs top -b -n 3 -d 500ms --sort rate --filter powered`,
		Args:              args(0, 0, "top takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	o.Interval = time.Second
	f.VarP((*seconds)(&o.Interval), "delay", "d", "`DURATION` between two looks; a number is of seconds")
	f.BoolVarP(&batch, "batch", "b", false, "print text, also on a terminal")
	f.IntVarP(&o.Times, "number", "n", 1, "print `N` times; 0: until SIGINT")
	f.StringVar(&o.Sort, "sort", "number", "sort by `COLUMN`: "+strings.Join(top.Sorts(), ", "))
	f.StringVar(&o.Filter, "filter", "", "show only rows in which each of the `WORDS` is found")
	cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(top.Sorts(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.Interval < 50*time.Millisecond:
			return exit.Usage("--delay %v: 50ms are the least", o.Interval)
		case o.Times < 0:
			return exit.Usage("--number %d: how often to print, or 0", o.Times)
		case !slices.Contains(top.Sorts(), o.Sort):
			return exit.Usage("--sort %s: one of %s", o.Sort, strings.Join(top.Sorts(), ", "))
		}
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		o.Mount, o.Name = c, shortCardName
		// SIGQUIT too: Go would print its goroutines over the screen and leave it so.
		ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
		defer stop()
		if out, ok := cmd.OutOrStdout().(*os.File); ok && !batch && isTerminal(out) {
			return top.Run(ctx, o)
		}
		return top.Print(ctx, cmd.OutOrStdout(), o)
	}
	return cmd
}

// seconds is a duration, which may be a number of seconds as those of other programs are.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }
func (s *seconds) Type() string   { return "duration" }

func (s *seconds) Set(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	*s = seconds(d)
	return err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
