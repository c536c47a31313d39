package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

func newList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the readers and their cards",
		Long: `list shows what the status files say, a line a slot. It waits for nothing and
disturbs no card.

STATE is starting (the driver is not ready), failed, empty (no card), present (a
card without power) or powered. PROTOCOL and ATR are known of a powered card: the
first open that needs it powers it.

--json prints an array with an object for each slot. These keys are always there,
and empty ("", false) where nothing is known: number, path, state, error, reader,
driver, device, by_id, siblings (numbers of the same reader's slots), protocol, atr
(spaced hex), transaction, status (an object with all lines of the status file).
Keys may be added, never change their meaning.`,
		Example: `  cardfs list
  cardfs list --json | jq -r '.[] | select(.state == "powered") | .number'`,
		Args:              args(0, 0, "list takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir := mountFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		slots, err := c.List()
		if err != nil {
			return err
		}
		if asJSON {
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			return e.Encode(slots)
		}
		if len(slots) == 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "no reader at %s; attach one, as in: cardfs attach sim ikey3k\n", c.Dir)
			return nil
		}
		return printList(cmd.OutOrStdout(), slots)
	}
	return cmd
}

func printList(w io.Writer, slots []client.Info) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "N\tSTATE\tREADER\tDRIVER\tPROTOCOL\tATR\tBY-ID")
	for _, s := range slots {
		fmt.Fprintln(t, strings.Join([]string{
			fmt.Sprint(s.Number), s.State, dash(s.Reader), dash(s.Driver), dash(s.Protocol),
			dash(strings.ReplaceAll(s.ATR, " ", "")), dash(s.ByID),
		}, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range slots {
		if s.Error != "" {
			fmt.Fprintf(w, "%d: %s\n", s.Number, s.Error)
		}
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
