// Command cardfs shows smart-card readers as files.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

func main() {
	if name := helperName(os.Args[0]); name != "" {
		os.Exit(runMountHelper(context.Background(), name, os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	completionCommand(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exit.OK
	}
	status := exit.Status{Code: exit.Error, Err: err}
	errors.As(err, &status)
	if status.Err != nil {
		fmt.Fprintf(stderr, "cardfs: %v\n", err)
	}
	return status.Code
}

// extra are commands that only some builds have.
var extra []func() *cobra.Command

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cardfs",
		Short: "Smart-card readers as files",
		Long: `cardfs mounts smart-card readers as files: one directory per card slot, with
status, atr, power and apdu in it. The other commands are clients of these files:
what they do, cat, echo and any program can do as well (cardfs help files).

Exit codes: 0 done; 1 it could not be done, and stderr says why; 2 the command
line or the input makes no sense; 3 there is no such reader, or no card in it;
4 send: the card refused a command (--ok), or answered otherwise than a script expects.`,
		Example: `  mkdir cards && cardfs mount --sim ikey3k cards
  cat cards/0/atr
  cardfs list
  cardfs send 0 00A4000C023F00`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return nil
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	version := root.Flags().Bool("version", false, "print the version, as cardfs version does")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		if *version {
			return printVersion(cmd.OutOrStdout())
		}
		return cmd.Help()
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit.Usage("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newMount(), newList(), newSend(), newWatch(), newATR(), newAttach(), newDetach(), newVersion(),
		newTop(), newMetrics(), newCapture(), newExtcap(), newRecord(), newReaderConf(), newPCSC(), newProbe(), newIDs(), newUdevRules(), newDoctor(),
		newStatus(), newStats(), newPower(), newProtocol(), newControl(), newSim(), newCtl(),
		helpFiles(), helpEvents(), helpJSON(), helpExitCodes(), helpRecipes(),
	)
	for _, c := range extra {
		root.AddCommand(c())
	}
	root.SetHelpCommand(newHelp(root))
	return root
}

func noCommand(root *cobra.Command, word string) error {
	hint := ""
	if s := root.SuggestionsFor(word); len(s) > 0 {
		hint = fmt.Sprintf(" (did you mean %s?)", s[0])
	}
	return exit.Usage("no command %q; cardfs help lists them%s", word, hint)
}

// args checks the number of arguments; most < 0 means any number.
func args(least, most int, text string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return exit.Usage("%s; see %s --help", text, cmd.CommandPath())
		}
		return nil
	}
}
