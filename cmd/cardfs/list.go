package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// slotJSON is a slot in `cardfs list --json`. Every key is always there; what is
// not known or makes no sense at the moment is empty.
type slotJSON struct {
	Number      int               `json:"number"`      // of the slot's directory
	Path        string            `json:"path"`        // the slot's directory
	State       string            `json:"state"`       // starting, failed, empty, present, powered
	Error       string            `json:"error"`       // the last error in words
	Reader      string            `json:"reader"`      // model
	Driver      string            `json:"driver"`      //
	Device      string            `json:"device"`      // as attach was given it, or where it is plugged in
	ByID        string            `json:"by_id"`       // name in by-id/
	Siblings    []int             `json:"siblings"`    // the numbers of the reader's slots, this one included
	Protocol    string            `json:"protocol"`    // T=0 or T=1 if powered
	ATR         string            `json:"atr"`         // spaced hex if powered
	Transaction bool              `json:"transaction"` // somebody holds it
	Status      map[string]string `json:"status"`      // all lines of the status file
}

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
		c, err := newClient(*dir)
		if err != nil {
			return err
		}
		slots, err := c.list()
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
			fmt.Fprintf(cmd.ErrOrStderr(), "no reader at %s; attach one, as in: cardfs attach sim ikey3k\n", c.dir)
			return nil
		}
		return printList(cmd.OutOrStdout(), slots)
	}
	return cmd
}

// json is what list says of the slot n whose directory is dir.
func (s status) json(n int, dir string) slotJSON {
	slot := slotJSON{
		Number: n, Path: dir,
		State: s.value("state"), Error: s.value("error"), Reader: s.value("reader"),
		Driver: s.value("driver"), Device: s.value("device"), ByID: s.value("by-id"),
		Siblings: s.siblings(), Protocol: s.value("protocol"), ATR: s.value("atr"),
		Transaction: s.value("transaction") == "held",
		Status:      make(map[string]string, len(s)),
	}
	for _, pair := range s {
		slot.Status[pair[0]] = pair[1]
	}
	return slot
}

func printList(w io.Writer, slots []slotJSON) error {
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
