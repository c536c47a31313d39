package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// exchanger is a client.Channel, or what a test has in its place.
type exchanger interface {
	Exchange(capdu []byte) (rapdu []byte, err error)
}

// sender is `cardfs send` once its slot is open.
type sender struct {
	card exchanger
	printer
	ok bool // stop at the first answer that is an error
}

func newSend() *cobra.Command {
	var ok, hold, words, asJSON bool
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

--explain prints a command behind "> " and its answer behind "< ", and below each,
indented, what they say: the command by its name and P1 P2, CLA, Lc and Le; data as a
tree of BER-TLV data objects if it is one wholly, else in hex and ASCII; SW1 SW2 in
words. PINs and keys, and what belongs to them, are [masked] as in trace: of such a
command the header is shown, of its answer SW1 SW2. The names are those of ISO/IEC
7816-4 and its neighbours; a card may mean something else.

--json prints an object for each exchange, one a line, with these keys: command (spaced
hex, masked as above), name ("" if it has none), command_words (name and parameters), data
(of the answer, spaced hex, masked as above), sw ("9000"), words (what it says), tlv (the
data as a tree: objects with tag, name, and value and words, or children; [] if it is
none), masked (true if something was), time_us (microseconds from sending to the answer).
Keys may be added, never change their meaning.

Without a card, send waits for one, as opening apdu does; --wait bounds that.

` + slotHelp,
		Example: `  cardfs send 0 00A4000C023F00
  cardfs send --ok 0 "00 A4 04 00 08 F0636172 64667301" 00B0810010
  cardfs send --wait 0 0 0084000008        # fails at once without a card
  echo 0084000008 | cardfs send --lock 0 -
  cardfs send --explain 0 00A4000000
  cardfs send --json 0 00A4000000 | jq -r '.tlv[].name'`,
		Args:              args(2, -1, "send needs a slot and at least one command"),
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&ok, "ok", false, "stop and exit 4 at the first answer that is not 9000 or 61xx")
	f.BoolVar(&words, "explain", false, "print commands and answers in words")
	f.BoolVar(&asJSON, "json", false, "print a JSON object for each exchange, one a line")
	f.BoolVarP(&hold, "lock", "x", false, "hold the slot's transaction: commands of others wait until the end")
	f.DurationVar(&wait, "wait", client.Forever, "wait `DURATION` for a card, 0 for not at all")
	f.Lookup("wait").DefValue = "for ever"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if words && asJSON {
			return exit.Usage("--explain and --json cannot be had at once")
		}
		if err := checkCommands(args[1:]); err != nil {
			return err
		}
		slot, err := client.FindSlot(*dir, args[0])
		if err != nil {
			return err
		}
		card := &client.Channel{Slot: slot, Stderr: cmd.ErrOrStderr(), Wait: wait, Locked: hold}
		if err := card.Reopen(); err != nil {
			return err
		}
		defer card.Close()
		s := &sender{card: card, printer: printer{out: cmd.OutOrStdout(), words: words, json: asJSON}, ok: ok}
		for _, arg := range args[1:] {
			if arg == "-" {
				err = s.sendLines(cmd.InOrStdin())
			} else {
				command, _ := hextext.Parse(arg)
				err = s.send(command)
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
			if err := s.send(command); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// send exchanges one command and prints what came.
func (s *sender) send(command []byte) error {
	if err := s.sending(command, false); err != nil {
		return err
	}
	answer, err := s.card.Exchange(command)
	if err != nil {
		return err
	}
	if err := s.answered(answer); err != nil {
		return err
	}
	if sw := answer[len(answer)-2:]; s.ok && sw[0] != 0x61 && (sw[0] != 0x90 || sw[1] != 0) {
		return exit.Status{Code: exit.Refused, Err: fmt.Errorf("the card answered % X", sw)}
	}
	return nil
}
