package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/fs"
)

func newCtl() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ctl [flags] [WORD…]",
		Short: "Show the drivers and readers, or write a command to ctl",
		Long: `ctl prints the mount's file ctl: the commands that it takes, then a line for each driver
and each reader. With WORDs it writes them to ctl as one command, if the mount is yours:

` + ctlUsage() + `                 DRIVER N COMMAND, as ctl prints them

The command is checked and started; ctl does not wait for what comes of it, which is in
the events (cardfs watch). attach and detach, as commands of cardfs, wait for it.

The same without this command: cat ctl, or echo the words to it.`,
		Example: `  cardfs ctl
  cardfs ctl rescan
  cardfs ctl sim 0 slow 10ms`,
		ValidArgsFunction: completeCtl,
	}
	dir := mountFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		line, err := oneLine(args)
		if err != nil {
			return err
		}
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		if line != "" {
			return c.Ctl(line)
		}
		text, err := os.ReadFile(c.Path("ctl"))
		if err != nil {
			return c.Explain(err)
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}

// oneLine is the command that these words are; quoted ones may be several.
func oneLine(words []string) (string, error) {
	line := strings.TrimSpace(strings.Join(words, " "))
	switch {
	case len(words) > 0 && line == "":
		return "", exit.Usage("the command is empty")
	case strings.ContainsRune(line, '\n'):
		return "", exit.Usage("the words are one command, on one line")
	case strings.HasPrefix(line, "#"):
		return "", exit.Usage("what begins with # is a comment")
	}
	return line, nil
}

func newSim() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sim [flags] N WORD…",
		Short: "What happens to the simulated reader N; the readers and cards that there are",
		Long:  simHelp(),
		Example: `  cardfs sim 0 unplug
  cardfs sim 0 plug
  n=$(cardfs attach sim t1) && cardfs sim $n remove && cardfs sim $n insert dual`,
		Args:              args(2, -1, "sim needs a slot and what happens to it"),
		ValidArgsFunction: after(completeSimSlot, completeSimWords),
	}
	dir := mountFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		line, err := oneLine(args[1:])
		if err != nil {
			return err
		}
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		n, err := slot.Number()
		if err != nil {
			return err
		}
		return slot.Mount.Ctl("sim " + strconv.Itoa(n) + " " + line)
	}
	return cmd
}

// completeCtl offers the commands of ctl and what belongs to them.
func completeCtl(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		var words []string
		for _, c := range fs.CtlUsage() {
			name, _, _ := strings.Cut(c[0], " ")
			words = append(words, name+"\t"+c[1])
		}
		return append(words, "sim\tsomething happens to a simulated reader"), noFiles
	}
	switch rest := args[1:]; args[0] {
	case "attach":
		return completeAttach(cmd, rest, typed)
	case "detach", "abort":
		return completeSlot(cmd, rest, typed)
	case "sim":
		return after(completeSimSlot, completeSimWords)(cmd, rest, typed)
	}
	return nil, noFiles
}

// completeSimWords offers what may happen to a simulated reader.
func completeSimWords(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 1:
		var words []string
		for _, usage := range sim.New().Usage() {
			command, about, _ := strings.Cut(usage, " — ")
			words = append(words, strings.Fields(command)[2]+"\t"+about)
		}
		return words, noFiles
	case len(args) == 2 && args[1] == "insert":
		return sim.Cards(), noFiles
	case args[1] == "keys":
		return []string{"ok", "cancel", "clear"}, noFiles
	}
	return nil, noFiles
}
