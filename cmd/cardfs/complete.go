package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/sim"
)

// Completions never fail. What cannot be found out is left out.

// completionCommand adds cobra's command that prints completions, for the shells that Linux
// has, with the exit code of cardfs for a shell that it does not know. It prints to the output
// that root has now.
func completionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd("completion")
	cmd, _, _ := root.Find([]string{"completion"})
	var shells []string
	for _, shell := range cmd.Commands() {
		if shell.Name() == "powershell" {
			cmd.RemoveCommand(shell)
			continue
		}
		shells = append(shells, shell.Name())
		shell.Args = args(0, 0, "completion "+shell.Name()+" takes no argument")
	}
	cmd.Short = "Print the completions for a shell"
	cmd.Long = "completion prints the completions of cardfs for a shell: " + strings.Join(shells, ", ") + ". make install puts\n" +
		"them in place. Each shell's help says how to load them otherwise."
	cmd.Example = "  . <(cardfs completion bash)"
	cmd.Args = nil
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return exit.Usage("completion needs a shell: %s", strings.Join(shells, ", "))
	}
}

const noFiles = cobra.ShellCompDirectiveNoFileComp

// completeSlot offers the slots' numbers as the first argument.
func completeSlot(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	c, err := client.FindMount(cmd.Flag("mount").Value.String())
	if err != nil {
		return nil, noFiles
	}
	slots, _ := c.List()
	var words []string
	for _, s := range slots {
		words = append(words, fmt.Sprintf("%d\t%s, %s", s.Number, s.Reader, s.State))
	}
	return words, noFiles
}

// completeMount offers the mounts that are there, or any directory.
func completeMount(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, _ := client.Mounts()
	var words []string
	for _, m := range all {
		if m.Err == nil {
			words = append(words, m.Dir)
		}
	}
	if len(words) == 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return words, noFiles
}

// completeAttach offers the drivers that do not find their devices themselves,
// and for sim its readers and keys.
func completeAttach(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var words []string
	switch {
	case len(args) == 0:
		for _, d := range drivers.All(drivers.Env{}) {
			if len(d.IDs()) == 0 {
				words = append(words, d.Name())
			}
		}
	case args[0] == "sim" && len(args) == 1:
		return sim.Devices(), noFiles
	case args[0] == "sim":
		return []string{"card=", "start=", "slow=", "serial=", "t0=plain"}, noFiles | cobra.ShellCompDirectiveNoSpace
	case args[0] == "vpcd" && len(args) == 1:
		words = []string{"127.0.0.1:35963", "unix:"}
	case args[0] == "vpcd":
		return []string{"timeout=", "cards=", "mode=", "public="}, noFiles | cobra.ShellCompDirectiveNoSpace
	case args[0] == "replay" && len(args) == 1:
		return nil, cobra.ShellCompDirectiveDefault // files
	case args[0] == "replay":
		return []string{"level=short", "level=extended", "unknown=6F00", "unknown=error"}, noFiles
	}
	return words, noFiles
}

// completeSim offers the simulated readers for --sim.
func completeSim(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(typed, " ") {
		return nil, noFiles
	}
	return sim.Devices(), noFiles
}
