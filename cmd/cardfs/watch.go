package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// eventJSON is an event in `cardfs watch --json`.
type eventJSON struct {
	Number int `json:"number"` // the slot's, by the name that it has everywhere
	client.Event
	Time string `json:"time,omitempty"` // with --time
}

func newWatch() *cobra.Command {
	var asJSON, once, stamp bool
	var until string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "watch [flags] [N]",
		Short: "Follow what happens to the readers, or to slot N",
		Long: `watch prints how things stand, as the events that led there, and then each event as
it comes: readers arrive, become ready, leave; cards are inserted, powered, reset,
removed (cardfs help events). It ends when the reader left (watch N) or the mount
ends, or as the flags say.

--json prints an object a line (cardfs help json).

` + slotHelp,
		Example: `  cardfs watch
  cardfs watch --once                          # how things stand
  cardfs watch 0 --until inserted --timeout 1m && cardfs send 0 0084000008
  cardfs watch --json | jq -r 'select(.event == "inserted") | .slot'`,
		Args:              args(0, 1, "watch takes one slot or none"),
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print a JSON object a line")
	f.BoolVar(&once, "once", false, "only print how things stand")
	f.BoolVarP(&stamp, "time", "t", false, "with the time at which each was read")
	f.StringVar(&until, "until", "", "end after the first `EVENT` of that name, those that say how things stand included")
	f.DurationVar(&timeout, "timeout", client.Forever, "exit 1 if it did not end within `DURATION`")
	f.Lookup("timeout").DefValue = "for ever"
	cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions(client.EventNames, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if until != "" && !slices.Contains(client.EventNames, until) {
			return exit.Usage("--until %s: the events are %s", until, strings.Join(client.EventNames, ", "))
		}
		source, err := client.EventsOf(*dir, args)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		show := func(e client.Event) (done bool, err error) {
			now := ""
			if stamp {
				now = time.Now().Format("2006-01-02T15:04:05.000")
			}
			if asJSON {
				return e.Event == until, printJSONLine(out, eventJSON{e.Slot, e, now})
			}
			if stamp {
				now += " "
			}
			_, err = fmt.Fprintf(out, "%s%s\n", now, e.Text())
			return e.Event == until, err
		}
		if once {
			now, err := source.Snapshot()
			for _, e := range now {
				if _, err := show(e); err != nil {
					return err
				}
			}
			return err
		}
		f, err := source.Follow()
		if err != nil {
			return err
		}
		done, err := f.Each(timeout, show)
		switch {
		case errors.Is(err, client.ErrTimeout) && until != "":
			return fmt.Errorf("no event %s within %v", until, timeout)
		case errors.Is(err, client.ErrTimeout):
			return fmt.Errorf("watch did not end within %v", timeout)
		case err != nil:
			return err
		case !done && until != "" && len(args) > 0:
			return exit.Status{Code: exit.None, Err: fmt.Errorf("reader %s left before an event %s", args[0], until)}
		case !done && until != "":
			return fmt.Errorf("the mount ended before an event %s", until)
		}
		return nil
	}
	return cmd
}
