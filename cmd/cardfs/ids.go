package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
	"github.com/cardfs/cardfs/reader"
)

// bundleID is a line of `cardfs ids`.
type bundleID struct {
	ID     string `json:"usb_id"` // vendor and product, "04b9:1300"
	Name   string `json:"reader"` // model
	Driver string `json:"driver"`
}

// bundleIDs lists the USB devices that drivers serve by their ID, without
// repetition, in order. The first driver that names an ID has it.
func bundleIDs(all []reader.Driver) []bundleID {
	var list []bundleID
	for _, d := range all {
		for _, id := range d.IDs() {
			if id.Class != 0 || id.Vendor == 0 && id.Product == 0 {
				continue
			}
			pair := fmt.Sprintf("%04x:%04x", id.Vendor, id.Product)
			if !slices.ContainsFunc(list, func(b bundleID) bool { return b.ID == pair }) {
				list = append(list, bundleID{pair, cmp.Or(id.Model, d.Name()), d.Name()})
			}
		}
	}
	slices.SortFunc(list, func(a, b bundleID) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

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
		list := bundleIDs(drivers.All(drivers.Env{}))
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
