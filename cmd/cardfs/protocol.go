package main

import (
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

func newProtocol() *cobra.Command {
	w := wordFile{
		file:  "protocol",
		words: [][2]string{{"T=0", "characters"}, {"T=1", "blocks"}},
		hints: func(slot client.Slot, _ string) map[syscall.Errno]string {
			return map[syscall.Errno]string{syscall.EOPNOTSUPP: "what the card offers: cardfs protocol " + slot.Name}
		},
	}
	return w.command(&cobra.Command{
		Use:   "protocol [flags] N [T=0|T=1]",
		Short: "Show or choose the protocol of the card in slot N",
		Long: `protocol prints the protocol in force in slot N, then what else the card offers; memory
for a memory card; nothing as long as the card has no power.

With T=0 or T=1 the card is reset and that protocol negotiated, unless it is in force
already. Whoever has the card open has to open it again. The choice lasts until the card
is removed or loses its power.

The same without this command: cat the file protocol of the slot, or write T=0 or T=1 to
it.

` + slotHelp,
		Example: `  cardfs power 0 on && cardfs protocol 0
  cardfs protocol 0 T=1`,
	})
}
