package main

import (
	"bufio"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/drivers/sim/applet"
	"github.com/cardfs/cardfs/reader"
)

// attachKeys are the keys that attach takes for a driver, with values that are tried.
func attachKeys(driver string) [][]string {
	switch driver {
	case "sim":
		return [][]string{append([]string{"card"}, append(sim.Cards(), "none")...), {"start", "100ms", "1s"}, {"slow", "100ms", "1s"}, {"serial"}, {"t0", "plain"}}
	case "vpcd":
		return [][]string{{"timeout", "1s", "10s"}, {"cards", "1", "2", "4", "8"}, {"mode", "0600", "0660", "0666"}, {"public", "yes"}, {"t0", "plain"}}
	case "smph":
		return [][]string{{"type", "phoenix", "smartmouse"}, {"clock", "3.57", "6"},
			{"detect", "cts-off", "cts-on", "cd-off", "cd-on", "dsr-off", "dsr-on", "ri-off", "ri-on", "none"}, {"t0", "plain"}}
	case "towitoko":
		return [][]string{{"memory", "2-wire", "3-wire", "i2c:256", "i2c:2048", "i2c:4096", "i2c:32768"}, {"t0", "plain"}}
	case "remote":
		return [][]string{{"host"}, {"lost", "wait", "leave"}, {"identity"}, {"known-hosts"}, {"ssh-config"}}
	case "replay":
		return [][]string{{"level", "short", "extended"}, {"unknown", "6F00", "error"}, {"t0", "plain"}}
	}
	return nil
}

// completeAttach offers the drivers whose devices nothing announces, or not all of them, their
// devices and keys, and the values of a key that is typed.
func completeAttach(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		var words []string
		for _, d := range attachable() {
			words = append(words, d.Name())
		}
		return words, noFiles
	case len(args) > 1:
		keys := attachKeys(args[0])
		if args[0] == "sim" {
			for key, values := range sim.Params(args[1]) {
				keys = append(keys, append([]string{key}, values...))
			}
			if sim.HasApplication(args[1:]) {
				keys = append(keys, []string{"slow", "real"}, append([]string{"atr"}, applet.ATRs...), []string{"keys"}, []string{"model", "yubikey", "yubikey-5.4"},
					[]string{"seed"}, []string{"state"})
			}
		}
		return completeKeys(keys, typed)
	case args[0] == "sim":
		return described(sim.Table()), noFiles
	case args[0] == "vpcd":
		return []string{"127.0.0.1:35963", "unix:"}, noFiles
	case args[0] == "remote":
		return nil, cobra.ShellCompDirectiveFilterDirs
	case args[0] == "replay":
		return nil, cobra.ShellCompDirectiveDefault // files
	}
	if slices.ContainsFunc(attachable(), func(d reader.Driver) bool { return d.Name() == args[0] }) {
		return ports(nil)
	}
	return nil, noFiles
}

// attachable are the drivers of devices that nothing announces.
func attachable() []reader.Driver {
	return slices.DeleteFunc(drivers.All(drivers.Env{}), func(d reader.Driver) bool {
		_, takes := d.(reader.Attacher)
		return !takes
	})
}

// completeKeys offers the keys, or what one may be.
func completeKeys(keys [][]string, typed string) (words []string, how cobra.ShellCompDirective) {
	key, _, hasValue := strings.Cut(typed, "=")
	for _, k := range keys {
		switch {
		case !hasValue:
			words = append(words, k[0]+"=")
		case k[0] == key:
			for _, value := range k[1:] {
				words = append(words, key+"="+value)
			}
		}
	}
	if !hasValue {
		return words, noFiles | cobra.ShellCompDirectiveNoSpace
	}
	return words, noFiles
}

// completeMountFlags completes the values of mount's flags.
func completeMountFlags(cmd *cobra.Command) {
	cmd.RegisterFlagCompletionFunc("sim", inOneWord("sim"))
	cmd.RegisterFlagCompletionFunc("attach", inOneWord())
	cmd.RegisterFlagCompletionFunc("group", namesIn("/etc/group"))
	cmd.RegisterFlagCompletionFunc("allow-escape", namesIn("/etc/passwd"))
	cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions(
		[]string{"0600\tthe owner's alone", "0660\tthe group's, too", "0666\teverybody's"}, noFiles))
}

// inOneWord completes what attach takes where it is the value of one flag, after the words
// that the flag stands for itself.
func inOneWord(before ...string) completion {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		// fish gives the word as it was typed, and expects it without quotes.
		typed = strings.ReplaceAll(strings.TrimLeft(typed, `'"`), `\ `, " ")
		at := strings.LastIndexByte(typed, ' ') + 1
		args := append(slices.Clone(before), strings.Fields(typed[:at])...)
		words, how := completeAttach(cmd, args, typed[at:])
		for i := range words {
			words[i] = typed[:at] + words[i]
		}
		if len(args) == 0 { // a device must follow
			how |= cobra.ShellCompDirectiveNoSpace
		}
		return words, how
	}
}

// namesIn offers the names in a file such as /etc/group.
func namesIn(file string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		f, err := os.Open(file)
		if err != nil {
			return nil, noFiles
		}
		defer f.Close()
		var names []string
		for in := bufio.NewScanner(f); in.Scan(); {
			if name, _, ok := strings.Cut(in.Text(), ":"); ok {
				names = append(names, name)
			}
		}
		return names, noFiles
	}
}
