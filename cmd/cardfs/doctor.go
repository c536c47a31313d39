package main

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/doctor"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps the readers from working, and say what mends it",
		Long: `doctor looks at what cardfs needs on this machine, and at what gets in its way: FUSE,
groups, udev rules, the service, mounts that a killed cardfs left, machines whose
readers cannot be reached, programs that have a reader open, pcscd with its reader.conf,
bundle and sandbox, the PC/SC and CT-API libraries. It changes nothing, and any user may
run it; run by sudo it sees more, and judges for the user who called sudo.

It prints a line for each finding, beginning with ok; warn, where it works, but perhaps
not as you mean it; WRONG; or ?, where it cannot be seen. Behind "mend:" there is a
command that mends it, for a POSIX shell. Run doctor again afterwards: one fault may
hide another.

The exit code is 0 if nothing is wrong, and 1 if something is. Warnings and what could
not be seen do not count.

--json prints an array with an object for each finding: check (its name), state (ok,
warn, wrong, unknown), text, mend (empty where no command mends it). Keys and checks may
be added, never change their meaning.`,
		Example: `  cardfs doctor
  cardfs doctor --json | jq -r '.[] | select(.state == "wrong") | .mend'`,
		Args:              args(0, 0, "doctor takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		h := doctor.Host{
			User: patient(), Getenv: os.Getenv, Run: doctor.Exec, CheckConf: checkConf, Drivers: drivers.All(drivers.Env{}),
		}
		found := h.Examine(cmd.Context())
		if err := printFindings(cmd.OutOrStdout(), found, *asJSON); err != nil {
			return err
		}
		for _, f := range found {
			if f.State == doctor.Wrong {
				return exit.Status{Code: exit.Error}
			}
		}
		return nil
	}
	return cmd
}

// checkConf is what mount --check says of a configuration file.
func checkConf(file string) string {
	var said strings.Builder
	cmd := newMount()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"--check", "--config", file})
	cmd.SetErr(&said)
	if err := cmd.Execute(); err != nil && said.Len() == 0 {
		return err.Error()
	}
	return said.String()
}

// patient is the user who wants to use the readers: this one, or who called sudo.
func patient() doctor.User {
	if uid, err := strconv.Atoi(os.Getenv("SUDO_UID")); err == nil && os.Geteuid() == 0 && uid != 0 {
		return doctor.User{Name: os.Getenv("SUDO_USER"), UID: uid}
	}
	u := doctor.User{Name: strconv.Itoa(os.Geteuid()), UID: os.Geteuid(), Root: os.Geteuid() == 0}
	if me, err := user.LookupId(u.Name); err == nil {
		u.Name = me.Username
	} else if name := os.Getenv("USER"); name != "" { // of a directory service, which Go does not ask
		u.Name = name
	}
	u.Groups, _ = os.Getgroups()
	u.Groups = append(u.Groups, os.Getegid())
	return u
}

func printFindings(w io.Writer, found []doctor.Finding, asJSON bool) error {
	if asJSON {
		return printJSON(w, found)
	}
	words := map[doctor.State]string{doctor.OK: "ok", doctor.Warn: "warn", doctor.Wrong: "WRONG", doctor.Unknown: "?"}
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%-5s  %-15s  %s\n", words[f.State], f.Check, f.Text)
		if f.Mend != "" {
			fmt.Fprintf(&b, "%24smend: %s\n", "", f.Mend)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
