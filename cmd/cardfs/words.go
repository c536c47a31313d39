package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// wordFile is a file of a slot that is read, and takes one of several words.
type wordFile struct {
	file  string
	words [][2]string // with what they do
	// hints are for a word that was refused, by the errno.
	hints func(slot client.Slot, word string) map[syscall.Errno]string
}

// command makes of cmd, which has its texts, the command that reads and writes the file.
func (w wordFile) command(cmd *cobra.Command) *cobra.Command {
	var names []string
	for _, word := range w.words {
		names = append(names, word[0])
	}
	list := strings.Join(names, ", ")
	cmd.Args = args(1, 2, w.file+" needs a slot, and takes one of "+list)
	cmd.ValidArgsFunction = after(completeSlot, func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, noFiles
		}
		return described(w.words), noFiles
	})
	dir := mountFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 && !slices.Contains(names, args[1]) {
			return exit.Usage("%s %s: the words are %s", w.file, args[1], list)
		}
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		if len(args) > 1 {
			return slot.Say(cmd.ErrOrStderr(), w.file, args[1], w.hints(slot, args[1]))
		}
		text, err := slot.Text(cmd.ErrOrStderr(), w.file)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}

// wordsHelp lists the words in a command's help.
func wordsHelp(words [][2]string) string {
	var b strings.Builder
	for _, word := range words {
		fmt.Fprintf(&b, "  %-9s %s\n", word[0], word[1])
	}
	return b.String()
}
