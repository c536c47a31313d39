package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/serial/probe"
)

func newProbe() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "probe [flags] PORT",
		Short: "Find the reader on a serial port, and print the line that attaches it",
		Long: `probe asks what is on a serial port, in the ways of all drivers that have a harmless
question, one after the other: for a name, a version, a status. No question has an
effect on a card, and none is what another reader takes for a command to do something;
but a machine that is no reader may not like what it gets. Nothing in cardfs asks
unless this command does.

It prints the line for ctl, with the lasting name of the port where it has one
(/dev/serial/by-id), and says on stderr what the reader is. It needs no mount. It takes
from one second to half a minute, and leaves the port set as it was, ended by ctrl-C
too.

A port that a program has open is left alone. A port that repeats what is sent gets no
further question: its lines may be a card's. So a smartmouse or Phoenix interface is
told from a loop by its card alone.

The exit code is 3 if nothing answers: a reader at another speed, one without power, or
one that cannot be asked without harm; attach it by hand.`,
		Example: `  cardfs probe /dev/ttyUSB0
  cardfs probe /dev/ttyS0 > cards/ctl`,
		Args: args(1, 1, "probe needs a serial port"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return ports(args)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say which drivers asked in vain, and why")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// The signals that end a program would leave the port as it is now.
		ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
		defer stop()
		told := func(driver string, err error) {
			if verbose {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", driver, err)
			}
		}
		found, err := probe.At(ctx, args[0], drivers.All(drivers.Env{}), slog.New(slog.DiscardHandler), told)
		switch {
		case ctx.Err() != nil && cmd.Context().Err() == nil:
			return errors.New("interrupted; the port is set as it was")
		case errors.Is(err, probe.ErrNothing):
			return exit.Status{Code: exit.None, Err: err}
		case err != nil:
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", found.Model)
		_, err = fmt.Fprintln(cmd.OutOrStdout(), found.Attach())
		return err
	}
	return cmd
}

// ports offers the serial ports that may have a reader, the lasting names first.
func ports(args []string) (names []string, how cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	for _, pattern := range []string{"/dev/serial/by-id/*", "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyAMA*", "/dev/ttyS[0-9]"} {
		found, _ := filepath.Glob(pattern)
		for _, name := range found {
			if len(strings.Fields(name)) == 1 {
				names = append(names, name)
			}
		}
	}
	return names, noFiles
}
