package main

import (
	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// mountFlag adds --mount to a client command and returns where its value will be, which
// client.FindMount takes.
func mountFlag(cmd *cobra.Command) *string {
	dir := cmd.Flags().StringP("mount", "m", "", "`DIR` where cardfs is mounted (default: $"+client.Env+", else the one in the mount table, else "+client.Default+")")
	cmd.RegisterFlagCompletionFunc("mount", completeMount)
	return dir
}

// slotHelp is the part about N in the help of the commands that take a slot.
const slotHelp = `N is a slot: its number, its name in by-id, its reader's name (cardfs list shows them
all), or its directory, also where that was bound to another place on its own.`
