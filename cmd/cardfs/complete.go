package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
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

type completion = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// after offers first what is the first argument, then the rest.
func after(first, rest completion) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return first(cmd, args, typed)
		}
		return rest(cmd, args, typed)
	}
}

// described are words with what they mean.
func described(words [][2]string) (list []string) {
	for _, word := range words {
		list = append(list, word[0]+"\t"+word[1])
	}
	return list
}

// completeSimSlot offers the simulated readers.
func completeSimSlot(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return offerSlots(cmd, typed, func(s client.Info) bool { return s.Driver == "sim" })
}

// completeSlot offers the slots' numbers as the first argument.
func completeSlot(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	return offerSlots(cmd, typed, func(client.Info) bool { return true })
}

// offerSlots offers the numbers of the slots that are wanted; to who has begun a name, the
// names in by-id, and those of readers that no other reader has.
func offerSlots(cmd *cobra.Command, typed string, want func(client.Info) bool) ([]string, cobra.ShellCompDirective) {
	c, err := client.FindMount(cmd.Flag("mount").Value.String())
	if err != nil {
		return nil, noFiles
	}
	slots, _ := c.List()
	byName := make(map[string]int)
	for _, s := range slots {
		byName[s.Reader]++
	}
	slots = slices.DeleteFunc(slots, func(s client.Info) bool { return !want(s) })
	offer := func(name string, s client.Info) string { return fmt.Sprintf("%s\t%s, %s", name, s.Reader, s.State) }
	var words []string
	for _, s := range slots {
		words = append(words, offer(strconv.Itoa(s.Number), s))
	}
	if typed == "" {
		return words, noFiles
	}
	for _, s := range slots {
		if s.ByID != "" {
			words = append(words, offer(s.ByID, s))
		}
		if s.Reader != "" && byName[s.Reader] == 1 {
			words = append(words, offer(strings.ReplaceAll(s.Reader, " ", "_"), s))
		}
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
