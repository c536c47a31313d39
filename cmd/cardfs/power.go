package main

import (
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

func newPower() *cobra.Command {
	w := wordFile{
		file: "power",
		words: [][2]string{
			{"on", "power the card, if it has none"},
			{"off", "take its power; whoever has it open has to open it again"},
			{"reset", "reset it with its power on (warm reset); the same for who has it open"},
			{"cold", "take its power and power it again (cold reset); likewise"},
			{"eject", "push it out, where the reader has a motor for that"},
			{"release", "off, but not while anybody has the card open"},
		},
		hints: func(slot client.Slot, word string) map[syscall.Errno]string {
			switch word {
			case "eject":
				return map[syscall.Errno]string{syscall.EOPNOTSUPP: "the reader has no motor: take the card out by hand"}
			case "release":
				return map[syscall.Errno]string{syscall.EBUSY: "to take the card from whoever has it open: cardfs power " + slot.Name + " off"}
			}
			return nil
		},
	}
	return w.command(&cobra.Command{
		Use:   "power [flags] N [WORD]",
		Short: "Power, reset or eject the card in slot N",
		Long: `power prints on or off: whether the card in slot N has power. With a WORD it does that
and ends when it is done:

` + wordsHelp(w.words) + `
A transaction that another program holds is waited for by none of these: power exits 1
then. The holder's own resets leave its opens as they are.

The same without this command: cat the file power of the slot, or write the word to it.

` + slotHelp,
		Example: `  cardfs power 0
  cardfs power 0 cold`,
	})
}
