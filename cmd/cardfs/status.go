package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

func newStatus() *cobra.Command {
	return slotFile("status", func(slot client.Slot, text []byte) (any, error) {
		info := slot.Info(text)
		info.Card = cardNames(info.ATR)
		return info, nil
	}, &cobra.Command{
		Use:   "status [flags] N",
		Short: "Show how slot N stands",
		Long: `status prints the file status of slot N: lines of a key and its value, state first
(cardfs help files). It waits for nothing and disturbs no card.

--json prints one object, with the keys that list --json has (cardfs help json).

` + slotHelp,
		Example: `  cardfs status 0
  cardfs status --json 0 | jq -r .state`,
	})
}

func newStats() *cobra.Command {
	return slotFile("stats", func(slot client.Slot, text []byte) (any, error) {
		return slot.Counters(text)
	}, &cobra.Command{
		Use:   "stats [flags] N",
		Short: "Show the counters of slot N",
		Long: `stats prints the file stats of slot N: lines of a key and a number, counted since the
directory is there (cardfs help files says what the keys mean; cardfs metrics has them
for Prometheus). It waits for nothing and disturbs no card.

--json prints one object with the keys number, path and stats (an object with all lines
of the file; cardfs help json).

` + slotHelp,
		Example: `  cardfs stats 0
  cardfs stats --json 0 | jq .stats.exchanges`,
	})
}

// slotFile makes of cmd, which has its texts, the command that prints a file of a slot
// whose open waits for nothing.
func slotFile(file string, object func(client.Slot, []byte) (any, error), cmd *cobra.Command) *cobra.Command {
	cmd.Args = args(1, 1, file+" needs a slot, and takes nothing else")
	cmd.ValidArgsFunction = completeSlot
	dir := mountFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		text, err := os.ReadFile(slot.Path(file))
		if err != nil {
			return slot.Explain(err)
		}
		if *asJSON {
			o, err := object(slot, text)
			if err != nil {
				return fmt.Errorf("%s: %w", slot.Path(file), err)
			}
			return printJSON(cmd.OutOrStdout(), o)
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}
