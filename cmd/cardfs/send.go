package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// sender is `cardfs send` once its slot is open.
type sender struct {
	slot client.Slot
	file *os.File
	in   *bufio.Reader
	out  io.Writer
	ok   bool // stop at the first answer that is an error
}

func newSend() *cobra.Command {
	var ok, hold bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "send [flags] N HEX… | -",
		Short: "Send C-APDUs to the card in slot N and print its answers",
		Long: `send exchanges C-APDUs with the card in slot N, all through one open of its apdu
file, and prints each R-APDU as a line of spaced hex, SW1 SW2 last.

Each HEX is one C-APDU; quote it where it has blanks. All are checked before the
first is sent. HEX - stands for lines of standard input, each checked when its
turn comes; blank lines and what follows a # are left out.

SW1 SW2 is data: send exits 0 when the card answered, whatever it says. With --ok
it stops after the first answer that is neither 9000 nor 61xx, and exits 4.

Without a card, send waits for one, as opening apdu does; --wait bounds that.

` + slotHelp,
		Example: `  cardfs send 0 00A4000C023F00
  cardfs send --ok 0 "00 A4 04 00 08 F0636172 64667301" 00B0810010
  cardfs send --wait 0 0 0084000008        # fails at once without a card
  cardfs send --lock 0 - <script.apdu`,
		Args:              args(2, -1, "send needs a slot and at least one command"),
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&ok, "ok", false, "stop and exit 4 at the first answer that is not 9000 or 61xx")
	f.BoolVarP(&hold, "lock", "x", false, "hold the slot's transaction: commands of others wait until the end")
	f.DurationVar(&wait, "wait", client.Forever, "wait `DURATION` for a card, 0 for not at all")
	f.Lookup("wait").DefValue = "for ever"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkCommands(args[1:]); err != nil {
			return err
		}
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		file, err := slot.Open(cmd.ErrOrStderr(), "apdu", os.O_RDWR, wait)
		if err != nil {
			return err
		}
		defer file.Close()
		if hold {
			if err := client.Lock(file); err != nil {
				return slot.Explain(err)
			}
		}
		s := &sender{slot: slot, file: file, in: bufio.NewReader(file), out: cmd.OutOrStdout(), ok: ok}
		for _, arg := range args[1:] {
			if arg == "-" {
				err = s.sendLines(cmd.InOrStdin())
			} else {
				err = s.send(arg)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// checkCommands says what is wrong with the commands before any is sent.
func checkCommands(args []string) error {
	for i, arg := range args {
		if arg == "-" {
			if slices.Contains(args[i+1:], "-") {
				return exit.Usage("standard input can be read only once")
			}
			continue
		}
		command, err := hextext.Parse(arg)
		if err == nil {
			_, err = iso7816.ParseCommand(command)
		}
		if err != nil && len(command) < 4 && len(args) > 1 {
			return exit.Usage("command %d, %s: %w (each argument is a whole command: quote one that has blanks); nothing was sent", i+1, header(arg), err)
		}
		if err != nil {
			return exit.Usage("command %d, %s: %w; nothing was sent", i+1, header(arg), err)
		}
	}
	return nil
}

// header is as much of a command as an error may show: data may be a PIN.
func header(arg string) string {
	const digits = 8 // CLA INS P1 P2
	for i, n := 0, 0; i < len(arg); i++ {
		if n == digits {
			return arg[:i] + "…"
		}
		if arg[i] != ' ' {
			n++
		}
	}
	return arg
}

// sendLines sends each line of r when the one before was answered.
func (s *sender) sendLines(r io.Reader) error {
	in := bufio.NewReader(r)
	for number := 1; ; number++ {
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("standard input: %w", err)
		}
		command, bad := hextext.Parse(line)
		if bad == nil && len(command) > 0 {
			_, bad = iso7816.ParseCommand(command)
		}
		if bad != nil {
			return exit.Usage("standard input, line %d: %w; it was not sent", number, bad)
		}
		if len(command) > 0 {
			if err := s.send(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// send exchanges one command.
func (s *sender) send(text string) error {
	text, _, _ = strings.Cut(text, "#")
	if _, err := s.file.WriteString(strings.Join(strings.Fields(text), " ") + "\n"); err != nil {
		return s.slot.Explain(err)
	}
	answer, err := s.in.ReadString('\n')
	if err == io.EOF {
		err = errors.New("end of file in place of an answer")
	}
	if err != nil {
		return s.slot.Explain(err)
	}
	if _, err := io.WriteString(s.out, answer); err != nil {
		return err
	}
	if sw := answer[max(0, len(answer)-6):]; s.ok && sw != "90 00\n" && !strings.HasPrefix(sw, "61 ") {
		return exit.Status{Code: exit.Refused, Err: fmt.Errorf("the card answered %s", strings.TrimSpace(sw))}
	}
	return nil
}
