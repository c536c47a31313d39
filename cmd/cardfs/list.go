package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

func newList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the readers and their cards",
		Long: `list shows what the status files say, a line a slot. It waits for nothing and
disturbs no card.

STATE is starting (the driver is not ready), failed, empty (no card), present (a
card without power) or powered. PROTOCOL and ATR are known of a powered card: the
first open that needs it powers it.

CARD is what smartcard_list.txt calls a card with this ATR, if that list is installed
(pcsc-tools); +N says that it names N more. Without it there is no such column.

HOST is the machine that has the reader, - for this one. There is such a column if
readers of other machines are attached (cardfs help attach).

--json prints an array with an object for each slot (cardfs help json).`,
		Example: `  cardfs list
  cardfs list --json | jq -r '.[] | select(.state == "powered") | .number'`,
		Args:              args(0, 0, "list takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir := mountFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		slots, err := c.List()
		if err != nil {
			return err
		}
		for i := range slots {
			slots[i].Card = cardNames(slots[i].ATR)
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), slots)
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
	named := slices.ContainsFunc(slots, func(s client.Info) bool { return len(s.Card) > 0 })
	far := slices.ContainsFunc(slots, func(s client.Info) bool { return s.Host != "" })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(host, card string, columns ...string) {
		if named {
			columns = slices.Insert(columns, 6, card)
		}
		if far {
			columns = slices.Insert(columns, 2, host)
		}
		fmt.Fprintln(t, strings.Join(columns, "\t"))
	}
	line("HOST", "CARD", "N", "STATE", "READER", "DRIVER", "PROTOCOL", "ATR", "BY-ID")
	for _, s := range slots {
		line(dash(s.Host), dash(firstName(s.Card)),
			fmt.Sprint(s.Number), s.State, dash(s.Reader), dash(s.Driver), dash(s.Protocol),
			dash(strings.ReplaceAll(s.ATR, " ", "")), dash(s.ByID))
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
