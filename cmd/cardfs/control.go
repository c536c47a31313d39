package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
)

// getFeatures is GET_FEATURE_REQUEST: PC/SC part 10 §2.2, by its code on Linux.
var getFeatures = []byte{0x42, 0x00, 0x0D, 0x48}

// features are the names of PC/SC part 10 rev. 2.02.09 §2.3, by their tags.
var features = map[byte]string{
	0x01: "FEATURE_VERIFY_PIN_START", 0x02: "FEATURE_VERIFY_PIN_FINISH",
	0x03: "FEATURE_MODIFY_PIN_START", 0x04: "FEATURE_MODIFY_PIN_FINISH",
	0x05: "FEATURE_GET_KEY_PRESSED",
	0x06: "FEATURE_VERIFY_PIN_DIRECT", 0x07: "FEATURE_MODIFY_PIN_DIRECT",
	0x08: "FEATURE_MCT_READER_DIRECT", 0x09: "FEATURE_MCT_UNIVERSAL",
	0x0A: "FEATURE_IFD_PIN_PROPERTIES",
	0x0B: "FEATURE_ABORT", 0x0C: "FEATURE_SET_SPE_MESSAGE",
	0x0D: "FEATURE_VERIFY_PIN_DIRECT_APP_ID", 0x0E: "FEATURE_MODIFY_PIN_DIRECT_APP_ID",
	0x0F: "FEATURE_WRITE_DISPLAY", 0x10: "FEATURE_GET_KEY",
	0x11: "FEATURE_IFD_DISPLAY_PROPERTIES",
	0x12: "FEATURE_GET_TLV_PROPERTIES", 0x13: "FEATURE_CCID_ESC_COMMAND",
}

func newControl() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "control [flags] N HEX… | features",
		Short: "Send commands to the reader that has slot N itself",
		Long: `control sends commands to the reader, not to the card in it, all through one open of
the slot's control file, and prints each answer as a line of spaced hex.

Each HEX is a control code of four bytes and its data, as SCardControl takes them; quote
it where it has blanks. All are checked before the first is sent. What a code wants and
answers is in PC/SC part 10. Escape (42000001 and its data) goes to the reader as it is;
it is for the owner of the mount, and for whom cardfs mount --allow-escape names.

features prints what the reader can do by PC/SC part 10, a line each: its control code
and its name.

The same without this command: write the HEX to the file control of the slot, and read
the answer from the same open.

` + slotHelp,
		Example: `  cardfs control 0 features
  cardfs control 0 42000D48`,
		Args: args(2, -1, "control needs a slot, and at least one command or the word features"),
		ValidArgsFunction: after(completeSlot, func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, noFiles
			}
			return []string{"features\twhat the reader can do by PC/SC part 10"}, noFiles
		}),
	}
	dir := mountFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list := len(args) == 2 && args[1] == "features"
		commands := [][]byte{getFeatures}
		if !list {
			var err error
			if commands, err = controlCommands(args[1:]); err != nil {
				return err
			}
		}
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		reader := &client.Channel{Slot: slot, File: "control", Stderr: cmd.ErrOrStderr(), Wait: client.Forever}
		defer reader.Close()
		for _, command := range commands {
			answer, err := reader.Exchange(command)
			if err != nil {
				return err
			}
			if list {
				err = printFeatures(cmd.OutOrStdout(), answer)
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "% X\n", answer)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// controlCommands are the commands that these arguments are. Its errors show the control
// code alone: a PIN may be behind it.
func controlCommands(args []string) (commands [][]byte, err error) {
	for i, arg := range args {
		command, err := hextext.Parse(arg)
		if err == nil && len(command) < 4 {
			err = errors.New("a control code has four bytes (each argument is a whole command: quote one that has blanks)")
		}
		if err != nil {
			return nil, exit.Usage("command %d, %s: %w; nothing was sent", i+1, header(arg), err)
		}
		commands = append(commands, command)
	}
	return commands, nil
}

// printFeatures prints a list of tag, length 4, control code.
func printFeatures(w io.Writer, list []byte) error {
	var out bytes.Buffer
	for len(list) > 0 {
		if len(list) < 6 || list[1] != 4 {
			return errors.New("what the reader answered is no list of features")
		}
		name := features[list[0]]
		if name == "" {
			name = fmt.Sprintf("feature %02X", list[0])
		}
		fmt.Fprintf(&out, "%X %s\n", list[2:6], name)
		list = list[6:]
	}
	_, err := w.Write(out.Bytes())
	return err
}
