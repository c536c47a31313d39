// Command cardfs shows smart-card readers as files.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes, also in `cardfs help`.
const (
	exitOK    = 0
	exitError = 1 // what was asked for could not be done; stderr says why
	exitUsage = 2 // the command line makes no sense
	exitNone  = 3 // no such reader, or no card
)

// exitStatus is an error that carries its exit code.
type exitStatus struct {
	code int
	err  error
}

func (e exitStatus) Error() string { return e.err.Error() }
func (e exitStatus) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return exitStatus{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "cardfs: %v\n", err)
	var status exitStatus
	if errors.As(err, &status) {
		return status.code
	}
	return exitError
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cardfs",
		Short: "Smart-card readers as files",
		Long: `cardfs mounts smart-card readers as files: one directory per card slot, with
status, atr, power and apdu in it.

Exit codes: 0 done; 1 it could not be done, and stderr says why; 2 the command
line makes no sense; 3 there is no such reader, or no card in it.`,
		Example: `  mkdir cards && cardfs mount --sim ikey3k cards
  cat cards/0/atr
  cardfs send 0 00A4000C023F00`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w; see cardfs %s --help", err, cmd.Name())
	})
	root.AddCommand(newMount())
	return root
}
