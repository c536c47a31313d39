package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

func newIDs() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ids",
		Short: "Print the USB IDs of the readers that the drivers know",
		Long: `ids prints a line for each USB reader that a driver knows by its IDs: vendor and
product in hex, and its name. ifd-cardfs.bundle, by which pcscd's hotplug finds
these readers, is made from it. Readers known only by their USB interface class
(CCID) are not among them: pcscd asks for IDs, so they need cardfs reader-conf.

--json prints an array with an object for each (cardfs help json).`,
		Example:           `  cardfs ids | grep -i rainbow`,
		Args:              args(0, 0, "ids takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list := hotplug.KnownIDs(drivers.All(drivers.Env{}))
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), list)
		}
		for _, b := range list {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", b.ID, b.Name); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func newUdevRules() *cobra.Command {
	return &cobra.Command{
		Use:   "udev-rules",
		Short: "Print udev rules that let others than root use USB readers",
		Long: `udev-rules prints rules by which members of group ` + hotplug.Group + `, and whoever sits at the
machine, may open the USB readers that the drivers know. Only a cardfs that does not
run as root needs them.`,
		Example: `  cardfs udev-rules | sudo tee ` + hotplug.RulesFile + `
  sudo udevadm control --reload`,
		Args:              args(0, 0, "udev-rules takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), hotplug.UdevRules(drivers.All(drivers.Env{})))
			return err
		},
	}
}
